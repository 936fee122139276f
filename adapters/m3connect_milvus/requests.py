"""The requests that read a collection, as flows: each has escaped ids, named fields and strong consistency."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from m3connect.embeddings import M3Embeddings
from m3connect.flows import Call, Flow
from m3connect.fusion import Leg
from m3connect_milvus.convert import Row, scores_from_hits
from m3connect_milvus.filters import both, literal, one_of
from m3connect_milvus.settings import MilvusSettings

__all__ = ["LegSearch", "Weights", "best", "count", "fetch", "find", "groups", "next_ids", "search_legs", "weights_of"]

Weights: TypeAlias = Mapping[int, float]

IDS_A_REQUEST = 512
_IDS_A_PAGE = 8192
QUERIES_A_REQUEST = 256
"""256 queries of 1,024 dimensions are one MB."""

_EXPRESSION_BYTES = 16 * 2**20
"""A quarter of what a server takes in one request."""


def count(name: str, expression: str) -> Flow[int]:
    """Count the rows that pass."""
    rows = yield _query(name, expression, ["count(*)"])
    return int(rows[0]["count(*)"])


def fetch(name: str, ids: Sequence[str], fields: Sequence[str]) -> Flow[dict[str, Row]]:
    """Read rows by id, absent ones left out; `client.get(ids=)` would not escape the ids."""
    answers = yield tuple(_query(name, one_of(group), list(fields)) for group in groups(ids))
    return {row["id"]: row for rows in answers for row in rows}


def next_ids(name: str, expression: str, *, after: str) -> Flow[list[str]]:
    """Read the next ids that pass, sorted; none at the end.

    This is what `client.query_iterator` does, which cannot be used: it puts the last id unescaped into the next
    expression. The two flags make a server, and Lite, send pages in the order of ids and without gaps. A page may be
    short before the last one, so only an empty page ends the walk.
    """
    rows = yield Call(
        "query",
        {
            "collection_name": name,
            "filter": both(expression, f"id > {literal(after)}"),
            "output_fields": ["id"],
            "limit": _IDS_A_PAGE,
            "iterator": "True",
            "reduce_stop_for_best": "True",
        },
    )
    return sorted(row["id"] for row in rows)


def find(
    name: str,
    queries: M3Embeddings,
    legs: Sequence[Leg],
    *,
    limit: int,
    expressions: Sequence[str],
    settings: MilvusSettings,
) -> Flow[dict[Leg, list[dict[str, float]]]]:
    """Search legs for all queries, independently; one without weights finds nothing in the sparse leg and is not sent.

    Args:
        name: the collection's.
        queries: what to search for.
        legs: dense or sparse.
        limit: the most hits a query gets.
        expressions: each is searched by itself, and the best of all are kept; "" is everything.
        settings: how to search.
    """
    searches = [LegSearch(name, leg, limit, settings, expression) for leg in legs for expression in expressions]
    answers = yield from search_legs(searches, queries)
    found: dict[Leg, list[dict[str, float]]] = {leg: [{} for _ in range(len(queries))] for leg in legs}
    for search, rows in zip(searches, answers, strict=True):
        for scores, hits, weights in zip(found[search.leg], rows, weights_of(queries, search.leg), strict=True):
            scores |= scores_from_hits(hits, weights)
    if len(expressions) == 1:
        return found
    return {leg: [best(scores, limit) for scores in rows] for leg, rows in found.items()}


@dataclass(frozen=True, slots=True)
class LegSearch:
    """The search of one leg."""

    name: str
    """The collection's."""

    leg: Leg
    limit: int
    """The most hits a query gets."""

    settings: MilvusSettings
    expression: str = ""
    """Which rows; "" is all."""

    fields: Sequence[str] = ("id",)
    """What comes with a hit; left out, Lite would send everything, vectors too."""

    step: int = QUERIES_A_REQUEST
    """The most queries in one request."""

    def calls(self, queries: M3Embeddings) -> list[tuple[Sequence[int], Call]]:
        """Return its requests, each with the positions of its queries; those without weights have no sparse search."""
        sparse = weights_of(queries, self.leg)
        dense = queries.dense.astype(np.float16 if self.settings.half_precision else np.float32, copy=False)
        data: Sequence[Any] = list(dense) if self.leg == "dense" else sparse
        asked = [i for i, weights in enumerate(sparse) if weights is None or weights]
        portions = [asked[start : start + self.step] for start in range(0, len(asked), self.step)]
        return [(positions, self._call([data[i] for i in positions])) for positions in portions]

    def _call(self, data: list[Any]) -> Call:
        return Call(
            "search",
            {
                "collection_name": self.name,
                "data": data,
                "anns_field": self.leg,
                "filter": self.expression,
                "limit": self.limit,
                "output_fields": list(self.fields),
                "search_params": self.settings.search_params(self.leg, self.limit),
                "consistency_level": self.settings.consistency,
            },
        )


def search_legs(searches: Sequence[LegSearch], queries: M3Embeddings) -> Flow[list[list[Sequence[Mapping[str, Any]]]]]:
    """Search at the same time where the client can; for each search every query's hits."""
    found: list[list[Sequence[Mapping[str, Any]]]] = [[[] for _ in range(len(queries))] for _ in searches]
    asked = [(rows, *part) for rows, search in zip(found, searches, strict=True) for part in search.calls(queries)]
    answers = yield tuple(call for _, _, call in asked)
    for (rows, positions, _), answer in zip(asked, answers, strict=True):
        for i, hits in zip(positions, answer, strict=True):
            rows[i] = hits
    return found


def weights_of(queries: M3Embeddings, leg: Leg) -> Sequence[Weights | None]:
    """Return each query's weights in the sparse leg, None in the dense one."""
    return queries.sparse.to_dicts() if leg == "sparse" else [None] * len(queries)


def groups(ids: Sequence[str], *, most: int | None = None) -> list[list[str]]:
    """Cut ids, each once, into what one request takes: by number, `IDS_A_REQUEST` unless told, and by bytes."""
    most = most or IDS_A_REQUEST
    cut: list[list[str]] = []
    size = 0
    for name in dict.fromkeys(ids):
        needs = 8 * len(name) + 4  # four bytes a character, each escaped
        if not cut or len(cut[-1]) == most or size + needs > _EXPRESSION_BYTES:
            cut.append([])
            size = 0
        cut[-1].append(name)
        size += needs
    return cut


def _query(name: str, expression: str, fields: list[str]) -> Call:
    return Call(
        "query",
        {"collection_name": name, "filter": expression, "output_fields": fields, "consistency_level": "Strong"},
    )


def best(scores: Mapping[str, float], limit: int) -> dict[str, float]:
    """Return the best of some scores, ties in the order of ids."""
    kept: Any = heapq.nsmallest(limit, scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return dict(kept)
