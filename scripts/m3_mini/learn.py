"""The training run of `m3-mini`: self-knowledge distillation with `m3connect.train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from m3connect.encoder.model import M3Model
from m3connect.train import TrainConfig, save_model, train
from m3connect.train.checkpoints import load_for_training

from .corpus import Corpus
from .material import read_material
from .mix import Mix, Settings

FIRST = TrainConfig(
    steps=2_000,
    learning_rate=1.2e-3,
    embedding_learning_rate=2e-3,
    betas=(0.9, 0.98),
    warmup=0.045,
    decay_from=0.52,
    final_rate=1 - 0.97 * 960 / 1_560,
    distill_from=400,
    precision="bfloat16",
    maxsim_tokens=12,
    save_every=50,
    log_every=10,
)
"""Chosen in trials of 200 steps: an embedding rate of 6e-3 costs two points of dense, and a rate of 2.5e-3 for the rest
together with a weight of 0.3 for the sparse loss kills the sparse head."""

SECOND = replace(
    FIRST,
    steps=900,
    learning_rate=4.8e-4,
    embedding_learning_rate=8e-4,
    warmup=0.05,
    decay_from=0.0,
    final_rate=0.05,
    distill_from=0,
    lambdas=(1.0, 0.5, 1.0),
    keep=4,
    seed=1,
)
"""At a low rate the sparse loss can weigh more; the first stage leaves the sparse view behind the others."""

AVERAGED = 4
"""Checkpoints whose mean is the model: the last 150 steps."""

FAMILIAR = 128
"""Positions from here on were trained on few texts but still trained; those that no text reached get their mean."""


def learn(initial: Path, run: Path, corpus: Corpus, out: Path) -> None:
    """Train from the folder `initial`, or go on where a run in `run` stopped, and write the model to `out`."""
    material = read_material(corpus, Tokenizer.from_file(str(initial / "tokenizer.json")), initial)
    first = train(initial, Mix(material, Settings()), run / "first", config=FIRST, progress=True)
    second = Settings(seed=1, later_from=0)
    train(first, Mix(material, second), run / "second", config=SECOND, progress=True)
    model = average(sorted((run / "second").glob("checkpoint-*"))[-AVERAGED:])
    extend_positions(model, second.passage_tokens + 2)
    save_model(model, out, source=initial, dtype=torch.half)


@torch.no_grad()
def average(checkpoints: Sequence[Path]) -> M3Model:
    """The mean of the weights of several checkpoints."""
    model, _ = load_for_training(checkpoints[0])
    total = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for checkpoint in checkpoints[1:]:
        for name, tensor in load_for_training(checkpoint)[0].state_dict().items():
            total[name] += tensor
    model.load_state_dict({name: (tensor / len(checkpoints)).float() for name, tensor in total.items()})
    return model


@torch.no_grad()
def extend_positions(model: M3Model, trained: int) -> None:
    """Give the positions that no text of the training reached the mean of the last ones that some did.

    Without it, long texts would be read with vectors that nothing has learned to live with.
    """
    first = model.pad_token_id + 1
    table = model.position_embeddings.weight
    table[first + trained :] = table[first + FAMILIAR : first + trained].mean(0)
