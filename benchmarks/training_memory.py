"""Peak memory of one training step, as the vocabulary and the batch grow: FlagEmbedding's step against m3connect's.

Every figure comes from a process of its own: the peak of its resident memory during one forward and backward pass, less
what it held before, weights and whole gradients included. See benchmarks/README.md.

    python benchmarks/training_memory.py --json training_memory.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from machine import processor, version, write_report
from rich.console import Console
from rich.table import Table

from m3connect.encoder.checkpoint import ModelConfig
from m3connect.encoder.model import M3Model
from m3connect.train import Batch, TrainConfig
from m3connect.train.embed import Embedder
from m3connect.train.step import batch_loss

OURS, SPLIT, THEIRS = "m3connect", "m3connect, split", "FlagEmbedding"
SPECIALS = 5
"""Ids below this are `<s> <pad> </s> <unk>` and one more, which no text is drawn from."""


@dataclass(frozen=True, slots=True)
class Load:
    """A batch of random tokens, and the model that learns from it."""

    vocabulary: int = 32_000
    queries: int = 4
    group: int = 2
    query_length: int = 32
    passage_length: int = 128
    sub_batch_tokens: int = 512
    hidden: int = 256
    layers: int = 4

    def texts(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Queries and passages as arrays of ids."""
        random = np.random.default_rng(0)

        def draw(count: int, length: int) -> list[np.ndarray]:
            rows = random.integers(SPECIALS, self.vocabulary, (count, length))
            rows[:, 0], rows[:, -1] = 0, 2
            return list(rows)

        return draw(self.queries, self.query_length), draw(self.queries * self.group, self.passage_length)


def our_step(load: Load, *, split: bool) -> tuple[torch.nn.Module, Callable[[], None]]:
    """m3connect's model, and what computes its gradients."""
    torch.manual_seed(0)
    model = M3Model(ModelConfig(load.vocabulary, load.hidden, load.layers, 4, 4 * load.hidden, 514, 1, 1, 1e-5))
    for table in (model.word_embeddings, model.position_embeddings, model.token_type_embeddings):
        torch.nn.init.normal_(table.weight)
    model.word_embeddings.sparse = model.position_embeddings.sparse = True  # as the loop does
    budget = load.sub_batch_tokens if split else 1 << 40
    embedder = Embedder(model, np.arange(4), budget)
    batch = Batch(*load.texts())

    def step() -> None:
        batch_loss(embedder, batch, TrainConfig(), step=0)[0].backward()

    return model, step


def their_step(load: Load) -> tuple[torch.nn.Module, Callable[[], None]]:
    """FlagEmbedding's model, and what computes its gradients; without dropout, which ours has not."""
    from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import EncoderOnlyEmbedderM3Model
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=load.vocabulary,
        hidden_size=load.hidden,
        num_hidden_layers=load.layers,
        num_attention_heads=4,
        intermediate_size=4 * load.hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    parts = {
        "model": XLMRobertaModel(config, add_pooling_layer=False),
        "colbert_linear": torch.nn.Linear(load.hidden, load.hidden),
        "sparse_linear": torch.nn.Linear(load.hidden, 1),
    }
    ids = SimpleNamespace(cls_token_id=0, pad_token_id=1, eos_token_id=2, unk_token_id=3, padding_side="right")
    model = EncoderOnlyEmbedderM3Model(
        parts, tokenizer=ids, temperature=0.02, normalize_embeddings=True, use_self_distill=True
    ).train()
    features = [{"input_ids": torch.tensor(np.stack(texts))} for texts in load.texts()]
    for feature in features:
        feature["attention_mask"] = torch.ones_like(feature["input_ids"])

    def step() -> None:
        model(queries=features[0], passages=features[1]).loss.backward()

    return model, step


def measure(side: str, load: Load) -> float:
    """The megabytes that one step needs besides weights and gradients."""
    torch.set_num_threads(1)
    model, step = their_step(load) if side == THEIRS else our_step(load, split=side == SPLIT)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-30)  # touched, so that its pages count as held before
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def in_a_process(side: str, load: Load) -> float | None:
    """Measure in a process of its own; None where it fails, as when memory runs out."""
    command = [sys.executable, __file__, "--one", side, json.dumps(asdict(load))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{side} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return float(done.stdout.splitlines()[-1])


def compare(title: str, column: str, loads: dict[str, Load]) -> dict[str, Any]:
    """Print a table of all sides over some loads, and return it: megabytes, None where a side failed."""
    sides = [OURS, SPLIT, *([THEIRS] if importlib.util.find_spec("FlagEmbedding") else [])]
    table = Table(title=title)
    table.add_column(column, justify="right")
    for side in sides:
        table.add_column(f"{side}, MB", justify="right")
    rows: dict[str, dict[str, float | None]] = {}
    for name, load in loads.items():
        rows[name] = {side: in_a_process(side, load) for side in sides}
        table.add_row(name, *("failed" if value is None else f"{value:,.0f}" for value in rows[name].values()))
    Console().print(table)
    return {"title": title, "column": column, "megabytes": rows}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Peak memory of a training step.")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "LOAD"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    given = parser.parse_args()
    if given.one:
        print(measure(given.one[0], Load(**json.loads(given.one[1]))))
        return
    if importlib.util.find_spec("FlagEmbedding") is None:
        print('FlagEmbedding is not installed (pip install "m3connect[bench]"): m3connect alone', file=sys.stderr)
    base = Load(hidden=64, layers=2) if given.quick else Load()
    vocabularies = (1_000, 4_000) if given.quick else (8_000, 32_000, 128_000, 250_002)
    batches = (2, 4) if given.quick else (4, 8, 16, 32)
    about = about_machine()
    by_vocabulary = compare(
        f"{base.queries} queries of {base.query_length} tokens, {base.group} passages each of {base.passage_length}",
        "vocabulary",
        {f"{size:,}": replace(base, vocabulary=size) for size in vocabularies},
    )
    by_batch = compare(
        f"vocabulary of {base.vocabulary:,}, sub-batches of {base.sub_batch_tokens} tokens",
        "queries",
        {str(size): replace(base, queries=size) for size in batches},
    )
    if given.json is not None:
        write_report(given.json, {**about, "tables": [by_vocabulary, by_batch]})


def about_machine() -> dict[str, Any]:
    """Versions and processor."""
    versions = {name: version(name) for name in ("m3connect", "FlagEmbedding", "torch", "transformers", "numpy")}
    return {"processor": processor(), "load_average_before": os.getloadavg()[0], "versions": versions}


if __name__ == "__main__":
    main()
