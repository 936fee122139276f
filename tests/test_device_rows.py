"""MaxSim of rows on a device: what the definition says, here on the processor, and on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_checks import unit

from m3connect import device_rows, scoring
from m3connect.device_rows import DeviceRows
from m3connect.embeddings import FloatArray

torch = pytest.importorskip("torch")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    return str(request.param)


def texts(lengths: list[int], dim: int = 16, *, seed: int = 1) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    return [unit(rng.standard_normal((n, dim))).reshape(n, dim) for n in lengths]


def expected(queries: list[FloatArray], documents: list[FloatArray]) -> FloatArray:
    return np.array([[scoring.mean_maxsim(query, document) for document in documents] for query in queries])


@settings(deadline=None, derandomize=True, database=None, max_examples=40)
@given(st.lists(st.integers(0, 9), max_size=5), st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_blocks_cut_through_documents_and_queries_change_nothing(queries: list[int], documents: list[int]) -> None:
    asked, stored = texts(queries), texts(documents, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_rows, "_ROWS", 5)
        patch.setattr(device_rows, "_COLUMNS", 3)
        found = scoring.multi_vector(asked, DeviceRows.of(stored, device="cpu"))
    assert found.shape == (len(asked), len(stored))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(asked, stored).reshape(found.shape), atol=1e-5)


def test_scores_are_those_of_the_processor(device: str) -> None:
    queries, documents = texts([5, 0, 1, 40], 64), texts([0, 1, 700, 3000, 2, 0, 9], 64, seed=2)
    exact = scoring.multi_vector(queries, documents)
    np.testing.assert_allclose(scoring.multi_vector(queries, DeviceRows.of(documents, device=device)), exact, atol=1e-5)
    halves = DeviceRows.of(documents, device=device, dtype="float16")
    np.testing.assert_allclose(scoring.multi_vector(queries, halves), exact, atol=1e-3)


def test_negative_scores_are_beaten_by_nothing_that_is_not_there(device: str) -> None:
    query = np.eye(8, dtype=np.float32)[:1]
    documents = [np.zeros((0, 8), np.float32), *[-query] * 5, np.zeros((0, 8), np.float32)]
    scores = scoring.multi_vector([query], DeviceRows.of(documents, device=device))
    assert scores.tolist() == [[0, -1, -1, -1, -1, -1, 0]]


def test_different_dimensions_are_refused(device: str) -> None:
    with pytest.raises(ValueError, match="dimension 8, the documents' have 9"):
        scoring.multi_vector(texts([3], 8), DeviceRows.of(texts([3], 9), device=device))


def test_rows_that_do_not_fit_their_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, d\)"):
        DeviceRows(torch.zeros(4, 8), np.array([1, 2]))
    with pytest.raises(ValueError, match="no documents"):
        DeviceRows.of([], device="cpu")
    with pytest.raises(ValueError, match="'float32' or 'float16', but is 'int8'"):
        DeviceRows.of(texts([3]), device="cpu", dtype="int8")  # type: ignore[arg-type]
