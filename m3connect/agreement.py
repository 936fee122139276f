"""How nearly two encoders agree on the same texts: vectors, weights, and whom they rank first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from m3connect import scoring
from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows

__all__ = ["LEGS", "Agreement", "Spread", "agreement"]

LEGS: Mapping[str, Callable[[M3Embeddings, M3Embeddings], FloatArray]] = MappingProxyType(
    {
        "dense": lambda queries, documents: scoring.dense(queries.dense, documents.dense),
        "sparse": lambda queries, documents: _found(scoring.sparse(queries.sparse, documents.sparse)),
        "multi_vector": lambda queries, documents: scoring.multi_vector(
            queries.require_multi_vector(), documents.require_multi_vector()
        ),
        "hybrid": scoring.hybrid,
    }
)
"""What texts are ranked by: the three scores, and their weighted sum; minus infinity is no hit."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Numbers, one a text or token, in short."""

    mean: float
    least: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Spread:
        """Sum up numbers; of none both are 1, since nothing differs."""
        array = np.asarray(values, np.float64)
        return cls(float(array.mean()), float(array.min())) if array.size else cls(1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How nearly other embeddings agree with those of a reference."""

    dense: Spread
    """Cosines of dense vectors, over texts."""

    tokens: Spread
    """Cosines of token vectors, over all tokens."""

    sparse: Spread
    """Overlap of sparse rows, over texts: the sum of the smaller weight of each token over that of the larger."""

    ranks: Mapping[str, float]
    """Of the k texts that the reference ranks best for a text, the share that is among the other's k best; a score."""

    k: int
    """How many texts are the best."""


def agreement(reference: M3Embeddings, other: M3Embeddings, *, k: int = 10, queries: int = 100) -> Agreement:
    """Compare two encodings of the same texts.

    Args:
        reference: with token vectors.
        other: row i being the same text, with token vectors.
        k: how many best texts are compared; fewer where there are fewer texts.
        queries: how many of the first texts are asked for among all others.

    Raises:
        ValueError: the texts differ in number or tokens, or token vectors are missing.
    """
    pairs = list(zip(reference.require_multi_vector(), other.require_multi_vector(), strict=False))
    if len(reference) != len(other) or any(mine.shape != theirs.shape for mine, theirs in pairs):
        raise ValueError("the two batches must hold the same texts, encoded with the same tokenizer and max_length")
    k = min(k, max(0, len(reference) - 1))
    return Agreement(
        dense=Spread.of((reference.dense * other.dense).sum(axis=1)),
        tokens=Spread.of(np.concatenate([(mine * theirs).sum(axis=1) for mine, theirs in pairs] or [np.ones(0)])),
        sparse=Spread.of([_overlap(reference.sparse, other.sparse, i) for i in range(len(reference))]),
        ranks={leg: _rank_agreement(score, reference, other, k=k, queries=queries) for leg, score in LEGS.items()},
        k=k,
    )


def _overlap(reference: SparseRows, other: SparseRows, i: int) -> float:
    """Return the sum of smaller weights over that of larger ones, from 0 to 1; 1 where both rows are empty."""
    (mine, my_weights), (theirs, their_weights) = reference.row(i), other.row(i)
    tokens = np.union1d(mine, theirs)
    weights = np.zeros((2, len(tokens)))
    weights[0, np.searchsorted(tokens, mine)] = my_weights
    weights[1, np.searchsorted(tokens, theirs)] = their_weights
    return float(weights.min(axis=0).sum() / weights.max(axis=0).sum()) if len(tokens) else 1.0


def _rank_agreement(
    score: Callable[[M3Embeddings, M3Embeddings], FloatArray],
    reference: M3Embeddings,
    other: M3Embeddings,
    *,
    k: int,
    queries: int,
) -> float:
    """Return the mean share of the best that both have; a text that finds nothing counts 1."""
    shares: list[float] = []
    for mine, theirs in zip(score(reference[:queries], reference), score(other[:queries], other), strict=True):
        i = len(shares)
        mine[i] = theirs[i] = -np.inf  # a text finds itself in any case
        best = _best(mine, k)
        shares.append(len(best & _best(theirs, k)) / len(best) if best else 1.0)
    return float(np.mean(shares)) if shares else 1.0


def _found(scores: FloatArray) -> FloatArray:
    """Leave out what shares no token."""
    return np.where(scores > 0, scores, np.float32(-np.inf))


def _best(scores: FloatArray, k: int) -> set[int]:
    order = np.argsort(-scores, kind="stable")[:k]
    return set(order[np.isfinite(scores[order])].tolist())
