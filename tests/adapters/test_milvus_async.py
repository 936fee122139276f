"""AsyncMilvusStore over Milvus Lite, beyond the conformance suite: its event loop, and who may write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from backends import AsyncMilvusBackend
from store_checks import random_documents, random_embeddings

from m3connect import Dense, ThreadedStore, Weighted

pymilvus = pytest.importorskip("pymilvus", reason="pip install 'm3connect[milvus]'")
pytest.importorskip("milvus_lite", reason="pip install 'm3connect[milvus]'")

from m3connect_milvus import AsyncMilvusStore, MilvusStore  # noqa: E402  # after the skip

DIM = 16


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncMilvusBackend]:
    backend = AsyncMilvusBackend(tmp_path_factory.mktemp("milvus") / "async.db")
    yield backend
    backend.close()


@pytest.fixture
def store(backend: AsyncMilvusBackend) -> Iterator[Any]:
    kept = backend.names
    yield backend.open()
    backend.drop(kept)


def test_opening_again_finds_everything(backend: AsyncMilvusBackend, store: Any) -> None:
    documents, batch = random_documents(5), random_embeddings(5, seed=1)
    store.upsert(documents, batch)
    again = backend.open(store.name, dim=None, index_client=backend.client)
    assert list(again.scroll()) == documents
    assert again.search(batch, top_k=1, fusion=Dense())[3][0].document == documents[3]


def test_many_operations_run_at_once(backend: AsyncMilvusBackend, store: Any) -> None:
    documents, batch = random_documents(40), random_embeddings(40, seed=1)
    inner = store.inner

    async def work() -> list[Any]:
        await asyncio.gather(*(inner.upsert(documents[i : i + 5], batch[i : i + 5]) for i in range(0, 40, 5)))
        return await asyncio.gather(*(inner.search(batch[i], top_k=1, fusion=Dense()) for i in range(40)))

    found = backend.loop.run(work())
    assert [hits[0][0].document for hits in found] == documents


def test_the_legs_of_a_search_are_under_way_together(
    backend: AsyncMilvusBackend, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, batch = random_documents(20), random_embeddings(20, seed=1)
    store.upsert(documents, batch)
    expected = store.search(batch[:2], fusion=Weighted())
    search, both = backend.async_client.search, asyncio.Barrier(2)

    async def searched(**arguments: Any) -> Any:
        async with asyncio.timeout(20):
            await both.wait()  # one after the other they would wait for ever
        return await search(**arguments)

    monkeypatch.setattr(backend.async_client, "search", searched)
    assert store.search(batch[:2], fusion=Weighted()) == expected


def test_another_event_loop_is_refused_with_what_to_do(backend: AsyncMilvusBackend, store: Any) -> None:
    with pytest.raises(ValueError, match=r"another event loop.*ThreadedStore"):
        asyncio.run(store.inner.count())
    with pytest.raises(ValueError, match=r"another event loop.*ThreadedStore"):
        asyncio.run(AsyncMilvusStore.open(backend.async_client, store.name, index_client=backend.client))
    assert store.count() == 0


def test_lite_without_an_index_client_is_refused_with_what_to_do(backend: AsyncMilvusBackend) -> None:
    with pytest.raises(ValueError, match=r"ThreadedStore\(MilvusStore.*index_client="):
        backend.loop.run(AsyncMilvusStore.open(backend.async_client, "nowhere", dim=DIM))
    assert not backend.client.has_collection("nowhere")


def test_threads_make_a_sync_store_async(backend: AsyncMilvusBackend, store: Any) -> None:
    documents, batch = random_documents(20), random_embeddings(20, seed=1)
    threaded = ThreadedStore(MilvusStore(backend.client, store.name))

    async def work() -> list[Any]:
        await asyncio.gather(*(threaded.upsert(documents[i : i + 5], batch[i : i + 5]) for i in range(0, 20, 5)))
        return await threaded.search(batch, top_k=1, fusion=Dense())

    assert [hits[0].document for hits in asyncio.run(work())] == documents
