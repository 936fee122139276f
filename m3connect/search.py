"""The read path of a hybrid search without its input and output.

`search_flow` is a generator: it yields what it needs to know, the store answers, and at the end it returns the hits. A
synchronous store answers with `drive`; an asynchronous one awaits its client between the same steps, so the logic is
written once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from m3connect import scoring
from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.fusion import RRF, Fusion, Leg, Weighted, rank, reciprocal_ranks, weighted_sum
from m3connect.store import Document, Hit

__all__ = ["FetchDocuments", "FetchTokenVectors", "FindCandidates", "ScoreIds", "Step", "drive", "search_flow"]

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
    """Fetch some documents. The answer is a list, in any order, absent ones left out."""

    ids: tuple[str, ...]


Step: TypeAlias = FindCandidates | ScoreIds | FetchTokenVectors | FetchDocuments
Flow: TypeAlias = Generator[Step, Any, list[list[Hit]]]


def drive(flow: Flow, answer: Callable[[Step], Any]) -> list[list[Hit]]:
    """Run a flow to its end, answering each step."""
    try:
        step = next(flow)
        while True:
            step = flow.send(answer(step))
    except StopIteration as stop:
        hits: list[list[Hit]] = stop.value
        return hits


def search_flow(
    queries: M3Embeddings,
    *,
    top_k: int,
    fusion: Fusion,
    candidates: int | None,
    with_scores: bool,
    multi_vector: bool,
) -> Flow:
    """Find candidates, fuse them, and fetch the documents of the best.

    Args:
        queries: q rows, already checked.
        top_k: the most hits a query gets.
        fusion: how legs become one list.
        candidates: how many each leg brings; None means `max(100, 4 * top_k)`.
        with_scores: fill `Hit.scores`.
        multi_vector: whether the store has token vectors.

    Returns:
        One list of hits a query, best first, ties in the order of ids.

    Raises:
        ValueError: the fusion weighs token vectors that query or store lack.
    """
    if len(queries) == 0:
        return []
    if isinstance(fusion, Weighted) and fusion.multi_vector:
        _require_token_vectors(queries, multi_vector)
    limit = top_k if len(fusion.legs) == 1 and not isinstance(fusion, Weighted) else candidates or max(100, 4 * top_k)
    legs: dict[Leg, list[LegScores]] = yield FindCandidates(fusion.legs, limit)
    if isinstance(fusion, Weighted):
        ids = [_union(legs, i) for i in range(len(queries))]
        wanted = [leg for leg, weight in fusion.weights.items() if weight]
        if fusion.missing == "exact" or fusion.multi_vector:
            yield from _complete(legs, wanted if fusion.missing == "exact" else ["multi_vector"], ids, queries)
    fused = [_fuse(fusion, legs, i) for i in range(len(queries))]
    best = [rank(scores)[:top_k] for scores in fused]
    if with_scores:
        every: list[Leg] = ["dense", "sparse"]
        if multi_vector and queries.multi_vector is not None:
            every.append("multi_vector")
        yield from _complete(legs, every, best, queries)
    found: list[Document] = yield FetchDocuments(_distinct(best))
    documents = {document.id: document for document in found}
    return [
        [
            Hit(documents[name], fused[i][name], _scores_of(legs, i, name) if with_scores else None)
            for name in best[i]
            if name in documents
        ]
        for i in range(len(queries))
    ]


def _require_token_vectors(queries: M3Embeddings, multi_vector: bool) -> None:
    queries.require_multi_vector()
    if not multi_vector:
        raise ValueError(
            "this store has no token vectors: open it with multi_vector=True where the backend can, or let "
            "HybridRetriever(rerank=True) score them"
        )


def _complete(
    legs: dict[Leg, list[LegScores]], wanted: Iterable[Leg], ids: Sequence[Sequence[str]], queries: M3Embeddings
) -> Generator[Step, Any, None]:
    """Add to `legs` the exact scores that these ids still lack in the wanted legs."""
    for leg in wanted:
        scores = legs.setdefault(leg, [{} for _ in ids])
        missing = tuple(
            tuple(name for name in names if name not in known) for names, known in zip(ids, scores, strict=True)
        )
        if not any(missing):
            continue
        if leg == "multi_vector":
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
