"""The training run of `m3-mini`: self-knowledge distillation with `m3connect.train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from m3connect.embeddings import IntArray
from m3connect.encoder.model import M3Model
from m3connect.encoder.pack import Pack
from m3connect.train import TrainConfig, save_model, train
from m3connect.train.checkpoints import load_for_training

from .corpus import Corpus
from .material import Material, read_material
from .mix import END, SECOND_STAGE, START, Mix, Settings

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
    steps=1_500,
    temperature=0.03,
    learning_rate=6e-4,
    embedding_learning_rate=1e-3,
    warmup=0.05,
    decay_from=0.0,
    final_rate=0.05,
    distill_from=0,
    lambdas=(1.0, 0.5, 1.0),
    keep=4,
    seed=1,
)
"""At a low rate the sparse loss can weigh more; the first stage leaves the sparse view behind the others. A model that
is right three times in four is too sure of itself at 0.02 with vectors that spread: it then draws all texts together,
by what `centre` takes away, so that their cosines differ less. At 0.05 nothing is drawn together, but the multi-vector
view loses two points."""

BEFORE_SECOND = (1.0, 0.5)
AT_THE_END = (0.4, 0.4)
"""How much of what dense vectors and token vectors have in common is taken away. At the end the whole of it would cost
a point of dense."""

SPARSE_SCALE = 3.0
"""What sparse scores are multiplied by, so that the paper's weights (1, 0.3, 1) become those that fit, (1, 1, 1)."""

LEARNED = 0.9
"""The share of the trained weights, the rest being the initial ones (arXiv 2109.01903): questions to passages gain, and
sentences lose nothing."""

AVERAGED = 4
"""Checkpoints of each run of the second stage whose mean is the model: the last 150 steps."""

FAMILIAR = 128
"""Positions from here on were trained on few texts but still trained; those that no text reached get their mean."""


def learn(initial: Path, run: Path, corpus: Corpus, out: Path) -> None:
    """Train from the folder `initial`, or go on where a run in `run` stopped, and write the model to `out`."""
    material = read_material(corpus, Tokenizer.from_file(str(initial / "tokenizer.json")), initial)
    first = train(initial, Mix(material, Settings()), run / "first", config=FIRST, progress=True)
    centred = run / "centred"
    if not (centred / "sparse_linear.pt").is_file():  # the last file that is written
        model, _ = load_for_training(first)
        centre(model, material, *BEFORE_SECOND)
        save_model(model, centred, source=initial, dtype=torch.half)
    last: list[Path] = []
    for number, settings in enumerate(SECOND_STAGE):
        train(centred, Mix(material, settings), run / f"second-{number}", config=SECOND, progress=True)
        last += sorted((run / f"second-{number}").glob("checkpoint-*"))[-AVERAGED:]
    finish(last, material, initial, out)


def finish(checkpoints: Sequence[Path], material: Material, initial: Path, out: Path) -> None:
    """Write the mean of checkpoints to `out`, with some of `initial`, centred, its sparse scores in scale."""
    model = average(checkpoints)
    blend(model, load_for_training(initial)[0], LEARNED)
    extend_positions(model, SECOND_STAGE[0].passage_tokens + 2)
    centre(model, material, *AT_THE_END)
    scale_sparse(model, SPARSE_SCALE)
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
def blend(model: M3Model, other: M3Model, share: float) -> None:
    """Mix the weights of another model in, of which `share` is not."""
    weights = other.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.lerp_(weights[name], 1 - share)


@torch.no_grad()
def extend_positions(model: M3Model, trained: int) -> None:
    """Give the positions that no text of the training reached the mean of the last ones that some did.

    Without it, long texts would be read with vectors that nothing has learned to live with.
    """
    first = model.pad_token_id + 1
    table = model.position_embeddings.weight
    table[first + trained :] = table[first + FAMILIAR : first + trained].mean(0)


@torch.no_grad()
def centre(model: M3Model, material: Material, dense: float, tokens: float) -> None:
    """Take away what all texts have in common, by the biases that come last; sparse weights do not change.

    Args:
        model: is changed.
        material: a sample of it says what texts have in common.
        dense: the share of the mean of all `<s>` that is taken from them, before they get length 1.
        tokens: the same for token vectors.
    """
    pack = Pack.of(_sample(material))
    hidden = model(pack)
    mean, rows = hidden[pack.starts].mean(0), model.colbert_linear(hidden)
    is_token = torch.ones(len(hidden), dtype=torch.bool)
    is_token[pack.starts] = False
    model.colbert_linear.bias.add_(model.colbert_linear.weight @ (dense * mean) - tokens * rows[is_token].mean(0))
    model.sparse_linear.bias.add_(model.sparse_linear.weight @ (dense * mean))
    model.layers[-1].get_parameter("output_norm.bias").sub_(dense * mean)


def _sample(material: Material) -> list[IntArray]:
    """Six NTREX rows of each language and as many everyday texts, the shortest first."""
    random = np.random.default_rng(0)
    count = len(material.rows["eng"])
    texts = [rows[int(i)] for rows in material.rows.values() for i in random.choice(count, 6, replace=False)]
    for i in random.choice(len(material.everyday), len(texts), replace=False):
        group = material.everyday[int(i)]
        texts.append(group[int(random.integers(len(group)))])
    return sorted((np.concatenate([[START], ids, [END]]) for ids in texts), key=len)


@torch.no_grad()
def scale_sparse(model: M3Model, factor: float) -> None:
    """Multiply all sparse scores; their order stays, as both of two texts get the root of the factor."""
    model.sparse_linear.weight.mul_(factor**0.5)
    model.sparse_linear.bias.mul_(factor**0.5)
