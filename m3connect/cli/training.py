"""`m3connect train`: fine-tune all three heads on FlagEmbedding's files."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3connect.cli.options import Debug, Model, notes, reports_errors, results

if TYPE_CHECKING:
    from m3connect.train import TrainConfig

__all__ = ["train"]


class Precision(StrEnum):
    """Of the matrix products in the model."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@reports_errors
def train(
    data: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="Files in FlagEmbedding's jsonl; never mixed.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the checkpoints, the log and the model.")],
    model: Model = None,
    config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A JSON object of settings; the options win.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps, in place of epochs.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How often each example is seen.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="At its height.")] = None,
    tokens_per_batch: Annotated[int | None, typer.Option(min=1, help="The most tokens of a batch on a rank.")] = None,
    sub_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens computed at a time: less memory, the same result.")
    ] = None,
    group_size: Annotated[int | None, typer.Option(min=1, help="Passages a query, its positive included.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Of the matrix products in the model.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed, another order.")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad line.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the losses into OUT/losses.png.")] = False,
    debug: Debug = False,
) -> None:
    """Train dense, sparse and multi-vector head together, by self-knowledge distillation.

    A line of the data is `{"query": ..., "pos": [...], "neg": [...]}`. The model is saved in OUT/model. The same
    command again goes on where it stopped. Several processes: `torchrun --nproc-per-node 2 -m m3connect train ...`

    Example: `m3connect train pairs.jsonl --model BAAI/bge-m3 --out tuned --epochs 2 --plot`
    """
    from m3connect.train import train as run

    given = {
        "steps": steps,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "tokens_per_batch": tokens_per_batch,
        "sub_batch_tokens": sub_batch_tokens,
        "group_size": group_size,
        "precision": None if precision is None else precision.value,
        "seed": seed,
        "save_every": save_every,
    }
    settings = _settings(config, {name: value for name, value in given.items() if value is not None})
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    first = os.environ.get("RANK", "0") == "0"
    if model is None and first:
        notes().print("note: tuning m3-mini, a small demonstration model; real work wants --model BAAI/bge-m3")
    folder = run(model or "m3-mini", data, out, config=settings, strict=strict, progress=sys.stderr.isatty())
    if not first:
        return
    if plot:
        from m3connect.train.plot import plot_log

        results().print(f"losses: {plot_log(out / 'log.jsonl', out / 'losses.png')}")
    results().print(f"model: {folder}")


def _settings(path: Path | None, given: dict[str, Any]) -> TrainConfig:
    from m3connect.train import TrainConfig

    stated = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    known = {field.name for field in fields(TrainConfig)}
    unknown = sorted(set(stated) - known) if isinstance(stated, dict) else ["no JSON object"]
    if unknown:
        raise typer.BadParameter(
            f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(known))}", param_hint="'--config'"
        )
    tuples = {name: _as_tuple(value) for name, value in (stated | given).items()}
    return TrainConfig(**tuples)


def _as_tuple(value: Any) -> Any:  # noqa: ANN401  # any JSON
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
