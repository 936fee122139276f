"""The read path of a hybrid search without its input and output.

`search_flow` is a generator: it yields what it needs to know, the store answers (flows.py), and at the end it returns
the hits.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from m3connect import scoring
from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.fusion import RRF, Fusion, Leg, Weighted, check_fusion, rank, reciprocal_ranks, weighted_sum
from m3connect.store import Document, Hit, check_count

__all__ = ["FetchDocuments", "FetchTokenVectors", "FindCandidates", "ScoreIds", "SearchPlan", "Step", "search_flow"]

LegScores: TypeAlias = dict[str, float]


@dataclass(frozen=True, slots=True)
class FindCandidates:
    """Search some legs. The answer is `{leg: one {id: score} dict a query}`, sparse scores above 0 only."""

    legs: tuple[Leg, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class ScoreIds:
    """Score named documents in one leg. The answer is one {id: score} dict a query; what shares no token may miss."""

    leg: Leg
    ids: tuple[tuple[str, ...], ...]
    """One tuple a query."""


@dataclass(frozen=True, slots=True)
class FetchTokenVectors:
    """Fetch the token vectors of some documents. The answer is `{id: [t, d] array}`."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FetchDocuments:
    """Fetch some documents. The answer is `{id: document}`, absent ones left out."""

    ids: tuple[str, ...]


Step: TypeAlias = FindCandidates | ScoreIds | FetchTokenVectors | FetchDocuments
Flow: TypeAlias = Generator[Step, Any, list[list[Hit]]]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Everything about a search but its queries and its filter.

    Raises:
        ValueError: a number is out of range, or a threshold names no leg that finds candidates.
    """

    top_k: int = 10
    """The most hits a query gets."""

    fusion: Fusion = field(default_factory=RRF)
    """How legs become one list."""

    candidates: int | None = None
    """How many each leg brings before fusion; None means `max(100, 4 * top_k)`."""

    with_scores: bool = False
    """Fill `Hit.scores`."""

    offset: int | None = None
    """Skip this many hits. A number, 0 included, fixes the window of candidates, so pages neither repeat nor skip."""

    group_by_parent: bool = False
    """Only the best hit of each parent document."""

    min_scores: Mapping[Leg, float] | None = None
    """By leg: candidates that score less are none of that leg's. Never applied to a fused score."""

    def __post_init__(self) -> None:
        check_count("top_k", self.top_k)
        if self.candidates is not None:
            check_count("candidates", self.candidates)
        if self.offset is not None and (not isinstance(self.offset, int) or self.offset < 0):
            raise ValueError(f"offset must be a whole number of at least 0, but is {self.offset!r}")
        check_fusion(self.fusion)
        unknown = set(self.min_scores or ()) - set(self.fusion.legs)
        if unknown:
            raise ValueError(f"min_scores names {sorted(unknown)}, but this fusion searches {list(self.fusion.legs)}")

    @property
    def limit(self) -> int:
        """How many candidates each leg brings."""
        whole_list = self.offset is None and not self.group_by_parent and not self.min_scores
        if len(self.fusion.legs) == 1 and not isinstance(self.fusion, Weighted) and whole_list:
            return self.top_k
        return self.candidates or max(100, 4 * self.top_k)


def search_flow(
    queries: M3Embeddings, plan: SearchPlan, *, multi_vector: bool, sparse: bool = True, scores_tokens: bool = False
) -> Flow:
    """Find candidates, fuse them, and fetch the documents of the best.

    Args:
        queries: q rows, already checked.
        plan: what to search for.
        multi_vector: whether the store has token vectors.
        sparse: whether the store has sparse weights.
        scores_tokens: whether it scores token vectors itself, so that `ScoreIds` may name their leg.

    Returns:
        One list of hits a query, best first, ties in the order of ids.

    Raises:
        ValueError: the fusion weighs token vectors that query or store lack, or sparse weights that the store lacks.
    """
    if len(queries) == 0:
        return []
    fusion = plan.fusion
    if "sparse" in fusion.legs and not sparse:
        raise ValueError(
            "this store has no sparse weights: search it with fusion=Dense() or Weighted(sparse=0), or, if its "
            "collection has some, name them in its layout"
        )
    if isinstance(fusion, Weighted) and fusion.multi_vector:
        _require_token_vectors(queries, multi_vector)
    legs: dict[Leg, list[LegScores]] = yield FindCandidates(fusion.legs, plan.limit)
    legs = {leg: [_above(row, (plan.min_scores or {}).get(leg)) for row in rows] for leg, rows in legs.items()}
    if isinstance(fusion, Weighted):
        yield from _complete_weighted(fusion, legs, queries, scores_tokens)
    fused = [_fuse(fusion, legs, i) for i in range(len(queries))]
    ranked = [rank(scores)[plan.offset or 0 if not plan.group_by_parent else 0 :] for scores in fused]
    best, documents = yield from _hydrate(ranked, plan)
    if plan.with_scores:
        every: list[Leg] = ["dense", "sparse"] if sparse else ["dense"]
        if multi_vector and queries.multi_vector is not None:
            every.append("multi_vector")
        yield from _complete(legs, every, best, queries, scores_tokens=scores_tokens)
    return [
        [
            Hit(documents[name], fused[i][name], _scores_of(legs, i, name) if plan.with_scores else None)
            for name in best[i]
        ]
        for i in range(len(queries))
    ]


def _above(scores: LegScores, least: float | None) -> LegScores:
    return scores if least is None else {name: score for name, score in scores.items() if score >= least}


def _complete_weighted(
    fusion: Weighted, legs: dict[Leg, list[LegScores]], queries: M3Embeddings, scores_tokens: bool
) -> Generator[Step, Any, None]:
    ids = [_union(legs, i) for i in range(len(queries))]
    wanted = [leg for leg, weight in fusion.weights.items() if weight]
    if fusion.missing == "exact" or fusion.multi_vector:
        lacking: list[Leg] = wanted if fusion.missing == "exact" else ["multi_vector"]
        yield from _complete(legs, lacking, ids, queries, scores_tokens=scores_tokens)


def _hydrate(
    ranked: Sequence[Sequence[str]], plan: SearchPlan
) -> Generator[Step, Any, tuple[list[list[str]], dict[str, Document]]]:
    """Fetch the best documents, for groups down the ranking until there are enough; deleted ones are left out."""
    documents: dict[str, Document] = {}
    if not plan.group_by_parent:
        documents = yield FetchDocuments(_distinct(names[: plan.top_k] for names in ranked))
        return [[name for name in names[: plan.top_k] if name in documents] for names in ranked], documents
    wanted, depth = (plan.offset or 0) + plan.top_k, 0
    while True:
        depth += 2 * wanted
        asked = [
            name for name in _distinct(names[depth - 2 * wanted : depth] for names in ranked) if name not in documents
        ]
        if asked:
            documents |= yield FetchDocuments(tuple(asked))
        best = [_first_of_parents(names[:depth], documents) for names in ranked]
        if all(len(row) >= wanted or depth >= len(names) for row, names in zip(best, ranked, strict=True)):
            return [row[plan.offset or 0 : wanted] for row in best], documents


def _first_of_parents(names: Sequence[str], documents: Mapping[str, Document]) -> list[str]:
    first: dict[str, str] = {}
    for name in names:
        if name in documents:
            first.setdefault(documents[name].parent_id or name, name)
    return list(first.values())


def _require_token_vectors(queries: M3Embeddings, multi_vector: bool) -> None:
    queries.require_multi_vector()
    if not multi_vector:
        raise ValueError(
            "this store has no token vectors: open it with multi_vector=True where the backend can, or let "
            "HybridRetriever(rerank=True) score them"
        )


def _complete(
    legs: dict[Leg, list[LegScores]],
    wanted: Iterable[Leg],
    ids: Sequence[Sequence[str]],
    queries: M3Embeddings,
    *,
    scores_tokens: bool,
) -> Generator[Step, Any, None]:
    """Add to `legs` the exact scores that these ids still lack in the wanted legs."""
    for leg in wanted:
        scores = legs.setdefault(leg, [{} for _ in ids])
        missing = tuple(
            tuple(name for name in names if name not in known) for names, known in zip(ids, scores, strict=True)
        )
        if not any(missing):
            continue
        if leg == "multi_vector" and not scores_tokens:
            vectors: Mapping[str, FloatArray] = yield FetchTokenVectors(_distinct(missing))
            answers = [_maxsim(queries, i, names, vectors) for i, names in enumerate(missing)]
        else:
            answers = yield ScoreIds(leg, missing)
        for i, (names, answer) in enumerate(zip(missing, answers, strict=True)):
            scores[i] |= {name: answer.get(name, 0.0) for name in names}


def _maxsim(queries: M3Embeddings, i: int, names: Sequence[str], vectors: Mapping[str, FloatArray]) -> LegScores:
    empty = np.zeros((0, queries.dim), np.float32)
    query = queries.require_multi_vector()[i]
    scores = scoring.multi_vector([query], [vectors.get(name, empty) for name in names])[0]
    return dict(zip(names, scores.tolist(), strict=True))


def _fuse(fusion: Fusion, legs: Mapping[Leg, Sequence[LegScores]], i: int) -> LegScores:
    scores = {leg: found[i] for leg, found in legs.items()}
    if isinstance(fusion, RRF):
        return reciprocal_ranks([rank(scores[leg]) for leg in fusion.legs], k=fusion.k, weights=fusion.weights)
    if isinstance(fusion, Weighted):
        weights = {leg: weight for leg, weight in fusion.weights.items() if weight}
        return weighted_sum(_union(legs, i), scores, weights)
    return scores[fusion.legs[0]]


def _union(legs: Mapping[Leg, Sequence[LegScores]], i: int) -> list[str]:
    return list(dict.fromkeys(name for found in legs.values() for name in found[i]))


def _distinct(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in names for name in group))


def _scores_of(legs: Mapping[Leg, Sequence[LegScores]], i: int, name: str) -> dict[str, float]:
    return {leg: found[i][name] for leg, found in legs.items()}
