"""`M3ConnectEmbeddings`: LangChain's interface for dense vectors, with all three views behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from langchain_core.embeddings import Embeddings

from m3connect import Encoder, M3Embeddings
from m3connect.encoding import AsyncEncoder, LazyEncoder, SharedPass

__all__ = ["M3ConnectEmbeddings", "require_ours"]


class M3ConnectEmbeddings(Embeddings):
    """The dense vectors of M3-Embedding for LangChain; `M3ConnectVectorStore` and the bridges take the other views.

    What was encoded lately is remembered, so that a retriever, a reranker and a bridge that share one object cost one
    forward pass a text. The async methods encode in threads of their own, several calls at a time, which share forward
    passes where the encoder can, as `M3Encoder` does. Safe to use from several threads if the encoder is.

    Args:
        encoder: a built encoder, for instance `M3Encoder.from_pretrained("BAAI/bge-m3")`.
        model: instead of it, a name or folder for `M3Encoder.from_pretrained`; loaded when first used.
        max_length: read at most this many tokens of a text; None means all that the encoder can.
        max_bytes: how much is remembered; a text of BGE-M3 takes about 5 KB. 0 remembers nothing.
        threads: how many async calls are with the encoder at a time; 1 for one that does not allow several threads.

    Raises:
        ValueError: not exactly one of `encoder` and `model` was given.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> embeddings = M3ConnectEmbeddings(encoder=FakeEncoder(dim=4))
        >>> len(embeddings.embed_query("red apple"))
        4
    """

    def __init__(
        self,
        *,
        encoder: Encoder | None = None,
        model: str | Path | None = None,
        max_length: int | None = None,
        max_bytes: int = 64 * 2**20,
        threads: int = 32,
    ) -> None:
        self._again = partial(
            type(self), encoder=encoder, model=model, max_length=max_length, max_bytes=max_bytes, threads=threads
        )
        self.model: str | None = getattr(encoder, "name", None) if model is None else str(model)
        """The name of the model, where there is one."""
        self.max_length = max_length
        self.encoder = _chosen(encoder, model)
        """What encodes; where `model` was given, it loads when first used."""
        self._shared = SharedPass(self.encoder, max_bytes=max_bytes)
        self._async = AsyncEncoder(self._shared, threads=threads)

    def __repr__(self) -> str:
        return f"M3ConnectEmbeddings({self.model or self.encoder!r})"

    def __reduce__(self) -> tuple[Callable[[], M3ConnectEmbeddings], tuple[()]]:
        """Let copies and pickles be made anew, with nothing remembered."""
        return self._again, ()

    def encode(self, texts: list[str], *, multi_vector: bool = False) -> M3Embeddings:
        """Return all views of texts; token vectors where asked for."""
        return self._shared.encode(texts, multi_vector=multi_vector, max_length=self.max_length)

    async def aencode(self, texts: list[str], *, multi_vector: bool = False) -> M3Embeddings:
        """See `encode`."""
        return await self._async.encode(texts, multi_vector=multi_vector, max_length=self.max_length)

    def encode_query(self, text: str) -> M3Embeddings:
        """Return all views of one question, token vectors too: of so short a text they are cheap, and rerankers ask."""
        return self.encode([_one(text)], multi_vector=True)

    async def aencode_query(self, text: str) -> M3Embeddings:
        """See `encode_query`."""
        return await self.aencode([_one(text)], multi_vector=True)

    def dimension(self) -> int:
        """Return the dimension of the dense vectors; loads the model."""
        return self.encoder.dim

    async def adimension(self) -> int:
        """See `dimension`."""
        return await asyncio.to_thread(self.dimension)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one unit vector a text."""
        dense: list[list[float]] = self.encode(texts).dense.tolist()
        return dense

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """See `embed_documents`."""
        dense: list[list[float]] = (await self.aencode(texts)).dense.tolist()
        return dense

    def embed_query(self, text: str) -> list[float]:
        """Return the unit vector of a question; M3 encodes questions as it does documents."""
        dense: list[float] = self.encode_query(text).dense[0].tolist()
        return dense

    async def aembed_query(self, text: str) -> list[float]:
        """See `embed_query`."""
        dense: list[float] = (await self.aencode_query(text)).dense[0].tolist()
        return dense


def require_ours(embedding: object) -> M3ConnectEmbeddings:
    """Return the embedding if it is one that makes sparse weights.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(embedding, M3ConnectEmbeddings):
        raise ValueError(
            f"expected M3ConnectEmbeddings, which makes sparse weights, but got {type(embedding).__name__}; an encoder "
            "goes into M3ConnectEmbeddings(encoder=...)"
        )
    return embedding


def _chosen(encoder: Encoder | None, model: str | Path | None) -> Encoder:
    if model is not None and encoder is None:
        return LazyEncoder(partial(_load, model))
    if encoder is None or model is not None:
        raise ValueError("M3ConnectEmbeddings takes either encoder= or model=, exactly one of them")
    if not isinstance(encoder, Encoder):
        raise ValueError(f"expected an encoder with dim, fingerprint and encode, but got {type(encoder).__name__}")
    return encoder


def _load(model: str | Path) -> Encoder:
    from m3connect import M3Encoder  # imports torch

    return M3Encoder.from_pretrained(model)


def _one(text: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"a question is one string, but got {type(text).__name__}")
    return text
