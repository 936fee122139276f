"""Searches as Edge's query requests, and its answers as scores or hits: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qdrant_edge import (
    Expression,
    Filter,
    Formula,
    Fusion,
    Prefetch,
    Query,
    QueryRequest,
    ScoredPoint,
    SearchParams,
)

from m3connect.embeddings import M3Embeddings
from m3connect.fusion import RRF, Leg, Weighted
from m3connect.search import SearchPlan
from m3connect.store import Hit
from m3connect_edge.convert import from_payload, payload_id, sparse_vector
from m3connect_edge.filters import has_ids

__all__ = ["hits_of", "id_request", "is_one_request", "leg_request", "scores_of", "whole_request"]

_EXACT = SearchParams(exact=True)


def leg_request(
    leg: Leg, queries: M3Embeddings, i: int, *, limit: int, condition: Filter | None, exact: bool
) -> QueryRequest | None:
    """Ask one leg for its best ids and scores; None where nothing can be found, as by a query without tokens."""
    query = _nearest(leg, queries, i)
    if query is None:
        return None
    return QueryRequest(limit=limit, query=query, filter=condition, params=_params(exact), with_payload=["id"])


def id_request(leg: Leg, queries: M3Embeddings, i: int, ids: Sequence[str]) -> QueryRequest | None:
    """Ask one leg for the exact scores of these ids; None where none can be above 0."""
    query = _nearest(leg, queries, i)
    if query is None or not ids:
        return None
    return QueryRequest(limit=len(ids), query=query, filter=has_ids(ids), params=_EXACT, with_payload=["id"])


def is_one_request(plan: SearchPlan, queries: M3Embeddings, *, multi_vector: bool) -> bool:
    """Say whether Edge answers such a search exactly, ranking and fusion included.

    Edge orders ties as it likes, so pages are cut here; its weights of RRF mean something else than ours, and its k is
    a whole number.
    """
    if plan.offset is not None or plan.group_by_parent or plan.min_scores:
        return False
    if isinstance(plan.fusion, RRF):
        return plan.fusion.weights is None and float(plan.fusion.k).is_integer() and plan.fusion.k < 2**31
    if isinstance(plan.fusion, Weighted) and plan.fusion.multi_vector:
        return multi_vector and queries.multi_vector is not None
    return True


def whole_request(
    plan: SearchPlan, queries: M3Embeddings, i: int, *, condition: Filter | None, exact: bool
) -> QueryRequest | None:
    """Ask for the hits of query i with their documents; None where nothing can be found."""
    found = {leg: query for leg in plan.fusion.legs if (query := _nearest(leg, queries, i)) is not None}
    if not found:
        return None
    params = _params(exact)
    legs = {
        leg: Prefetch(limit=plan.limit, query=query, filter=condition, params=params) for leg, query in found.items()
    }
    if isinstance(plan.fusion, RRF):
        fused = _fused(plan.fusion.k)
        return QueryRequest(limit=plan.top_k, query=fused, prefetches=list(legs.values()), with_payload=True)
    if isinstance(plan.fusion, Weighted):
        return _weighted_request(plan, plan.fusion, queries, i, legs)
    (query,) = found.values()
    return QueryRequest(limit=plan.top_k, query=query, filter=condition, params=params, with_payload=True)


def hits_of(points: Iterable[ScoredPoint]) -> list[Hit]:
    """Return hits, best first, ties by id."""
    hits = [Hit(from_payload(point.payload), point.score) for point in points]
    return sorted(hits, key=lambda hit: (-hit.score, hit.document.id))


def scores_of(leg: Leg, queries: M3Embeddings, i: int, points: Iterable[ScoredPoint]) -> dict[str, float]:
    """Return scores by id."""
    tokens = _tokens(leg, queries, i)
    return {payload_id(point.payload): point.score / tokens for point in points}


def _weighted_request(
    plan: SearchPlan, fusion: Weighted, queries: M3Embeddings, i: int, legs: dict[Leg, Prefetch]
) -> QueryRequest:
    """Sum weighted scores over what any leg found: each leg scores the same candidates, once they are known.

    A candidate that a prefetch does not return, since it shares no token or has no token vectors, counts 0 there.
    """
    most = plan.limit * len(legs)
    candidates = Prefetch(limit=most, query=_fused(60), prefetches=list(legs.values()))
    prefetches: list[Prefetch] = []
    terms: list[Expression] = []
    for leg in (leg for leg, weight in fusion.weights.items() if weight):
        query = _nearest(leg, queries, i)
        if query is None:
            continue
        rescored = leg == "multi_vector" or fusion.missing == "exact"
        nested = Prefetch(limit=most, query=query, prefetches=[candidates], params=_EXACT) if rescored else legs[leg]
        weight = fusion.weights[leg] / _tokens(leg, queries, i)
        terms.append(Expression.Mult([Expression.Constant(weight), Expression.Variable(f"$score[{len(terms)}]")]))
        prefetches.append(nested)
    formula = Formula(Expression.Sum(terms), {f"$score[{place}]": 0.0 for place in range(len(terms))})
    return QueryRequest(limit=plan.top_k, query=formula, prefetches=prefetches, with_payload=True)


def _params(exact: bool) -> SearchParams | None:
    return _EXACT if exact else None


def _fused(k: float) -> Any:  # noqa: ANN401  # to the library's stub Rrf is no Fusion
    return Fusion.Rrf(int(k) + 1)  # Edge counts ranks from 0


def _tokens(leg: Leg, queries: M3Embeddings, i: int) -> int:
    """Return what Edge's score is divided by: its MaxSim is a sum over the tokens of the query, ours is the mean."""
    return len(queries.require_multi_vector()[i]) if leg == "multi_vector" else 1


def _nearest(leg: Leg, queries: M3Embeddings, i: int) -> Query | None:
    """Return the query of one leg, or None where it has no tokens."""
    rows: Any = queries.dense[i]  # the stub knows of lists only; the library takes arrays, and faster
    if leg == "dense":
        return Query.Nearest(rows, using=leg)
    if leg == "sparse":
        sparse = sparse_vector(queries, i)
        return None if sparse is None else Query.Nearest(sparse, using=leg)
    rows = queries.require_multi_vector()[i]
    return Query.Nearest(rows, using=leg) if len(rows) else None
