"""Token vectors in fewer bytes: what each encoding keeps, and what pooling joins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_checks import unit

from m3connect.embeddings import FloatArray
from m3connect.token_rows import ENCODINGS, Encoding, NamedRows, TokenRows, encode_rows, pool_rows, row_bytes


def texts(lengths: Sequence[int], dim: int, seed: int) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    return [unit(rng.standard_normal((n, dim))).reshape(n, dim) for n in lengths]


some_texts = st.builds(
    texts, st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 99)
)


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(some_texts)
def test_float16_is_off_by_one_part_in_2048(matrices: list[FloatArray]) -> None:
    for matrix, decoded in zip(matrices, encode_rows(matrices, "float16").decode(), strict=True):
        np.testing.assert_allclose(decoded, matrix, rtol=2**-11, atol=2**-24)


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(some_texts)
def test_int8_is_off_by_half_a_step_of_the_document(matrices: list[FloatArray]) -> None:
    for matrix, decoded in zip(matrices, encode_rows(matrices, "int8").decode(), strict=True):
        step = np.abs(matrix).max(initial=0) / 127
        np.testing.assert_allclose(decoded, matrix, atol=step / 2 * 1.0001 + 1e-7)


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(some_texts)
def test_one_bit_keeps_signs_and_the_product_with_itself(matrices: list[FloatArray]) -> None:
    for matrix, decoded in zip(matrices, encode_rows(matrices, "1-bit").decode(), strict=True):
        assert ((decoded > 0) == (matrix > 0)).all()
        if len(matrix) == 1:
            assert float((decoded * matrix).sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_encodings_keep_by_hand(encoding: Encoding) -> None:
    matrix = np.array([[0.6, -0.8], [1.0, 0.0]], np.float32)
    decoded = encode_rows([matrix], encoding).decode()[0]
    scale = (1 / 1.4 + 1) / 2
    expected = [[scale, -scale], [scale, -scale]] if encoding == "1-bit" else matrix
    np.testing.assert_allclose(decoded, expected, atol=0.5 / 127)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_text_has_the_bytes_that_its_encoding_says(encoding: Encoding) -> None:
    rows = encode_rows(texts([3, 0, 5], 20, 1), encoding)
    assert rows.codes.nbytes == 8 * row_bytes(20, encoding) == 8 * {"float16": 40, "int8": 20, "1-bit": 3}[encoding]
    assert rows.nbytes == rows.codes.nbytes + 3 * 4


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_texts_are_chosen_and_joined(encoding: Encoding) -> None:
    matrices = texts([3, 0, 1, 5], 12, 2)
    rows = encode_rows(matrices, encoding)
    assert rows.take([0, 1, 2, 3]) is rows
    chosen = rows.take([3, 1, 0, 3]).decode()
    for found, i in zip(chosen, [3, 1, 0, 3], strict=True):
        np.testing.assert_array_equal(found, rows.decode()[i])
    joined = TokenRows.concatenate([rows.take([0]), rows.take([]), rows.take([1, 2, 3])])
    for found, expected in zip(joined.decode(), rows.decode(), strict=True):
        np.testing.assert_array_equal(found, expected)
    named = NamedRows({"a": 0, "b": 1}, rows.take([0, 1])).joined(["c", "a"], rows.take([2, 3]))
    np.testing.assert_array_equal(named.of(["a"]).decode()[0], rows.decode()[3])
    assert [len(found) for found in named.of(["c", "b"]).decode()] == [1, 0]


def test_no_texts_are_no_rows() -> None:
    assert encode_rows([], "int8", dim=4).decode() == ()
    with pytest.raises(ValueError, match="dimension must be given"):
        encode_rows([], "int8")


def test_rows_of_different_kinds_are_not_joined() -> None:
    some = encode_rows(texts([2], 8, 1), "int8")
    for other in (encode_rows(texts([2], 8, 1), "1-bit"), encode_rows(texts([2], 9, 1), "int8")):
        with pytest.raises(ValueError, match="one encoding and dimension"):
            TokenRows.concatenate([some, other])


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    lengths, scales = np.array([2]), np.ones(1, np.float32)
    with pytest.raises(ValueError, match=r"shape \(2, 8\)"):
        TokenRows("int8", 8, np.zeros((3, 8), np.int8), lengths, scales)
    with pytest.raises(ValueError, match="type float16"):
        TokenRows("float16", 8, np.zeros((2, 8), np.int8), lengths, scales)
    with pytest.raises(ValueError, match="1 lengths but 2 scales"):
        TokenRows("int8", 8, np.zeros((2, 8), np.int8), lengths, np.ones(2, np.float32))
    with pytest.raises(ValueError, match="encoding must be one of float16, int8, 1-bit"):
        encode_rows(texts([2], 8, 1), "int4")  # type: ignore[arg-type]


# Pooling.


def reference_pooled(matrix: FloatArray, groups: int) -> FloatArray:
    """Ward's clustering by its definition: the joining that adds least to the squares, every pair tried."""
    clusters = [(row.astype(np.float64), 1) for row in matrix]
    while len(clusters) > groups:
        pairs = [(i, j) for i in range(len(clusters)) for j in range(i + 1, len(clusters))]
        i, j = min(pairs, key=lambda pair: joining_cost(clusters[pair[0]], clusters[pair[1]]))
        (one, n), (other, m) = clusters[i], clusters.pop(j)
        clusters[i] = ((one * n + other * m) / (n + m), n + m)
    return unit(np.array([mean for mean, _ in clusters]))


def joining_cost(one: tuple[FloatArray, int], other: tuple[FloatArray, int]) -> float:
    return one[1] * other[1] / (one[1] + other[1]) * float(np.square(one[0] - other[0]).sum())


@pytest.mark.parametrize(("n", "factor"), [(2, 2), (9, 2), (20, 3), (21, 8), (12, 100)])
def test_pooling_is_wards_clustering(n: int, factor: int) -> None:
    matrix = texts([n], 6, n)[0]
    pooled = pool_rows(matrix, factor)
    assert len(pooled) == -(-n // factor)
    np.testing.assert_allclose(pooled, reference_pooled(matrix, -(-n // factor)), atol=1e-5)


def test_pooling_joins_what_is_alike_and_loses_nothing_of_equal_rows() -> None:
    rows = np.eye(4, dtype=np.float32)
    np.testing.assert_allclose(pool_rows(rows[[0, 1, 0, 2, 1, 3, 2, 3]], 2), rows, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 1300])
def test_pooled_rows_are_unit_rows_of_any_text(n: int) -> None:
    pooled = pool_rows(texts([n], 8, 3)[0], 2)
    assert pooled.shape == (-(-n // 2), 8)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)


def test_a_factor_of_one_changes_nothing() -> None:
    matrix = texts([7], 8, 3)[0]
    assert pool_rows(matrix, 1) is matrix
