"""Weights chosen on some queries, to be reported on others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from m3connect.evaluate.data import Qrels
from m3connect.evaluate.metrics import mean, per_query
from m3connect.evaluate.modes import LegRuns, Sum, Weights, fuse

__all__ = ["GRID", "Tuned", "split_queries", "tune"]

GRID = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Weights of a leg that are tried beside 1 for dense; only their ratios change an order."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Weights that were the best of a grid on the dev queries."""

    weights: Weights
    """Of dense, sparse and multi-vector scores."""

    value: float
    """The measure on the dev queries; it flatters, since the weights were chosen by it."""

    queries: int
    """How many dev queries there were."""


def tune(
    legs: LegRuns,
    qrels: Qrels,
    mode: Sum,
    *,
    measure: str = "nDCG@10",
    grid: Iterable[float] = GRID,
) -> Tuned:
    """Choose weights by a measure on dev queries; of equals the first, that is the smallest weights, stays.

    Args:
        legs: scores of the dev queries, from `search_legs`; other queries in it are not looked at.
        qrels: judgments of the dev queries, and of no other.
        mode: which sum the weights are for.
        measure: what should become large.
        grid: the weights to try.

    Raises:
        ValueError: there is no dev query.
    """
    if not qrels:
        raise ValueError("no dev queries to tune weights on: give another split or a larger share")
    best: Tuned | None = None
    for weights in _combinations(tuple(grid), mode):
        run = fuse(legs, mode, weights=weights, queries=list(qrels))
        value = mean(per_query(run, qrels, [measure])[measure])
        if best is None or value > best.value:
            best = Tuned(weights, value, len(qrels))
    if best is None:
        raise ValueError("the grid has no weights to try")
    return best


def _combinations(grid: tuple[float, ...], mode: str) -> Iterator[Weights]:
    for sparse, multi_vector in product(grid, grid if mode == "all" else (0.0,)):
        yield 1.0, sparse, multi_vector


def split_queries(qrels: Qrels, share: float, *, seed: int = 0) -> tuple[dict[str, dict[str, int]], Qrels]:
    """Cut judged queries at random into dev and test.

    Args:
        qrels: all judgments.
        share: of the queries that go to dev, between 0 and 1.
        seed: of the choice; it does not depend on the order of the queries.

    Returns:
        Judgments of dev, and of test.

    Raises:
        ValueError: the share is out of range, or leaves a side without queries.
    """
    names: Sequence[str] = sorted(qrels)
    count = round(share * len(names)) if 0 < share < 1 else 0
    if not 0 < count < len(names):
        raise ValueError(
            f"a share of {share} of {len(names)} queries leaves dev or test empty: give one between 0 and 1"
        )
    chosen = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}
    dev = {name: dict(qrels[name]) for name in names if name in chosen}
    return dev, {name: qrels[name] for name in qrels if name not in chosen}
