"""`M3ConnectReranker`: documents of any retriever, ordered by the hybrid score of M3-Embedding."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.documents import Document as LangChainDocument
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import AfterValidator, ConfigDict, Field

from langchain_m3connect.embeddings import M3ConnectEmbeddings
from m3connect import Document, Hit, M3Embeddings
from m3connect.retrieval import Candidates, check_weights, rerank_hits
from m3connect.scoring import HYBRID_WEIGHTS

__all__ = ["M3ConnectReranker"]


class M3ConnectReranker(BaseDocumentCompressor):
    """Orders documents by dense + 0.3 sparse + multi-vector score, and keeps the best.

    The question costs one forward pass, and none where a retriever with the same `M3ConnectEmbeddings` has just
    encoded it; each document costs one, unless its token vectors were asked for lately.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> reranker = M3ConnectReranker(embedding=M3ConnectEmbeddings(encoder=FakeEncoder()), top_n=1)
        >>> documents = [LangChainDocument(page_content=text) for text in ["blue sea", "red apple"]]
        >>> [document.page_content for document in reranker.compress_documents(documents, "apple")]
        ['red apple']
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    embedding: M3ConnectEmbeddings
    top_n: int | None = Field(default=None, ge=1)
    """The most documents to keep; None keeps all."""

    weights: Annotated[tuple[float, float, float], AfterValidator(check_weights)] = HYBRID_WEIGHTS
    """Of dense, sparse and multi-vector scores; (0, 0, 1) is MaxSim alone."""

    scores_key: str | None = None
    """Where given, the scores are put into the metadata of the returned copies under this key, in place of what was
    there."""

    def compress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> list[LangChainDocument]:
        """Return the best documents, best first; those that are equal stay in their order.

        Args:
            documents: any documents; they are not changed.
            query: the question.
            callbacks: not used; there is nothing to report.
        """
        if not documents:
            return []
        encoded = self.embedding.encode_query(query)
        return self._order(documents, encoded, self.embedding.encode(_texts(documents), multi_vector=True))

    async def acompress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> list[LangChainDocument]:
        """See `compress_documents`; encodes and orders in threads."""
        if not documents:
            return []
        encoded = await self.embedding.aencode_query(query)
        rows = await self.embedding.aencode(_texts(documents), multi_vector=True)
        return await asyncio.to_thread(self._order, documents, encoded, rows)

    def as_runnable(self) -> Runnable[dict[str, Any], list[LangChainDocument]]:
        """Return the reranker as a step of a chain that takes `{"documents": [...], "query": "..."}`."""

        def rerank(given: dict[str, Any]) -> list[LangChainDocument]:
            return self.compress_documents(**_checked(given))

        async def arerank(given: dict[str, Any]) -> list[LangChainDocument]:
            return await self.acompress_documents(**_checked(given))

        return RunnableLambda(rerank, arerank, name="M3ConnectReranker")

    def _order(
        self, documents: Sequence[LangChainDocument], query: M3Embeddings, rows: M3Embeddings
    ) -> list[LangChainDocument]:
        names = [f"{i:09d}" for i in range(len(documents))]  # ties go by id, and these are in order
        hits = [Hit(Document(name, ""), 0.0) for name in names]
        candidates = Candidates.of(names, rows)
        best = rerank_hits(query, [hits], candidates, top_k=self.top_n or len(hits), weights=self.weights)[0]
        return [self._scored(documents[int(hit.document.id)], hit) for hit in best]

    def _scored(self, document: LangChainDocument, hit: Hit) -> LangChainDocument:
        if self.scores_key is None:
            return document
        scores = {"score": hit.score, **(hit.scores or {})}
        return document.model_copy(update={"metadata": {**document.metadata, self.scores_key: scores}})


def _texts(documents: Sequence[LangChainDocument]) -> list[str]:
    return [document.page_content for document in documents]


def _checked(given: object) -> dict[str, Any]:
    if not isinstance(given, dict) or set(given) != {"documents", "query"}:
        raise ValueError(f'the reranker takes {{"documents": [...], "query": "..."}}, but got {given!r:.200}')
    return given
