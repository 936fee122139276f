"""The scores of M3: cases computed by hand first, then what must not change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_checks import random_embeddings, unit

from m3connect import M3Embeddings, SparseRows, scoring
from m3connect.embeddings import FloatArray

# Two texts by hand: unit rows of two dimensions.
QUERY = M3Embeddings(
    dense=np.array([[0.6, 0.8]]),
    sparse=SparseRows.from_dicts([{1: 0.5, 4: 2.0}]),
    multi_vector=(np.array([[1.0, 0.0], [0.0, 1.0]]),),
)
DOCUMENTS = M3Embeddings(
    dense=np.array([[1.0, 0.0], [-0.6, -0.8]]),
    sparse=SparseRows.from_dicts([{1: 1.0, 3: 7.0, 4: 0.25}, {2: 1.0}]),
    multi_vector=(np.array([[0.6, 0.8], [0.0, -1.0], [-1.0, 0.0]]), np.array([[-0.8, -0.6]])),
)


def test_dense_by_hand() -> None:
    np.testing.assert_allclose(scoring.dense(QUERY.dense, DOCUMENTS.dense), [[0.6, -1.0]], atol=1e-7)


def test_sparse_by_hand() -> None:
    """0.5 * 1 + 2 * 0.25 for the tokens 1 and 4; nothing shared with the second."""
    np.testing.assert_allclose(scoring.sparse(QUERY.sparse, DOCUMENTS.sparse), [[1.0, 0.0]], atol=1e-7)


def test_mean_maxsim_by_hand() -> None:
    """Best of the first row 0.6 and of the second 0.8, so 0.7; against one document row -0.8 and -0.6, so -0.7."""
    query, documents = QUERY.require_multi_vector()[0], DOCUMENTS.require_multi_vector()
    assert scoring.mean_maxsim(query, documents[0]) == pytest.approx(0.7)
    assert scoring.mean_maxsim(query, documents[1]) == pytest.approx(-0.7)


def test_hybrid_by_hand() -> None:
    np.testing.assert_allclose(scoring.hybrid(QUERY, DOCUMENTS), [[0.6 + 0.3 * 1.0 + 0.7, -1.0 - 0.7]], atol=1e-6)
    weighted = scoring.hybrid(QUERY, DOCUMENTS, weights=(0.5, 2.0, 0.1))
    np.testing.assert_allclose(weighted, [[0.3 + 2.0 + 0.07, -0.5 - 0.07]], atol=1e-6)


def test_hybrid_needs_token_vectors_only_where_they_weigh() -> None:
    bare = replace(QUERY, multi_vector=None)
    np.testing.assert_allclose(scoring.hybrid(bare, DOCUMENTS, weights=(1, 1, 0)), [[1.6, -1.0]], atol=1e-6)
    with pytest.raises(ValueError, match="multi_vector=True"):
        scoring.hybrid(bare, DOCUMENTS)


def test_the_default_weights_are_those_of_the_paper() -> None:
    assert scoring.HYBRID_WEIGHTS == (1.0, 0.3, 1.0)


def test_a_text_without_tokens_scores_zero() -> None:
    nothing, something = np.zeros((0, 2), np.float32), np.eye(2, dtype=np.float32)
    assert scoring.mean_maxsim(nothing, something) == scoring.mean_maxsim(something, nothing) == 0
    assert scoring.mean_maxsim(nothing, nothing) == 0


def test_negative_similarities_are_beaten_neither_by_padding_nor_by_empty_neighbours() -> None:
    """Padding that is multiplied by zero would score 0 and win over every negative similarity."""
    query = np.array([[1.0, 0.0]], np.float32)
    short, long = np.array([[-1.0, 0.0]], np.float32), np.tile(np.array([[-0.6, 0.8]], np.float32), (9, 1))
    nothing = np.zeros((0, 2), np.float32)
    scores = scoring.multi_vector([query], [nothing, short, nothing, nothing, long, short, nothing])
    np.testing.assert_allclose(scores, [[0, -1, 0, 0, -0.6, -1, 0]], atol=1e-6)


def reference_maxsim(query: FloatArray, document: FloatArray) -> float:
    if not len(query) or not len(document):
        return 0.0
    return float(np.mean([max(float(q @ d) for d in document) for q in query]))


def reference_sparse(query: dict[int, float], document: dict[int, float]) -> float:
    return sum(weight * document[token] for token, weight in query.items() if token in document)


@pytest.mark.parametrize("seed", range(5))
def test_batched_scores_are_the_formulas_one_by_one(seed: int) -> None:
    queries = random_embeddings(4, seed=seed, multi_vector=True)
    documents = random_embeddings(30, seed=seed + 100, multi_vector=True)
    maxsim = [
        [reference_maxsim(q, d) for d in documents.require_multi_vector()] for q in queries.require_multi_vector()
    ]
    shared = [[reference_sparse(q, d) for d in documents.sparse.to_dicts()] for q in queries.sparse.to_dicts()]
    found = scoring.multi_vector(queries.require_multi_vector(), documents.require_multi_vector())
    np.testing.assert_allclose(found, maxsim, atol=1e-5)
    np.testing.assert_allclose(scoring.sparse(queries.sparse, documents.sparse), shared, rtol=1e-5)


def test_long_and_many_documents_are_scored_like_short_and_few() -> None:
    """Crosses the border of a chunk of 4,096 tokens in every way: many short ones, one that fills two, empty ones."""
    rng = np.random.default_rng(3)
    lengths = [0, 4095, 1, 1, 0, 4096, 9000, 5, *[700] * 12, 0]
    documents = [unit(rng.standard_normal((n, 4))) for n in lengths]
    queries = [unit(rng.standard_normal((n, 4))) for n in (3, 0, 1)]
    expected = [[reference(query, document) for document in documents] for query in queries]
    np.testing.assert_allclose(scoring.multi_vector(queries, documents), expected, atol=1e-5)


def reference(query: FloatArray, document: FloatArray) -> float:
    return float((query @ document.T).max(axis=1).mean()) if len(query) and len(document) else 0.0


@settings(deadline=None, derandomize=True, database=None, max_examples=40)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_order_and_batch_size_change_nothing(order: list[int], size: int) -> None:
    queries = random_embeddings(2, seed=1, multi_vector=True)
    documents = random_embeddings(12, seed=2, multi_vector=True)
    whole = scoring.hybrid(queries, documents)
    np.testing.assert_allclose(scoring.hybrid(queries, documents.take(order)), whole[:, order], atol=1e-6)
    parts = [scoring.hybrid(queries, documents[start : start + size]) for start in range(0, 12, size)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)


def test_repeated_document_tokens_change_nothing() -> None:
    query, document = np.eye(2, dtype=np.float32), unit(np.array([[1.0, 2.0], [-1.0, 0.5]]))
    doubled = np.concatenate([document, document])
    assert scoring.mean_maxsim(query, doubled) == pytest.approx(scoring.mean_maxsim(query, document))


def test_a_text_scores_one_with_itself() -> None:
    batch = random_embeddings(5, seed=9, multi_vector=True)
    np.testing.assert_allclose(np.diag(scoring.dense(batch.dense, batch.dense)), 1, atol=1e-6)
    matrices = batch.require_multi_vector()
    np.testing.assert_allclose(np.diag(scoring.multi_vector(matrices, matrices)), 1, atol=1e-6)


def test_half_precision_stays_close() -> None:
    batch = random_embeddings(20, seed=9, multi_vector=True)
    halves = [matrix.astype(np.float16).astype(np.float32) for matrix in batch.require_multi_vector()]
    full = scoring.multi_vector(batch.require_multi_vector(), batch.require_multi_vector())
    np.testing.assert_allclose(scoring.multi_vector(halves, halves), full, atol=2e-3)


def test_nothing_scores_nothing() -> None:
    nothing, batch = random_embeddings(0, seed=1, multi_vector=True), random_embeddings(3, seed=1, multi_vector=True)
    assert scoring.hybrid(nothing, batch).shape == (0, 3)
    assert scoring.hybrid(batch, nothing).shape == (3, 0)
    assert scoring.sparse(SparseRows.empty(2), batch.sparse).tolist() == [[0] * 3] * 2
    assert scoring.sparse(batch.sparse, SparseRows.empty(2)).tolist() == [[0] * 2] * 3


def test_scores_are_float32() -> None:
    batch = random_embeddings(2, seed=1, multi_vector=True)
    for scores in (scoring.hybrid(batch, batch), scoring.sparse(batch.sparse, batch.sparse)):
        assert scores.dtype == np.float32
