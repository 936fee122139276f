"""A hybrid collection in Milvus, over pymilvus' sync and async clients."""

from __future__ import annotations

from typing import Any, TypeVar

from pymilvus import AsyncMilvusClient, MilvusClient

from m3connect.awaiting import BoundClient
from m3connect.base import AsyncStore, Store
from m3connect.filters import FilterFields
from m3connect.flows import Call, Flow, StoreFlows, run
from m3connect.foreign import ForeignLayout, choose_layout
from m3connect_milvus.bound import WRITES, AsyncCalls, lite_writes
from m3connect_milvus.flows import Server
from m3connect_milvus.layouts import LAYOUTS
from m3connect_milvus.opening import Wanted, open_collection
from m3connect_milvus.settings import MilvusSettings, Profile, choose_settings

__all__ = ["AsyncMilvusStore", "MilvusStore"]

_T = TypeVar("_T")


class MilvusStore(Store):
    """Documents and embeddings in a Milvus collection, on a server (2.5 or newer) or in a Milvus Lite file.

    Searches are exact on Lite, unless settings name another index. Token vectors are not stored; reranking encodes the
    candidates again.

    Args:
        client: a built `pymilvus.MilvusClient`; the store does not close it.
        collection: its name: ASCII letters, digits and underscores.
        dim: the dimension of dense vectors; None means that the collection must exist.
        create: create the collection where there is none.
        multi_vector: None or False; True is not possible here, and refused with what to do instead.
        adopt_fingerprint: take over a collection of m3connect's layout that lacks its marker, its vectors being made
            by the encoder of this fingerprint; with `layout=`, say so of a collection that somebody else filled, which
            is not written.
        profile: "small", "large" or "cluster": how a new collection is made, and how it is searched; None makes a small
            one, and searches others as they were made for.
        settings: every knob, instead of a profile.
        filter_fields: metadata keys that filters ask for often, each "number" or "str" (a list of keys means numbers),
            for a new collection; they get typed columns with an index. Filters on all other keys work too.
        tenant_field: the metadata key that holds the tenant, for a new collection: each document must have it, and a
            filter on it searches the tenant's partition alone.
        layout: the names of the parts of a collection that somebody else filled, or one of `LAYOUTS` by name; it is
            then read and never written, and its filters are judged by reading its documents.

    Raises:
        CollectionNotFoundError: there is no such collection and none may be created.
        CollectionMismatchError: it has another dimension, layout, metric or maker.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = MilvusStore(MilvusClient("docs.db"), "docs", dim=encoder.dim)  # doctest: +SKIP
        >>> store.upsert([Document("a", "red apple")], encoder.encode(["red apple"]))  # doctest: +SKIP
    """

    def __init__(
        self,
        client: MilvusClient,
        collection: str,
        *,
        dim: int | None = None,
        create: bool = True,
        multi_vector: bool | None = None,
        adopt_fingerprint: str | None = None,
        profile: Profile | None = None,
        settings: MilvusSettings | None = None,
        filter_fields: FilterFields | None = None,
        tenant_field: str | None = None,
        layout: ForeignLayout | str | None = None,
    ) -> None:
        wanted = Wanted(
            dim=dim,
            create=create,
            multi_vector=multi_vector,
            adopt_fingerprint=adopt_fingerprint,
            settings=choose_settings(profile, settings),
            filter_fields=filter_fields,
            tenant_field=tenant_field,
            layout=choose_layout(layout, LAYOUTS),
        )
        if isinstance(client, AsyncMilvusClient):
            raise ValueError(
                "MilvusStore takes a MilvusClient; for an AsyncMilvusClient there is AsyncMilvusStore.open"
            )
        if not hasattr(client, "get_server_version"):
            raise ValueError(f"expected a built pymilvus.MilvusClient, but got {type(client).__name__}")
        self._client = client
        self._lite = Server(str(client.get_server_version())).lite
        super().__init__(run(open_collection(collection, wanted), self._perform))

    def _perform(self, call: Call) -> Any:  # noqa: ANN401  # the client's answer
        if self._lite and call.method in WRITES:
            with lite_writes.thread():
                return getattr(self._client, call.method)(**call.arguments)
        return getattr(self._client, call.method)(**call.arguments)


class AsyncMilvusStore(AsyncStore):
    """`MilvusStore` over pymilvus' async client, for servers; made by `open`, used in the event loop it was opened in.

    For a Milvus Lite file there is `ThreadedStore(MilvusStore(...))`.
    """

    def __init__(self, client: BoundClient, flows: StoreFlows) -> None:
        super().__init__(flows)
        self._client = client

    @classmethod
    async def open(
        cls,
        client: AsyncMilvusClient,
        collection: str,
        *,
        dim: int | None = None,
        create: bool = True,
        multi_vector: bool | None = None,
        adopt_fingerprint: str | None = None,
        profile: Profile | None = None,
        settings: MilvusSettings | None = None,
        filter_fields: FilterFields | None = None,
        tenant_field: str | None = None,
        layout: ForeignLayout | str | None = None,
        index_client: MilvusClient | None = None,
    ) -> AsyncMilvusStore:
        """Open or create a collection; all but the last argument as for `MilvusStore`.

        Args:
            client: a built `pymilvus.AsyncMilvusClient`; the store does not close it.
            collection: its name.
            dim: see `MilvusStore`.
            create: see `MilvusStore`.
            multi_vector: see `MilvusStore`.
            adopt_fingerprint: see `MilvusStore`.
            profile: see `MilvusStore`.
            settings: see `MilvusStore`.
            filter_fields: see `MilvusStore`.
            tenant_field: see `MilvusStore`.
            layout: see `MilvusStore`.
            index_client: a sync client of the same database, which then makes the indexes, in a thread: on Milvus Lite
                the async one cannot.
        """
        wanted = Wanted(
            dim=dim,
            create=create,
            multi_vector=multi_vector,
            adopt_fingerprint=adopt_fingerprint,
            settings=choose_settings(profile, settings),
            filter_fields=filter_fields,
            tenant_field=tenant_field,
            layout=choose_layout(layout, LAYOUTS),
        )
        if isinstance(client, MilvusClient):
            raise ValueError("AsyncMilvusStore takes an AsyncMilvusClient; for a MilvusClient there is MilvusStore")
        calls = AsyncCalls(client, index_client)
        bound = BoundClient(calls.perform)
        calls.one_writer = Server(str(await bound.perform(Call("get_server_version")))).lite
        if calls.one_writer and index_client is None:
            raise ValueError(
                "pymilvus' async client cannot make indexes in Milvus Lite: use ThreadedStore(MilvusStore("
                "MilvusClient(path), ...)), or pass index_client=MilvusClient(path)"
            )
        return cls(bound, await bound.run(open_collection(collection, wanted)))

    async def _run(self, flow: Flow[_T]) -> _T:
        return await self._client.run(flow)
