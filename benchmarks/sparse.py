"""Token weights to sparse rows: a Python loop with a dict a text, as FlagEmbedding has it, against m3connect.

The loop is written here again, since FlagEmbedding keeps its own inside a method. See benchmarks/README.md.

    python benchmarks/sparse.py --json sparse.json
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from encode_bench.reporting import about_machine
from machine import write_report
from rich.console import Console
from rich.table import Table

from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.lexical import lexical_rows

UNWEIGHTED = np.array([0, 1, 2, 3])
VOCABULARY = 250_002
LOOP, ROWS, DICTS = "a loop over tokens, dicts", "m3connect, SparseRows", "m3connect, dicts"

console = Console()


def make_tokens(lengths: Sequence[int]) -> tuple[IntArray, FloatArray]:
    """Draw token ids by Zipf's law, and weights of which some are 0."""
    random = np.random.default_rng(0)
    token_ids = np.minimum(random.zipf(1.3, sum(lengths)), VOCABULARY - 1).astype(np.int64)
    weights = np.maximum(random.standard_normal(sum(lengths)) * 0.1 + 0.05, 0).astype(np.float32)
    return token_ids, weights


def by_loop(token_ids: IntArray, weights: FloatArray, lengths: Sequence[int]) -> list[dict[str, float]]:
    """The largest weight of each token, keys as strings."""
    special = set(UNWEIGHTED.tolist())
    texts = []
    stops = np.cumsum(lengths)
    for start, stop in zip(stops - lengths, stops, strict=True):
        largest: dict[str, float] = defaultdict(int)
        for weight, token in zip(weights[start:stop], token_ids[start:stop].tolist(), strict=True):
            if token not in special and weight > largest[str(token)]:
                largest[str(token)] = weight
        texts.append({token: weight for token, weight in largest.items() if weight > 0})
    return texts


def contenders(lengths: Sequence[int]) -> dict[str, Callable[[], Any]]:
    """All that are timed, on the same tokens.

    Raises:
        ValueError: they do not agree.
    """
    token_ids, weights = make_tokens(lengths)
    ours = lexical_rows(token_ids, weights, lengths, UNWEIGHTED).to_dicts()
    if by_loop(token_ids, weights, lengths) != [{str(token): row[token] for token in row} for row in ours]:
        raise ValueError("the two give other rows")
    return {
        LOOP: lambda: by_loop(token_ids, weights, lengths),
        ROWS: lambda: lexical_rows(token_ids, weights, lengths, UNWEIGHTED),
        DICTS: lambda: lexical_rows(token_ids, weights, lengths, UNWEIGHTED).to_dicts(),
    }


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each runs; the median counts.")] = 15,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Measure how token weights become sparse rows, taking turns."""
    mixed = np.clip(np.random.default_rng(1).lognormal(4.5, 0.8, 256), 8, 512).astype(int).tolist()
    about = about_machine(1, rounds)
    found: dict[str, dict[str, float]] = {}
    for name, lengths in {"256 texts of 512 tokens": [512] * 256, "256 mixed texts": mixed, "one query": [16]}.items():
        timed = contenders(lengths)
        seconds: dict[str, list[float]] = {contender: [] for contender in timed}
        for _ in range(rounds):
            for contender, run in timed.items():
                start = time.perf_counter()
                run()
                seconds[contender].append(time.perf_counter() - start)
        found[name] = {contender: statistics.median(values) for contender, values in seconds.items()}
        table = Table(title=name, min_width=60)
        for column in ("", "ms", "ratio"):
            table.add_column(column, justify="right" if column else "left")
        for contender, value in found[name].items():
            table.add_row(contender, f"{1000 * value:.2f}", f"{found[name][LOOP] / value:.1f}")
        console.print(table)
    if json_path is not None:
        write_report(json_path, {**about, "seconds": found})


if __name__ == "__main__":
    typer.run(main)
