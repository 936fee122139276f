"""Filling and searching in turn."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from store_bench.by_hand import EdgeByHand, MilvusByHand, QdrantByHand
from store_bench.contenders import (
    DECLARED,
    HAND,
    LANGCHAIN,
    OURS,
    PLAIN,
    Contender,
    Measured,
    open_declared,
    open_ours,
)
from store_bench.data import BATCH, KINDS, Data, Found, Kind, make_data
from store_bench.with_langchain import LangChainMilvus, LangChainQdrant

console = Console()

BACKENDS = {
    "memory": ("numpy",),
    "qdrant-local": ("qdrant_client",),
    "edge": ("qdrant_edge", "filelock"),
    "milvus-lite": ("pymilvus", "milvus_lite"),
}
PEERS = {"qdrant-local": "langchain_qdrant", "milvus-lite": "langchain_milvus"}


def names_of(backend: str) -> list[str]:
    """Name the contenders of a backend that are installed."""
    names = [OURS] if backend == "memory" else [OURS, HAND, PLAIN]
    names += [DECLARED] if backend == "milvus-lite" else []
    peer = PEERS.get(backend)
    return [*names, LANGCHAIN] if peer is not None and is_installed(peer) else names


def is_installed(module: str) -> bool:
    """Say whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def kinds_of(backend: str, name: str) -> tuple[Kind, ...]:
    """Name the searches of a contender."""
    return ("hybrid", "filtered") if (backend, name) == ("milvus-lite", LANGCHAIN) else KINDS


def open_contender(backend: str, name: str, data: Data, folder: Path, resources: ExitStack) -> Contender:
    """Open a new collection."""
    if name == OURS:
        return open_ours(backend, data, folder / "ours", resources)
    if name == DECLARED:
        return open_declared(data, folder / "ours", resources)
    plain = name == PLAIN
    if backend == "edge":
        return EdgeByHand(data, folder / f"edge-{plain}", plain=plain)
    if backend == "qdrant-local":
        return LangChainQdrant(data) if name == LANGCHAIN else QdrantByHand(data, plain=plain)
    files = folder / "milvus"
    files.mkdir(exist_ok=True)
    return LangChainMilvus(data, files) if name == LANGCHAIN else MilvusByHand(data, files, plain=plain)


def measure(backends: Sequence[str], size: int, rounds: int, settle: float) -> list[Measured]:
    """Fill the collections of each backend, check that they agree, and search them in turn."""
    data = make_data(size, rounds)
    return [result for backend in backends for result in _measure_backend(backend, data, size, settle)]


def _measure_backend(backend: str, data: Data, size: int, settle: float) -> list[Measured]:
    """Measure the contenders of one backend, which alone share the machine meanwhile."""
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        (folder / "ours").mkdir()
        pairs = [
            (Measured(backend, name, size), open_contender(backend, name, data, folder, resources))
            for name in names_of(backend)
        ]
        _warm_up(backend)
        turns = random.Random(0)  # an order, no secret
        console.print(f"[dim]{backend}, {size:,} documents: filling[/]")
        _fill(pairs, data, turns)
        time.sleep(settle)  # Lite builds indexes in the background
        _check(pairs)
        console.print(f"[dim]{backend}, {size:,} documents: searching, {len(data.queries)} rounds[/]")
        for turn in range(len(data.queries)):
            for kind in KINDS:
                for result, contender in _shuffled(pairs, turns):
                    if kind in kinds_of(result.backend, result.name):
                        result.search[kind].append(_time_search(contender, kind, turn))
        return [result for result, _ in pairs]


def _warm_up(backend: str) -> None:
    """Fill and flush a small collection that nobody measures: the first in a process may cost more."""
    data = make_data(BATCH, 1)
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        (folder / "ours").mkdir()
        contender = open_contender(backend, OURS, data, folder, resources)
        contender.ingest(data.batches[0])
        contender.finish()


def _shuffled(pairs: list[tuple[Measured, Contender]], turns: random.Random) -> list[tuple[Measured, Contender]]:
    """Put them into another order, so that what one leaves running in the background falls on each of the others."""
    return turns.sample(pairs, len(pairs))


def _fill(pairs: list[tuple[Measured, Contender]], data: Data, turns: random.Random) -> None:
    for batch in data.batches:
        gc.collect()
        for result, contender in _shuffled(pairs, turns):
            result.ingest.append(_timed(partial(contender.ingest, batch)))
    for result, contender in _shuffled(pairs, turns):
        result.finish = _timed(contender.finish)


def _check(pairs: list[tuple[Measured, Contender]]) -> None:
    """Search everything once, so that lazy indexes are built, and compare with m3connect's hits.

    Raises:
        ValueError: the client library by hand scores otherwise than m3connect, so the two do not do the same.
    """
    ours = next(contender for result, contender in pairs if result.name == OURS)
    for result, contender in pairs:
        for kind in kinds_of(result.backend, result.name):
            shared = []
            for i in range(3):
                wanted, found = ours.search(kind, i), contender.search(kind, i)
                if result.name != LANGCHAIN:  # its candidates are others
                    _check_scores(result, kind, wanted, found)
                shared.append(len({name for name, _ in wanted} & {name for name, _ in found}) / len(wanted))
            result.overlap[kind] = statistics.mean(shared)


def _check_scores(result: Measured, kind: Kind, wanted: Found, found: Found) -> None:
    ours, theirs = [score for _, score in wanted], [score for _, score in found]
    if len(ours) != len(theirs) or not np.allclose(ours, theirs, atol=1e-5):
        raise ValueError(f"{result.backend}, {kind}: m3connect scores {ours}, {result.name} {theirs}")


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _time_search(contender: Contender, kind: Kind, i: int, *, least: float = 0.01) -> float:
    """Time a search; a short one several times over, so that one interruption does not count for much."""
    start, calls = time.perf_counter(), 0
    while True:
        contender.search(kind, i)
        calls += 1
        passed = time.perf_counter() - start
        if passed > least:
            return passed / calls


def memory_of(backend: str, name: str, size: int) -> float | None:
    """Return the MB by which a process of its own grows: libraries, the collection, and what searching leaves behind.

    Returns:
        None where the system does not tell.
    """
    if not Path("/proc/self/statm").exists():
        return None
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=_grow, args=(backend, name, size, answers))
    process.start()
    process.join()
    return answers.get(timeout=1) if process.exitcode == 0 else None


def _grow(backend: str, name: str, size: int, answers: multiprocessing.Queue[float]) -> None:
    data = make_data(size, 3)
    gc.collect()
    before = _resident()
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        (folder / "ours").mkdir()
        contender = open_contender(backend, name, data, folder, resources)
        for batch in data.batches:
            contender.ingest(batch)
        contender.finish()
        for kind in KINDS:
            for i in range(3):
                contender.search(kind, i)
        gc.collect()
        answers.put((_resident() - before) / 2**20)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
