"""What a run says about itself: figures a step, a log in JSON lines, a warning when a head dies."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from torch import Tensor

from m3connect.train.gather import sum_over_ranks, world_size
from m3connect.train.losses import UnifiedLoss
from m3connect.train.step import Scores

__all__ = ["Figures", "TrainingLog", "read_log", "step_figures"]

logger = logging.getLogger(__name__)

Figures = dict[str, float]

_TOO_MANY_EMPTY = 0.5
"""A share of texts without any sparse weight from which on the sparse head is called dead."""


@torch.no_grad()
def step_figures(loss: Tensor, losses: UnifiedLoss, scores: Scores, temperature: float) -> dict[str, Tensor]:
    """Return the losses, each head's mean score of positives and of others, and the share of empty sparse rows."""
    parts = {field.name: getattr(losses, field.name) for field in fields(losses) if field.name != "total"}
    figures = {"loss": loss} | {f"loss_{name}": value for name, value in parts.items() if value is not None}
    positives = scores.targets[:, None]
    others = scores.counted.scatter(1, positives, False)
    for name in ("dense", "sparse", "multi_vector"):
        matrix: Tensor = getattr(scores, name)
        figures[f"positive_{name}"] = matrix.gather(1, positives).mean() * temperature
        figures[f"negative_{name}"] = torch.where(others, matrix, 0).sum() / others.sum().clamp(min=1) * temperature
    return {name: value.detach() for name, value in figures.items()} | {"empty_sparse": scores.empty_sparse}


class TrainingLog:
    """Means over the steps since the last line, of all ranks, as JSON lines in `log.jsonl`; rank 0 writes.

    Args:
        folder: where `log.jsonl` is.
        every: steps a line.
        done: steps that an earlier call did; lines behind them are from steps that will be done again, and go.
        active: whether this rank writes.
    """

    def __init__(self, folder: Path, *, every: int, done: int, active: bool) -> None:
        self._path = folder / "log.jsonl"
        self._every = every
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._file: TextIO | None = None
        self._warned = False
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read_log(self._path) if line["step"] <= done]
            self._path.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
            self._file = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def record(self, step: int, figures: dict[str, Tensor], *, last: bool) -> Figures | None:
        """Add a step's figures; every so many steps and at the end, return the means that were written."""
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value
        self._count += 1
        if not last and (step + 1) % self._every:
            return None
        line = self._means(step + 1)
        self._sums, self._count = {}, 0
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        self._watch(line)
        return line

    def _means(self, step: int) -> Figures:
        names = sorted(self._sums)
        values = sum_over_ranks(torch.stack([self._sums[name].float() for name in names]))
        means = dict(zip(names, (values / (self._count * world_size())).tolist(), strict=True))
        means["tokens_per_second"] = means["tokens"] * world_size() / max(means.pop("seconds"), 1e-9)
        return {"step": step} | means

    def _watch(self, line: Figures) -> None:
        if line["empty_sparse"] <= _TOO_MANY_EMPTY or self._warned:
            return
        self._warned = True
        logger.warning(
            "step %d: %.0f %% of all texts have no sparse weight above 0. The sparse head is dying, and what is at 0 "
            "gets no gradient: begin again with a lower learning rate, or with a new head",
            line["step"],
            100 * line["empty_sparse"],
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `log.jsonl`; the last one is left out where a kill cut it."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
