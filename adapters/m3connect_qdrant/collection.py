"""One collection through one client: every call to qdrant-client is here, in pages that fit a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qdrant_client import QdrantClient, models

from m3connect_qdrant import schema
from m3connect_qdrant.convert import FILTER_TOKENS, payload_id, point_id
from m3connect_qdrant.local import is_local, lock_of

__all__ = ["Collection"]

_PAGE = 256
"""Points read in one request."""

_PAGE_WITH_TOKENS = 16
"""Points read in one request with their token vectors: 4.5 MB of JSON for 200 tokens of 1,024 dimensions."""

_IDS_A_DELETE = 10_000


class Collection:
    """The calls that a store makes, under the lock that local mode needs; answers are Qdrant's own models.

    Args:
        client: a built client.
        name: the collection's name; whether it exists is for the caller to ask.
    """

    def __init__(self, client: QdrantClient, name: str) -> None:
        self.name = name
        self.server = not is_local(client)
        self._client = client
        self._lock = lock_of(client)

    def exists(self) -> bool:
        """Say whether there is such a collection."""
        with self._lock:
            return self._client.collection_exists(self.name)

    def create(self, dim: int, *, multi_vector: bool, fingerprint: str | None) -> None:
        """Make the collection, with the payload index that filters need."""
        with self._lock:
            self._client.create_collection(
                self.name, **schema.creation(dim, multi_vector=multi_vector, fingerprint=fingerprint)
            )
        self.index_payload()

    def index_payload(self) -> None:
        """Index what filters compare; local mode has no indexes, and warns when asked for one."""
        if self.server:
            self._client.create_payload_index(self.name, FILTER_TOKENS, models.PayloadSchemaType.KEYWORD, wait=True)

    def info(self) -> models.CollectionInfo:
        """Return what the database says about the collection."""
        with self._lock:
            return self._client.get_collection(self.name)

    def write_marker(self, fingerprint: str | None) -> None:
        """Write our marker into the collection's metadata, which keeps what else is there."""
        with self._lock:
            self._client.update_collection(self.name, metadata=schema.marker(fingerprint))

    def upsert(self, points: Sequence[models.PointStruct]) -> None:
        """Write points and wait until they are searchable."""
        with self._lock:
            self._client.upsert(self.name, list(points), wait=True)

    def retrieve(
        self, ids: Sequence[str], *, payload: bool | list[str] = True, vectors: Sequence[str] = ()
    ) -> Iterator[tuple[str, models.Record]]:
        """Fetch the points of documents, absent ones left out, each once.

        Args:
            ids: of documents.
            payload: which fields, True for all; the id must be among them.
            vectors: which vectors.
        """
        points = [point_id(name) for name in dict.fromkeys(ids)]
        page = _PAGE_WITH_TOKENS if "multi_vector" in vectors else _PAGE
        for start in range(0, len(points), page):
            with self._lock:
                records = self._client.retrieve(
                    self.name,
                    points[start : start + page],
                    with_payload=payload,
                    with_vectors=list(vectors) or False,
                )
            yield from ((payload_id(record.payload), record) for record in records)

    def scroll(self, condition: models.Filter | None, *, payload: bool | list[str]) -> Iterator[models.Record]:
        """Walk through the points that pass, in the order of their ids."""
        offset: Any = None
        while True:
            with self._lock:
                records, offset = self._client.scroll(
                    self.name, scroll_filter=condition, limit=_PAGE, offset=offset, with_payload=payload
                )
            yield from records
            if offset is None:
                return

    def count(self, condition: models.Filter | None) -> int:
        """Count the points that pass, exactly."""
        with self._lock:
            return self._client.count(self.name, count_filter=condition, exact=True).count

    def delete(self, condition: models.Filter) -> None:
        """Delete the points that pass."""
        with self._lock:
            self._client.delete(self.name, models.FilterSelector(filter=condition), wait=True)

    def delete_ids(self, ids: Sequence[str]) -> None:
        """Delete the points of documents, absent ones passed over."""
        points: list[models.ExtendedPointId] = [point_id(name) for name in ids]
        for start in range(0, len(points), _IDS_A_DELETE):
            selector = models.PointIdsList(points=points[start : start + _IDS_A_DELETE])
            with self._lock:
                self._client.delete(self.name, selector, wait=True)

    def query(self, requests: Sequence[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        """Answer searches, all in one request."""
        with self._lock:
            return [response.points for response in self._client.query_batch_points(self.name, requests)]
