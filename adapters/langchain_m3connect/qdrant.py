"""A bridge: M3's sparse weights for langchain-qdrant's own `QdrantVectorStore`."""

from __future__ import annotations

import asyncio

from langchain_m3connect.embeddings import M3ConnectEmbeddings, require_ours
from m3connect import SparseRows

try:
    from langchain_qdrant import SparseEmbeddings
    from langchain_qdrant.sparse_embeddings import SparseVector
except ImportError as error:
    raise ImportError("langchain_m3connect.qdrant needs langchain-qdrant: pip install langchain-qdrant") from error

__all__ = ["M3ConnectQdrantSparse"]


class M3ConnectQdrantSparse(SparseEmbeddings):
    """The sparse side of `QdrantVectorStore(embedding=dense, sparse_embedding=M3ConnectQdrantSparse(dense), ...)`.

    Args:
        embedding: the dense side; what one of the two has asked for, the other gets from the same forward pass.

    Raises:
        ValueError: the embedding is another one, which makes no sparse weights.
    """

    def __init__(self, embedding: M3ConnectEmbeddings) -> None:
        self._embedding = require_ours(embedding)

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Return one row of weights a text."""
        return _vectors(self._embedding.encode(texts).sparse)

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """See `embed_documents`."""
        return await asyncio.to_thread(_vectors, (await self._embedding.aencode(texts)).sparse)

    def embed_query(self, text: str) -> SparseVector:
        """Return the weights of a question."""
        return _vectors(self._embedding.encode_query(text).sparse)[0]

    async def aembed_query(self, text: str) -> SparseVector:
        """See `embed_query`."""
        return _vectors((await self._embedding.aencode_query(text)).sparse)[0]


def _vectors(rows: SparseRows) -> list[SparseVector]:
    return [SparseVector(indices=list(row), values=list(row.values())) for row in rows.to_dicts()]
