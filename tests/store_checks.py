"""Seeded batches, and how a store's hits are compared with those of the exact store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from m3connect import Document, Hit, HybridStore, M3Embeddings, MemoryStore, SparseRows

VOCABULARY = 60


def random_embeddings(n: int, *, dim: int = 16, seed: int, multi_vector: bool = False) -> M3Embeddings:
    """Unit dense rows, and sparse rows that share enough tokens for every query to find something."""
    rng = np.random.default_rng(seed)
    sparse = [
        {int(token) + 10: float(rng.uniform(0.05, 1)) for token in rng.choice(VOCABULARY, rng.integers(4, 12), False)}
        for _ in range(n)
    ]
    tokens = tuple(unit(rng.standard_normal((int(rng.integers(1, 7)), dim))) for _ in range(n))
    return M3Embeddings(
        dense=unit(rng.standard_normal((n, dim))),
        sparse=SparseRows.from_dicts(sparse),
        multi_vector=tokens if multi_vector else None,
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_documents(n: int) -> list[Document]:
    langs = ["de", "en", "zh", "ar"]
    return [
        Document(f"doc-{i:03}", f"text number {i}", {"lang": langs[i % 4], "year": 1900 + i, "even": i % 2 == 0})
        for i in range(n)
    ]


def fill(stores: Sequence[HybridStore], documents: Sequence[Document], embeddings: M3Embeddings) -> None:
    for store in stores:
        store.upsert(documents, embeddings)


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.document.id for hit in hits]


def assert_same_search(store: HybridStore, oracle: MemoryStore, queries: M3Embeddings, **options: Any) -> None:
    """Hits, their order, documents and scores are those of the exact store; only exact ties may change places."""
    found, expected = store.search(queries, **options), oracle.search(queries, **options)
    candidates = options.get("candidates") or max(100, 4 * options.get("top_k", 10))
    everything = oracle.search(queries, **options | {"top_k": 10_000, "candidates": candidates})
    assert len(found) == len(expected) == len(queries)
    for hits, wanted, ranked in zip(found, expected, everything, strict=True):
        assert_same_hits(hits, wanted, ranked)


def assert_same_hits(hits: Sequence[Hit], wanted: Sequence[Hit], ranked: Sequence[Hit]) -> None:
    assert len(hits) == len(wanted), f"{len(hits)} hits instead of {len(wanted)}"
    assert len(set(ids(hits))) == len(hits), "a document comes twice"
    exact = {hit.document.id: hit for hit in ranked}
    for place, (hit, expected) in enumerate(zip(hits, wanted, strict=True)):
        name = hit.document.id
        assert name in exact, f"{name!r} should not be found"
        assert hit.score == pytest.approx(expected.score, abs=1e-5), f"score at place {place}"
        assert exact[name].score == pytest.approx(expected.score, abs=1e-6), (
            f"place {place}: {name!r} instead of {expected.document.id!r}"
        )
        assert hit.document == exact[name].document
        if exact[name].scores is None:
            assert hit.scores is None
        else:
            assert hit.scores == pytest.approx(dict(exact[name].scores), abs=1e-5)
