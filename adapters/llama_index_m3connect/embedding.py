"""`M3ConnectEmbedding`: the dense view as LlamaIndex's embedding."""

from __future__ import annotations

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from pydantic import Field

from llama_index_m3connect.model import ModelSettings

__all__ = ["M3ConnectEmbedding"]


class M3ConnectEmbedding(ModelSettings, BaseEmbedding):
    """Dense vectors of M3; the sparse weights of the same pass wait for `M3ConnectVectorStore` and the others.

    Args:
        model_name: what `M3Encoder.from_pretrained` takes; loaded at the first text.
        encoder: an encoder that is there already, instead of a name; async methods call it from several threads. The
            model's memory of recent passes is 64 MB (some 12,000 texts of BGE-M3); `SharedPass(encoder, max_bytes=...)`
            given here makes it larger.
        max_length: read at most this many tokens of a text.
        multi_vector: compute token vectors of texts in the same pass, for a store that keeps them. Of BGE-M3 they take
            4 KB a token, and LlamaIndex embeds 2,048 nodes before it stores the first: up to 4 GB wait until a
            `M3ConnectVectorStore` with this model adds nodes, beyond which nodes cost a second pass; where none ever
            does, they wait as long as the encoder lives. `VectorStoreIndex(insert_batch_size=32)` needs 40 MB for nodes
            of 300 tokens. Those of queries are always computed, for a reranker that may follow.
        embed_batch_size: texts a call. The encoder sorts and packs what comes in one call, so do not choose it small.

    Example:
        >>> embedding = M3ConnectEmbedding(model_name="m3-mini")
        >>> len(embedding.get_query_embedding("What do bees make?"))
        256
    """

    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts a call.")
    multi_vector: bool = Field(default=False, description="Compute token vectors of texts in the same pass.")

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes into its files."""
        return "M3ConnectEmbedding"

    def _get_query_embedding(self, query: str) -> Embedding:
        return _first(self.encode_texts([query], multi_vector=True).dense.tolist())

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return _first((await self.aencode_texts([query], multi_vector=True)).dense.tolist())

    def _get_text_embedding(self, text: str) -> Embedding:
        return _first(self._get_text_embeddings([text]))

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return _first(await self._aget_text_embeddings([text]))

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        self._announce()
        vectors: list[Embedding] = self.encode_texts(texts, multi_vector=self.multi_vector).dense.tolist()
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        self._announce()
        batch = await self.aencode_texts(texts, multi_vector=self.multi_vector)
        vectors: list[Embedding] = batch.dense.tolist()
        return vectors

    def _announce(self) -> None:
        """Make room for token vectors that a store will ask for."""
        if self.multi_vector:
            self.sharing.expect_tokens()


def _first(vectors: list[Embedding]) -> Embedding:
    return vectors[0]
