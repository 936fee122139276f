"""Write tests/train/golden/losses.json: what FlagEmbedding 1.4.2's own code makes of given score matrices.

Run where FlagEmbedding is installed (pip install "m3connect[bench]"); the tests that read the result need it not. Its
model is used without its encoder: the three score functions return the given matrices, everything behind them is its.

    python scripts/make_training_golden.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]

HEADS = ("dense", "sparse", "colbert")


@dataclass(frozen=True, slots=True)
class Case:
    """A batch of B queries with G passages each, and what FlagEmbedding is asked to do with it."""

    name: str
    queries: int
    group: int
    distill: bool = True
    teacher: str | None = None
    """Its `kd_loss_type`, where there are teacher scores."""

    in_batch_negatives: bool = True


CASES = [
    Case("joint", 4, 3, distill=False),
    Case("self distillation", 4, 3),
    Case("in-batch negatives alone", 5, 1),
    Case("one query", 1, 4),
    Case("ranking teacher", 4, 3, distill=False, teacher="m3_kd_loss"),
    Case("ranking teacher and self distillation", 3, 4, teacher="m3_kd_loss"),
    Case("kl teacher", 4, 3, distill=False, teacher="kl_div"),
    Case("kl teacher and self distillation", 3, 4, teacher="kl_div"),
    Case("own negatives alone", 4, 3, distill=False, in_batch_negatives=False),
]
"""Without in-batch negatives FlagEmbedding's integrated loss crashes or is 0, so the heads' own losses are summed."""


def make_model(case: Case, scores: dict[str, Tensor]) -> Any:  # noqa: ANN401  # FlagEmbedding has no types
    """FlagEmbedding's M3 model with the given scores in place of an encoder."""
    from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import EncoderOnlyEmbedderM3Model

    class Model(EncoderOnlyEmbedderM3Model):  # type: ignore[misc]  # FlagEmbedding has no types
        def encode(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return features, features, features

        def compute_dense_score(self, q_reps: Tensor, p_reps: Tensor) -> Tensor:
            return scores["dense"]

        def compute_sparse_score(self, q_reps: Tensor, p_reps: Tensor) -> Tensor:
            return scores["sparse"]

        def compute_colbert_score(self, q_reps: Tensor, p_reps: Tensor, q_mask: Tensor | None = None) -> Tensor:
            return scores["colbert"]

        def _get_queries_attention_mask(self, queries: Tensor) -> None:
            return None

    bare = SimpleNamespace(config=SimpleNamespace(vocab_size=10))
    base = {"model": bare, "colbert_linear": torch.nn.Linear(1, 1), "sparse_linear": torch.nn.Linear(1, 1)}
    return Model(
        base,
        temperature=0.02,
        kd_loss_type=case.teacher or "kl_div",
        unified_finetuning=True,
        use_self_distill=case.distill,
        self_distill_start_step=-1,
    ).train()


def run(case: Case, random: np.random.Generator) -> dict[str, Any]:
    """Draw scores of the size that a temperature of 0.02 gives, and return loss and gradients."""
    columns = case.queries * case.group
    drawn = {head: random.uniform(0, 12, (case.queries, columns)).round(3) for head in HEADS}
    scores = {head: torch.tensor(drawn[head], dtype=torch.float64, requires_grad=True) for head in HEADS}
    teacher = random.uniform(-2, 2, (case.queries, case.group)).round(3).tolist() if case.teacher else None
    model, views = make_model(case, scores), (torch.zeros(case.queries, 1), torch.zeros(columns, 1))
    if case.in_batch_negatives:
        total = model(queries=views[0], passages=views[1], teacher_scores=teacher).loss
    else:
        functions = (model.compute_dense_score, model.compute_sparse_score, model.compute_colbert_score)
        total = sum(model._compute_no_in_batch_neg_loss(*views, compute_score_func=score)[1] for score in functions)
    total.backward()
    gradients = {head: matrix.grad.tolist() for head, matrix in scores.items() if matrix.grad is not None}
    matrices = {head: drawn[head].tolist() for head in HEADS}
    facts = {"scores": matrices, "teacher_scores": teacher, "loss": total.item(), "gradients": gradients}
    return asdict(case) | facts


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write golden losses from FlagEmbedding for the trainer's tests.")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "train" / "golden" / "losses.json")
    out: Path = parser.parse_args().out
    random = np.random.default_rng(20_261_121)
    versions = {name: importlib.metadata.version(name) for name in ("FlagEmbedding", "torch")}
    content = {"versions": versions, "cases": [run(case, random) for case in CASES]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")
    print(f"{len(CASES)} cases, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
