"""What an Edge store does, as calls of its shard."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any
from uuid import UUID

from qdrant_edge import (
    CountRequest,
    QueryBatchRequest,
    QueryRequest,
    ScoredPoint,
    ScrollRequest,
    UpdateMode,
    UpdateOperation,
)

from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.filters import Filter
from m3connect.flows import Call, Flow, StoreFlows
from m3connect.fusion import Leg
from m3connect.prepared import PreparedDocuments, find_problems
from m3connect.search import SearchPlan
from m3connect.store import Document, Hit, Selection, check_queries
from m3connect_edge import convert
from m3connect_edge import queries as asking
from m3connect_edge.filters import to_filter

__all__ = ["EdgeFlows"]

_PAGE = 256
"""Points read in one call."""

_PAGE_WITH_TOKENS = 16
"""Points read in one call with their token vectors, which come as lists of Python numbers."""

_WRITE = 8 * 2**20
"""Bytes of vectors written in one call. The library keeps Python's lock meanwhile, so no other thread moves."""

_QUERIES = 32
"""Requests in one call, for the same reason."""

_FLUSH = 64 * 2**20
"""Bytes of vectors after which a write flushes: what is not flushed is read again at the next opening, 30 MB a second,
and takes its place on the disk twice."""


class EdgeFlows(StoreFlows):
    """The flows of one shard.

    Args:
        name: of the folder, for messages.
        dim: of the dense vectors.
        multi_vector: whether token vectors are stored.
        fingerprint: of the encoder that filled it.
        exact: compare with every document, even where there is a graph.
    """

    def __init__(self, name: str, dim: int, *, multi_vector: bool, fingerprint: str | None, exact: bool) -> None:
        self.name = name
        self.dim = dim
        self.multi_vector = multi_vector
        self.fingerprint = fingerprint
        self._exact = exact
        self._unflushed = 0

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Say what is wrong; Edge checks next to nothing by itself, and keeps what it later cannot read."""
        return find_problems(documents, embeddings, dim=self.dim)

    def read_fingerprint(self) -> Flow[str | None]:
        """Ask the marker."""
        fingerprint: str | None = yield Call("read_fingerprint")
        return fingerprint

    def write_fingerprint(self, fingerprint: str) -> Flow[None]:
        """Write the marker."""
        yield Call("write_fingerprint", {"fingerprint": fingerprint})

    def write(self, documents: PreparedDocuments, embeddings: M3Embeddings, *, only_new: bool) -> Flow[None]:
        """Write in parts; an error between two of them leaves the first ones stored, and doing it again is safe."""
        mode = UpdateMode.InsertOnly if only_new else UpdateMode.Upsert
        for part, size in _parts(embeddings, multi_vector=self.multi_vector):
            payloads = {i: convert.to_payload(documents[i], documents.fingerprints[i]) for i in part}
            points = [convert.to_point(payloads[i], embeddings, i, multi_vector=self.multi_vector) for i in part]
            yield Call("update", {"operation": UpdateOperation.upsert_points(points, update_mode=mode)})
            yield from self._flush_after(size)

    def write_vectors(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> Flow[None]:
        """Replace vectors; those that are empty now are deleted."""
        kept = [leg for leg in legs if leg != "multi_vector" or self.multi_vector]
        last = {name: i for i, name in enumerate(ids)}
        rows = embeddings.take(list(last.values()))
        names = list(last)
        for part, size in _parts(rows, multi_vector=self.multi_vector and "multi_vector" in kept):
            made = [convert.to_vectors(names[i], rows, i, kept) for i in part]
            points = [point for point in made if point is not None]
            yield Call("update", {"operation": UpdateOperation.update_vectors(points)})
            yield from self._flush_after(size)
        for leg in kept:
            empty: list[int | UUID | str] = [
                convert.point_id(names[i]) for i in range(len(names)) if _is_empty(rows, i, leg)
            ]
            if empty:
                yield Call("update", {"operation": UpdateOperation.delete_vectors(empty, [leg])})

    def fetch_documents(self, ids: Sequence[str]) -> Flow[dict[str, Document]]:
        """Read payloads."""
        found = yield from self._retrieve(ids, payload=True)
        return {name: convert.from_payload(payload) for name, payload, _ in found}

    def fetch_fingerprints(self, ids: Sequence[str]) -> Flow[dict[str, str]]:
        """Read one field of payloads."""
        found = yield from self._retrieve(ids, payload=["id", "fingerprint"])
        return {name: payload["fingerprint"] for name, payload, _ in found if payload.get("fingerprint")}

    def fetch_embeddings(self, ids: Sequence[str]) -> Flow[tuple[list[str], M3Embeddings]]:
        """Read all vectors."""
        legs = ["dense", "sparse", "multi_vector"] if self.multi_vector else ["dense", "sparse"]
        found = yield from self._retrieve(ids, payload=["id"], vectors=legs)
        vectors = [vectors for _, _, vectors in found]
        rows = convert.from_vectors(vectors, dim=self.dim, multi_vector=self.multi_vector)
        return [name for name, _, _ in found], rows

    def fetch_token_vectors(self, ids: Sequence[str]) -> Flow[dict[str, FloatArray]]:
        """Read token vectors."""
        found = yield from self._retrieve(ids, payload=["id"], vectors=["multi_vector"])
        return {name: convert.token_matrix(vectors, self.dim) for name, _, vectors in found}

    def remove(self, selection: Selection) -> Flow[None]:
        """Delete by point ids or by filter."""
        if selection.ids is not None:
            operation = UpdateOperation.delete_points([convert.point_id(name) for name in selection.ids])
        elif (condition := to_filter(selection)) is not None:
            operation = UpdateOperation.delete_points_by_filter(condition)
        else:
            raise ValueError("a delete must name what it deletes")
        yield Call("update", {"operation": operation})

    def number_of(self, selection: Selection) -> Flow[int]:
        """Count."""
        number: int = yield Call("count", {"count": CountRequest(exact=True, filter=to_filter(selection))})
        return number

    def page(self, selection: Selection, cursor: Any) -> Flow[tuple[list[Document], Any]]:  # noqa: ANN401  # opaque
        """Read on in the order of point ids, which writes do not change."""
        request = ScrollRequest(
            offset=cursor, limit=_PAGE, filter=to_filter(selection), with_payload=True, with_vector=False
        )
        records, following = yield Call("scroll", {"scroll": request})
        return [convert.from_payload(record.payload) for record in records], following

    def search(self, queries: M3Embeddings, plan: SearchPlan, filter: Filter | None) -> Flow[list[list[Hit]]]:
        """Let Edge rank, fuse and fetch in one request a query where that is exact; otherwise do as every store."""
        if not asking.is_one_request(plan, queries, multi_vector=self.multi_vector):
            return (yield from super().search(queries, plan, filter))
        check_queries(queries, dim=self.dim)
        yield from self.check_fingerprint(queries)
        condition = to_filter((yield from self.select(filter)))
        requests = [
            asking.whole_request(plan, queries, i, condition=condition, exact=self._exact) for i in range(len(queries))
        ]
        answers = yield from _query(requests)
        found = [asking.hits_of(points) for points in answers]
        return (yield from self._with_scores(found, queries)) if plan.with_scores else found

    def find(
        self, queries: M3Embeddings, legs: Sequence[Leg], limit: int, selection: Selection
    ) -> Flow[dict[Leg, list[dict[str, float]]]]:
        """Ask each leg for its best."""
        condition, n = to_filter(selection), len(queries)
        requests = [
            asking.leg_request(leg, queries, i, limit=limit, condition=condition, exact=self._exact)
            for leg in legs
            for i in range(n)
        ]
        answers = yield from _query(requests)
        return {
            leg: [asking.scores_of(leg, queries, i, answers[place * n + i]) for i in range(n)]
            for place, leg in enumerate(legs)
        }

    def score(self, queries: M3Embeddings, leg: Leg, ids: Sequence[Sequence[str]]) -> Flow[list[dict[str, float]]]:
        """Ask for named points alone, token vectors too."""
        answers = yield from _query([asking.id_request(leg, queries, i, group) for i, group in enumerate(ids)])
        return [asking.scores_of(leg, queries, i, points) for i, points in enumerate(answers)]

    def scores_tokens(self, queries: M3Embeddings) -> bool:
        """Edge takes queries of any length."""
        return True

    def describe(self) -> Flow[Mapping[str, Any]]:
        """Ask the shard."""
        info = yield Call("info")
        return {
            "backend": "qdrant-edge",
            "version": version("qdrant-edge-py"),
            "segments": info.segments_count,
            "exact": self._exact,
            "indexed_vectors": info.indexed_vectors_count,
            "indexed_fields": sorted(info.payload_schema),
        }

    def drop(self) -> Flow[None]:
        """Remove the folder's contents."""
        yield Call("drop")

    def flush(self) -> Flow[None]:
        """Write everything to the disk and wait for it."""
        self._unflushed = 0
        yield Call("flush")

    def _flush_after(self, size: int) -> Flow[None]:
        self._unflushed += size
        if self._unflushed > _FLUSH:
            yield from self.flush()

    def _retrieve(
        self, ids: Sequence[str], *, payload: bool | list[str], vectors: Sequence[str] = ()
    ) -> Flow[list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]]:
        """Read points by document id, absent ones left out, each once: id, payload, vectors."""
        points = [convert.point_id(name) for name in dict.fromkeys(ids)]
        step = _PAGE_WITH_TOKENS if "multi_vector" in vectors else _PAGE
        found = []
        for start in range(0, len(points), step):
            records = yield Call(
                "retrieve",
                {
                    "point_ids": points[start : start + step],
                    "with_payload": payload,
                    "with_vector": list(vectors) or False,
                },
            )
            for record in records:
                content = record.payload  # made anew each time it is read, as the vectors are
                found.append((convert.payload_id(content), content, (record.vector or {}) if vectors else {}))
        return found

    def _with_scores(self, found: list[list[Hit]], queries: M3Embeddings) -> Flow[list[list[Hit]]]:
        ids = [[hit.document.id for hit in hits] for hits in found]
        legs: list[Leg] = ["dense", "sparse"]
        if self.multi_vector and queries.multi_vector is not None:
            legs.append("multi_vector")
        scores: dict[Leg, list[dict[str, float]]] = {}
        for leg in legs:
            scores[leg] = yield from self.score(queries, leg, ids)
        return [
            [
                replace(hit, scores={leg: rows[i].get(hit.document.id, 0.0) for leg, rows in scores.items()})
                for hit in hits
            ]
            for i, hits in enumerate(found)
        ]


def _query(requests: Sequence[QueryRequest | None]) -> Generator[Call, Any, list[list[ScoredPoint]]]:
    """Answer requests in order, those that are None with nothing."""
    sent = [request for request in requests if request is not None]
    points: list[list[ScoredPoint]] = []
    for start in range(0, len(sent), _QUERIES):
        points += yield Call("query_batch", {"request": QueryBatchRequest(sent[start : start + _QUERIES])})
    answers = iter(points)
    return [[] if request is None else next(answers) for request in requests]


def _parts(embeddings: M3Embeddings, *, multi_vector: bool) -> Iterator[tuple[range, int]]:
    """Cut a batch into runs that are written in one call, with the bytes of their vectors; a large row goes alone."""
    tokens = [matrix.size for matrix in embeddings.require_multi_vector()] if multi_vector else [0] * len(embeddings)
    lengths = embeddings.sparse.row_lengths.tolist()
    start, total = 0, 0
    for i, (numbers, nnz) in enumerate(zip(tokens, lengths, strict=True)):
        size = 4 * (embeddings.dim + 2 * nnz + numbers)
        if i > start and (total + size > _WRITE or i - start == _PAGE):
            yield range(start, i), total
            start, total = i, 0
        total += size
    if start < len(embeddings):
        yield range(start, len(embeddings)), total


def _is_empty(embeddings: M3Embeddings, i: int, leg: Leg) -> bool:
    if leg == "sparse":
        return not len(embeddings.sparse.row(i)[0])
    return leg == "multi_vector" and not len(embeddings.require_multi_vector()[i])
