"""One forward pass a query and one an added text on every public path, and no path blocks the event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from backends import ASYNC, make_backend
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import Document, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index_helpers import TEXTS, Gate, WaitingEncoder, WaitingStore, ids, nodes_of, times_encoded
from llama_index_m3connect import (
    M3ConnectEmbedding,
    M3ConnectRerank,
    M3ConnectRetriever,
    M3ConnectSparseEmbedding,
    M3ConnectVectorStore,
)
from llama_index_m3connect.calls import Performer, compute

from m3connect import Document as StoredDocument
from m3connect import MemoryStore, ThreadedStore, Weighted, ingest
from m3connect.encoding import SharedPass
from m3connect.testing import FakeEncoder

QUESTION = "where is the blue sea?"


class Setup:
    """An index over an encoder, and everything that can be asked of it."""

    def __init__(
        self, encoder: FakeEncoder, *, multi_vector: bool = False, awaited: bool = False, store: Any = None
    ) -> None:
        self.encoder = encoder
        self.embedding = M3ConnectEmbedding(encoder=encoder, multi_vector=multi_vector)
        self.store = store or WaitingStore(dim=encoder.dim, multi_vector=multi_vector)
        self.vectors = M3ConnectVectorStore(
            store=ThreadedStore(self.store) if awaited else self.store, encoder=self.embedding
        )
        self.index = VectorStoreIndex.from_vector_store(self.vectors, embed_model=self.embedding)

    def fill(self) -> None:
        """Store without asking the encoder under test."""
        nodes = nodes_of()
        twin = FakeEncoder(dim=self.encoder.dim)
        vectors = M3ConnectVectorStore(store=self.store, encoder=twin)
        vectors.add(nodes)

    def retriever(self, mode: str, **options):
        return self.index.as_retriever(vector_store_query_mode=mode, similarity_top_k=3, **options)

    def engine(self, retriever) -> RetrieverQueryEngine:
        rerank = M3ConnectRerank(encoder=self.encoder, top_n=2)
        return RetrieverQueryEngine.from_args(retriever, llm=MockLLM(), node_postprocessors=[rerank])


RETRIEVERS = {
    "default": lambda setup: setup.retriever("default"),
    "sparse": lambda setup: setup.retriever("sparse"),
    "hybrid": lambda setup: setup.retriever("hybrid"),
    "hybrid with alpha": lambda setup: setup.retriever("hybrid", alpha=0.5),
    "hybrid with token vectors": lambda setup: setup.retriever(
        "hybrid", vector_store_kwargs={"fusion": Weighted(multi_vector=1)}
    ),
    "mmr": lambda setup: setup.retriever("mmr"),
    "ours": lambda setup: M3ConnectRetriever(setup.vectors),
    "ours with rerank": lambda setup: M3ConnectRetriever(setup.vectors, rerank=True, similarity_top_k=2),
    "ours over the store": lambda setup: M3ConnectRetriever(setup.store, encoder=setup.encoder, rerank=True),
}


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("multi_vector", [False, True], ids=["two legs", "token vectors"])
@pytest.mark.parametrize("name", RETRIEVERS)
async def test_a_query_costs_one_pass_rerank_included(name: str, multi_vector: bool, awaited: bool) -> None:
    setup = Setup(FakeEncoder(), multi_vector=multi_vector or name == "hybrid with token vectors")
    setup.fill()
    engine = setup.engine(RETRIEVERS[name](setup))
    response = await engine.aquery(QUESTION) if awaited else engine.query(QUESTION)
    assert len(response.source_nodes) == 2
    assert times_encoded(setup.encoder, QUESTION) == 1


async def test_reranking_with_stored_token_vectors_encodes_nothing_but_the_query() -> None:
    setup = Setup(FakeEncoder(), multi_vector=True)
    setup.fill()
    retriever = M3ConnectRetriever(setup.vectors, rerank=True)
    found = retriever.retrieve(QUESTION)
    assert setup.encoder.calls == [[QUESTION]]
    plain = Setup(FakeEncoder())
    plain.fill()
    again = M3ConnectRetriever(plain.vectors, rerank=True).retrieve(QUESTION)
    assert [(one.node_id, pytest.approx(one.score)) for one in found] == [(one.node_id, one.score) for one in again]
    assert len(plain.encoder.calls) == 2, "the query, and the candidates in one call"


def add_nodes_to_the_index(setup: Setup) -> None:
    setup.index.insert_nodes(nodes_of())


async def aadd_nodes_to_the_index(setup: Setup) -> None:
    await setup.index.ainsert_nodes(nodes_of())


def build_an_index(setup: Setup) -> None:
    context = StorageContext.from_defaults(vector_store=setup.vectors)
    VectorStoreIndex(nodes_of(), storage_context=context, embed_model=setup.embedding)


def build_an_index_of_documents(setup: Setup) -> None:
    context = StorageContext.from_defaults(vector_store=setup.vectors)
    documents = [Document(id_=name, text=text) for name, text in TEXTS.items()]
    VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=setup.embedding)


def run_a_pipeline(setup: Setup) -> None:
    pipeline = IngestionPipeline(transformations=[setup.embedding], vector_store=setup.vectors)
    pipeline.run(nodes=nodes_of())


async def arun_a_pipeline(setup: Setup) -> None:
    pipeline = IngestionPipeline(transformations=[setup.embedding], vector_store=setup.vectors)
    await pipeline.arun(nodes=nodes_of())


def add_to_the_store(setup: Setup) -> None:
    setup.vectors.add(nodes_of())


async def aadd_to_the_store(setup: Setup) -> None:
    await setup.vectors.async_add(nodes_of())


def embed_both_ways(setup: Setup) -> None:
    setup.embedding.get_text_embedding_batch(list(TEXTS.values()))
    M3ConnectSparseEmbedding(encoder=setup.encoder).get_text_embedding_batch(list(TEXTS.values()))


ADDING = [
    *(add_nodes_to_the_index, aadd_nodes_to_the_index, build_an_index, build_an_index_of_documents, run_a_pipeline),
    *(arun_a_pipeline, add_to_the_store, aadd_to_the_store, embed_both_ways),
]


@pytest.mark.parametrize("multi_vector", [False, True], ids=["two legs", "token vectors"])
@pytest.mark.parametrize("add", ADDING, ids=lambda add: add.__name__)
async def test_an_added_text_costs_one_pass_for_all_legs(add, multi_vector: bool) -> None:
    setup = Setup(FakeEncoder(), multi_vector=multi_vector)
    awaitable = add(setup)
    if awaitable is not None:
        await awaitable
    assert sorted(text for call in setup.encoder.calls for text in call) == sorted(TEXTS.values())
    if add is not embed_both_ways:
        assert setup.store.count() == len(TEXTS)


class LargeEncoder(FakeEncoder):
    """As large as BGE-M3, and fast: words are remembered."""

    def __init__(self) -> None:
        super().__init__(dim=1024)
        self._vector = functools.cache(super()._vector)


@pytest.mark.parametrize("insert_batch_size", [32, 2048])
def test_token_vectors_of_real_size_cost_one_pass_and_do_not_stay(insert_batch_size: int) -> None:
    """200 nodes of 300 tokens: 240 MB of token vectors, of which 64 MB are remembered once they are stored."""
    setup = Setup(LargeEncoder(), multi_vector=True)
    texts = {f"n{i}": f"node{i} " + " ".join(f"word{j % 50}" for j in range(299)) for i in range(200)}
    context = StorageContext.from_defaults(vector_store=setup.vectors)
    VectorStoreIndex(
        nodes_of(texts), storage_context=context, embed_model=setup.embedding, insert_batch_size=insert_batch_size
    )
    assert sum(map(len, setup.encoder.calls)) == len(texts) == setup.store.count()
    passes = setup.embedding.sharing.passes
    assert sum(passes._kept.values()) == passes._bytes <= passes.max_bytes


class BrokenStore(MemoryStore):
    def _perform(self, call):
        if call.method == "write":
            raise OSError("the disk is full")
        return super()._perform(call)


class BrokenEncoder(FakeEncoder):
    """Fails for a text that nobody has embedded before."""

    def encode(self, texts, *, multi_vector=False, max_length=None):
        if "new" in texts:
            raise RuntimeError("out of memory")
        return super().encode(texts, multi_vector=multi_vector, max_length=max_length)


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [("red apple", "disk is full"), ("new", "out of memory"), ("deep sea", "an embedding that the store's encoder")],
    ids=["store", "encoder", "another embedding"],
)
async def test_token_vectors_do_not_stay_where_their_nodes_cannot_be_stored(text, reason, awaited: bool) -> None:
    embedding = M3ConnectEmbedding(encoder=BrokenEncoder(), multi_vector=True)
    vectors = M3ConnectVectorStore(store=BrokenStore(dim=16, multi_vector=True), encoder=embedding)
    node = TextNode(text=text, embedding=embedding.get_text_embedding("red apple"))
    passes = embedding.sharing.passes
    assert passes._limit > passes.max_bytes
    with pytest.raises((OSError, RuntimeError, ValueError), match=reason):
        await vectors.async_add([node]) if awaited else vectors.add([node])
    assert passes._limit == passes.max_bytes


def test_a_memory_of_ones_own_size_can_be_given() -> None:
    counting = FakeEncoder()
    shared = SharedPass(counting, max_bytes=0)
    embedding = M3ConnectEmbedding(encoder=shared)
    store = M3ConnectVectorStore(store=MemoryStore(dim=16), encoder=embedding)
    for node in (nodes := nodes_of({"sea": "blue sea"})):
        node.embedding = embedding.get_text_embedding(node.text)
    store.add(nodes)
    assert times_encoded(counting, "blue sea") == 2, "nothing is remembered where nothing may be"


def test_components_with_the_same_model_share_it() -> None:
    by_name = [kind(model_name="m3-mini") for kind in (M3ConnectEmbedding, M3ConnectSparseEmbedding, M3ConnectRerank)]
    assert len({id(one.sharing) for one in by_name}) == 1
    assert M3ConnectEmbedding(model_name="m3-mini", local_files_only=True).sharing is not by_name[0].sharing
    encoder = FakeEncoder()
    assert M3ConnectEmbedding(encoder=encoder).sharing is not M3ConnectEmbedding(encoder=FakeEncoder()).sharing


# -- the event loop ---------------------------------------------------------------------------------------------------

SCORED = [NodeWithScore(node=node, score=1.0) for node in nodes_of()]
QUERY = QueryBundle(QUESTION)
HYPOTHETICAL = QueryBundle(QUESTION, custom_embedding_strs=["the sea is here"])


def aretrieve(name: str):
    return lambda setup: RETRIEVERS[name](setup).aretrieve(QUESTION)


ASYNC_PATHS = {
    "query embedding": lambda setup: setup.embedding.aget_query_embedding(QUESTION),
    "text embedding": lambda setup: setup.embedding.aget_text_embedding(QUESTION),
    "text embeddings": lambda setup: setup.embedding.aget_text_embedding_batch(list(TEXTS.values())),
    "aggregated embedding": lambda setup: setup.embedding.aget_agg_embedding_from_queries([QUESTION, "sea"]),
    "transformation": lambda setup: setup.embedding.acall(nodes_of()),
    "sparse query": lambda setup: M3ConnectSparseEmbedding(encoder=setup.encoder).aget_query_embedding(QUESTION),
    "sparse text": lambda setup: M3ConnectSparseEmbedding(encoder=setup.encoder).aget_text_embedding(QUESTION),
    "sparse texts": lambda setup: M3ConnectSparseEmbedding(encoder=setup.encoder).aget_text_embedding_batch(["a", "b"]),
    "rerank": lambda setup: M3ConnectRerank(encoder=setup.encoder).apostprocess_nodes(SCORED, QUERY),
    "query engine": lambda setup: setup.engine(setup.retriever("hybrid")).aquery(QUESTION),
    "async_add": aadd_to_the_store,
    "ainsert_nodes": aadd_nodes_to_the_index,
    "pipeline": arun_a_pipeline,
    **{
        f"aquery {mode}": lambda setup, mode=mode: setup.vectors.aquery(VectorStoreQuery(query_str=QUESTION, mode=mode))
        for mode in ("default", "sparse", "hybrid", "mmr")
    },
    **{name: aretrieve(name) for name in RETRIEVERS if name != "hybrid with token vectors"},
    "ours with texts of a transformation": lambda setup: M3ConnectRetriever(setup.vectors).aretrieve(HYPOTHETICAL),
}


@pytest.mark.parametrize("multi_vector", [False, True], ids=["two legs", "token vectors"])
@pytest.mark.parametrize("awaited", [False, True], ids=["store", "awaited store"])
@pytest.mark.parametrize("path", ASYNC_PATHS)
async def test_model_and_database_never_run_in_the_loops_thread(path: str, awaited: bool, multi_vector: bool) -> None:
    """Every call waits for what only another coroutine does; a blocked loop would let it wait in vain."""
    setup = Setup(WaitingEncoder(), multi_vector=multi_vector, awaited=awaited)
    setup.fill()
    setup.store.gate = setup.encoder.gate
    await setup.encoder.gate.release_during(ASYNC_PATHS[path](setup))
    assert setup.encoder.gate.passed >= len(setup.encoder.calls) > 0
    texts = [text for call in setup.encoder.calls for text in call]
    assert len(texts) == len(set(texts)), "one pass a text, awaited too"


STORE_PATHS = {
    "add": lambda vectors: vectors.async_add(nodes_of()),
    "delete": lambda vectors: vectors.adelete("doc"),
    "delete nodes": lambda vectors: vectors.adelete_nodes(["sea"]),
    "get nodes": lambda vectors: vectors.aget_nodes(),
    "get nodes by id": lambda vectors: vectors.aget_nodes(["sea"]),
    "clear": lambda vectors: vectors.aclear(),
    "query": lambda vectors: vectors.aquery(VectorStoreQuery(query_str=QUESTION, mode="hybrid")),
    "query of documents": lambda vectors: vectors.aquery(VectorStoreQuery(query_str=QUESTION, doc_ids=["doc"])),
}


@pytest.mark.parametrize("path", STORE_PATHS)
async def test_the_event_loop_goes_on_while_the_database_works(path: str) -> None:
    store, gate = WaitingStore(), Gate()
    vectors = M3ConnectVectorStore(store=store, encoder=FakeEncoder())
    vectors.add(nodes_of())
    ingest(FakeEncoder(), store, [StoredDocument("a", "blue sea", parent_id="doc")])
    store.gate = gate
    await gate.release_during(STORE_PATHS[path](vectors))
    assert gate.passed


async def test_what_takes_its_time_is_computed_in_a_thread() -> None:
    performer = Performer(MemoryStore(dim=16), None)
    assert await performer.aperform(compute(threading.current_thread)) is not threading.main_thread()


class Witness(TextNode):
    """A node that tells in which threads its text is put together."""

    threads: ClassVar[set[threading.Thread]] = set()

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        self.threads.add(threading.current_thread())
        return super().get_content(metadata_mode)


async def test_nodes_become_documents_in_a_thread() -> None:
    Witness.threads.clear()
    await Setup(FakeEncoder()).vectors.async_add([Witness(text="blue sea")])
    assert Witness.threads
    assert threading.main_thread() not in Witness.threads


@pytest.fixture(params=ASYNC)
def native(request, tmp_path) -> Iterator[Any]:
    backend = make_backend(request.param, tmp_path)
    yield backend
    backend.close()


def test_a_native_async_store_does_all_that_a_sync_one_does(native) -> None:
    """The store is awaited in the loop that its client belongs to, and its answers are those of MemoryStore."""
    awaited, sync = (Setup(FakeEncoder(), store=store) for store in (native.open().inner, MemoryStore(dim=16)))
    nodes = [*nodes_of(TEXTS, source="doc", lang="en"), *nodes_of({"de": "ein blaues Meer"}, lang="de")]
    german = MetadataFilters(filters=[MetadataFilter(key="lang", value="de")])

    async def use(setup: Setup) -> list[Any]:
        vectors, seen = setup.vectors, []
        await setup.index.ainsert_nodes(nodes)
        for name in sorted(RETRIEVERS.keys() - {"hybrid with token vectors"}):
            found = await RETRIEVERS[name](setup).aretrieve(QUESTION)
            seen.append((name, [(one.node_id, pytest.approx(one.score, abs=1e-4)) for one in found]))
        seen.append([node.node_id for node in await vectors.aget_nodes(["sea", "nowhere"])])
        seen.append([node.node_id for node in await vectors.aget_nodes(filters=german)])
        seen.append((await vectors.aquery(VectorStoreQuery(query_str="sea", doc_ids=["doc"], similarity_top_k=9))).ids)
        await vectors.adelete_nodes(["sea"])
        seen.append(sorted(node.node_id for node in await vectors.aget_nodes()))
        elsewhere = [StoredDocument("a", "blue sea", parent_id="book")]
        embeddings = setup.encoder.encode(["blue sea"])
        stored = setup.store.upsert(elsewhere, embeddings)
        if stored is not None:
            await stored
        await vectors.adelete("book")
        await vectors.adelete("doc")
        seen.append(sorted(node.node_id for node in await vectors.aget_nodes()))
        await vectors.aclear()
        seen.append(await vectors.aget_nodes())
        return seen

    assert native.loop.run(use(awaited)) == asyncio.run(use(sync))
    with pytest.raises(ValueError, match="can only be awaited"):
        awaited.vectors.query(VectorStoreQuery(query_str="sea"))


def test_ids_are_what_a_retriever_finds() -> None:
    setup = Setup(FakeEncoder())
    setup.fill()
    assert set(ids(setup.retriever("sparse").retrieve("blue sea"))) == {"sea", "ship"}
