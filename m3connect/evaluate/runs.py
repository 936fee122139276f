"""Runs: what a system found for each query, in memory and as TREC files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from m3connect.evaluate.data import open_text
from m3connect.fusion import rank

__all__ = ["Run", "read_run", "top", "write_run"]

Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""By query, the score of each document found; order is by falling score and nothing else."""


def top(scores: Mapping[str, float], depth: int) -> dict[str, float]:
    """Keep the best, ties by id.

    Example:
        >>> top({"a": 0.1, "c": 0.5, "b": 0.5}, 2)
        {'b': 0.5, 'c': 0.5}
    """
    return {name: scores[name] for name in rank(scores)[:depth]}


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a run in the six columns of TREC: query, Q0, document, rank, score, name of the run.

    The order comes from the score, as in trec_eval; the rank is not read.

    Raises:
        ValueError: a line has another form, or a document comes twice for a query.
    """
    run: dict[str, dict[str, float]] = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.split()
            if not cells:
                continue
            score = _number(cells[4]) if len(cells) == 6 else math.nan
            if math.isnan(score):
                raise ValueError(f"{path}:{number}: expected `query Q0 document rank score name`, but got {line!r:.80}")
            found = run.setdefault(cells[0], {})
            if cells[2] in found:
                raise ValueError(f"{path}:{number}: document {cells[2]!r} comes twice for query {cells[0]!r}")
            found[cells[2]] = score
    return run


def write_run(path: str | Path, run: Run, *, name: str) -> None:
    """Write a run in the six columns of TREC, scores with all their digits; a name that ends in `.gz` is packed.

    Raises:
        ValueError: an id has white space in it, which the format cannot hold.
    """
    with open_text(path, "w") as file:
        for query, scores in run.items():
            _check_id(query)
            for position, document in enumerate(rank(scores), start=1):
                _check_id(document)
                file.write(f"{query} Q0 {document} {position} {float(scores[document])!r} {name}\n")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check_id(name: str) -> None:
    if not name or len(name.split()) != 1 or name != name.strip():
        raise ValueError(f"a TREC run cannot hold the id {name!r}: it has white space in it, or nothing")
