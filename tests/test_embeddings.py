"""The three views of a batch: shapes, rows, slices, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_checks import random_embeddings

from m3connect import M3Embeddings, SparseRows
from m3connect.embeddings import unit_rows

rows_of_dicts = st.lists(
    st.dictionaries(st.integers(0, 250_001), st.floats(2**-10, 8, width=32), max_size=6), max_size=6
)


def sparse(*rows: dict[int, float]) -> SparseRows:
    return SparseRows.from_dicts(rows)


def test_pairs_of_any_order_become_sorted_rows() -> None:
    rows = SparseRows.from_pairs([([7, 9, 2], [0.5, 1.0, 0.25]), ([], []), ([8, 1], [2.0, 3.0])])
    assert rows.to_dicts() == [{2: 0.25, 7: 0.5, 9: 1.0}, {}, {1: 3.0, 8: 2.0}]
    assert len(SparseRows.from_pairs([])) == 0


@pytest.mark.parametrize("second", [([3], [2.0, 3.0]), ([3], [2.0])])
def test_weights_do_not_wander_into_another_row(second: tuple[list[int], list[float]]) -> None:
    with pytest.raises(ValueError, match="sparse row 0 has 2 token ids, but 1 weights"):
        SparseRows.from_pairs([([1, 2], [1.0]), second])


def test_rows_are_sorted_and_become_the_same_dicts_again() -> None:
    rows = sparse({9: 0.5, 3: 0.25}, {}, {7: 1.0})
    assert rows.indptr.tolist() == [0, 2, 2, 3]
    assert rows.indices.tolist() == [3, 9, 7]
    assert rows.values.tolist() == [0.25, 0.5, 1.0]
    assert rows.to_dicts() == [{3: 0.25, 9: 0.5}, {}, {7: 1.0}]


def test_dicts_hold_plain_python_numbers() -> None:
    ((token, weight),) = sparse({3: 0.25}).to_dicts()[0].items()
    assert (type(token), type(weight)) == (int, float)


def test_string_ids_are_read_and_zero_weights_left_out() -> None:
    assert SparseRows.from_dicts([{"12": 0.5, "7": 0.0}]).to_dicts() == [{12: 0.5}]


@given(rows_of_dicts)
@settings(deadline=None, derandomize=True, database=None)
def test_dicts_survive_the_arrays(dicts: list[dict[int, float]]) -> None:
    rows = SparseRows.from_dicts(dicts)
    assert rows.to_dicts() == dicts
    assert len(rows) == len(dicts)
    assert rows.row_lengths.tolist() == [len(row) for row in dicts]
    assert rows.row_of.tolist() == [i for i, row in enumerate(dicts) for _ in row]


@given(rows_of_dicts, st.data())
@settings(deadline=None, derandomize=True, database=None)
def test_rows_are_taken_in_any_order_and_more_than_once(dicts: list[dict[int, float]], data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, len(dicts) - 1), max_size=8)) if dicts else []
    taken = SparseRows.from_dicts(dicts).take(positions)
    assert taken.to_dicts() == [dicts[i] for i in positions]


@given(rows_of_dicts, rows_of_dicts)
@settings(deadline=None, derandomize=True, database=None)
def test_concatenated_rows_follow_each_other(left: list[dict[int, float]], right: list[dict[int, float]]) -> None:
    whole = SparseRows.concatenate([SparseRows.from_dicts(left), SparseRows.from_dicts(right)])
    assert whole.to_dicts() == left + right


def test_an_int_gives_a_batch_of_one_and_a_slice_a_part() -> None:
    rows = sparse({1: 1.0}, {2: 2.0}, {3: 3.0})
    assert rows[1].to_dicts() == rows[-2].to_dicts() == [{2: 2.0}]
    assert rows[1:].to_dicts() == [{2: 2.0}, {3: 3.0}]
    assert rows[::-1].to_dicts() == [{3: 3.0}, {2: 2.0}, {1: 1.0}]
    assert rows[3:].to_dicts() == []
    tokens, weights = rows.row(2)
    assert (tokens.tolist(), weights.tolist()) == ([3], [3.0])


@pytest.mark.parametrize("i", [3, -4])
def test_a_row_that_is_not_there_is_an_index_error(i: int) -> None:
    with pytest.raises(IndexError, match="of a batch of 3"):
        sparse({}, {}, {})[i]
    with pytest.raises(IndexError, match="of a batch of 3"):
        random_embeddings(3, seed=1)[i]


@pytest.mark.parametrize(
    ("indptr", "indices", "values", "message"),
    [
        ([0, 2], [5, 5], [1, 1], "sparse row 0: token ids must be sorted and unique"),
        ([0, 2], [5, 3], [1, 1], "sparse row 0: token ids must be sorted and unique"),
        ([0, 0, 1, 3], [9, 4, 2], [1, 1, 1], "sparse row 2: token ids must be sorted and unique"),
        ([0, 1], [-1], [1], "negative"),
        ([0, 1], [1], [0], "sparse row 0: weights must be above 0"),
        ([0, 0, 2], [1, 2], [1, -0.5], "sparse row 1: weights must be above 0"),
        ([0, 1], [1, 2], [1, 1], "all three must agree"),
        ([0, 2], [1, 2], [1], "all three must agree"),
        ([1, 1], [1], [1], "indptr must start at 0"),
        ([0, 2, 1], [1], [1], "never fall"),
        ([], [], [], "indptr must start at 0"),
        ([0, 1], [[1]], [1], "one dimension"),
    ],
)
def test_arrays_that_are_no_rows_are_refused(indptr: list, indices: list, values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseRows(np.array(indptr, np.int64), np.array(indices, np.int64), np.array(values, np.float32))


def test_token_ids_may_fall_from_one_row_to_the_next() -> None:
    rows = SparseRows(np.array([0, 2, 2, 4]), np.array([3, 9, 3, 4]), np.ones(4, np.float32))
    assert rows.to_dicts() == [{3: 1.0, 9: 1.0}, {}, {3: 1.0, 4: 1.0}]


def test_negative_weights_in_dicts_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        sparse({1: -0.5})


def test_a_batch_is_float32_and_has_zeros_for_what_is_not_said() -> None:
    batch = M3Embeddings(np.eye(3), SparseRows.empty(3))
    assert batch.dense.dtype == np.float32
    assert batch.truncated.tolist() == [0, 0, 0]
    assert (len(batch), batch.dim, batch.fingerprint, batch.multi_vector) == (3, 3, None, None)


def test_a_batch_is_sliced_in_every_view() -> None:
    batch = random_embeddings(5, seed=1, multi_vector=True)
    batch = dataclasses.replace(batch, truncated=np.arange(5), fingerprint="one")
    for part, rows in ((batch[3], [3]), (batch[-1], [4]), (batch[1:4], [1, 2, 3]), (batch.take([4, 0, 4]), [4, 0, 4])):
        np.testing.assert_array_equal(part.dense, batch.dense[rows])
        assert part.sparse.to_dicts() == [batch.sparse.to_dicts()[i] for i in rows]
        assert all(a is b for a, b in zip(part.require_multi_vector(), take(batch, rows), strict=True))
        assert part.truncated.tolist() == rows
        assert part.fingerprint == "one"


def take(batch: M3Embeddings, rows: list[int]) -> list[np.ndarray]:
    return [batch.require_multi_vector()[i] for i in rows]


def test_batches_put_together_are_the_whole() -> None:
    batch = dataclasses.replace(random_embeddings(5, seed=1, multi_vector=True), fingerprint="one")
    whole = M3Embeddings.concatenate([batch[:2], batch[2], batch[3:], batch[5:]])
    np.testing.assert_array_equal(whole.dense, batch.dense)
    assert whole.sparse.to_dicts() == batch.sparse.to_dicts()
    assert len(whole.require_multi_vector()) == 5
    assert whole.fingerprint == "one"


def test_no_batches_make_an_empty_one() -> None:
    whole = M3Embeddings.concatenate([], dim=7)
    assert (len(whole), whole.dim, len(whole.sparse)) == (0, 7, 0)


def test_batches_of_different_encoders_do_not_mix() -> None:
    batch = random_embeddings(2, seed=1)
    with pytest.raises(ValueError, match="different encoders"):
        M3Embeddings.concatenate([batch, dataclasses.replace(batch, fingerprint="two")])


def test_batches_with_and_without_token_vectors_do_not_mix() -> None:
    batch = random_embeddings(2, seed=1, multi_vector=True)
    with pytest.raises(ValueError, match="multi_vector="):
        M3Embeddings.concatenate([batch, dataclasses.replace(batch, multi_vector=None)])


def test_missing_token_vectors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="multi_vector=True"):
        random_embeddings(2, seed=1).require_multi_vector()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dense": np.zeros(4)}, r"dense must have shape \[n, d\]"),
        ({"dense": np.zeros((3, 4))}, "dense has 3 rows but sparse has 2"),
        ({"multi_vector": [np.zeros((1, 4))]}, "dense has 2 rows but multi_vector has 1 arrays"),
        ({"multi_vector": [np.zeros((1, 4)), np.zeros((1, 3))]}, r"shape \[t, d\]"),
        ({"multi_vector": [np.zeros(4), np.zeros(4)]}, r"shape \[t, d\]"),
        ({"truncated": np.zeros(3)}, r"truncated must have shape \[2\]"),
    ],
)
def test_views_that_do_not_fit_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        M3Embeddings(**{"dense": np.zeros((2, 4)), "sparse": SparseRows.empty(2)} | fields)


def test_numbers_that_are_not_finite_pass_so_that_a_store_can_name_the_document() -> None:
    batch = M3Embeddings(np.full((1, 2), np.nan), sparse({1: float("nan"), 2: float("inf")}))
    assert np.isnan(batch.dense).all()


def test_a_batch_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        random_embeddings(1, seed=1).fingerprint = "other"  # type: ignore[misc]


def test_positions_may_count_from_the_end_and_every_view_follows() -> None:
    batch = M3Embeddings(np.eye(3), SparseRows.from_dicts([{1: 1.0}, {2: 2.0}, {3: 3.0}]))
    taken = batch.take([-2, 0])
    assert taken.dense.argmax(axis=1).tolist() == [1, 0]
    assert taken.sparse.to_dicts() == [{2: 2.0}, {1: 1.0}]
    with pytest.raises(IndexError):
        batch.take([3])
    with pytest.raises(ValueError, match="list of integers"):
        batch.take([True, False, True])


def test_a_token_id_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="comes twice"):
        SparseRows.from_dicts([{"5": 1.0, 5: 2.0}])


def test_unit_rows_have_length_one_and_point_where_the_vectors_do() -> None:
    vectors = [[3.0, 4.0], [0.0, 0.0], [-1e-30, 0.0], [1e30, 1e30]]
    rows = unit_rows(vectors)
    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0], [0.5**0.5, 0.5**0.5]]))
    assert np.array_equal(unit_rows(np.array(vectors)), rows)


def test_unit_rows_of_nothing_are_none() -> None:
    assert unit_rows([]).shape == (0, 0)
    assert len(unit_rows(np.zeros((0, 4), np.float32))) == 0


@pytest.mark.parametrize("vectors", [[1.0, 2.0], [[1.0], [1.0, 2.0]], [[[1.0]]], ["abc"], [None]])
def test_what_is_no_list_of_vectors_has_no_unit_rows(vectors: list[Any]) -> None:
    with pytest.raises(ValueError, match="vectors must"):
        unit_rows(vectors)
