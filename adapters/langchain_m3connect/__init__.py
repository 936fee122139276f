"""M3-Embedding in LangChain: one forward pass gives dense, sparse and multi-vectors, and hybrid search uses them all.

from langchain_m3connect import M3ConnectEmbeddings, M3ConnectRetriever, M3ConnectVectorStore
vectorstore = M3ConnectVectorStore(store=store, embedding=M3ConnectEmbeddings(model="BAAI/bge-m3"))
retriever = M3ConnectRetriever(vectorstore=vectorstore, rerank=True)

The bridges for langchain-qdrant and langchain-milvus are modules of their own, `langchain_m3connect.qdrant` and
`langchain_m3connect.milvus`.
"""

from __future__ import annotations

try:
    import langchain_core  # noqa: F401  # here, so that its absence is told once and says what to install
except ImportError as error:
    raise ImportError('langchain_m3connect needs langchain-core: pip install "m3connect[langchain]"') from error

from langchain_m3connect.embeddings import M3ConnectEmbeddings
from langchain_m3connect.reranker import M3ConnectReranker
from langchain_m3connect.retriever import M3ConnectRetriever
from langchain_m3connect.vectorstore import M3ConnectVectorStore

__all__ = ["M3ConnectEmbeddings", "M3ConnectReranker", "M3ConnectRetriever", "M3ConnectVectorStore"]
