"""The read path: encode a question once, search, and rerank with token vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from m3connect import scoring
from m3connect.embeddings import M3Embeddings
from m3connect.filters import Filter
from m3connect.fusion import RRF, Fusion, rank
from m3connect.store import Encoder, Hit, HybridStore

__all__ = ["HybridRetriever", "rerank_hits"]

_CANDIDATES_HELD = 256
"""Candidates whose token vectors are in memory at a time: at BGE-M3's size about 1 MB each for 256 tokens."""


class HybridRetriever:
    """Questions in, hits out; each question costs one forward pass, whatever it is used for.

    Args:
        encoder: what encodes the questions (and, for reranking, the candidates' texts).
        store: where the documents are.
        rerank: order the candidates by the hybrid score of M3-Embedding, token vectors included.
        fusion: how the store fuses its legs, unless a search says otherwise.
        depth: how many hits of the store are reranked.
        weights: of dense, sparse and multi-vector scores in the reranked score.

    Example:
        >>> from m3connect import Document, MemoryStore, ingest
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = MemoryStore(dim=encoder.dim)
        >>> report = ingest(encoder, store, [Document("a", "red apple"), Document("b", "blue sea")])
        >>> [hit.document.id for hit in HybridRetriever(encoder, store, rerank=True).search("deep blue sea", top_k=1)]
        ['b']
    """

    def __init__(
        self,
        encoder: Encoder,
        store: HybridStore,
        *,
        rerank: bool = False,
        fusion: Fusion = RRF(),  # noqa: B008  # frozen
        depth: int = 50,
        weights: tuple[float, float, float] = scoring.HYBRID_WEIGHTS,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, but is {depth}")
        if len(weights) != 3 or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise ValueError(
                f"weights must be three numbers of at least 0 (dense, sparse, multi-vector), not {weights}"
            )
        self.encoder = encoder
        self.store = store
        self.rerank = rerank
        self.fusion = fusion
        self.depth = depth
        self.weights = weights

    def search(
        self,
        question: str,
        *,
        top_k: int = 5,
        filter: Filter | None = None,
        fusion: Fusion | None = None,
        rerank: bool | None = None,
        with_scores: bool = False,
        group_by_parent: bool = False,
    ) -> list[Hit]:
        """Find the best documents for one question; see `search_batch`."""
        if not isinstance(question, str):
            raise ValueError(f"search takes one string, but got {type(question).__name__}; search_batch takes several")
        return self.search_batch(
            [question],
            top_k=top_k,
            filter=filter,
            fusion=fusion,
            rerank=rerank,
            with_scores=with_scores,
            group_by_parent=group_by_parent,
        )[0]

    def search_batch(
        self,
        questions: Sequence[str],
        *,
        top_k: int = 5,
        filter: Filter | None = None,
        fusion: Fusion | None = None,
        rerank: bool | None = None,
        with_scores: bool = False,
        group_by_parent: bool = False,
    ) -> list[list[Hit]]:
        """Find the best documents for each question.

        Args:
            questions: the texts to search for.
            top_k: the most hits a question gets.
            filter: only documents that pass are searched.
            fusion: how the store fuses its legs; None means the retriever's.
            rerank: None means the retriever's.
            with_scores: fill `Hit.scores`; a reranked hit always has them.
            group_by_parent: only one hit a parent document, the one that the store ranks best; a document without
                parent is its own.

        Returns:
            One list a question, best first. A reranked hit's score is the hybrid score.
        """
        if isinstance(questions, str):
            raise ValueError("search_batch takes a list of strings, but got one string; search takes one")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, but is {top_k}")
        rerank = self.rerank if rerank is None else rerank
        fusion = self.fusion if fusion is None else fusion
        needs_tokens = rerank or getattr(fusion, "multi_vector", 0) > 0 or (with_scores and self.store.multi_vector)
        queries = self.encoder.encode(questions, multi_vector=needs_tokens)
        found = self.store.search(
            queries,
            top_k=max(top_k, self.depth) if rerank else top_k,
            filter=filter,
            fusion=fusion,
            with_scores=with_scores and not rerank,
            group_by_parent=group_by_parent,
        )
        if not rerank:
            return found
        hits: list[list[Hit]] = []
        for group in _groups(found):
            part, of = queries[group], found[group]
            hits += rerank_hits(part, of, self._candidates(of), top_k=top_k, weights=self.weights)
        return hits

    def _candidates(self, found: Sequence[Sequence[Hit]]) -> dict[str, M3Embeddings]:
        """Return the embeddings of every candidate: the stored ones, or its text encoded again, once each."""
        documents = {hit.document.id: hit.document for hits in found for hit in hits}
        if not documents:
            return {}
        if self.store.multi_vector:
            rows = self.store.get_embeddings(list(documents))
        else:
            rows = self.encoder.encode([document.text for document in documents.values()], multi_vector=True)
        return {name: rows[i] for i, name in enumerate(documents)}


def _groups(found: Sequence[Sequence[Hit]]) -> Iterator[slice]:
    """Cut questions into groups whose candidates' token vectors are held together, at least one question each."""
    start = total = 0
    for i, hits in enumerate(found):
        if i > start and total + len(hits) > _CANDIDATES_HELD:
            yield slice(start, i)
            start, total = i, 0
        total += len(hits)
    if start < len(found):
        yield slice(start, len(found))


def rerank_hits(
    queries: M3Embeddings,
    found: Sequence[Sequence[Hit]],
    embeddings: dict[str, M3Embeddings],
    *,
    top_k: int,
    weights: tuple[float, float, float] = scoring.HYBRID_WEIGHTS,
) -> list[list[Hit]]:
    """Order hits by the hybrid score of M3-Embedding.

    Args:
        queries: q rows with token vectors.
        found: one list of hits a query.
        embeddings: by id, one row each with token vectors, for every document in `found`.
        top_k: the most hits a query keeps.
        weights: of dense, sparse and multi-vector scores.

    Returns:
        One list a query, best first, ties by id; every hit has the score of each leg.
    """
    return [_rerank_one(queries[i], hits, embeddings, top_k, weights) for i, hits in enumerate(found)]


def _rerank_one(
    query: M3Embeddings,
    hits: Sequence[Hit],
    embeddings: dict[str, M3Embeddings],
    top_k: int,
    weights: tuple[float, float, float],
) -> list[Hit]:
    if not hits:
        return []
    by_id: dict[str, Hit] = {hit.document.id: hit for hit in hits}
    rows = M3Embeddings.concatenate([replace(embeddings[name], fingerprint=None) for name in by_id])
    legs = {
        "dense": scoring.dense(query.dense, rows.dense)[0],
        "sparse": scoring.sparse(query.sparse, rows.sparse)[0],
        "multi_vector": scoring.multi_vector(query.require_multi_vector(), rows.require_multi_vector())[0],
    }
    scores = {name: {leg: float(values[j]) for leg, values in legs.items()} for j, name in enumerate(by_id)}
    totals = {
        name: sum(weight * score for weight, score in zip(weights, legs_of.values(), strict=True))
        for name, legs_of in scores.items()
    }
    return [replace(by_id[name], score=totals[name], scores=scores[name]) for name in rank(totals)[:top_k]]
