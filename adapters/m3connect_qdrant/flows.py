"""A hybrid collection in Qdrant as flows of calls to qdrant-client, sync or async: how it is written and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import models
from qdrant_client.http.exceptions import ApiException

from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.flows import Call, Flow
from m3connect.fusion import Leg
from m3connect.prepared import PreparedDocuments, find_problems, prepare
from m3connect.store import Document, Selection
from m3connect_qdrant import convert, limits, schema
from m3connect_qdrant.filters import has_ids
from m3connect_qdrant.searching import SearchingFlows
from m3connect_qdrant.transient import may_pass

__all__ = ["QdrantFlows"]

_PAGE = 256
"""Points read in one request."""

_PAGE_WITH_TOKENS = 16
"""Points read in one request with their token vectors: 4.5 MB of JSON for 200 tokens of 1,024 dimensions."""

_IDS_A_REQUEST = 10_000


class QdrantFlows(SearchingFlows):
    """The flows of one collection that exists; opening.py makes them."""

    # Writing.

    def is_transient(self, error: BaseException) -> bool:
        """Say whether an error of the client may pass by itself."""
        return may_pass(error) or super().is_transient(error)

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Say what Qdrant would refuse, its limits of size included."""
        prepared = prepare(documents)
        reasons = find_problems(prepared, embeddings, dim=self.dim)
        if self._server:  # local mode has no limits
            reasons = limits.size_problems(prepared, embeddings, multi_vector=self.multi_vector) | reasons
        return reasons

    def read_fingerprint(self) -> Flow[str | None]:
        """Read the marker in the collection's metadata."""
        info = yield self._call("get_collection")
        return schema.require_marker(self.name, schema.read_marker(self.name, info)).fingerprint

    def write_fingerprint(self, fingerprint: str) -> Flow[None]:
        """Write the marker; what else is in the collection's metadata stays."""
        yield self._call("update_collection", {"metadata": schema.marker(fingerprint, self.tenant_field)})

    def write(self, documents: PreparedDocuments, embeddings: M3Embeddings, *, only_new: bool) -> Flow[None]:
        """Write in as many requests as their size asks for, each searchable when its call returns."""
        # Points that exist are updated where they pass this filter, new ones always go in (Qdrant 1.16).
        mode = {"update_filter": has_ids([])} if only_new else {}
        for part in limits.in_batches(limits.point_sizes(documents, embeddings, multi_vector=self.multi_vector)):
            points = [self._point(documents, embeddings, i) for i in range(part.start, part.stop)]
            yield self._call("upsert", {"points": points, "wait": True} | mode)

    def _point(self, documents: PreparedDocuments, embeddings: M3Embeddings, i: int) -> models.PointStruct:
        payload = convert.to_payload(documents[i], documents.fingerprints[i], tenant_field=self.tenant_field)
        return convert.to_point(payload, embeddings, i, multi_vector=self.multi_vector)

    def write_vectors(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> Flow[None]:
        """Update the vectors that are there, and delete those that are not there any more."""
        kept = [leg for leg in legs if leg != "multi_vector" or self.multi_vector]
        rows = {name: convert.to_vectors(embeddings, i, kept) for i, name in enumerate(ids)}
        filled = {name: vectors for name, vectors in rows.items() if vectors}
        points = [models.PointVectors(id=convert.point_id(name), vector=row) for name, row in filled.items()]
        for part in limits.in_batches([limits.vectors_size(row) for row in filled.values()]):
            yield self._call("update_vectors", {"points": points[part], "wait": True})
        for leg in kept:
            for selector in _pages([name for name, vectors in rows.items() if leg not in vectors]):
                yield self._call("delete_vectors", {"vectors": [leg], "points": selector, "wait": True})

    def remove(self, selection: Selection) -> Flow[None]:
        """Delete points by id, or all that pass."""
        if selection.ids is None:
            everything = models.Filter()
            selector = models.FilterSelector(filter=self._filter(selection) or everything)
            yield self._call("delete", {"points_selector": selector, "wait": True})
            return
        for page in _pages(selection.ids):
            yield self._call("delete", {"points_selector": page, "wait": True})

    def drop(self) -> Flow[None]:
        """Delete the collection."""
        yield self._call("delete_collection")
        self.fingerprint = None

    def flush(self) -> Flow[None]:
        """Do nothing: every write waits until it is searchable, and a server indexes by itself."""
        yield from ()

    # Reading.

    def _retrieve(
        self, ids: Sequence[str], fields: Sequence[str], vectors: Sequence[Leg] = ()
    ) -> Flow[list[models.Record]]:
        """Fetch the points of documents, absent ones left out, each once; the id must be among the fields."""
        points = [convert.point_id(name) for name in dict.fromkeys(ids)]
        page = _PAGE_WITH_TOKENS if "multi_vector" in vectors else _PAGE
        wanted = {"with_payload": list(fields), "with_vectors": list(vectors) or False}
        pages = yield tuple(
            self._call("retrieve", {"ids": points[start : start + page]} | wanted)
            for start in range(0, len(points), page)
        )
        return [record for records in pages for record in records]

    def fetch_documents(self, ids: Sequence[str]) -> Flow[dict[str, Document]]:
        """Read documents from payloads."""
        records = yield from self._retrieve(ids, convert.DOCUMENT_FIELDS)
        documents = [convert.from_payload(record.payload) for record in records]
        return {document.id: document for document in documents}

    def fetch_fingerprints(self, ids: Sequence[str]) -> Flow[dict[str, str]]:
        """Read the fingerprints in payloads."""
        payloads = [record.payload or {} for record in (yield from self._retrieve(ids, ["id", "fingerprint"]))]
        return {convert.payload_id(one): one["fingerprint"] for one in payloads if one.get("fingerprint")}

    def fetch_embeddings(self, ids: Sequence[str]) -> Flow[tuple[list[str], M3Embeddings]]:
        """Read all vectors of points."""
        legs: list[Leg] = ["dense", "sparse", "multi_vector"] if self.multi_vector else ["dense", "sparse"]
        records = yield from self._retrieve(ids, ["id"], legs)
        vectors = [convert.vectors_of(record) for record in records]
        rows = convert.from_vectors(vectors, dim=self.dim, multi_vector=self.multi_vector)
        return [convert.payload_id(record.payload) for record in records], rows

    def fetch_token_vectors(self, ids: Sequence[str]) -> Flow[dict[str, FloatArray]]:
        """Read token vectors alone; a document without any has an empty matrix."""
        records = yield from self._retrieve(ids, ["id"], ["multi_vector"])
        return {
            convert.payload_id(record.payload): convert.token_matrix(convert.vectors_of(record), self.dim)
            for record in records
        }

    def number_of(self, selection: Selection) -> Flow[int]:
        """Count points, exactly."""
        answer = yield self._call("count", {"count_filter": self._filter(selection), "exact": True})
        count: int = answer.count
        return count

    def page(self, selection: Selection, cursor: Any) -> Flow[tuple[list[Document], Any]]:  # noqa: ANN401  # a point id
        """Read a page, in the order of point ids."""
        wanted = {"scroll_filter": self._filter(selection), "with_payload": list(convert.DOCUMENT_FIELDS)}
        records, following = yield self._call("scroll", wanted | {"limit": _PAGE, "offset": cursor})
        return [convert.from_payload(record.payload) for record in records], following

    def describe(self) -> Flow[Mapping[str, Any]]:
        """Gather version, settings and state."""
        info = yield self._call("get_collection")
        try:
            version = (yield Call("info")).version
        except ApiException:  # a gateway may let collections through and nothing else
            version = None
        own = {"mode": "server" if self._server else "local", "version": version, "tenant_field": self.tenant_field}
        return {"backend": "qdrant"} | own | schema.describe(info)


def _pages(ids: Sequence[str]) -> Iterator[models.PointIdsList]:
    for start in range(0, len(ids), _IDS_A_REQUEST):
        yield models.PointIdsList(points=[convert.point_id(name) for name in ids[start : start + _IDS_A_REQUEST]])
