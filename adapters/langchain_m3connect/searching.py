"""The searches of the vector store, each with its async twin."""

# Methods take what they name and nothing else, where the framework's take any **kwargs: misspelt ones are TypeErrors.
# mypy: disable-error-code="override"

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_m3connect import flows
from langchain_m3connect.convert import from_document, from_hit, relevance
from langchain_m3connect.flows import Asked
from langchain_m3connect.plain import from_vectors
from langchain_m3connect.targets import Targets
from m3connect import Dense, Hit
from m3connect.flows import Flow
from m3connect.fusion import Fusion

__all__ = ["SearchingVectorStore"]


class SearchingVectorStore(VectorStore):
    """The part of `M3ConnectVectorStore` that searches; arguments are described there."""

    targets: Targets

    @abstractmethod
    def asked(
        self,
        k: int,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        with_scores: bool = False,
    ) -> Asked:
        """Complete the arguments of a search by what the vector store was made with."""

    def _hits(self, query: str, asked: Asked) -> Flow[list[Hit]]:
        return (yield from flows.search((yield from flows.encode_query(query)), asked))

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> list[Document]:
        """Return the best documents, best first."""
        hits = self.targets.run(self._hits(query, self.asked(k, filter=filter, fusion=fusion, candidates=candidates)))
        return [from_hit(hit) for hit in hits]

    async def asimilarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> list[Document]:
        """See `similarity_search`."""
        hits = await self.targets.arun(
            self._hits(query, self.asked(k, filter=filter, fusion=fusion, candidates=candidates))
        )
        return [from_hit(hit) for hit in hits]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> list[tuple[Document, float]]:
        """Return the best documents with the scores they are ordered by, higher being better.

        A fused score stays what it is: with `RRF()` a sum of reciprocal ranks, near 0.03 for the best. Only
        `similarity_search_with_relevance_scores` compares across questions.
        """
        hits = self.targets.run(self._hits(query, self.asked(k, filter=filter, fusion=fusion, candidates=candidates)))
        return [(from_hit(hit), hit.score) for hit in hits]

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> list[tuple[Document, float]]:
        """See `similarity_search_with_score`."""
        hits = await self.targets.arun(
            self._hits(query, self.asked(k, filter=filter, fusion=fusion, candidates=candidates))
        )
        return [(from_hit(hit), hit.score) for hit in hits]

    def _similarity_search_with_relevance_scores(
        self,
        query: str,
        k: int = 4,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> list[tuple[Document, float]]:
        """Return the best documents, chosen and ordered by the fusion, with their relevance on the dense leg.

        The relevance is (cosine + 1) / 2 whatever the fusion: a number from 0 to 1 that a `score_threshold` may be
        compared with, 0.5 for what has nothing in common. Scores may therefore rise down the list; with
        `fusion=Dense()` they fall.
        """
        asked = self.asked(k, filter=filter, fusion=fusion, candidates=candidates, with_scores=True)
        hits = self.targets.run(self._hits(query, asked))
        return [(from_hit(hit), relevance((hit.scores or {})["dense"])) for hit in hits]

    async def _asimilarity_search_with_relevance_scores(
        self,
        query: str,
        k: int = 4,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> list[tuple[Document, float]]:
        """See `_similarity_search_with_relevance_scores`."""
        asked = self.asked(k, filter=filter, fusion=fusion, candidates=candidates, with_scores=True)
        hits = await self.targets.arun(self._hits(query, asked))
        return [(from_hit(hit), relevance((hit.scores or {})["dense"])) for hit in hits]

    def similarity_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        *,
        filter: object = None,
    ) -> list[Document]:
        """Return the documents whose dense vectors are nearest to a vector by cosine."""
        hits = self.targets.run(flows.search(from_vectors([embedding]), self.asked(k, filter=filter, fusion=Dense())))
        return [from_hit(hit) for hit in hits]

    async def asimilarity_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        *,
        filter: object = None,
    ) -> list[Document]:
        """See `similarity_search_by_vector`."""
        hits = await self.targets.arun(
            flows.search(from_vectors([embedding]), self.asked(k, filter=filter, fusion=Dense()))
        )
        return [from_hit(hit) for hit in hits]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> list[Document]:
        """Return k of the best `fetch_k` documents that are near the question and unlike each other.

        Args:
            query: the question.
            k: the most documents to return.
            fetch_k: how many the search brings to choose from.
            lambda_mult: 1 looks at the question alone, 0 at the difference alone, both on the dense leg.
            filter: as in every search, and so the following.
            fusion: how the documents to choose from are found.
            candidates: how many each leg brings.
        """
        asked = self.asked(k, filter=filter, fusion=fusion, candidates=candidates)
        return self.targets.run(self._diverse(query, asked, fetch_k, lambda_mult))

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> list[Document]:
        """See `max_marginal_relevance_search`."""
        asked = self.asked(k, filter=filter, fusion=fusion, candidates=candidates)
        return await self.targets.arun(self._diverse(query, asked, fetch_k, lambda_mult))

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: object = None,
    ) -> list[Document]:
        """Do as `max_marginal_relevance_search` for a dense vector."""
        asked = self.asked(k, filter=filter, fusion=Dense())
        flow = flows.mmr(from_vectors([embedding]), asked, fetch_k=fetch_k, lambda_mult=lambda_mult)
        return [from_document(document) for document in self.targets.run(flow)]

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: object = None,
    ) -> list[Document]:
        """See `max_marginal_relevance_search_by_vector`."""
        asked = self.asked(k, filter=filter, fusion=Dense())
        flow = flows.mmr(from_vectors([embedding]), asked, fetch_k=fetch_k, lambda_mult=lambda_mult)
        return [from_document(document) for document in await self.targets.arun(flow)]

    def _diverse(self, query: str, asked: Asked, fetch_k: int, lambda_mult: float) -> Flow[list[Document]]:
        encoded = yield from flows.encode_query(query)
        chosen = yield from flows.mmr(encoded, asked, fetch_k=fetch_k, lambda_mult=lambda_mult)
        return [from_document(document) for document in chosen]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Return how a score of the dense leg becomes a relevance."""
        return relevance
