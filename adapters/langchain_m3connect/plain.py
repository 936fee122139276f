"""Embeddings of any other LangChain integration as the dense leg of a store."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.embeddings import Embeddings

from m3connect import M3Embeddings, SparseRows
from m3connect.embeddings import unit_rows

__all__ = ["PlainEncoding", "from_vectors"]


class PlainEncoding:
    """A LangChain `Embeddings` seen as one of ours: its sparse rows are empty, and it has no token vectors."""

    def __init__(self, embedding: Embeddings) -> None:
        self._embedding = embedding

    def encode(self, texts: list[str], *, multi_vector: bool = False) -> M3Embeddings:
        """Return the dense view of texts."""
        return from_vectors(self._embedding.embed_documents(texts) if texts else [])

    async def aencode(self, texts: list[str], *, multi_vector: bool = False) -> M3Embeddings:
        """See `encode`."""
        return from_vectors(await self._embedding.aembed_documents(texts) if texts else [])

    def encode_query(self, text: str) -> M3Embeddings:
        """Return the dense view of a question."""
        return from_vectors([self._embedding.embed_query(text)])

    async def aencode_query(self, text: str) -> M3Embeddings:
        """See `encode_query`."""
        return from_vectors([await self._embedding.aembed_query(text)])

    def dimension(self) -> int:
        """Embed a word to see how long its vector is: `Embeddings` has no other way to tell."""
        return len(self._embedding.embed_query("dimension"))

    async def adimension(self) -> int:
        """See `dimension`."""
        return len(await self._embedding.aembed_query("dimension"))


def from_vectors(vectors: Sequence[Sequence[float]]) -> M3Embeddings:
    """Return vectors as a batch of unit rows, so that their inner product is the cosine."""
    return M3Embeddings(unit_rows(vectors), SparseRows.empty(len(vectors)))
