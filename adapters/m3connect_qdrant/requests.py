"""The steps of a search as Qdrant's query requests, and its answers as scores by id: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qdrant_client import models

from m3connect.embeddings import M3Embeddings
from m3connect.fusion import Leg
from m3connect.search import FindCandidates, ScoreIds
from m3connect_qdrant.convert import payload_id, sparse_vector
from m3connect_qdrant.filters import has_ids

__all__ = ["Ask", "candidate_asks", "id_asks", "in_groups", "scores_of", "to_request"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One query in one leg."""

    leg: Leg
    query: int
    """Which row of the queries."""

    limit: int
    """The most points in the answer."""

    condition: models.Filter | None
    """Which points are searched."""

    ids: int
    """How many ids the condition names, for its size."""

    exact: bool = False
    """Compare with every point that passes instead of using an index; local mode does, and warns when told to."""


def candidate_asks(step: FindCandidates, n: int, condition: models.Filter | None, *, ids: int) -> list[Ask]:
    """Return the asks of all legs and n queries, leg by leg."""
    return [Ask(leg, i, step.limit, condition, ids) for leg in step.legs for i in range(n)]


def id_asks(step: ScoreIds, *, exact: bool) -> list[Ask]:
    """Return one ask a query, which scores the ids named for it."""
    return [Ask(step.leg, i, len(ids), has_ids(ids), len(ids), exact) for i, ids in enumerate(step.ids)]


def to_request(ask: Ask, queries: M3Embeddings) -> models.QueryRequest | None:
    """Return a request whose answer holds ids and scores alone; None where nothing can be found.

    That is a sparse query without tokens, or no id to score: neither is sent.
    """
    query = queries.dense[ask.query].tolist() if ask.leg == "dense" else sparse_vector(queries, ask.query)
    if query is None or not ask.limit:
        return None
    return models.QueryRequest(
        query=query,
        using=ask.leg,
        filter=ask.condition,
        limit=ask.limit,
        with_payload=["id"],
        params=models.SearchParams(exact=True) if ask.exact else None,
    )


def scores_of(leg: Leg, points: Iterable[models.ScoredPoint]) -> dict[str, float]:
    """Return scores by id; a sparse score of 0 is no hit, though local mode may report one."""
    return {payload_id(point.payload): point.score for point in points if leg == "dense" or point.score > 0}


def in_groups(answers: Sequence[dict[str, float]], legs: Sequence[Leg]) -> dict[Leg, list[dict[str, float]]]:
    """Return the answers to `candidate_asks` by leg, one a query."""
    n = len(answers) // len(legs)
    return {leg: list(answers[place * n : (place + 1) * n]) for place, leg in enumerate(legs)}
