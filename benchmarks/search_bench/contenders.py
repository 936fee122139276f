"""m3connect's retriever on any store, with its stages timed from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod

from m3connect import HybridRetriever
from m3connect.store import Encoder, HybridStore
from m3connect.token_store import TokenStore
from search_bench.stages import Answer, Stopwatch, Watched

STORED, ANEW = "m3connect, TokenStore", "m3connect, encoding anew"
"""With token vectors from a `TokenStore` (int8), and with none: the candidates' texts are encoded."""

HAND, COMPUTE = "by hand, encode", "by hand, compute_score"
"""FlagEmbedding's `encode` of the candidates and `colbert_score`, or its `compute_score` of pairs."""

TOP_K = 10


class Contender(ABC):
    """Answers questions from a filled collection."""

    @abstractmethod
    def answer(self, question: str, depth: int) -> Answer:
        """Return the best ten of so many reranked candidates."""


class Ours(Contender):
    """`HybridRetriever` as users call it; the encoder and the stores that it gets note when they are called."""

    def __init__(self, encoder: Encoder, store: HybridStore, tokens: TokenStore | None = None) -> None:
        self._watch = Stopwatch()
        stored = None if tokens is None else Watched(tokens, self._watch, {"get": "fetch"})
        self._retriever = HybridRetriever(
            Watched(encoder, self._watch, {"encode": "encode"}),
            Watched(store, self._watch, {"search": "search", "get_embeddings": "fetch"}),
            rerank=True,
            token_store=stored,
        )

    def answer(self, question: str, depth: int) -> Answer:
        """Search and rerank."""
        self._retriever.depth = depth
        self._watch.start()
        hits = self._retriever.search(question, top_k=TOP_K)
        seconds = self._watch.stop()
        return Answer([(hit.document.id, hit.score) for hit in hits], seconds)
