"""Every async path of the LangChain classes, for the tests that hold for all of them."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex
from langchain_m3connect import M3ConnectReranker, M3ConnectRetriever, M3ConnectVectorStore

from m3connect.testing import FakeEncoder

VECTOR = FakeEncoder().encode(["blue sea"]).dense[0].tolist()
DOCUMENTS = [Document(page_content="pale moon", id="moon")]


async def stream(vectorstore):
    return [event["event"] async for event in M3ConnectRetriever(vectorstore=vectorstore).astream_events("sea")]


async def index_into(vectorstore):
    manager = InMemoryRecordManager("documents")
    manager.create_schema()
    return await aindex(DOCUMENTS, manager, vectorstore, cleanup="full", key_encoder="sha256")


async def compress(vectorstore):
    return await M3ConnectReranker(embedding=vectorstore.embeddings).acompress_documents(DOCUMENTS, "moon")


async def run_reranker(vectorstore):
    given = {"documents": DOCUMENTS, "query": "moon"}
    return await M3ConnectReranker(embedding=vectorstore.embeddings).as_runnable().ainvoke(given)


async def compress_what_is_found(vectorstore):
    compression = pytest.importorskip("langchain_classic.retrievers").ContextualCompressionRetriever
    reranker = M3ConnectReranker(embedding=vectorstore.embeddings)
    return await compression(base_compressor=reranker, base_retriever=vectorstore.as_retriever()).ainvoke("new")


async def both_sides(dense, sparse):
    await dense.aembed_documents(["old"])
    await dense.aembed_query("new")
    return await sparse.aembed_documents(["old"]), await sparse.aembed_query("new")


async def bridge_to_qdrant(vectorstore):
    pytest.importorskip("langchain_qdrant")
    from langchain_m3connect.qdrant import M3ConnectQdrantSparse

    return await both_sides(vectorstore.embeddings, M3ConnectQdrantSparse(vectorstore.embeddings))


async def bridge_to_milvus(vectorstore):
    pytest.importorskip("langchain_milvus")
    from langchain_m3connect.milvus import M3ConnectMilvusSparse

    return await both_sides(vectorstore.embeddings, M3ConnectMilvusSparse(vectorstore.embeddings))


ENCODING_PATHS = {
    "aembed_documents": lambda v: v.embeddings.aembed_documents(["new"]),
    "aembed_query": lambda v: v.embeddings.aembed_query("new"),
    "aadd_texts": lambda v: v.aadd_texts(["new"]),
    "aadd_documents": lambda v: v.aadd_documents(DOCUMENTS),
    "asimilarity_search": lambda v: v.asimilarity_search("new"),
    "asimilarity_search_with_score": lambda v: v.asimilarity_search_with_score("new"),
    "asimilarity_search_with_relevance_scores": lambda v: v.asimilarity_search_with_relevance_scores("new"),
    "amax_marginal_relevance_search": lambda v: v.amax_marginal_relevance_search("new"),
    "asearch": lambda v: v.asearch("new", "similarity"),
    "afrom_texts": lambda v: M3ConnectVectorStore.afrom_texts(["new"], v.embeddings),
    "afrom_documents": lambda v: M3ConnectVectorStore.afrom_documents(DOCUMENTS, v.embeddings),
    "as_retriever": lambda v: v.as_retriever().ainvoke("new"),
    "retriever": lambda v: M3ConnectRetriever(vectorstore=v).ainvoke("new"),
    "retriever, reranking": lambda v: M3ConnectRetriever(vectorstore=v, rerank=True).ainvoke("new"),
    "retriever, abatch": lambda v: M3ConnectRetriever(vectorstore=v).abatch(["new", "newer"]),
    "retriever, astream_events": stream,
    "reranker": compress,
    "reranker as a runnable": run_reranker,
    "retriever, then reranker": compress_what_is_found,
    "aindex": index_into,
    "bridge to langchain-qdrant": bridge_to_qdrant,
    "bridge to langchain-milvus": bridge_to_milvus,
}

STORE_PATHS = {
    name: path
    for name, path in ENCODING_PATHS.items()
    if not name.startswith(("aembed", "reranker", "afrom", "bridge"))  # have no store, or one of their own
} | {
    "adelete": lambda v: v.adelete(["sea"]),
    "aget_by_ids": lambda v: v.aget_by_ids(["sea"]),
    "asimilarity_search_by_vector": lambda v: v.asimilarity_search_by_vector(VECTOR),
    "amax_marginal_relevance_search_by_vector": lambda v: v.amax_marginal_relevance_search_by_vector(VECTOR),
}
