"""Many clients that ask one encoder at the same time: throughput, and how long a client waits.

Each client sends its next query as soon as the last one is answered. See benchmarks/README.md.

    python benchmarks/concurrency.py --json concurrency.json
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer
from encode_bench.contenders import FLAG, load_flag_embedding
from encode_bench.loading import missing_modules
from encode_bench.reporting import about_machine
from encode_bench.workloads import MINI, make_texts
from machine import write_report
from rich.console import Console
from rich.table import Table

import m3connect
from m3connect.encoding import AsyncEncoder
from m3connect.testing_checkpoints import write_checkpoint

PEER = "FlagEmbedding behind a lock"
LOCKED = "m3connect behind a lock"
THREADS = "m3connect, threads"
TASKS = "m3connect, coroutines"
CLIENTS = (1, 8, 64)
LONG_TOKENS = 8190

Ask: TypeAlias = Callable[[str], Any]
Drive: TypeAlias = Callable[[Sequence[Sequence[str]]], list[float]]
"""Lets each client ask its queries, and returns the seconds that each query took."""

console = Console()


@dataclass(slots=True)
class Figures:
    """What one contender did with one number of clients, a list entry a round."""

    throughput: list[float] = field(default_factory=list)
    """Queries a second."""

    waits: list[float] = field(default_factory=list)
    """Seconds of each query of all rounds."""

    def summary(self) -> dict[str, float]:
        """Queries a second, and milliseconds."""
        half, most = np.percentile(np.array(self.waits) * 1000, [50, 99])
        return {"queries_per_second": statistics.median(self.throughput), "p50_ms": float(half), "p99_ms": float(most)}


def with_threads(ask: Ask) -> Drive:
    """A thread a client."""

    def client(queries: Sequence[str]) -> list[float]:
        return [_timed(ask, query) for query in queries]

    def drive(clients: Sequence[Sequence[str]]) -> list[float]:
        with ThreadPoolExecutor(len(clients)) as pool:
            return [seconds for part in pool.map(client, clients) for seconds in part]

    return drive


def with_tasks(encoder: AsyncEncoder) -> Drive:
    """A coroutine a client, all in one event loop."""

    async def client(queries: Sequence[str]) -> list[float]:
        waits = []
        for query in queries:
            start = time.perf_counter()
            await encoder.encode([query])
            waits.append(time.perf_counter() - start)
        return waits

    async def everybody(clients: Sequence[Sequence[str]]) -> list[float]:
        return [seconds for part in await asyncio.gather(*map(client, clients)) for seconds in part]

    return lambda clients: asyncio.run(everybody(clients))


def _timed(ask: Ask, query: str) -> float:
    start = time.perf_counter()
    ask(query)
    return time.perf_counter() - start


def behind_lock(ask: Ask) -> Ask:
    """One call at a time, as a model that is no server is commonly shared."""
    lock = threading.Lock()

    def locked(query: str) -> object:
        with lock:
            return ask(query)

    return locked


def contenders(checkpoint: Path) -> tuple[dict[str, Drive], m3connect.M3Encoder]:
    """Every way to share a model; FlagEmbedding only where it is installed."""
    encoder = m3connect.M3Encoder.from_pretrained(checkpoint)
    drives: dict[str, Drive] = {}
    if not missing_modules(FLAG):
        at_default = next(load_flag_embedding(checkpoint))
        drives[PEER] = with_threads(behind_lock(lambda query: at_default.encode([query])))
    drives[LOCKED] = with_threads(behind_lock(lambda query: encoder.encode([query])))
    drives[THREADS] = with_threads(lambda query: encoder.encode([query]))
    drives[TASKS] = with_tasks(AsyncEncoder(encoder))
    return drives, encoder


def measure(drives: dict[str, Drive], queries: Sequence[str], clients: int, rounds: int) -> dict[str, Figures]:
    """Let the contenders take turns with so many clients, who share the queries."""
    parts = [queries[number::clients] for number in range(clients)]
    figures = {name: Figures() for name in drives}
    for _ in range(rounds):
        for name, drive in drives.items():
            start = time.perf_counter()
            waits = drive(parts)
            figures[name].throughput.append(len(queries) / (time.perf_counter() - start))
            figures[name].waits += waits
    return figures


@contextmanager
def a_long_text(encoder: m3connect.M3Encoder, text: str) -> Iterator[list[float]]:
    """Keep the encoder busy with one text after the other meanwhile; gives the seconds that each took."""
    stop = threading.Event()
    seconds: list[float] = []

    def work() -> None:
        while not stop.is_set():
            seconds.append(_timed(lambda one: encoder.encode([one]), text))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seconds
    finally:
        stop.set()
        thread.join()


def beside_a_long_text(encoder: m3connect.M3Encoder, queries: Sequence[str], text: str) -> dict[str, float]:
    """How long one client's queries take alone, and while texts of 8,192 tokens are encoded."""
    ask = with_threads(lambda query: encoder.encode([query]))
    alone = ask([queries])
    with a_long_text(encoder, text) as seconds:
        beside = ask([queries])
    return {
        "alone_p50_ms": 1000 * statistics.median(alone),
        "beside_p50_ms": 1000 * statistics.median(beside),
        "beside_p99_ms": 1000 * float(np.percentile(beside, 99)),
        "long_text_ms": 1000 * statistics.median(seconds),
    }


def show(clients: int, figures: dict[str, Figures]) -> None:
    """Print one number of clients."""
    table = Table(title=f"{clients} clients", min_width=78)
    table.add_column("one query a call")
    for column in ("queries/s", "ratio", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    first = next(iter(figures.values())).summary()["queries_per_second"]
    for name, one in figures.items():
        found = one.summary()
        values = found["queries_per_second"], found["p50_ms"], found["p99_ms"]
        table.add_row(name, f"{values[0]:.0f}", f"{values[0] / first:.2f}", f"{values[1]:.1f}", f"{values[2]:.1f}")
    console.print(table)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender runs; the median counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and of the tokenizers.")] = 2,
    queries: Annotated[int, typer.Option(min=64, help="How many queries all clients ask together in a round.")] = 256,
    tokenizer: Annotated[Path, typer.Option(help="A folder with tokenizer.json.")] = MINI,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model: shows that it runs.")] = False,
) -> None:
    """Measure how one encoder serves 1, 8 and 64 clients: FlagEmbedding against m3connect, taking turns."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    about = about_machine(threads, rounds)
    counts = np.random.default_rng(0).integers(8, 33, queries).tolist()
    asked = make_texts(tokenizer, counts)
    layers, hidden, heads = (2, 64, 4) if quick else (6, 384, 12)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(
            folder, tokenizer_folder=tokenizer, layers=layers, hidden=hidden, heads=heads, intermediate=4 * hidden
        )
        drives, encoder = contenders(checkpoint)
        for drive in drives.values():
            drive([asked[:8]])
        found = {clients: measure(drives, asked, clients, rounds) for clients in CLIENTS}
        for clients, figures in found.items():
            show(clients, figures)
        long_text = make_texts(tokenizer, [LONG_TOKENS])[0]
        beside = beside_a_long_text(encoder, asked[:64], long_text)
    console.print("one client, and a text of 8,192 tokens at the same time:", beside)
    console.print(about)
    if json_path is not None:
        by_clients = {
            clients: {name: one.summary() for name, one in figures.items()} for clients, figures in found.items()
        }
        write_report(json_path, {**about, "clients": by_clients, "beside_a_long_text": beside})


if __name__ == "__main__":
    typer.run(main)
