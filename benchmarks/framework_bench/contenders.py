"""Our classes, and the frameworks' own stores as their users wire them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import m3connect
from framework_bench.encoders import Counting
from m3connect.opening import open_store
from m3connect.store import Encoder

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

BATCH, TOP_K = 256, 10


@dataclass(frozen=True, slots=True)
class Contender:
    """A new, empty collection behind a framework."""

    add: Callable[[list[str], list[str]], object]
    """Takes texts and their ids."""

    search: Callable[[str], list[str]]
    """Returns the texts of the best ten, by both legs."""

    finish: Callable[[], object] = int
    """Ends a load: without a flush Milvus Lite compares row by row."""


@dataclass(slots=True)
class Opening:
    """What a contender is made of."""

    encoder: Counting
    folder: Path
    resources: ExitStack


def in_langchain(store: VectorStore) -> Contender:
    """Drive a vector store as its user does."""
    return Contender(
        add=lambda texts, ids: store.add_texts(texts, ids=ids, batch_size=BATCH),
        search=lambda question: [document.page_content for document in store.similarity_search(question, k=TOP_K)],
    )


def in_llama_index(store: BasePydanticVectorStore, embedding: BaseEmbedding) -> Contender:
    """Drive an index over a vector store as its user does."""
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=TOP_K, sparse_top_k=TOP_K)

    def add(texts: list[str], ids: list[str]) -> None:
        index.insert_nodes([TextNode(id_=name, text=text) for name, text in zip(ids, texts, strict=True)])

    return Contender(add, lambda question: [found.node.get_content() for found in retriever.retrieve(question)])


def open_ours(spec: str, opening: Opening) -> m3connect.HybridStore:
    """Open a store of m3connect's."""
    spec = spec.format(folder=opening.folder)
    return opening.resources.enter_context(open_store(spec, "docs", dim=opening.encoder.dim))


def ours_in_langchain(spec: str, opening: Opening) -> Contender:
    """Our LangChain class, over Qdrant or Milvus."""
    from langchain_m3connect import M3ConnectEmbeddings, M3ConnectVectorStore

    embeddings = M3ConnectEmbeddings(encoder=opening.encoder)
    store = open_ours(spec, opening)
    vectors = M3ConnectVectorStore(store=store, embedding=embeddings, candidates=TOP_K)
    return replace(in_langchain(vectors), finish=store.flush)


def ours_in_llama_index(opening: Opening) -> Contender:
    """Our LlamaIndex class, over Qdrant."""
    from llama_index_m3connect import M3ConnectEmbedding, M3ConnectVectorStore

    embedding = M3ConnectEmbedding(encoder=opening.encoder)
    return in_llama_index(
        M3ConnectVectorStore(store=open_ours("qdrant::memory:", opening), encoder=embedding), embedding
    )


def langchain_dense(encoder: Encoder) -> Embeddings:
    """What a user writes today: the dense half of the encoder."""
    from langchain_core.embeddings import Embeddings

    class Dense(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            rows: list[list[float]] = encoder.encode(texts).dense.tolist()
            return rows

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return Dense()


def langchain_qdrant(opening: Opening, *, bridged: bool) -> Contender:
    """langchain-qdrant, with two objects that do not know of each other, or with our bridge."""
    from langchain_m3connect import M3ConnectEmbeddings
    from langchain_m3connect.qdrant import M3ConnectQdrantSparse
    from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
    from langchain_qdrant.sparse_embeddings import SparseVector
    from qdrant_client import QdrantClient, models

    encoder = opening.encoder

    class Sparse(SparseEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[SparseVector]:
            rows = encoder.encode(texts).sparse.to_dicts()
            return [SparseVector(indices=list(row), values=list(row.values())) for row in rows]

        def embed_query(self, text: str) -> SparseVector:
            return self.embed_documents([text])[0]

    shared = M3ConnectEmbeddings(encoder=encoder)
    client = QdrantClient(":memory:")
    opening.resources.callback(client.close)
    client.create_collection(
        "docs",
        vectors_config={"dense": models.VectorParams(size=encoder.dim, distance=models.Distance.COSINE)},
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
    )
    store = QdrantVectorStore(
        client,
        "docs",
        embedding=shared if bridged else langchain_dense(encoder),
        sparse_embedding=M3ConnectQdrantSparse(shared) if bridged else Sparse(),
        retrieval_mode=RetrievalMode.HYBRID,
        vector_name="dense",
        sparse_vector_name="sparse",
    )
    return in_langchain(store)


def langchain_milvus(opening: Opening, *, bridged: bool) -> Contender:
    """langchain-milvus, likewise; index and search parameters are those of m3connect, since Lite refuses its own."""
    from langchain_m3connect import M3ConnectEmbeddings
    from langchain_m3connect.milvus import M3ConnectMilvusSparse
    from langchain_milvus import Milvus
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
    from milvus_lite.server_manager import server_manager_instance

    encoder = opening.encoder

    class Sparse(BaseSparseEmbedding):
        def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
            return encoder.encode(texts).sparse.to_dicts()

        def embed_query(self, query: str) -> dict[int, float]:
            return self.embed_documents([query])[0]

    shared = M3ConnectEmbeddings(encoder=encoder)
    path = str(opening.folder / f"{'bridged' if bridged else 'plain'}.db")
    store = Milvus(
        [shared, M3ConnectMilvusSparse(shared)] if bridged else [langchain_dense(encoder), Sparse()],
        collection_name="docs",
        connection_args={"uri": path},
        index_params=[
            {"index_type": "FLAT", "metric_type": "IP"},
            {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"},
        ],
        search_params=[{"metric_type": "IP"}] * 2,
        vector_field=["dense", "sparse"],
        consistency_level="Strong",
        auto_id=False,
    )
    opening.resources.callback(server_manager_instance.release_server, path)
    opening.resources.callback(store.client.close)

    def search(question: str) -> list[str]:
        found = store.similarity_search(question, k=TOP_K, fetch_k=TOP_K, ranker_type="rrf", ranker_params={"k": 60})
        return [document.page_content for document in found]

    return Contender(in_langchain(store).add, search, finish=lambda: store.client.flush("docs"))


def llama_index_qdrant(opening: Opening, *, bridged: bool) -> Contender:
    """LlamaIndex's Qdrant store, with an embedding and functions that do not know of each other, or with ours."""
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from llama_index_m3connect import M3ConnectEmbedding, M3ConnectSparseEmbedding
    from qdrant_client import QdrantClient

    encoder = opening.encoder

    class Dense(BaseEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            rows: list[list[float]] = encoder.encode(texts).dense.tolist()
            return rows

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    def weights(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        rows = ours.get_text_embedding_batch(texts) if bridged else encoder.encode(texts).sparse.to_dicts()
        return [list(row) for row in rows], [list(row.values()) for row in rows]

    ours = M3ConnectSparseEmbedding(encoder=encoder)
    embedding = M3ConnectEmbedding(encoder=encoder) if bridged else Dense(embed_batch_size=BATCH)
    client = QdrantClient(":memory:")
    opening.resources.callback(client.close)
    store = QdrantVectorStore(
        "docs", client=client, enable_hybrid=True, sparse_doc_fn=weights, sparse_query_fn=weights, batch_size=BATCH
    )
    return in_llama_index(store, embedding)


@dataclass(frozen=True, slots=True)
class Group:
    """A framework over a database: our class, and the framework's own."""

    name: str
    needs: tuple[str, ...]
    ours: Callable[[Opening], Contender]
    peer: str
    """What to install to compare with."""

    theirs: Callable[..., Contender]


GROUPS = (
    Group(
        "LangChain, Qdrant",
        ("langchain-core", "qdrant-client"),
        partial(ours_in_langchain, "qdrant::memory:"),
        "langchain-qdrant",
        langchain_qdrant,
    ),
    Group(
        "LangChain, Milvus Lite",
        ("langchain-core", "pymilvus", "milvus-lite"),
        partial(ours_in_langchain, "milvus:{folder}/ours.db"),
        "langchain-milvus",
        langchain_milvus,
    ),
    Group(
        "LlamaIndex, Qdrant",
        ("llama-index-core", "qdrant-client"),
        ours_in_llama_index,
        "llama-index-vector-stores-qdrant",
        llama_index_qdrant,
    ),
)
