"""The requests that read a collection, as flows: each has escaped ids, named fields and strong consistency."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from m3connect.embeddings import M3Embeddings
from m3connect.flows import Call, Flow
from m3connect.fusion import Leg
from m3connect_milvus.convert import Row, scores_from_hits
from m3connect_milvus.filters import both, literal, one_of
from m3connect_milvus.settings import MilvusSettings

__all__ = ["Weights", "count", "fetch", "find", "groups", "next_ids"]

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
    sparse = queries.sparse.to_dicts()
    dense = queries.dense.astype(np.float16 if settings.half_precision else np.float32, copy=False)
    asks = [
        (leg, expression, positions)
        for leg in legs
        for expression in expressions
        for positions in _portions([i for i, weights in enumerate(sparse) if weights or leg == "dense"])
    ]
    answers = yield tuple(
        Call(
            "search",
            {
                "collection_name": name,
                "data": [dense[i] if leg == "dense" else sparse[i] for i in positions],
                "anns_field": leg,
                "filter": expression,
                "limit": limit,
                "output_fields": ["id"],  # left out, Lite would send everything, vectors too
                "search_params": settings.search_params(leg, limit),
                "consistency_level": settings.consistency,
            },
        )
        for leg, expression, positions in asks
    )
    found: dict[Leg, list[dict[str, float]]] = {leg: [{} for _ in sparse] for leg in legs}
    for (leg, _, positions), answer in zip(asks, answers, strict=True):
        for i, hits in zip(positions, answer, strict=True):
            found[leg][i] |= scores_from_hits(hits, sparse[i] if leg == "sparse" else None)
    if len(expressions) == 1:
        return found
    return {leg: [_best(scores, limit) for scores in rows] for leg, rows in found.items()}


def _portions(positions: Sequence[int]) -> list[Sequence[int]]:
    return [positions[start : start + QUERIES_A_REQUEST] for start in range(0, len(positions), QUERIES_A_REQUEST)]


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
