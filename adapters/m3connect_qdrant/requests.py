"""The steps of a search as Qdrant's query requests, and its answers as scores by id: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qdrant_client import models

from m3connect.embeddings import M3Embeddings
from m3connect.fusion import Leg
from m3connect_qdrant.convert import payload_id, to_vector
from m3connect_qdrant.filters import has_ids

__all__ = ["EXACT", "Ask", "id_asks", "scores_of", "to_request"]

EXACT = models.SearchParams(exact=True)
"""Compare with every point that passes, in full precision; local mode always does, and warns when told to."""


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

    params: models.SearchParams | None = None


def id_asks(leg: Leg, ids: Sequence[Sequence[str]], *, server: bool) -> list[Ask]:
    """Return one ask a query, which scores the ids named for it exactly."""
    params = EXACT if server else None
    return [Ask(leg, i, len(names), has_ids(names), len(names), params) for i, names in enumerate(ids)]


def to_request(ask: Ask, queries: M3Embeddings) -> models.QueryRequest | None:
    """Return a request whose answer holds ids and scores alone; None where nothing can be found.

    That is a query without tokens in a leg of tokens, or no id to score: neither is sent.
    """
    query = to_vector(queries, ask.query, ask.leg)
    if query is None or not ask.limit:
        return None
    return models.QueryRequest(
        query=query, using=ask.leg, filter=ask.condition, limit=ask.limit, with_payload=["id"], params=ask.params
    )


def scores_of(ask: Ask, queries: M3Embeddings, points: Iterable[models.ScoredPoint]) -> dict[str, float]:
    """Return scores by id; a sparse score of 0 is no hit, though local mode may report one.

    Qdrant sums over the query's token vectors where M3 takes the mean.
    """
    rows = len(queries.require_multi_vector()[ask.query]) if ask.leg == "multi_vector" else 1
    return {payload_id(point.payload): point.score / rows for point in points if ask.leg != "sparse" or point.score > 0}
