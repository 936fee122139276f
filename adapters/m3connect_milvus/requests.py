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

__all__ = ["LegSearch", "Weights", "count", "fetch", "find", "groups", "next_ids"]

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
    found: dict[str, Row] = {}
    for group in groups(ids):
        rows = yield _query(name, one_of(group), list(fields))
        found |= {row["id"]: row for row in rows}
    return found


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
    name: str, queries: M3Embeddings, leg: Leg, *, limit: int, expressions: Sequence[str], settings: MilvusSettings
) -> Flow[list[dict[str, float]]]:
    """Search one leg for all queries; one without weights finds nothing in the sparse leg and is not sent.

    Args:
        name: the collection's.
        queries: what to search for.
        leg: dense or sparse.
        limit: the most hits a query gets.
        expressions: each is searched by itself, and the best of all are kept; "" is everything.
        settings: how to search.
    """
    asking = LegSearch(name, leg, limit, settings)
    sparse = _sparse_queries(queries, leg)
    found: list[dict[str, float]] = [{} for _ in sparse]
    for expression in expressions:
        answers = yield from asking.run(queries, expression)
        for i, hits in enumerate(answers):
            found[i] |= scores_from_hits(hits, sparse[i])
    return [_best(scores, limit) for scores in found] if len(expressions) > 1 else found


@dataclass(frozen=True, slots=True)
class LegSearch:
    """The search of one leg."""

    name: str
    """The collection's."""

    leg: Leg
    limit: int
    """The most hits a query gets."""

    settings: MilvusSettings
    fields: Sequence[str] = ("id",)
    """What comes with a hit; left out, Lite would send everything, vectors too."""

    step: int = QUERIES_A_REQUEST
    """The most queries in one request."""

    def run(self, queries: M3Embeddings, expression: str) -> Flow[list[Sequence[Mapping[str, Any]]]]:
        """Return each query's hits; a query without weights is not sent to the sparse leg, and has none."""
        sparse = _sparse_queries(queries, self.leg)
        dense = queries.dense.astype(np.float16 if self.settings.half_precision else np.float32, copy=False)
        found: list[Sequence[Mapping[str, Any]]] = [[] for _ in sparse]
        asked = [i for i, weights in enumerate(sparse) if weights is None or weights]
        for start in range(0, len(asked), self.step):
            positions = asked[start : start + self.step]
            answers = yield self._call([dense[i] if self.leg == "dense" else sparse[i] for i in positions], expression)
            for i, hits in zip(positions, answers, strict=True):
                found[i] = hits
        return found

    def _call(self, data: list[Any], expression: str) -> Call:
        return Call(
            "search",
            {
                "collection_name": self.name,
                "data": data,
                "anns_field": self.leg,
                "filter": expression,
                "limit": self.limit,
                "output_fields": list(self.fields),
                "search_params": self.settings.search_params(self.leg, self.limit),
                "consistency_level": self.settings.consistency,
            },
        )


def _sparse_queries(queries: M3Embeddings, leg: Leg) -> Sequence[Weights | None]:
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


def _best(scores: Mapping[str, float], limit: int) -> dict[str, float]:
    best: Any = heapq.nsmallest(limit, scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return dict(best)
