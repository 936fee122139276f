"""Filling the collections once, and asking everybody in turn."""

from __future__ import annotations

import importlib
import importlib.util
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from encode_bench.workloads import make_texts, token_counts
from framework_bench.encoders import MINI
from machine import version
from rich.console import Console

from m3connect import Document, M3Encoder, MemoryStore
from m3connect.base import Store
from m3connect.opening import open_store
from m3connect.testing_checkpoints import write_checkpoint
from m3connect.token_store import TokenStore
from search_bench.by_hand import ByComputeScore, ByHand, EdgeShard, load_model
from search_bench.contenders import ANEW, COMPUTE, HAND, STORED, Contender, Ours
from search_bench.stages import Answer, Seconds

BACKENDS = {
    "memory": ("numpy",),
    "edge": ("qdrant_edge", "filelock"),
    "milvus-lite": ("pymilvus", "milvus_lite"),
}
"""What must be there to import."""

BATCH = 256
MOST_OFF = 1e-3
"""Of a hybrid score by hand."""

LEAST_SECONDS = 0.2
"""A short search is asked several times over until this has passed, and its mean counts."""

console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    layers: int
    hidden: int
    sizes: Sequence[int]
    depths: Sequence[int]
    rounds: int
    settle: float

    @property
    def model(self) -> str:
        """The model's shape in words."""
        return f"{self.layers} x {self.hidden}"


@dataclass(slots=True)
class Measured:
    """What one contender took on one backend and size, at one depth."""

    documents: int
    depth: int
    backend: str
    contender: str
    seconds: list[Seconds] = field(default_factory=list)
    """An entry a question."""

    shared: list[float] = field(default_factory=list)
    """Which share of the best ten `ANEW` finds too, by question."""

    def median(self, stage: str) -> float:
        """Seconds of a stage, or "total"."""
        return statistics.median(one[stage] for one in self.seconds)


@dataclass(frozen=True, slots=True)
class Collection:
    """A backend at one size: its contenders, all filled."""

    documents: int
    backend: str
    contenders: dict[str, Contender]


def choose() -> list[str]:
    """Return the backends that are installed, saying what is not."""
    chosen = []
    for backend, modules in BACKENDS.items():
        if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
            console.print(f"[yellow]{backend} is left out: {', '.join(missing)} is not installed[/]")
        else:
            chosen.append(backend)
    return chosen


def measure(plan: Plan, backends: Sequence[str]) -> list[Measured]:
    """Fill all collections in one pass over the documents, then let everybody answer."""
    questions = make_texts(MINI, np.random.default_rng(2).integers(8, 33, plan.rounds + 1).tolist(), seed=2)
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        checkpoint = write_checkpoint(
            folder / "model",
            tokenizer_folder=MINI,
            layers=plan.layers,
            hidden=plan.hidden,
            heads=plan.hidden // 32,
            intermediate=4 * plan.hidden,
        )
        collections = _filled(plan, backends, checkpoint, resources)
        time.sleep(plan.settle)  # Lite builds indexes in the background
        turns = random.Random(0)  # an order, no secret
        results = []
        for collection in collections:
            console.print(f"[dim]{collection.documents:,} documents, {collection.backend}: {plan.rounds} questions[/]")
            for depth in plan.depths:
                results += _ask(plan, collection, depth, questions, turns)
    return results


def _filled(plan: Plan, backends: Sequence[str], checkpoint: Path, resources: ExitStack) -> list[Collection]:
    """Open every collection, encode each document once, and write it wherever it belongs."""
    encoder, folder = M3Encoder.from_pretrained(checkpoint), checkpoint.parent
    tokens = resources.enter_context(TokenStore(folder / "tokens", encoding="int8"))
    stores = {
        (size, name): _open(name, folder / f"{name}-{size}", encoder.dim, resources)
        for size in plan.sizes
        for name in backends
    }
    model = load_model(checkpoint) if "edge" in backends and version("FlagEmbedding") else None
    shards = {size: EdgeShard(folder / f"by-hand-{size}", encoder.dim) for size in plan.sizes if model is not None}
    targets = [(size, target) for (size, _), target in stores.items()] + list(shards.items())
    _fill(encoder, tokens, targets)
    collections = []
    for (size, name), store in stores.items():
        contenders: dict[str, Contender] = {STORED: Ours(encoder, store, tokens), ANEW: Ours(encoder, store)}
        if name == "edge" and model is not None:
            contenders[HAND] = ByHand(model, shards[size])
            if size == min(plan.sizes):
                contenders[COMPUTE] = ByComputeScore(model, shards[size])
        collections.append(Collection(size, name, contenders))
    return collections


def _fill(encoder: M3Encoder, tokens: TokenStore, targets: Sequence[tuple[int, Store | EdgeShard]]) -> None:
    """Encode as many documents as the largest target holds, and store the first ones in the smaller ones too."""
    most = max(size for size, _ in targets)
    documents = [Document(f"doc-{i}", text) for i, text in enumerate(make_texts(MINI, token_counts(most)))]
    for start in range(0, most, BATCH):
        console.print(f"[dim]{start:,} of {most:,} documents are encoded and stored[/]")
        part = documents[start : start + BATCH]
        batch = encoder.encode([document.text for document in part], multi_vector=True)
        tokens.put(part, batch)
        for size, target in targets:
            if start < size:
                target.upsert(part[: size - start], batch[: size - start])
    for _, target in targets:
        target.flush()


def _open(backend: str, folder: Path, dim: int, resources: ExitStack) -> Store:
    if backend == "memory":
        return MemoryStore(dim=dim)
    folder.mkdir()
    spec = {"edge": f"edge:{folder}", "milvus-lite": f"milvus:{folder}/docs.db"}[backend]
    return resources.enter_context(open_store(spec, "docs", dim=dim))


def _ask(
    plan: Plan, collection: Collection, depth: int, questions: Sequence[str], turns: random.Random
) -> list[Measured]:
    """Ask a question before the clock counts, then all others, everybody in another order each time.

    `COMPUTE` takes so long, whatever the size, that it has the smallest size and depth alone.
    """
    names = [name for name in collection.contenders if name != COMPUTE or depth == min(plan.depths)]
    results = {name: Measured(collection.documents, depth, collection.backend, name) for name in names}
    for number, question in enumerate(questions):
        answers = {
            name: _answer(collection.contenders[name], question, depth) for name in turns.sample(names, len(names))
        }
        _check(collection, answers)
        for name, answer in answers.items() if number else ():
            results[name].seconds.append(answer.seconds)
            results[name].shared.append(_shared(answers[ANEW], answer))
    return list(results.values())


def _answer(contender: Contender, question: str, depth: int) -> Answer:
    """Ask until enough time has passed; the seconds are means."""
    answers, begin = [contender.answer(question, depth)], time.perf_counter()
    while time.perf_counter() - begin + answers[0].seconds["total"] < LEAST_SECONDS:
        answers.append(contender.answer(question, depth))
    means = {stage: statistics.mean(one.seconds[stage] for one in answers) for stage in answers[0].seconds}
    return Answer(answers[0].found, means)


def _check(collection: Collection, answers: dict[str, Answer]) -> None:
    """Compare with what m3connect finds from exact token vectors.

    Raises:
        ValueError: scores by hand are others, or in spite of the token store candidates were encoded.
    """
    exact = dict(answers[ANEW].found)
    for peer in {HAND, COMPUTE} & answers.keys():
        off = [abs(score - exact[name]) for name, score in answers[peer].found if name in exact]
        if len(off) < len(exact) / 2 or max(off) > MOST_OFF:
            raise ValueError(
                f"{peer}: {len(off)} of m3connect's {len(exact)} hits were found, with scores off by "
                f"{max(off, default=0):.1e}; expected at least half of them, and at most {MOST_OFF}"
            )
    if encoded := answers[STORED].seconds["encode candidates"]:
        raise ValueError(f"{collection.backend}: {encoded:.3f} s of encoding candidates that the token store has")


def _shared(one: Answer, other: Answer) -> float:
    wanted = {name for name, _ in one.found}
    return len(wanted & {name for name, _ in other.found}) / len(wanted)
