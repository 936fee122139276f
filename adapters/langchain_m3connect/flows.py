"""What the vector store and the retriever do, without its input and output: written once for sync and async.

A flow (`m3connect.flows`) yields calls: `encode`, `encode_query` and `dimension` are for the embedding, `compute` is a
function that takes its time, all others are methods of the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from langchain_core.embeddings import Embeddings

from m3connect import RRF, Dense, Document, Hit, M3Embeddings
from m3connect.embeddings import FloatArray
from m3connect.errors import CollectionMismatchError
from m3connect.filters import Filter
from m3connect.flows import Call, Flow, compute
from m3connect.fusion import Fusion
from m3connect.retrieval import TokenSource, candidates_flow, rerank_hits, stored_flow
from m3connect.store import StoreInfo, check_count

__all__ = [
    "ENCODING",
    "Asked",
    "Reranking",
    "add",
    "choose_diverse",
    "default_fusion",
    "encode_query",
    "mmr",
    "refuse_mixing",
    "rerank",
    "search",
]

ENCODING = frozenset({"encode", "encode_query", "dimension"})
"""The calls that the embedding answers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How to search."""

    k: int
    filter: Filter | None
    fusion: Fusion
    candidates: int | None
    with_scores: bool = False


@dataclass(frozen=True, slots=True)
class Reranking:
    """How to order candidates by the hybrid score."""

    depth: int
    weights: tuple[float, float, float]
    stored: bool
    """Whether the store has token vectors; without them the candidates' texts are encoded."""

    token_store: TokenSource | None = None
    """Where they are instead."""


def add(documents: Sequence[Document], *, multi_vector: bool, batch_size: int) -> Flow[list[str]]:
    """Encode documents, one pass a text, and store them, a batch at a time."""
    for batch in _batches(documents, batch_size):
        texts = [document.text for document in batch]
        embeddings = yield Call("encode", {"texts": texts, "multi_vector": multi_vector})
        yield Call("upsert", {"documents": batch, "embeddings": embeddings})
    return [document.id for document in documents]


def refuse_mixing(embedding: Embeddings) -> Flow[None]:
    """Refuse to store what a plain embedding makes in a collection that an encoder of ours has filled.

    Raises:
        CollectionMismatchError: the collection has a fingerprint.
    """
    info: StoreInfo = yield Call("info")
    if info.fingerprint is not None:
        raise CollectionMismatchError(
            f"collection {info.name!r} was filled by {info.fingerprint}, but {type(embedding).__name__} makes dense "
            "vectors alone, which may not be comparable: give M3ConnectEmbeddings(encoder=...), or another collection"
        )


def encode_query(text: str) -> Flow[M3Embeddings]:
    """Encode a question, all views in one pass."""
    query: M3Embeddings = yield Call("encode_query", {"text": text})
    return query


def search(query: M3Embeddings, asked: Asked) -> Flow[list[Hit]]:
    """Search with one query that is encoded already."""
    found: list[list[Hit]] = yield Call(
        "search",
        {
            "queries": query,
            "top_k": asked.k,
            "filter": asked.filter,
            "fusion": asked.fusion,
            "candidates": asked.candidates,
            "with_scores": asked.with_scores,
        },
    )
    return found[0]


def mmr(query: M3Embeddings, asked: Asked, *, fetch_k: int, lambda_mult: float) -> Flow[list[Document]]:
    """Choose among the best `fetch_k` hits the k that are near the query and far from each other (dense leg)."""
    check_count("fetch_k", fetch_k)
    if not 0 <= lambda_mult <= 1:
        raise ValueError(f"lambda_mult must be from 0 (diverse) to 1 (similar), but is {lambda_mult}")
    wide = Asked(max(asked.k, fetch_k), asked.filter, asked.fusion, asked.candidates)
    hits = yield from search(query, wide)
    stored = yield from stored_flow([hit.document.id for hit in hits])
    if not stored.places:
        return []
    chosen: list[int] = yield compute(partial(choose_diverse, query.dense[0], stored.rows.dense, asked.k, lambda_mult))
    left = [hit.document for hit in hits if hit.document.id in stored.places]
    return [left[i] for i in chosen]


def rerank(query: M3Embeddings, asked: Asked, how: Reranking) -> Flow[list[Hit]]:
    """Search deeper than k, and order what was found by the hybrid score, token vectors included."""
    hits = yield from search(query, Asked(max(asked.k, how.depth), asked.filter, asked.fusion, asked.candidates))
    if not hits:
        return []
    candidates = yield from candidates_flow(query, [hits], stored=how.stored, token_store=how.token_store)
    ranked: list[list[Hit]] = yield compute(
        partial(rerank_hits, query, [hits], candidates, top_k=asked.k, weights=how.weights)
    )
    return ranked[0]


def choose_diverse(query: FloatArray, vectors: FloatArray, k: int, lambda_mult: float) -> list[int]:
    """Choose rows by maximal marginal relevance: each next one has the best balance of near the query, far from chosen.

    Args:
        query: [d] a unit vector.
        vectors: [n, d] unit rows, best first; of equal ones the first wins.
        k: the most rows to choose.
        lambda_mult: 1 looks at the query alone, 0 (after the first row) at the difference alone.

    Returns:
        Positions in the order chosen.

    Example:
        >>> rows = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
        >>> choose_diverse(np.array([1, 0.1], np.float32), rows, 2, 0.3)
        [0, 2]
    """
    near = vectors @ query
    chosen = [int(np.argmax(near))] if len(near) else []
    closest = np.full(len(near), -np.inf, np.float32)
    while len(chosen) < min(k, len(near)):
        closest = np.maximum(closest, vectors @ vectors[chosen[-1]])
        balance = lambda_mult * near - (1 - lambda_mult) * closest
        balance[chosen] = -np.inf
        chosen.append(int(np.argmax(balance)))
    return chosen


def default_fusion(*, full: bool) -> Fusion:
    """Return how legs are fused where nobody says: by rank, or the dense one alone where there is no other."""
    return RRF() if full else Dense()


def _batches(documents: Sequence[Document], size: int) -> Iterator[Sequence[Document]]:
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, but is {size}")
    for start in range(0, len(documents), size):
        yield documents[start : start + size]
