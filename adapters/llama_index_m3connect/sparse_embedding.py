"""`M3ConnectSparseEmbedding`: the sparse view as LlamaIndex's sparse embedding."""

from __future__ import annotations

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding, SparseEmbedding
from pydantic import Field

from llama_index_m3connect.model import ModelSettings

__all__ = ["M3ConnectSparseEmbedding"]


class M3ConnectSparseEmbedding(ModelSettings, BaseSparseEmbedding):
    """Lexical weights of M3 by token id. With the same model as an `M3ConnectEmbedding` both cost one pass together.

    M3 compares sparse rows by their inner product; `similarity`, which is LlamaIndex's, takes the cosine.

    Args:
        model_name: what `M3Encoder.from_pretrained` takes; loaded at the first text.
        encoder: an encoder that is there already, instead of a name.
        max_length: read at most this many tokens of a text.
        embed_batch_size: texts a call.

    Example:
        >>> weights = M3ConnectSparseEmbedding(model_name="m3-mini").get_query_embedding("honey")
        >>> all(isinstance(token, int) and weight > 0 for token, weight in weights.items())
        True
    """

    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts a call.")

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes into its files."""
        return "M3ConnectSparseEmbedding"

    def _get_query_embedding(self, query: str) -> SparseEmbedding:
        return self.encode_texts([query], multi_vector=True).sparse.to_dicts()[0]

    async def _aget_query_embedding(self, query: str) -> SparseEmbedding:
        return (await self.aencode_texts([query], multi_vector=True)).sparse.to_dicts()[0]

    def _get_text_embedding(self, text: str) -> SparseEmbedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> SparseEmbedding:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[SparseEmbedding]:
        return self.encode_texts(texts).sparse.to_dicts()

    async def _aget_text_embeddings(self, texts: list[str]) -> list[SparseEmbedding]:
        return (await self.aencode_texts(texts)).sparse.to_dicts()
