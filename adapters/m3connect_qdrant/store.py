"""A hybrid collection in Qdrant: dense, sparse and, where asked for, token vectors in one point a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from qdrant_client import QdrantClient, models

from m3connect.embeddings import M3Embeddings
from m3connect.errors import DocumentNotFoundError
from m3connect.filters import Filter
from m3connect.fusion import RRF, Fusion
from m3connect.narrowing import MOST_READ, narrow
from m3connect.search import FetchDocuments, FetchTokenVectors, FindCandidates, ScoreIds, Step, drive, search_flow
from m3connect.store import (
    Document,
    Hit,
    check_delete,
    check_fingerprint,
    check_ids,
    check_queries,
    find_problems,
    raise_problems,
)
from m3connect_qdrant import convert, limits, requests, schema
from m3connect_qdrant.collection import Collection
from m3connect_qdrant.filters import to_filter

__all__ = ["QdrantStore"]


class QdrantStore:
    """Documents and embeddings in a Qdrant collection, which is opened, or made where it is not there.

    Local mode (`:memory:`, `path=`) compares with every point and suits tests and small collections; it is used by one
    thread at a time, whatever the number of callers. A server decides by itself when to use an index.

    Args:
        client: a built `qdrant_client.QdrantClient`; its timeout, keys and protocol are the caller's.
        collection: the collection's name.
        dim: the dimension of dense vectors; None means that the collection exists and has one.
        create: False means that the collection exists.
        multi_vector: keep token vectors too; every batch must then bring them.
        adopt_fingerprint: take over a collection of this layout that lost its marker, as filled by this encoder.

    Raises:
        CollectionMismatchError: the collection has another layout, or was not made by m3connect.
        ValueError: there is no such collection, and none may be made.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = QdrantStore(QdrantClient(":memory:"), "docs", dim=encoder.dim)
        >>> documents = [Document("a", "red apple"), Document("b", "blue sea")]
        >>> store.upsert(documents, encoder.encode([document.text for document in documents]))
        >>> [[hit.document.id for hit in hits] for hits in store.search(encoder.encode(["apple"]), top_k=1)]
        [['a']]
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        *,
        dim: int | None = None,
        create: bool = True,
        multi_vector: bool = False,
        adopt_fingerprint: str | None = None,
    ) -> None:
        if not isinstance(client, QdrantClient):
            raise ValueError(f"expected a built qdrant_client.QdrantClient, but got {type(client).__name__}")
        self._collection = Collection(client, collection)
        self.multi_vector = multi_vector
        if not self._collection.exists():
            self._collection.create(
                schema.creatable_dim(collection, dim, create=create),
                multi_vector=multi_vector,
                fingerprint=adopt_fingerprint,
            )
        info = self._collection.info()
        self.dim = schema.check_layout(collection, info, dim=dim, multi_vector=multi_vector)
        marked, self._fingerprint = schema.read_fingerprint(collection, info, adopt=adopt_fingerprint)
        check_fingerprint(self._fingerprint, adopt_fingerprint, name=collection)
        if not marked:
            schema.check_points(collection, foreign=self._collection.count(schema.foreign_points()))
            self._collection.index_payload()
        if adopt_fingerprint is not None and self._fingerprint is None:
            self._write_fingerprint(adopt_fingerprint)

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the encoder that filled the collection; asked of the database as long as it is None."""
        if self._fingerprint is None:
            _, self._fingerprint = schema.read_fingerprint(self._collection.name, self._collection.info(), adopt=None)
        return self._fingerprint

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Say what `upsert` would refuse: reasons by position."""
        reasons = find_problems(documents, embeddings, dim=self.dim)
        for i, document in enumerate(documents):
            if i not in reasons:
                reason = limits.size_problem(
                    document, embeddings, i, multi_vector=self.multi_vector, server=self._collection.server
                )
                if reason:
                    reasons[i] = reason
        return reasons

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents, replacing those whose id is taken; on return they are searchable.

        Long lists go in several requests, cut by count and by bytes. An error of the database between two of them
        leaves the first ones stored; doing it again is safe.
        """
        self._check_fingerprint(embeddings)
        raise_problems(self.problems(documents, embeddings), documents)
        if self.multi_vector:
            embeddings.require_multi_vector()
        last = list({document.id: i for i, document in enumerate(documents)}.values())
        payloads = [convert.to_payload(documents[i]) for i in last]
        rows = embeddings.take(last)
        if self._fingerprint is None and embeddings.fingerprint is not None:
            self._write_fingerprint(embeddings.fingerprint)
        for part in limits.in_batches(limits.point_sizes(payloads, rows, multi_vector=self.multi_vector)):
            self._collection.upsert(
                [
                    convert.to_point(payloads[i], rows, i, multi_vector=self.multi_vector)
                    for i in range(part.start, part.stop)
                ]
            )

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return documents in the order asked, absent ones left out."""
        ids = check_ids(ids)
        found = {name: convert.from_payload(record.payload) for name, record in self._collection.retrieve(ids)}
        return [found[name] for name in ids if name in found]

    def get_embeddings(self, ids: Sequence[str]) -> M3Embeddings:
        """Return stored embeddings, row i being id i."""
        ids = check_ids(ids)
        names = ["dense", "sparse", "multi_vector"] if self.multi_vector else ["dense", "sparse"]
        found = {
            name: convert.vectors_of(record)
            for name, record in self._collection.retrieve(ids, payload=["id"], vectors=names)
        }
        missing = [name for name in ids if name not in found]
        if missing:
            raise DocumentNotFoundError(f"no document with id {missing[0]!r} ({len(missing)} of {len(ids)} missing)")
        rows = convert.from_vectors([found[name] for name in ids], dim=self.dim, multi_vector=self.multi_vector)
        return replace(rows, fingerprint=self.fingerprint)

    def fingerprints(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the fingerprint of each stored document, absent ones left out."""
        ids = check_ids(ids)
        found = {
            name: record.payload or {} for name, record in self._collection.retrieve(ids, payload=["id", "fingerprint"])
        }
        return {name: found[name]["fingerprint"] for name in ids if found.get(name, {}).get("fingerprint")}

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete by ids or by filter, exactly one of them."""
        check_delete(ids, filter)
        if ids is not None:
            self._collection.delete_ids(ids)
            return
        condition = to_filter(*self._narrow(filter))
        if condition is not None:
            self._collection.delete(condition)

    def count(self, filter: Filter | None = None) -> int:
        """Count documents, exactly."""
        return self._collection.count(to_filter(*self._narrow(filter)))

    def scroll(self, filter: Filter | None = None) -> Iterator[Document]:
        """Walk through all documents in the order of their points, read a page at a time."""
        records = self._collection.scroll(to_filter(*self._narrow(filter)), payload=True)
        return (convert.from_payload(record.payload) for record in records)

    def flush(self) -> None:
        """Do nothing: every write waits until it is searchable."""

    def search(
        self,
        queries: M3Embeddings,
        *,
        top_k: int = 10,
        filter: Filter | None = None,
        fusion: Fusion = RRF(),  # noqa: B008  # frozen
        candidates: int | None = None,
        with_scores: bool = False,
    ) -> list[list[Hit]]:
        """Find the best documents for each query; both legs of all queries are one request."""
        check_queries(queries, dim=self.dim, top_k=top_k, candidates=candidates)
        self._check_fingerprint(queries)
        flow = search_flow(
            queries,
            top_k=top_k,
            fusion=fusion,
            candidates=candidates,
            with_scores=with_scores,
            multi_vector=self.multi_vector,
        )
        exact, ids = self._narrow(filter)
        condition = to_filter(exact, ids)
        return drive(flow, lambda step: self._answer(step, queries, condition, len(ids or ())))

    def _answer(self, step: Step, queries: M3Embeddings, condition: models.Filter | None, ids: int) -> Any:  # noqa: ANN401  # by step
        match step:
            case FindCandidates(legs, _):
                asks = requests.candidate_asks(step, len(queries), condition, ids=ids)
                return requests.in_groups(self._ask(asks, queries), legs)
            case ScoreIds():
                return self._ask(requests.id_asks(step, exact=self._collection.server), queries)
            case FetchTokenVectors(names):
                records = self._collection.retrieve(names, payload=["id"], vectors=["multi_vector"])
                return {name: convert.token_matrix(convert.vectors_of(record), self.dim) for name, record in records}
            case FetchDocuments(names):
                return self.get(names)

    def _ask(self, asks: Sequence[requests.Ask], queries: M3Embeddings) -> list[dict[str, float]]:
        """Return scores by id for each ask, from as few requests as the size limit lets."""
        made = [requests.to_request(ask, queries) for ask in asks]
        sent = [(request, ask) for request, ask in zip(made, asks, strict=True) if request is not None]
        sizes = [limits.request_size(queries, ask.query, ids=ask.ids) for _, ask in sent]
        parts = (self._collection.query([request for request, _ in sent[part]]) for part in limits.in_batches(sizes))
        points = chain.from_iterable(parts)
        return [
            requests.scores_of(ask.leg, next(points)) if request is not None else {}
            for request, ask in zip(made, asks, strict=True)
        ]

    def _narrow(self, condition: Filter | None) -> tuple[Filter | None, list[str] | None]:
        return narrow(
            condition,
            count=lambda exact: self._collection.count(to_filter(exact, None)),
            scroll=self._scroll_metadata,
            limit=MOST_READ,
        )

    def _scroll_metadata(self, exact: Filter | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
        records = self._collection.scroll(to_filter(exact, None), payload=["id", "metadata"])
        return (
            (convert.payload_id(record.payload), convert.from_payload(record.payload).metadata) for record in records
        )

    def _check_fingerprint(self, embeddings: M3Embeddings) -> None:
        if embeddings.fingerprint is not None:
            check_fingerprint(self.fingerprint, embeddings.fingerprint, name=self._collection.name)

    def _write_fingerprint(self, fingerprint: str) -> None:
        self._collection.write_marker(fingerprint)
        self._fingerprint = fingerprint
