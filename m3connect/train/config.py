"""How a model is trained: one frozen object with every number that changes the result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from m3connect.train.embed import Precision
from m3connect.train.losses import TeacherLoss

__all__ = ["PAPER_BATCH_SIZES", "Objective", "TrainConfig"]

Objective: TypeAlias = Literal["self-distillation", "joint", "independent"]

PAPER_BATCH_SIZES = (
    (500, 48),
    (1000, 32),
    (2000, 20),
    (3000, 18),
    (4000, 14),
    (5000, 14),
    (6000, 12),
    (7000, 10),
    (8192, 8),
)
"""Queries per rank for texts of up to so many tokens, with 8 passages each on a GPU of 80 GB; on 24 ranks these are the
batch sizes of fine-tuning in the paper's appendix B.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of a training run; the defaults are the paper's where it states them."""

    objective: Objective = "self-distillation"
    """What is minimised: "self-distillation" is the paper's final loss, "joint" leaves the distillation out, and
    "independent" is the plain mean of the three heads' own losses."""

    temperature: float = 0.02
    weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    """Of dense, sparse and multi-vector in the integrated score."""

    lambdas: tuple[float, float, float] = (1.0, 0.1, 1.0)
    """Of the three heads in the loss."""

    distill_from: int = 0
    """The optimizer step that self-distillation begins with."""

    teacher: TeacherLoss | None = None
    """Learn from `pos_scores` and `neg_scores` in the data, and how; None leaves them unread."""

    mask_duplicates: bool = True
    """A passage that is also the query's positive, under another query of the batch, is no negative."""

    maxsim_tokens: int | None = None
    """Take so many random tokens of each query for the multi-vector score in training: much faster, the mean stays."""

    steps: int | None = None
    """How many optimizer steps; None means `epochs`."""

    epochs: int = 1
    """How often each example is seen, where `steps` is None."""

    tokens_per_batch: int = 8192
    """The most tokens of a batch on one rank, queries and passages together."""

    batch_sizes: tuple[tuple[int, int], ...] | None = None
    """Queries per rank for texts of up to so many tokens, in place of `tokens_per_batch`: `PAPER_BATCH_SIZES`."""

    group_size: int = 8
    """Passages a query: a positive, and negatives where the data has them."""

    max_query_length: int = 512
    max_passage_length: int = 8192
    """Tokens, `<s>` and `</s>` included; the model's own limit holds too."""

    sub_batch_tokens: int = 16_384
    """Tokens that go through the model at a time; less needs less memory and changes nothing else."""

    precision: Precision = "float32"
    learning_rate: float = 1e-5
    embedding_learning_rate: float | None = None
    """Of the word embeddings; None means `learning_rate`."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    """Of matrices; word embeddings, biases and layer norms have none."""

    warmup: float = 0.1
    """The share of all steps in which the rate rises to its full height."""

    decay_from: float = 0.0
    """The share of all steps after which it falls in a straight line; never before the warm-up ends."""

    final_rate: float = 0.0
    """The share of the full rate that is left at the end."""

    clip: float | None = 1.0
    """The largest norm of all gradients together; None does not clip."""

    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints; the last step always saves."""

    keep: int = 2
    """How many checkpoints stay."""

    log_every: int = 10
    """Steps between lines of `log.jsonl`."""

    device: str | None = None
    """None means the GPU of this rank where there is one."""

    def __post_init__(self) -> None:
        if self.objective not in ("self-distillation", "joint", "independent"):
            raise ValueError(f"objective must be 'self-distillation', 'joint' or 'independent', got {self.objective!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', got {self.precision!r}")
        for name in ("temperature", "learning_rate", "tokens_per_batch", "group_size", "sub_batch_tokens", "epochs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def differences(self, path: Path) -> list[str]:
        """Say in which settings that change the result a saved configuration differs."""
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        mine: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        free = {"save_every", "keep", "log_every", "device"}
        return [
            f"{key} was {saved.get(key)!r} and is {value!r}"
            for key, value in mine.items()
            if key not in free and saved.get(key) != value
        ]
