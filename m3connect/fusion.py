"""How the legs of a hybrid search become one list: pure values and functions.

A leg is one way to score, `dense`, `sparse` or `multi_vector`. Scores of a leg are raw inner products; nothing is
normalised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "ALL_LEGS",
    "RRF",
    "Dense",
    "Fusion",
    "Leg",
    "Sparse",
    "Weighted",
    "check_fusion",
    "rank",
    "reciprocal_ranks",
    "weighted_sum",
]

Leg: TypeAlias = Literal["dense", "sparse", "multi_vector"]

ALL_LEGS: tuple[Leg, ...] = ("dense", "sparse", "multi_vector")
Scores: TypeAlias = Mapping[str, float]
"""Scores by document id."""


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion of dense and sparse: the sum over legs of weight / (k + rank), ranks from 1.

    Source: Cormack, Clarke and Buettcher, SIGIR 2009. A document that a leg did not find gets nothing from it.

    Raises:
        ValueError: k or a weight is negative or not finite, or weights are not given for both legs.
    """

    k: float = 60
    """At least 0; the larger, the less the first ranks stand out."""

    weights: tuple[float, float] | None = None
    """Of dense and sparse; a mapping with these two keys is taken too. None means 1 for both."""

    def __post_init__(self) -> None:
        weights = self.weights
        if isinstance(weights, Mapping):
            if set(weights) != {"dense", "sparse"}:
                raise ValueError(f"RRF weights need the keys dense and sparse, but have {sorted(weights)}")
            weights = (weights["dense"], weights["sparse"])
        if weights is not None:
            if len(weights) != 2 or not _all_valid(weights) or not any(weights):
                raise ValueError(f"RRF needs two weights, dense and sparse, none below 0, not both 0; got {weights}")
            object.__setattr__(self, "weights", tuple(weights))
        if not _all_valid([self.k]):
            raise ValueError(f"RRF needs k >= 0, but got {self.k}")

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The legs that find candidates."""
        return ("dense", "sparse")


@dataclass(frozen=True, slots=True)
class Weighted:
    """The weighted sum of raw scores over the candidates that dense and sparse found.

    Raises:
        ValueError: a weight is negative or not finite, or neither dense nor sparse has one (they find the candidates).
    """

    dense: float = 1.0
    sparse: float = 0.3
    multi_vector: float = 0.0
    """Above 0 it needs token vectors in the query and in the store."""

    missing: Literal["exact", "zero"] = "exact"
    """What a candidate that a leg did not find scores in it: its exact score, or 0 as in the paper's scripts."""

    def __post_init__(self) -> None:
        if not _all_valid(self.weights.values()):
            raise ValueError(f"Weighted needs finite weights of at least 0, but got {self.weights}")
        if not self.dense and not self.sparse:
            raise ValueError("Weighted needs a dense or sparse weight above 0: these two legs find the candidates")
        if self.missing not in ("exact", "zero"):
            raise ValueError(f'missing must be "exact" or "zero", but is {self.missing!r}')

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The legs that find candidates."""
        return tuple(leg for leg, weight in self.weights.items() if weight and leg != "multi_vector")

    @property
    def weights(self) -> dict[Leg, float]:
        """The weight of each leg."""
        return {"dense": self.dense, "sparse": self.sparse, "multi_vector": self.multi_vector}


@dataclass(frozen=True, slots=True)
class Dense:
    """The dense leg alone: the score is the inner product of unit vectors."""

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The legs that find candidates."""
        return ("dense",)


@dataclass(frozen=True, slots=True)
class Sparse:
    """The sparse leg alone: the score is the sum over shared tokens, and only documents that share one are found."""

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The legs that find candidates."""
        return ("sparse",)


Fusion: TypeAlias = RRF | Weighted | Dense | Sparse


def check_fusion(fusion: object) -> None:
    """Refuse what is no fusion.

    Raises:
        ValueError: it is something else, for instance a name.
    """
    if not isinstance(fusion, RRF | Weighted | Dense | Sparse):
        raise ValueError(f"fusion must be RRF(), Weighted(), Dense() or Sparse(), but is {fusion!r}")


def rank(scores: Scores) -> list[str]:
    """Order ids by falling score, ties by id.

    Example:
        >>> rank({"b": 0.5, "a": 0.5, "c": 0.9})
        ['c', 'a', 'b']
    """
    return sorted(scores, key=lambda document_id: (-scores[document_id], document_id))


def reciprocal_ranks(
    rankings: Sequence[Sequence[str]], *, k: float = 60, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """Fuse rankings by reciprocal rank.

    Args:
        rankings: per leg, ids from best to worst; what scored 0 in the sparse leg must not be among them.
        k: the constant added to each rank, ranks counting from 1.
        weights: one a leg; None means 1 for all.

    Returns:
        The fused score of every id that some leg ranked.

    Example:
        >>> reciprocal_ranks([["a", "b"], ["b"]], k=1)
        {'a': 0.5, 'b': 0.8333333333333333}
    """
    fused: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for position, document_id in enumerate(ranking, start=1):
            if weight:
                fused[document_id] = fused.get(document_id, 0.0) + weight / (k + position)
    return fused


def _all_valid(numbers: Iterable[float]) -> bool:
    return all(0 <= number < math.inf for number in numbers)


def weighted_sum(ids: Iterable[str], scores: Mapping[Leg, Scores], weights: Mapping[Leg, float]) -> dict[str, float]:
    """Add up weighted scores; a document without a score in a leg has 0 there.

    Example:
        >>> scores = {"dense": {"a": 0.5, "b": 0.25}, "sparse": {"a": 2.0}}
        >>> weighted_sum(["a", "b"], scores, {"dense": 1, "sparse": 0.5})
        {'a': 1.5, 'b': 0.25}
    """
    return {
        document_id: sum(weight * scores[leg].get(document_id, 0.0) for leg, weight in weights.items() if weight)
        for document_id in ids
    }
