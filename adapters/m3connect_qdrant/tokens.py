"""`QdrantTokenStore`: token vectors as bytes in the payloads of a Qdrant collection of their own."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from qdrant_client import QdrantClient, models

from m3connect.errors import CollectionMismatchError, CollectionNotFoundError
from m3connect.points import payload_id, point_id
from m3connect.token_base import Entry, Prepared, TokenStoreBase, asked_settings
from m3connect.token_entries import Settings, head_of
from m3connect.token_rows import Encoding
from m3connect_qdrant.limits import LARGEST_REQUEST, in_batches
from m3connect_qdrant.local import lock_of
from m3connect_qdrant.transient import may_pass

__all__ = ["QdrantTokenStore"]

_T = TypeVar("_T")

_KEY = "m3connect_tokens"
"""Where the settings are in the collection's metadata."""

_ENTRIES_A_REQUEST = 16
"""Entries read in one request: 6 MB for 280 tokens of 1,024 dimensions in int8."""

_HEADS_A_REQUEST = 1000


class QdrantTokenStore(TokenStoreBase):
    """A `TokenStore` in a Qdrant collection, where no file is wanted: filled by `ingest`, read by `HybridRetriever`.

    The collection has no vectors: a point is a document's id, the fingerprint of its content, and its entry in base64,
    which only `get` reads. It stands beside the documents' collection, because Qdrant reads a point's whole payload
    whatever fields it is asked for. A batch that takes several requests can be there in part after an interruption;
    what lacks is a miss, as what is stale.

    Threads may share one `QdrantTokenStore`, and processes the collection. The client is the caller's to close.

    Args:
        client: a built `qdrant_client.QdrantClient`.
        collection: its name, made where it is not there; an empty one without vectors is taken as it was made, with
            shards and replicas of your choice.
        encoding: "float16", "int8" or "1-bit"; fixed when the collection is made. None means the collection's own,
            int8 for a new one.
        pooling: of this many token vectors one is kept; fixed likewise, 1 (all) for a new collection.
        readonly: never write; the collection must be there.

    Raises:
        CollectionMismatchError: the collection was made with other settings, or for something else.
        CollectionNotFoundError: there is none, and `readonly` forbids to make it.

    Example:
        >>> from m3connect import Document
        >>> from m3connect.testing import FakeEncoder
        >>> tokens = QdrantTokenStore(QdrantClient(":memory:"), "docs-tokens", encoding="int8")
        >>> documents = [Document("a", "red apple"), Document("b", "blue sea")]
        >>> tokens.put(documents, FakeEncoder().encode(["red apple", "blue sea"], multi_vector=True))
        >>> found = tokens.get([Document("a", "red apple"), Document("b", "green sea")])
        >>> len(tokens), list(found.places)
        (2, ['a'])
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        *,
        encoding: Encoding | None = None,
        pooling: int | None = None,
        readonly: bool = False,
    ) -> None:
        if not isinstance(client, QdrantClient):
            raise ValueError(
                f"expected a built qdrant_client.QdrantClient, but got {type(client).__name__}; the retrievers' async "
                "methods read token vectors in threads"
            )
        super().__init__(collection)
        self._client = client
        self._lock = lock_of(client)
        self._readonly = readonly
        self._asked = encoding, pooling
        self._known = self._open(asked_settings(encoding, pooling))
        self._take(self._known, *self._asked)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._place

    @property
    def readonly(self) -> bool:
        """Whether `put` and `delete` are refused."""
        return self._readonly

    def __len__(self) -> int:
        return int(self._call("count", exact=True).count)

    def __repr__(self) -> str:
        return f"QdrantTokenStore({self.name!r}, encoding={self._encoding!r}, pooling={self._pooling})"

    def is_transient(self, error: BaseException) -> bool:
        """Say whether an error of the client may pass by itself."""
        return may_pass(error)

    def _open(self, asked: Settings) -> Settings:
        if not self._call("collection_exists"):
            self._create(asked)
        info = self._call("get_collection")
        settings = _settings(info)
        if settings is not None:
            return settings
        if info.config.params.vectors or info.config.params.sparse_vectors or len(self):
            raise CollectionMismatchError(
                f"collection {self.name!r} was not made for token vectors: they have one of their own, choose another "
                "name"
            )
        return asked if self.readonly else self._marked(asked)

    def _create(self, asked: Settings) -> None:
        if self.readonly:
            raise CollectionNotFoundError(
                f"there is no token store in collection {self.name!r}: fill it with ingest(..., "
                "token_store=QdrantTokenStore(...)), or correct the name"
            )
        try:
            self._call("create_collection", vectors_config={}, on_disk_payload=True, metadata=_metadata(asked))
        except Exception:
            if not self._call("collection_exists"):
                raise
            # Someone else made it at the same moment; what they made is checked like any other.

    def _marked(self, settings: Settings) -> Settings:
        """Write settings, and return what is stored then."""
        self._call("update_collection", metadata=_metadata(settings))
        stored = _settings(self._call("get_collection"))
        if stored is None:
            raise CollectionMismatchError(
                f"collection {self.name!r} does not keep its metadata: token stores need Qdrant 1.16 or newer"
            )
        return stored

    def _settings(self) -> Settings:
        if self._known.dim is None or self._known.fingerprint is None:  # else only a collection made anew has others
            known = _settings(self._call("get_collection")) or self._known
            self._take(known, *self._asked)
            self._known = known
        return self._known

    def _read(
        self, names: Sequence[str], work: Callable[[Settings, Mapping[str, Entry]], _T], *, heads: bool = False
    ) -> _T:
        payloads = self._payloads(names, "content", _HEADS_A_REQUEST) if heads else self._payloads(names)
        decode = bytes.fromhex if heads else base64.b64decode
        entries = {name: decode(value) for name, value in payloads}
        return work(self._settings(), entries)  # asked for last: they are written before the first entry

    def _payloads(
        self, names: Sequence[str], field: str = "entry", page: int = _ENTRIES_A_REQUEST
    ) -> Iterator[tuple[str, str]]:
        """Give one field of the points of documents, with their ids."""
        points = [point_id(name) for name in dict.fromkeys(names)]
        for start in range(0, len(points), page):
            ids = points[start : start + page]
            for record in self._call("retrieve", ids=ids, with_payload=["id", field], with_vectors=False):
                yield payload_id(record.payload), record.payload[field]

    def _write(self, prepare: Callable[[Settings], Prepared]) -> None:
        self._check_not_readonly()
        stored = _settings(self._call("get_collection"))  # another program may have dropped it and filled it otherwise
        settings = stored or Settings(self._encoding, self._pooling)
        known, entries = prepare(settings)
        while known != settings:  # what is stored then may be of another first writer, whose model this is not
            settings = self._marked(known)
            known, entries = prepare(settings)
        self._known = settings
        listed = list(entries.items())
        for part in in_batches([_point_size(name, len(entry)) for name, entry in listed]):
            self._call("upsert", points=[_to_point(name, entry) for name, entry in listed[part]], wait=True)

    def _delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), _HEADS_A_REQUEST):
            page = names[start : start + _HEADS_A_REQUEST]
            selector = models.PointIdsList(points=[point_id(name) for name in page])
            self._call("delete", points_selector=selector, wait=True)

    def _too_large(self, name: str, size: int) -> str | None:
        needed = _point_size(name, size)
        if needed <= LARGEST_REQUEST:
            return None
        return (
            f"which take {needed / 2**20:.0f} MB, but a Qdrant server takes 32 MB a request: split the text, encode it "
            "with a lower max_length, ask for another encoding= or pooling=, or use a TokenStore"
        )

    def _call(self, method: str, **arguments: Any) -> Any:  # noqa: ANN401  # the client's answer
        with self._lock:
            return getattr(self._client, method)(collection_name=self.name, **arguments)


def _metadata(settings: Settings) -> dict[str, Any]:
    return {_KEY: settings.to_dict()}


def _settings(info: models.CollectionInfo) -> Settings | None:
    stored = (info.config.metadata or {}).get(_KEY)
    return None if stored is None else Settings.from_dict(stored)


def _to_point(name: str, entry: bytes) -> models.PointStruct:
    payload = {"id": name, "content": head_of(entry).hex(), "entry": base64.b64encode(entry).decode()}
    return models.PointStruct(id=point_id(name), vector={}, payload=payload)


def _point_size(name: str, entry: int) -> int:
    """Estimate the bytes of a point in a request, from above."""
    return 4 * -(-entry // 3) + 6 * len(name) + 256
