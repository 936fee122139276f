"""The training run of `m3-mini`: self-knowledge distillation with `m3connect.train`."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from m3connect.train import TrainConfig, train

from .corpus import Corpus
from .material import read_material
from .mix import Mix, Settings

CONFIG = TrainConfig(
    steps=4_500,
    learning_rate=1.2e-3,
    embedding_learning_rate=2e-3,
    betas=(0.9, 0.98),
    warmup=0.02,
    decay_from=0.3,
    final_rate=0.03,
    distill_from=400,
    precision="bfloat16",
    maxsim_tokens=12,
    save_every=100,
    keep=20,
    log_every=50,
)
"""Rates of the first trials of 200 steps: an embedding rate of 6e-3 forgets words, and 2.5e-3 for the rest with more
weight on the sparse loss kills the sparse head."""


def learn(initial: Path, out: Path, corpus: Corpus) -> Path:
    """Train from the folder `initial`, or go on where a run in `out` stopped, and return the trained folder."""
    tokenizer = Tokenizer.from_file(str(initial / "tokenizer.json"))
    return train(initial, Mix(read_material(corpus, tokenizer, initial), Settings()), out, config=CONFIG)
