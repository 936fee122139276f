from __future__ import annotations

import numpy as np
import pytest

from m3connect import M3Embeddings, SparseRows
from m3connect.agreement import LEGS, agreement
from m3connect.testing import FakeEncoder

TEXTS = ["bees make honey", "honey is sweet", "the moon pulls the sea", "the sea is salt", "bread is flour and water"]


def turned(batch: M3Embeddings, degrees: float) -> M3Embeddings:
    """Dense vectors turned by so much in the plane of the first two coordinates; [1, 0] and the like in, please."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    return M3Embeddings(batch.dense @ turn, batch.sparse, tuple(m @ turn for m in batch.require_multi_vector()))


@pytest.fixture
def batch() -> M3Embeddings:
    dense = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
    sparse = SparseRows.from_dicts([{1: 1.0, 2: 1.0}, {1: 2.0}, {2: 1.0}, {}])
    return M3Embeddings(dense, sparse, tuple(dense[: i + 1] for i in range(4)))


def test_an_encoder_agrees_with_itself() -> None:
    batch = FakeEncoder().encode(TEXTS, multi_vector=True)
    found = agreement(batch, batch)
    for spread in (found.dense, found.tokens, found.sparse):
        assert (spread.mean, spread.least) == (pytest.approx(1), pytest.approx(1))
    assert found.ranks == dict.fromkeys(LEGS, 1.0)
    assert found.k == 4


def test_cosines_are_those_of_each_row(batch: M3Embeddings) -> None:
    found = agreement(batch, turned(batch, 60))
    assert found.dense.mean == pytest.approx(0.5)
    assert found.tokens.least == pytest.approx(0.5)
    assert found.ranks["dense"] == 1.0  # all turned alike: nobody's rank changes


def test_the_overlap_of_sparse_rows_is_smaller_weights_over_larger_ones(batch: M3Embeddings) -> None:
    other = SparseRows.from_dicts([{1: 0.5, 3: 0.5}, {1: 2.0}, {2: 2.0}, {}])
    found = agreement(batch, M3Embeddings(batch.dense, other, batch.multi_vector))
    assert found.sparse.mean == pytest.approx((0.5 / 2.5 + 1 + 0.5 + 1) / 4)
    assert found.sparse.least == pytest.approx(0.2)


def test_ranks_agree_as_far_as_the_best_are_the_same(batch: M3Embeddings) -> None:
    swapped = M3Embeddings(batch.dense[[0, 2, 1, 3]], batch.sparse, batch.multi_vector)
    found = agreement(batch, swapped, k=1)
    # best of texts 0 to 3: 1, 0, 1, 2 in the reference; 2, 2, 0, 1 in the other
    assert found.ranks["dense"] == 0.0
    assert found.ranks["sparse"] == 1.0
    assert agreement(batch, swapped, k=3).ranks["dense"] == 1.0


def test_texts_that_share_no_token_are_no_sparse_hits(batch: M3Embeddings) -> None:
    other = SparseRows.from_dicts([{1: 1.0}, {1: 2.0}, {2: 1.0}, {}])  # text 0 no longer finds text 2
    found = agreement(batch, M3Embeddings(batch.dense, other, batch.multi_vector))
    assert found.ranks["sparse"] == pytest.approx((0.5 + 1 + 0 + 1) / 4)


@pytest.mark.parametrize("n", [0, 1])
def test_few_texts_agree(n: int) -> None:
    batch = FakeEncoder().encode(TEXTS[:n], multi_vector=True)
    assert agreement(batch, batch).ranks == dict.fromkeys(LEGS, 1.0)


def test_other_texts_are_refused(batch: M3Embeddings) -> None:
    with pytest.raises(ValueError, match="same texts"):
        agreement(batch, batch[:3])
    with pytest.raises(ValueError, match="same texts"):
        agreement(batch[:3], batch[1:])
