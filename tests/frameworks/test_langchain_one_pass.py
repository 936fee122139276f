"""A question costs one forward pass, and an added text one, whatever path it takes."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_helpers import TEXTS, filled, ids_of, texts_encoded
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectReranker, M3ConnectRetriever, M3ConnectVectorStore
from langchain_paths import ENCODING_PATHS

from m3connect import Dense, MemoryStore, Sparse, Weighted
from m3connect.testing import FakeEncoder

QUESTION = "which sea is blue"

SEARCHES = {
    "similarity_search": lambda v: v.similarity_search(QUESTION),
    "dense alone": lambda v: v.similarity_search(QUESTION, fusion=Dense()),
    "sparse alone": lambda v: v.similarity_search(QUESTION, fusion=Sparse()),
    "with token vectors": lambda v: v.similarity_search(QUESTION, fusion=Weighted(multi_vector=1)),
    "similarity_search_with_score": lambda v: v.similarity_search_with_score(QUESTION),
    "relevance": lambda v: v.similarity_search_with_relevance_scores(QUESTION),
    "max_marginal_relevance_search": lambda v: v.max_marginal_relevance_search(QUESTION),
    "as_retriever": lambda v: v.as_retriever().invoke(QUESTION),
    "as_retriever, mmr": lambda v: v.as_retriever(search_type="mmr").invoke(QUESTION),
    "retriever": lambda v: M3ConnectRetriever(vectorstore=v).invoke(QUESTION),
    "retriever, reranking": lambda v: M3ConnectRetriever(vectorstore=v, rerank=True).invoke(QUESTION),
    "retriever, with scores": lambda v: M3ConnectRetriever(vectorstore=v, scores_key="scores").invoke(QUESTION),
}


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_question_costs_one_pass(name, encoder):
    vectorstore = filled(MemoryStore(dim=16, multi_vector=True), encoder=encoder)
    encoder.calls.clear()
    assert SEARCHES[name](vectorstore)
    assert encoder.calls == [[QUESTION]]


@pytest.mark.parametrize("name", ENCODING_PATHS)
async def test_a_coroutine_has_each_text_encoded_once(name, encoder):
    shares = name.startswith("bridge") or name == "retriever, then reranker"  # two objects, one memory
    filled(store := MemoryStore(dim=16))
    embeddings = M3ConnectEmbeddings(encoder=encoder, **({} if shares else {"max_bytes": 0}))
    await ENCODING_PATHS[name](M3ConnectVectorStore(store=store, embedding=embeddings))
    passes = texts_encoded(encoder)
    assert passes
    assert passes == dict.fromkeys(passes, 1)


def test_reranking_without_stored_token_vectors_encodes_the_question_and_each_candidate_once(encoder):
    retriever = M3ConnectRetriever(vectorstore=filled(encoder=encoder), rerank=True)
    encoder.calls.clear()
    retriever.invoke(QUESTION)
    assert texts_encoded(encoder) == dict.fromkeys([QUESTION, *TEXTS.values()], 1)


@pytest.mark.parametrize("multi_vector", [False, True])
def test_an_added_text_costs_one_pass_for_all_legs(multi_vector, encoder):
    embeddings = M3ConnectEmbeddings(encoder=encoder)
    vectorstore = M3ConnectVectorStore(store=MemoryStore(dim=16, multi_vector=multi_vector), embedding=embeddings)
    vectorstore.add_texts(["a", "b"])
    vectorstore.add_documents([Document(page_content="c")])
    M3ConnectVectorStore.from_texts(["d"], embeddings)
    M3ConnectVectorStore.from_documents([Document(page_content="e")], embeddings)
    manager = InMemoryRecordManager("documents")
    manager.create_schema()
    index([Document(page_content="f")], manager, vectorstore, cleanup="full", key_encoder="sha256")
    assert texts_encoded(encoder) == dict.fromkeys("abcdef", 1)


def test_as_much_is_remembered_as_max_bytes_allows(encoder):
    for max_bytes, passes in ((64 * 2**20, 1), (0, 2)):
        encoder.calls.clear()
        embeddings = M3ConnectEmbeddings(encoder=encoder, max_bytes=max_bytes)
        assert embeddings.embed_query("red") == embeddings.embed_query("red")
        assert len(encoder.calls) == passes


def test_only_as_many_hits_are_reranked_as_depth_says(encoder):
    retriever = M3ConnectRetriever(vectorstore=filled(encoder=encoder), rerank=True, depth=2)
    encoder.calls.clear()
    retriever.invoke(QUESTION, k=1)
    assert texts_encoded(encoder) == dict.fromkeys([QUESTION, TEXTS["sea"], TEXTS["sky"]], 1)


def test_a_reranker_after_a_retriever_shares_its_pass(encoder):
    compression = pytest.importorskip("langchain_classic.retrievers").ContextualCompressionRetriever
    vectorstore = filled(MemoryStore(dim=16, multi_vector=True), encoder=encoder)
    encoder.calls.clear()
    reranker = M3ConnectReranker(embedding=vectorstore.embeddings, top_n=2)
    retriever = compression(base_compressor=reranker, base_retriever=vectorstore.as_retriever())
    assert ids_of(retriever.invoke(QUESTION)) == ["sea", "sky"]
    assert texts_encoded(encoder)[QUESTION] == 1
    assert max(texts_encoded(encoder).values()) == 1


def test_two_retrievers_of_one_embedding_share_a_pass(encoder):
    ensemble = pytest.importorskip("langchain_classic.retrievers").EnsembleRetriever
    vectorstore = filled(encoder=encoder)
    encoder.calls.clear()
    dense = M3ConnectRetriever(vectorstore=vectorstore, fusion=Dense())
    sparse = M3ConnectRetriever(vectorstore=vectorstore, fusion=Sparse())
    assert ids_of(ensemble(retrievers=[dense, sparse], weights=[0.5, 0.5]).invoke(QUESTION))
    assert encoder.calls == [[QUESTION]]


@pytest.fixture
def qdrant_classes():
    pytest.importorskip("langchain_qdrant")
    from langchain_m3connect.qdrant import M3ConnectQdrantSparse
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

    return QdrantVectorStore, RetrievalMode, M3ConnectQdrantSparse


def test_langchain_qdrant_with_the_bridge_costs_one_pass_a_text(qdrant_classes, encoder):
    vectorstore_class, mode, sparse_class = qdrant_classes
    dense = M3ConnectEmbeddings(encoder=encoder)
    theirs = vectorstore_class.from_texts(
        list(TEXTS.values()),
        embedding=dense,
        sparse_embedding=sparse_class(dense),
        retrieval_mode=mode.HYBRID,
        location=":memory:",
        collection_name="docs",
    )
    theirs.add_texts(["pale moon"])
    passes = texts_encoded(encoder)
    assert passes.pop("dummy_text") == 1  # how it learns the dimension
    assert passes == dict.fromkeys([*TEXTS.values(), "pale moon"], 1)
    encoder.calls.clear()
    assert theirs.similarity_search("blue deep sea", k=1)[0].page_content == "deep blue sea"
    assert encoder.calls == [["blue deep sea"]]
    theirs.client.close()


async def test_the_bridge_to_langchain_qdrant_gives_the_encoder_s_weights(qdrant_classes):
    dense = M3ConnectEmbeddings(encoder=FakeEncoder())
    sparse = qdrant_classes[2](dense)
    wanted = FakeEncoder().encode(["red apple", ""]).sparse.to_dicts()
    for rows in (sparse.embed_documents(["red apple", ""]), await sparse.aembed_documents(["red apple", ""])):
        assert [dict(zip(row.indices, row.values, strict=True)) for row in rows] == wanted
    for row in (sparse.embed_query("red apple"), await sparse.aembed_query("red apple")):
        assert dict(zip(row.indices, row.values, strict=True)) == wanted[0]


def test_the_bridge_to_langchain_qdrant_refuses_an_embedding_without_weights(qdrant_classes):
    for other in (DeterministicFakeEmbedding(size=6), FakeEncoder()):
        with pytest.raises(ValueError, match=f"expected M3ConnectEmbeddings.* but got {type(other).__name__}"):
            qdrant_classes[2](other)


@pytest.fixture
def milvus_classes(tmp_path):
    pytest.importorskip("milvus_lite")
    pytest.importorskip("langchain_milvus")
    from langchain_m3connect.milvus import M3ConnectMilvusSparse
    from langchain_milvus import Milvus
    from milvus_lite.server_manager import server_manager_instance

    logging.disable(logging.ERROR)  # langchain-milvus asks Lite for what it does not have, and it says so
    path = str(tmp_path / "theirs.db")
    yield Milvus, M3ConnectMilvusSparse, path
    server_manager_instance.release_server(path)
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore:The 'ranker_type':DeprecationWarning")  # langchain-milvus warns of its own default
def test_langchain_milvus_with_the_bridge_costs_one_pass_a_text(milvus_classes, encoder):
    vectorstore_class, sparse_class, path = milvus_classes
    dense = M3ConnectEmbeddings(encoder=encoder)
    theirs = vectorstore_class.from_texts(
        list(TEXTS.values()),
        [dense, sparse_class(dense)],
        vector_field=["dense", "sparse"],
        connection_args={"uri": path},
        consistency_level="Strong",
        index_params=[
            {"metric_type": "IP", "index_type": "FLAT"},
            {"metric_type": "IP", "index_type": "SPARSE_INVERTED_INDEX"},
        ],
        search_params=[{"metric_type": "IP"}, {"metric_type": "IP"}],  # Lite refuses those that it would choose
    )
    theirs.add_texts(["pale moon"])
    assert texts_encoded(encoder) == dict.fromkeys([*TEXTS.values(), "pale moon"], 1)
    encoder.calls.clear()
    assert theirs.similarity_search("blue deep sea", k=1)[0].page_content == "deep blue sea"
    assert encoder.calls == [["blue deep sea"]]
    theirs.client.close()


async def test_the_bridge_to_langchain_milvus_gives_the_encoder_s_weights(milvus_classes):
    sparse = milvus_classes[1](M3ConnectEmbeddings(encoder=FakeEncoder()))
    wanted = FakeEncoder().encode(["red apple", ""]).sparse.to_dicts()
    assert sparse.embed_documents(["red apple", ""]) == wanted
    assert await sparse.aembed_documents(["red apple", ""]) == wanted
    assert sparse.embed_query("red apple") == await sparse.aembed_query("red apple") == wanted[0]


def test_the_bridge_to_langchain_milvus_refuses_an_embedding_without_weights(milvus_classes):
    for other in (DeterministicFakeEmbedding(size=6), FakeEncoder()):
        with pytest.raises(ValueError, match=f"expected M3ConnectEmbeddings.* but got {type(other).__name__}"):
            milvus_classes[1](other)
