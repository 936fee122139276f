"""The databases that the conformance suite runs over; a new store joins by a new backend, in `make_backend`."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from support import require

from m3connect import MemoryStore, ThreadedStore
from m3connect.awaiting import BoundClient
from m3connect.filters import FilterFields, number_keys
from m3connect.flows import Call

SYNC = ["memory", "qdrant-local", "edge", "milvus-lite"]
ASYNC = ["qdrant-async", "milvus-async"]
THREADED = [f"{kind}-threaded" for kind in SYNC]

_numbers = itertools.count()


class MemoryBackend:
    """Has no collections: every store is new."""

    names: frozenset[str] = frozenset()

    def open(self, name: str | None = None, **options: Any) -> Any:
        return MemoryStore(**{"dim": 16} | options)

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        """Nothing to do: a store goes with its test."""

    def close(self) -> None:
        """Nothing to do."""


class QdrantBackend:
    """Collections of one local client, in memory or in a folder."""

    def __init__(self, **where: Any) -> None:
        self._where = where
        self._opened: set[str] = set()
        self._connect()

    def _connect(self) -> None:
        import qdrant_client

        self._client = qdrant_client.QdrantClient(**self._where)

    def open(self, name: str | None = None, **options: Any) -> Any:
        import m3connect_qdrant

        name = name or fresh_name()
        self._opened.add(name)
        return m3connect_qdrant.QdrantStore(self._client, name, **{"dim": 16} | options)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._opened)

    def has(self, name: str) -> bool:
        return self._client.collection_exists(name)

    def reopen(self) -> None:
        self._client.close()
        self._connect()

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        for name in self._opened - kept:
            self._client.delete_collection(name)
        self._opened &= kept

    def close(self) -> None:
        self._client.close()


class MilvusBackend:
    """Collections of one Milvus Lite database."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._opened: set[str] = set()
        self._connect()

    def _connect(self) -> None:
        import pymilvus

        self.client = pymilvus.MilvusClient(self._path)

    def open(self, name: str | None = None, **options: Any) -> Any:
        import m3connect_milvus

        name = name or fresh_name()
        self._opened.add(name)
        return m3connect_milvus.MilvusStore(self.client, name, **{"dim": 16} | options)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._opened)

    def has(self, name: str) -> bool:
        return bool(self.client.has_collection(name))

    def reopen(self) -> None:
        self.close()
        self._connect()

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        for name in self._opened - kept:
            self.client.drop_collection(name)
        self._opened &= kept

    def close(self) -> None:
        from milvus_lite.server_manager import server_manager_instance

        self.client.close()
        server_manager_instance.release_server(self._path)  # close() alone leaves the server and its memory running


class EdgeBackend:
    """Folders in a folder. A name that is open is shared, since only one store at a time can have a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[str, tuple[dict[str, Any], Any]] = {}

    def open(self, name: str | None = None, **options: Any) -> Any:
        import m3connect_edge

        name = name or fresh_name()
        known, store = self._open.pop(name, (None, None))
        if known != options:
            if store is not None:
                store.close()
            store = m3connect_edge.EdgeStore(self._path / name, **{"dim": 16} | options)
        self._open[name] = options, store
        return store

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._open)

    def has(self, name: str) -> bool:
        return (self._path / name).exists()

    def reopen(self) -> None:
        for _, store in self._open.values():
            store.close()
        self._open.clear()

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        for name in self.names - kept:
            self._open.pop(name)[1].drop()

    def close(self) -> None:
        self.reopen()


class Loop:
    """An event loop that runs in a thread of its own, so that any thread may await something in it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Awaited:
    """An async store or client with the methods of a sync one: each is awaited in one loop."""

    def __init__(self, inner: Any, loop: Loop) -> None:
        self.inner, self._loop = inner, loop

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.inner, name)
        if inspect.isasyncgenfunction(member):
            return lambda *args, **options: iter(self._loop.run(collect(member(*args, **options))))
        if not inspect.iscoroutinefunction(member):
            return member
        return lambda *args, **options: self._loop.run(member(*args, **options))


async def collect(members: AsyncIterator[Any]) -> list[Any]:
    return [member async for member in members]


class ThreadedBackend:
    """The stores of another backend, each in a `ThreadedStore`."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.loop = inner, Loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def open(self, name: str | None = None, **options: Any) -> Any:
        return Awaited(ThreadedStore(self.inner.open(name, **options)), self.loop)

    def close(self) -> None:
        self.inner.close()
        self.loop.close()


class AsyncQdrantBackend(QdrantBackend):
    """Collections of one async client in local mode, which `AsyncQdrantStore.open` refuses: it would stop the loop."""

    def __init__(self, **where: Any) -> None:
        self.loop = Loop()
        super().__init__(**where)

    def _connect(self) -> None:
        import qdrant_client

        self._client: Any = Awaited(qdrant_client.AsyncQdrantClient(**self._where), self.loop)

    def open(self, name: str | None = None, **options: Any) -> Any:
        name = name or fresh_name()
        self._opened.add(name)
        return Awaited(self.loop.run(open_local_qdrant(self._client.inner, name, **options)), self.loop)

    def close(self) -> None:
        super().close()
        self.loop.close()


async def open_local_qdrant(client: Any, name: str, *, filter_fields: FilterFields = (), **options: Any) -> Any:
    """Open what `AsyncQdrantStore.open` refuses to open, over an async client in local mode."""
    from m3connect_qdrant import AsyncQdrantStore
    from m3connect_qdrant.opening import Opening, open_collection

    async def perform(call: Call) -> Any:
        return await getattr(client, call.method)(**call.arguments)

    bound = BoundClient(perform)
    wanted = Opening(collection=name, number_fields=number_keys(filter_fields), **{"dim": 16} | options)
    flows = await bound.run(open_collection(wanted, server=False))
    return AsyncQdrantStore(bound, flows)


class AsyncMilvusBackend(MilvusBackend):
    """Collections of one Milvus Lite database, opened by the async client; indexes are made by the sync one."""

    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        super().__init__(path)

    def _connect(self) -> None:
        super()._connect()
        self.loop.run(self._connect_async())

    async def _connect_async(self) -> None:
        import pymilvus

        self.async_client = pymilvus.AsyncMilvusClient(self._path)

    def open(self, name: str | None = None, **options: Any) -> Any:
        return Awaited(self.loop.run(self.opening(name or fresh_name(), **options)), self.loop)

    async def opening(self, name: str, **options: Any) -> Any:
        import m3connect_milvus

        self._opened.add(name)
        options = {"dim": 16, "index_client": self.client} | options
        return await m3connect_milvus.AsyncMilvusStore.open(self.async_client, name, **options)

    def reopen(self) -> None:
        self._disconnect()
        self._connect()

    def close(self) -> None:
        self._disconnect()
        self.loop.close()

    def _disconnect(self) -> None:
        self.loop.run(self.async_client.close())
        super().close()


def fresh_name() -> str:
    return f"docs_{next(_numbers)}"


def make_backend(kind: str, folder: Path, *, on_disk: bool = False) -> Any:
    if kind.endswith("-threaded"):
        return ThreadedBackend(make_backend(kind.removesuffix("-threaded"), folder, on_disk=on_disk))
    if kind == "memory":
        return MemoryBackend()
    if kind == "edge":
        require("m3connect_edge", "qdrant_edge", "filelock", extra="qdrant-edge")
        return EdgeBackend(folder / "edge")
    if kind.startswith("qdrant"):
        require("m3connect_qdrant", "qdrant_client", extra="qdrant")
        made = AsyncQdrantBackend if kind == "qdrant-async" else QdrantBackend
        return made(path=str(folder / "qdrant")) if on_disk else made(location=":memory:")
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    return (AsyncMilvusBackend if kind == "milvus-async" else MilvusBackend)(folder / "milvus.db")
