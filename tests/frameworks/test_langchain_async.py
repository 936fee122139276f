"""No async path blocks the event loop: each one ends only if another coroutine runs in the middle of it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from backends import open_local_qdrant

pytest.importorskip("langchain_core")

from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_helpers import (
    PATIENCE,
    TEXTS,
    Gate,
    WaitingEncoder,
    WaitingStore,
    filled,
    ids_of,
    while_the_loop_goes_on,
)
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectRetriever, M3ConnectVectorStore
from langchain_paths import ENCODING_PATHS, STORE_PATHS, VECTOR, compress

from m3connect import MemoryStore
from m3connect.awaiting import ThreadedStore
from m3connect.testing import FakeEncoder


async def rows_for_qdrant(vectorstore):
    from langchain_m3connect.qdrant import M3ConnectQdrantSparse

    return await M3ConnectQdrantSparse(vectorstore.embeddings).aembed_documents(["new"])


COMPUTED = {
    "documents": ("langchain_m3connect.convert.to_documents", ENCODING_PATHS["aadd_documents"]),
    "diversity": ("langchain_m3connect.flows.choose_diverse", ENCODING_PATHS["amax_marginal_relevance_search"]),
    "scores of a retriever": ("langchain_m3connect.flows.rerank_hits", ENCODING_PATHS["retriever, reranking"]),
    "scores of a reranker": ("langchain_m3connect.reranker.rerank_hits", compress),
    "rows of a bridge": ("langchain_m3connect.qdrant._vectors", rows_for_qdrant),
}
"""What takes time apart from encoder and store: the function, and a path that calls it."""


@pytest.mark.parametrize("name", ENCODING_PATHS)
async def test_the_loop_goes_on_while_texts_are_encoded(name):
    encoder = WaitingEncoder()
    vectorstore = filled(encoder=encoder)
    await while_the_loop_goes_on(encoder.gate, ENCODING_PATHS[name](vectorstore))


@pytest.mark.parametrize("name", STORE_PATHS)
async def test_the_loop_goes_on_while_a_sync_store_works(name):
    store = WaitingStore(dim=16)
    await while_the_loop_goes_on(store.gate, STORE_PATHS[name](filled(store)))


@pytest.mark.parametrize("name", STORE_PATHS)
async def test_an_async_store_is_awaited(name):
    inner = WaitingStore(dim=16)
    filled(inner)
    vectorstore = M3ConnectVectorStore(store=ThreadedStore(inner), embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))
    await while_the_loop_goes_on(inner.gate, STORE_PATHS[name](vectorstore))


@pytest.mark.parametrize("name", COMPUTED)
async def test_the_loop_goes_on_while_something_is_computed(name, monkeypatch):
    place, path = COMPUTED[name]
    gate = Gate()
    library, _, function = place.rpartition(".")
    real = getattr(pytest.importorskip(library), function)

    def gated(*args, **options):
        gate.pass_through()
        return real(*args, **options)

    vectorstore = filled()
    monkeypatch.setattr(place, gated)
    await while_the_loop_goes_on(gate, path(vectorstore))


async def test_what_is_called_on_the_loop_would_be_noticed():
    encoder = WaitingEncoder()
    embeddings = M3ConnectEmbeddings(encoder=encoder)

    async def first_well_then_on_the_loop():
        await embeddings.aembed_query("one")
        return embeddings.embed_query("two")

    with pytest.raises(RuntimeError, match="in the thread of the event loop"):
        await while_the_loop_goes_on(encoder.gate, first_well_then_on_the_loop())


async def test_what_keeps_the_loop_waiting_for_a_thread_would_be_noticed(monkeypatch):
    monkeypatch.setattr("langchain_helpers.PATIENCE", 0.2)
    encoder = WaitingEncoder()
    embeddings = M3ConnectEmbeddings(encoder=encoder)

    async def first_well_then_waiting():
        await embeddings.aembed_query("one")
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(embeddings.embed_query, "two").result()

    with pytest.raises(TimeoutError, match="the event loop was blocked"):
        await while_the_loop_goes_on(encoder.gate, first_well_then_waiting())


@pytest.mark.parametrize("threads", [1, 3])
async def test_as_many_calls_are_with_the_encoder_as_threads_says(threads):
    class Counting(FakeEncoder):
        inside, most = 0, 0
        lock, full = threading.Lock(), threading.Barrier(threads)

        def encode(self, texts, *, multi_vector=False, max_length=None):
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            self.full.wait(PATIENCE)
            batch = super().encode(texts, multi_vector=multi_vector, max_length=max_length)
            with self.lock:
                self.inside -= 1
            return batch

    encoder = Counting()
    embeddings = M3ConnectEmbeddings(encoder=encoder, threads=threads)
    await asyncio.gather(*(embeddings.aembed_query(f"text {i}") for i in range(6)))
    assert encoder.most == threads


async def test_loading_a_model_does_not_block_the_loop(monkeypatch):
    encoder = WaitingEncoder()

    def load(model):
        encoder.encode(["loading"])
        return encoder

    monkeypatch.setattr("langchain_m3connect.embeddings._load", load)
    for path in (
        lambda: M3ConnectEmbeddings(model="any").aembed_query("red"),
        lambda: M3ConnectVectorStore.afrom_texts(["red"], M3ConnectEmbeddings(model="any")),
    ):
        await while_the_loop_goes_on(encoder.gate, path())


async def test_async_methods_find_what_the_sync_ones_find(store):
    vectorstore = filled(store)
    assert await vectorstore.asimilarity_search("blue sea") == vectorstore.similarity_search("blue sea")
    for name in ("similarity_search_with_score", "similarity_search_with_relevance_scores"):
        found, afound = getattr(vectorstore, name)("blue sea"), await getattr(vectorstore, f"a{name}")("blue sea")
        assert [document for document, _ in afound] == [document for document, _ in found]
        assert [score for _, score in afound] == pytest.approx([score for _, score in found])
    assert await vectorstore.amax_marginal_relevance_search("blue sea") == vectorstore.max_marginal_relevance_search(
        "blue sea"
    )
    assert await vectorstore.aget_by_ids(["sun", "sea"]) == vectorstore.get_by_ids(["sun", "sea"])
    assert await vectorstore.adelete(["sun"]) is True
    assert ids_of(vectorstore.get_by_ids(list(TEXTS))) == ["apple", "sea", "sky"]


async def test_many_questions_at_once_get_their_own_answers(store):
    retriever = M3ConnectRetriever(vectorstore=filled(store), k=1, rerank=True)
    questions = [TEXTS[name] for name in TEXTS] * 5
    answers = await asyncio.gather(*(retriever.ainvoke(question) for question in questions))
    assert [ids_of(answer) for answer in answers] == [[name] for name in TEXTS] * 5


async def test_a_plain_embedding_is_awaited():
    class AsyncOnly(Embeddings):
        inner = DeterministicFakeEmbedding(size=6)

        def embed_documents(self, texts):
            raise AssertionError("the sync method was called from a coroutine")

        def embed_query(self, text):
            raise AssertionError("the sync method was called from a coroutine")

        async def aembed_documents(self, texts):
            return self.inner.embed_documents(texts)

        async def aembed_query(self, text):
            return self.inner.embed_query(text)

    vectorstore = await M3ConnectVectorStore.afrom_texts(["red", "blue"], AsyncOnly(), ids=["r", "b"])
    assert ids_of(await vectorstore.asimilarity_search("blue", k=1)) == ["b"]


async def test_a_store_that_knows_only_the_protocol_works_too():
    inner = MemoryStore(dim=16)

    class Foreign:
        """Every method of a `HybridStore`, and no base class of ours."""

        def __getattr__(self, name):
            return getattr(inner, name)

    vectorstore = M3ConnectVectorStore(store=Foreign(), embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))
    await vectorstore.aadd_texts(["red"], ids=["r"])
    assert ids_of(await vectorstore.asimilarity_search("red")) == ["r"]
    assert ids_of(vectorstore.similarity_search("red")) == ["r"]


async def serves_every_async_method(store):
    vectorstore = await M3ConnectVectorStore.afrom_texts(
        list(TEXTS.values()), M3ConnectEmbeddings(encoder=FakeEncoder()), ids=list(TEXTS), store=store
    )
    assert ids_of(await vectorstore.asimilarity_search("deep blue sea", k=2)) == ["sea", "sky"]
    assert (await vectorstore.asimilarity_search_with_relevance_scores("red apple"))[0][1] == pytest.approx(1.0)
    assert (await vectorstore.asimilarity_search_with_score("red apple"))[0][0].id == "apple"
    assert ids_of(await vectorstore.asimilarity_search_by_vector(VECTOR, k=1)) == ["sea"]
    assert len(await vectorstore.amax_marginal_relevance_search("blue", k=3)) == 3
    assert len(await vectorstore.amax_marginal_relevance_search_by_vector(VECTOR, k=3)) == 3
    assert ids_of(await M3ConnectRetriever(vectorstore=vectorstore, rerank=True).ainvoke("sun", k=1)) == ["sun"]
    assert await vectorstore.adelete(["sun"]) is True
    assert ids_of(await vectorstore.aget_by_ids(list(TEXTS))) == ["apple", "sea", "sky"]
    with pytest.raises(ValueError, match="is async: await"):
        vectorstore.similarity_search("sea")


async def test_the_native_async_client_of_milvus_serves_every_async_method(tmp_path):
    pymilvus = pytest.importorskip("pymilvus")
    manager = pytest.importorskip("milvus_lite.server_manager").server_manager_instance
    from m3connect_milvus import AsyncMilvusStore

    path = str(tmp_path / "docs.db")
    sync, client = pymilvus.MilvusClient(path), pymilvus.AsyncMilvusClient(path)
    await serves_every_async_method(await AsyncMilvusStore.open(client, "docs", dim=16, index_client=sync))
    await client.close()
    sync.close()
    manager.release_server(path)


@pytest.mark.parametrize("multi_vector", [False, True])
async def test_the_native_async_client_of_qdrant_serves_every_async_method(multi_vector):
    client = pytest.importorskip("qdrant_client").AsyncQdrantClient(":memory:")
    await serves_every_async_method(await open_local_qdrant(client, "docs", multi_vector=multi_vector))
    await client.close()
