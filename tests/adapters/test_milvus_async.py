"""AsyncMilvusStore, over pymilvus' async client and Milvus Lite: the conformance suite again, and its event loop."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_store_conformance as conformance
from store_checks import random_documents, random_embeddings

from m3connect import Dense
from m3connect.base import ThreadedStore

pymilvus = pytest.importorskip("pymilvus", reason="pip install 'm3connect[milvus]'")
pytest.importorskip("milvus_lite", reason="pip install 'm3connect[milvus]'")

from m3connect_milvus import AsyncMilvusStore, MilvusStore  # noqa: E402  # after the skip

numbers = itertools.count()
DIM = 16


class Awaited:
    """An async store with the methods of a sync one, all run in one event loop."""

    def __init__(self, store: AsyncMilvusStore, runner: asyncio.Runner) -> None:
        self._store, self._runner = store, runner

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._store, name)
        if name == "scroll":
            return lambda *args: iter(self._runner.run(collect(member(*args))))
        if not inspect.iscoroutinefunction(member):
            return member
        return lambda *args, **options: self._runner.run(member(*args, **options))


async def collect(documents: Any) -> list[Any]:
    return [document async for document in documents]


class Backend:
    """Collections of one Milvus Lite database, opened by the async client; indexes are made by the sync one."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.runner = asyncio.Runner()
        self.sync = pymilvus.MilvusClient(self.path)
        self.client = pymilvus.AsyncMilvusClient(self.path)
        self.opened: list[str] = []

    def open(self, name: str | None = None, **options: Any) -> Any:
        name = name or f"a_{next(numbers)}"
        self.opened.append(name)
        options = {"dim": DIM, "index_client": self.sync} | options
        return Awaited(self.runner.run(AsyncMilvusStore.open(self.client, name, **options)), self.runner)

    def drop(self, kept: int = 0) -> None:
        while len(self.opened) > kept:
            self.sync.drop_collection(self.opened.pop())

    def close(self) -> None:
        from milvus_lite.server_manager import server_manager_instance

        self.runner.run(self.client.close())
        self.runner.close()
        self.sync.close()
        server_manager_instance.release_server(self.path)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = Backend(tmp_path_factory.mktemp("milvus") / "async.db")
    yield backend
    backend.close()


@pytest.fixture
def store_factory(backend: Backend) -> Iterator[Callable[..., Any]]:
    kept = len(backend.opened)
    yield backend.open
    backend.drop(kept)


@pytest.fixture
def store(store_factory: Callable[..., Any]) -> Any:
    return store_factory()


described, filled, varied = conformance.described, conformance.filled, conformance.varied  # their fixtures
for _name, _test in vars(conformance).items():
    if _name.startswith("test_") and not {"token_store", "disk"} & set(inspect.signature(_test).parameters):
        globals()[_name] = _test


def test_opening_again_finds_everything(backend: Backend, store: Any) -> None:
    documents, batch = random_documents(5), random_embeddings(5, seed=1)
    store.upsert(documents, batch)
    again = backend.open(store.name, dim=None, index_client=backend.sync)
    assert list(again.scroll()) == documents
    assert again.search(batch, top_k=1, fusion=Dense())[3][0].document == documents[3]


def test_many_operations_run_at_once(backend: Backend, store: Any) -> None:
    documents, batch = random_documents(40), random_embeddings(40, seed=1)
    inner = store._store

    async def work() -> list[Any]:
        await asyncio.gather(*(inner.upsert(documents[i : i + 5], batch[i : i + 5]) for i in range(0, 40, 5)))
        return await asyncio.gather(*(inner.search(batch[i], top_k=1, fusion=Dense()) for i in range(40)))

    found = backend.runner.run(work())
    assert [hits[0][0].document for hits in found] == documents


def test_another_event_loop_is_refused_with_what_to_do(backend: Backend, store: Any) -> None:
    with pytest.raises(ValueError, match=r"another event loop.*ThreadedStore"):
        asyncio.run(store._store.count())
    with pytest.raises(ValueError, match=r"another event loop.*ThreadedStore"):
        asyncio.run(AsyncMilvusStore.open(backend.client, store.name, index_client=backend.sync))
    assert store.count() == 0


def test_lite_without_an_index_client_is_refused_with_what_to_do(backend: Backend) -> None:
    with pytest.raises(ValueError, match=r"ThreadedStore\(MilvusStore.*index_client="):
        backend.runner.run(AsyncMilvusStore.open(backend.client, "nowhere", dim=DIM))
    assert not backend.sync.has_collection("nowhere")


def test_threads_make_a_sync_store_async(backend: Backend, store: Any) -> None:
    documents, batch = random_documents(20), random_embeddings(20, seed=1)
    threaded = ThreadedStore(MilvusStore(backend.sync, store.name))

    async def work() -> list[Any]:
        await asyncio.gather(*(threaded.upsert(documents[i : i + 5], batch[i : i + 5]) for i in range(0, 20, 5)))
        return await threaded.search(batch, top_k=1, fusion=Dense())

    assert [hits[0].document for hits in asyncio.run(work())] == documents
