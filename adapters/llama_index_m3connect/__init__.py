"""M3-Embedding for LlamaIndex: dense, sparse and token vectors from one forward pass, in any store of m3connect."""

from __future__ import annotations

try:
    import llama_index.core  # noqa: F401  # asked here, once, so that its absence has one message
except ModuleNotFoundError as error:
    raise ImportError('llama_index_m3connect needs llama-index-core: pip install "m3connect[llama-index]"') from error

from llama_index_m3connect.embedding import M3ConnectEmbedding
from llama_index_m3connect.rerank import M3ConnectRerank
from llama_index_m3connect.retriever import M3ConnectRetriever
from llama_index_m3connect.sparse_embedding import M3ConnectSparseEmbedding
from llama_index_m3connect.vector_store import M3ConnectVectorStore

__all__ = [
    "M3ConnectEmbedding",
    "M3ConnectRerank",
    "M3ConnectRetriever",
    "M3ConnectSparseEmbedding",
    "M3ConnectVectorStore",
]
