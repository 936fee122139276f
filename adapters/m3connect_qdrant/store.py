"""Hybrid collections in Qdrant: dense, sparse and, where asked for, token vectors in one point a document."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from qdrant_client import AsyncQdrantClient, QdrantClient

from m3connect.awaiting import BoundClient
from m3connect.base import AsyncStore, Store
from m3connect.filters import FilterFields, number_keys
from m3connect.flows import Call, Flow, StoreFlows, run
from m3connect.foreign import ForeignLayout, choose_layout
from m3connect_qdrant.layouts import LAYOUTS
from m3connect_qdrant.local import is_local, lock_of
from m3connect_qdrant.opening import Opening, open_collection
from m3connect_qdrant.settings import QdrantSettings, choose_settings

__all__ = ["AsyncQdrantStore", "QdrantStore"]

_T = TypeVar("_T")


class QdrantStore(Store):
    """Documents and embeddings in a Qdrant collection, which is opened, or made where it is not there.

    Local mode (`:memory:`, `path=`) compares with every point and suits tests and small collections; it is used by one
    thread at a time, whatever the number of callers. A server (1.16 or newer) decides by itself when to use an index.

    Args:
        client: a built `qdrant_client.QdrantClient`; its timeout, keys and protocol are the caller's.
        collection: the collection's name.
        dim: the dimension of dense vectors; None means that the collection exists and has one.
        create: False means that the collection exists.
        multi_vector: keep token vectors too; every batch must then bring them. None takes a collection as it was made,
            and makes a new one without.
        adopt_fingerprint: take over a collection of m3connect's layout that lost its marker, as filled by this
            encoder; with `layout=`, say so of a collection that somebody else filled, which is not written.
        profile: how a new collection is kept: `small`, `large` or `cluster` (settings.py, `PROFILES`).
        settings: the same in every detail, instead of a profile.
        filter_fields: metadata keys that filters ask for often, each "number" or "str" (a list of keys means numbers);
            numbers get an index to order by (`<`, `between`). Equality, membership and emptiness have theirs anyway.
        tenant_field: the metadata key that names a document's tenant. Its documents lie together and have links of
            their own in the graph, so a search filtered by one tenant costs what its share of the collection costs.
        layout: the names of the parts of a collection that somebody else filled, or one of `LAYOUTS` by name; it is
            then read and never written, and its filters are judged by reading its documents.

    Raises:
        CollectionMismatchError: the collection has another layout, or was not made by m3connect.
        ValueError: there is no such collection, and none may be made.

    Example:
        >>> from m3connect import Document
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
        multi_vector: bool | None = False,
        adopt_fingerprint: str | None = None,
        profile: str = "small",
        settings: QdrantSettings | None = None,
        filter_fields: FilterFields = (),
        tenant_field: str | None = None,
        layout: ForeignLayout | str | None = None,
    ) -> None:
        if not isinstance(client, QdrantClient):
            raise ValueError(
                f"expected a built qdrant_client.QdrantClient, but got {type(client).__name__}; an AsyncQdrantClient "
                "goes to AsyncQdrantStore.open"
            )
        self._client = client
        self._lock = lock_of(client)
        wanted = Opening(
            collection=collection,
            dim=dim,
            create=create,
            multi_vector=multi_vector,
            adopt_fingerprint=adopt_fingerprint,
            settings=choose_settings(profile, settings),
            number_fields=number_keys(filter_fields),
            tenant_field=tenant_field,
            layout=choose_layout(layout, LAYOUTS),
        )
        super().__init__(run(open_collection(wanted, server=not is_local(client)), self._perform))

    def _perform(self, call: Call) -> Any:  # noqa: ANN401  # the client's answer
        with self._lock:
            return getattr(self._client, call.method)(**call.arguments)


class AsyncQdrantStore(AsyncStore):
    """`QdrantStore` over a server's async client; made by `open`, used in the event loop it was opened in."""

    def __init__(self, client: BoundClient, flows: StoreFlows) -> None:
        super().__init__(flows)
        self._client = client

    @classmethod
    async def open(
        cls,
        client: AsyncQdrantClient,
        collection: str,
        *,
        dim: int | None = None,
        create: bool = True,
        multi_vector: bool | None = False,
        adopt_fingerprint: str | None = None,
        profile: str = "small",
        settings: QdrantSettings | None = None,
        filter_fields: FilterFields = (),
        tenant_field: str | None = None,
        layout: ForeignLayout | str | None = None,
    ) -> AsyncQdrantStore:
        """Open a collection, or make it; arguments and errors as for `QdrantStore`.

        Raises:
            ValueError: the client is no `AsyncQdrantClient`, or one in local mode, which would stop the event loop
                for as long as each call takes.
        """
        _check_async(client)
        wanted = Opening(
            collection=collection,
            dim=dim,
            create=create,
            multi_vector=multi_vector,
            adopt_fingerprint=adopt_fingerprint,
            settings=choose_settings(profile, settings),
            number_fields=number_keys(filter_fields),
            tenant_field=tenant_field,
            layout=choose_layout(layout, LAYOUTS),
        )
        bound = BoundClient(partial(_await, client))
        return cls(bound, await bound.run(open_collection(wanted, server=True)))

    async def _run(self, flow: Flow[_T]) -> _T:
        return await self._client.run(flow)


async def _await(client: AsyncQdrantClient, call: Call) -> Any:  # noqa: ANN401  # the client's answer
    return await getattr(client, call.method)(**call.arguments)


def _check_async(client: object) -> None:
    if not isinstance(client, AsyncQdrantClient):
        raise ValueError(
            f"expected a built qdrant_client.AsyncQdrantClient, but got {type(client).__name__}; a QdrantClient goes "
            "to QdrantStore"
        )
    if is_local(client):
        raise ValueError(
            "an AsyncQdrantClient in local mode blocks the event loop: use "
            "m3connect.ThreadedStore(QdrantStore(QdrantClient(...), ...)) instead"
        )
