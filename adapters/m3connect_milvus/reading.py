"""The requests that read a collection: each goes out with escaped ids, named fields and strong consistency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from pymilvus import MilvusClient

from m3connect.embeddings import M3Embeddings
from m3connect.fusion import Leg
from m3connect_milvus.convert import Row, scores_from_hits
from m3connect_milvus.filters import both, literal, one_of

__all__ = ["count", "fetch", "find", "groups", "walk"]

Weights: TypeAlias = Mapping[int, float]

_IDS_A_REQUEST = 512
_IDS_A_PAGE = 8192
_QUERIES_A_REQUEST = 256
"""256 queries of 1,024 dimensions are one MB."""


def count(client: MilvusClient, collection: str, expression: str) -> int:
    """Count the rows that pass."""
    rows = client.query(collection, filter=expression, output_fields=["count(*)"], consistency_level="Strong")
    return int(rows[0]["count(*)"])


def fetch(client: MilvusClient, collection: str, ids: Sequence[str], fields: list[str]) -> dict[str, Row]:
    """Read rows by id, absent ones left out; `client.get(ids=)` would not escape the ids."""
    found: dict[str, Row] = {}
    for group in groups(ids):
        rows = client.query(collection, filter=one_of(group), output_fields=fields, consistency_level="Strong")
        found |= {row["id"]: row for row in rows}
    return found


def walk(client: MilvusClient, collection: str, expression: str, fields: list[str]) -> Iterator[Row]:
    """Read all rows that pass, in the order of ids: pages of ids first, which stay small, then the rows themselves.

    This is what `client.query_iterator` does, which cannot be used: it puts the last id unescaped into the next
    expression. The two flags make a server, and Lite, send pages in the order of ids and without gaps. A page may be
    short before the last one, so only an empty page ends the walk.
    """
    last = ""
    while True:
        page = client.query(
            collection,
            filter=both(expression, f"id > {literal(last)}"),
            output_fields=["id"],
            limit=_IDS_A_PAGE,
            iterator="True",
            reduce_stop_for_best="True",
        )
        if not page:
            return
        names = sorted(row["id"] for row in page)
        for group in groups(names):
            rows = fetch(client, collection, group, fields)
            yield from (rows[name] for name in group if name in rows)
        last = names[-1]


def find(
    client: MilvusClient, collection: str, leg: Leg, queries: M3Embeddings, *, limit: int, expression: str
) -> list[dict[str, float]]:
    """Search one leg for all queries; one without weights finds nothing in the sparse leg and is not sent."""
    sparse: Sequence[Weights | None] = queries.sparse.to_dicts() if leg == "sparse" else [None] * len(queries)
    found: list[dict[str, float]] = [{} for _ in sparse]
    asked = [i for i, weights in enumerate(sparse) if weights is None or weights]
    for start in range(0, len(asked), _QUERIES_A_REQUEST):
        positions = asked[start : start + _QUERIES_A_REQUEST]
        answers = client.search(
            collection,
            data=[queries.dense[i] if leg == "dense" else sparse[i] for i in positions],
            anns_field=leg,
            filter=expression,
            limit=limit,
            output_fields=["id"],  # left out, Lite would send everything, vectors too
            consistency_level="Strong",
        )
        for i, hits in zip(positions, answers, strict=True):
            found[i] = scores_from_hits(hits, sparse[i])
    return found


def groups(ids: Sequence[str]) -> list[list[str]]:
    """Cut ids, each once, into what one request takes."""
    distinct = list(dict.fromkeys(ids))
    return [distinct[start : start + _IDS_A_REQUEST] for start in range(0, len(distinct), _IDS_A_REQUEST)]
