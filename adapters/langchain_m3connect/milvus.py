"""A bridge: M3's sparse weights for langchain-milvus's own `Milvus`."""

from __future__ import annotations

import asyncio

from langchain_m3connect.embeddings import M3ConnectEmbeddings, require_ours

try:
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
except ImportError as error:
    raise ImportError("langchain_m3connect.milvus needs langchain-milvus: pip install langchain-milvus") from error

__all__ = ["M3ConnectMilvusSparse"]


class M3ConnectMilvusSparse(BaseSparseEmbedding):
    """The sparse side of `Milvus(embedding_function=[dense, M3ConnectMilvusSparse(dense)], ...)`.

    Args:
        embedding: the dense side; what one of the two has asked for, the other gets from the same forward pass.

    Raises:
        ValueError: the embedding is another one, which makes no sparse weights.
    """

    def __init__(self, embedding: M3ConnectEmbeddings) -> None:
        self._embedding = require_ours(embedding)

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Return one row of weights a text."""
        return self._embedding.encode(texts).sparse.to_dicts()

    async def aembed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """See `embed_documents`."""
        return await asyncio.to_thread((await self._embedding.aencode(texts)).sparse.to_dicts)

    def embed_query(self, query: str) -> dict[int, float]:
        """Return the weights of a question."""
        return self._embedding.encode_query(query).sparse.to_dicts()[0]

    async def aembed_query(self, query: str) -> dict[int, float]:
        """See `embed_query`."""
        return (await self._embedding.aencode_query(query)).sparse.to_dicts()[0]
