"""MaxSim in blocks, in float32 and in integers: always what the definition says."""

from __future__ import annotations

import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_checks import unit

from m3connect import maxsim, scoring
from m3connect import maxsim_products as products
from m3connect.compiling.finding import can_compile
from m3connect.embeddings import FloatArray
from m3connect.token_rows import ENCODINGS, Encoding, TokenRows, encode_rows

BOUNDS: dict[Encoding, float] = {"float16": 1e-3, "int8": 0.02, "1-bit": 1.0}
"""How far a score may be from the exact one; with few dimensions signs alone say little."""


def texts(lengths: list[int], dim: int = 16, *, seed: int = 1) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    return [unit(rng.standard_normal((n, dim))).reshape(n, dim) for n in lengths]


def reference(query: FloatArray, document: FloatArray) -> float:
    exact = query.astype(np.float64) @ document.astype(np.float64).T
    return float(exact.max(axis=1).mean()) if exact.size else 0.0


ENGINES = ("numpy", "torch", "compiled")


def choose(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply in one of the ways there are, where the processor has what it takes."""
    if engine == "compiled":
        if not (can_compile("float32") and can_compile("int8")):
            pytest.skip("needs the extra fast, and AVX-512 with VNNI")
        pytest.importorskip("torch")  # floats are compiled where it is loaded
        monkeypatch.setattr(maxsim, "find_integer_maxima", None)
        return
    monkeypatch.setattr(maxsim, "can_compile", lambda _: False)
    if engine == "numpy":
        monkeypatch.setattr(products, "_torch_with_onednn", lambda: None)
        monkeypatch.setattr(products, "torch_with_fast_integers", lambda: None)
    else:
        pytest.importorskip("torch")
        if products.torch_with_fast_floats() is None or products.torch_with_fast_integers() is None:
            pytest.skip("this processor has no AVX-512 with VNNI")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    choose(request.param, monkeypatch)
    return str(request.param)


@pytest.mark.parametrize("engine", [*ENGINES, "any"])
@settings(deadline=None, derandomize=True, database=None, max_examples=30)
@given(st.lists(st.integers(0, 9), max_size=5), st.lists(st.integers(0, 40), max_size=8), st.integers(1, 20))
def test_every_path_scores_as_defined(engine: str, queries: list[int], documents: list[int], dim: int) -> None:
    if engine == "compiled":
        dim *= 4
    asked, stored = texts(queries, dim), texts(documents, dim, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "_ROWS", 16)
        patch.setattr(maxsim, "_COLUMNS", 12)
        if engine != "any":
            choose(engine, patch)
        found = scoring.multi_vector(asked, stored)
        assert found.shape == (len(asked), len(stored))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected(asked, stored), atol=1e-5)
        for encoding in ENCODINGS:
            rows = encode_rows(stored, encoding, dim=dim)
            scores = scoring.multi_vector(asked, rows)
            rounding = 0.5 / 127 * np.sqrt(dim) + 1e-5 if encoding != "float16" else 1e-5
            bound = rounding * (np.abs(scores).max(initial=0) + 1)
            np.testing.assert_allclose(scores, expected(asked, list(rows.decode())), atol=bound)


def expected(queries: list[FloatArray], documents: list[FloatArray]) -> FloatArray:
    scores = [[reference(query, document) for document in documents] for query in queries]
    return np.array(scores, np.float64).reshape(len(queries), len(documents))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_stored_rows_score_within_their_encoding(engine: str, encoding: Encoding) -> None:
    queries, documents = texts([5, 0, 1, 40], 64), texts([0, 1, 700, 3000, 2, 0, 9], 64, seed=2)
    exact = scoring.multi_vector(queries, documents)
    np.testing.assert_allclose(exact, expected(queries, documents), atol=1e-5)
    stored = scoring.multi_vector(queries, encode_rows(documents, encoding))
    np.testing.assert_allclose(stored, exact, atol=BOUNDS[encoding])
    assert (stored[:, [0, 5]] == 0).all()
    assert (stored[1] == 0).all()


@pytest.mark.parametrize("encoding", [None, *ENCODINGS])
def test_negative_scores_are_beaten_by_nothing_that_is_not_there(engine: str, encoding: Encoding | None) -> None:
    """A document of one token beside empty ones and the borders of blocks; padding would score 0."""
    query = np.eye(8, dtype=np.float32)[:1]
    documents = [np.zeros((0, 8), np.float32), *[-query] * 5, np.zeros((0, 8), np.float32)]
    rows: list[FloatArray] | TokenRows = documents if encoding is None else encode_rows(documents, encoding)
    scores = scoring.multi_vector([query], rows)[0]
    assert scores[0] == scores[-1] == 0
    np.testing.assert_allclose(scores[1:-1], -1, atol=0.01)


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_the_best_ten_stay_the_best_ten(engine: str, encoding: Encoding) -> None:
    rng = np.random.default_rng(5)
    query = unit(rng.standard_normal((32, 256)))
    documents = [
        unit(query[rng.integers(0, 32, 60)] * near + rng.standard_normal((60, 256)) / 16) for near in rng.random(50)
    ]
    exact = scoring.multi_vector([query], documents)[0]
    stored = scoring.multi_vector([query], encode_rows(documents, encoding))[0]
    assert np.argsort(-stored)[:10].tolist() == np.argsort(-exact)[:10].tolist()


@pytest.mark.parametrize("encoding", [None, *ENCODINGS])
def test_several_threads_score_what_one_does(
    engine: str, encoding: Encoding | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    if engine == "numpy":
        pytest.skip("numpy has threads of its own")
    monkeypatch.setattr(maxsim, "_ROWS", 16)
    queries, documents = texts([5, 0, 9], 64), texts([0, 1, 70, 3, 0, 200, 9], 64, seed=2)
    rows = documents if encoding is None else encode_rows(documents, encoding)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = scoring.multi_vector(queries, rows)
        torch.set_num_threads(3)
        together = scoring.multi_vector(queries, rows)
        kept = torch.get_num_threads(), _threads_of_a_new_thread()
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert kept == (3, 3)
    assert sum(thread.name.startswith("m3connect-maxsim") for thread in threading.enumerate()) >= 3


def _threads_of_a_new_thread() -> int:
    torch = pytest.importorskip("torch")
    with ThreadPoolExecutor(1) as pool:
        return int(pool.submit(torch.get_num_threads).result())


def test_what_is_integer_is_not_decoded(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "numpy":
        pytest.skip("numpy has no fast product of integers")
    monkeypatch.setattr(TokenRows, "numbers", None)
    for encoding in ("int8", "1-bit"):
        assert np.isfinite(scoring.multi_vector(texts([3]), encode_rows(texts([4, 5]), encoding))).all()


def test_arrays_that_cannot_be_written_to_are_scored(engine: str) -> None:
    query, document = texts([3]), texts([5], seed=2)
    rows = encode_rows(document, "int8")
    halves = encode_rows(document, "float16")
    for array in (*query, *document, rows.codes, halves.codes):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for stored in (document, rows, halves):
            assert scoring.multi_vector(query, stored)[0, 0] == pytest.approx(
                reference(query[0], document[0]), abs=0.02
            )


@pytest.mark.parametrize("encoding", [None, *ENCODINGS])
def test_different_dimensions_are_refused(encoding: Encoding | None) -> None:
    documents = texts([3], 9)
    rows = documents if encoding is None else encode_rows(documents, encoding)
    with pytest.raises(ValueError, match="dimension 8, the documents' have 9"):
        scoring.multi_vector(texts([3], 8), rows)


def test_one_of_many_documents_may_have_another_dimension_but_not_unseen(engine: str) -> None:
    with pytest.raises(ValueError, match="dimension 8, the documents' have 9"):
        scoring.multi_vector(texts([3], 8), [*texts([3, 0, 4], 8), *texts([2], 9)])


def test_arrays_in_any_form_are_scored(engine: str) -> None:
    query, documents = texts([40], 24), texts([30, 50, 7], 24, seed=2)
    forms = [
        np.asfortranarray(documents[0]),
        np.repeat(documents[1], 2, axis=0)[::2].astype(np.float64),
        np.pad(documents[2], ((0, 0), (3, 5)))[:, 3:-5],
    ]
    np.testing.assert_allclose(scoring.multi_vector(query, forms), expected(query, documents), atol=1e-5)
    for encoding in ENCODINGS:
        rows = encode_rows(documents, encoding)
        turned = replace(rows, codes=np.asfortranarray(rows.codes))
        np.testing.assert_allclose(scoring.multi_vector(query, turned), scoring.multi_vector(query, rows), atol=1e-6)


@pytest.mark.parametrize("encoding", [None, *ENCODINGS])
def test_vectors_without_dimensions_have_nothing_in_common(engine: str, encoding: Encoding | None) -> None:
    documents = [np.zeros((n, 0), np.float32) for n in (2, 0, 5)]
    rows = documents if encoding is None else encode_rows(documents, encoding)
    assert scoring.multi_vector([np.zeros((3, 0), np.float32)], rows).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("shape", [(40, 8, 0), (4, 8, 2), (4,)])
def test_documents_that_are_no_matrices_are_refused(engine: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="have dimension 8, the documents' have"):
        scoring.multi_vector(texts([3], 8), [*texts([3], 8), np.zeros(shape, np.float32)])


def test_what_is_infinitely_far_away_stays_so(engine: str) -> None:
    document = np.array([[-np.inf, 0, 0, 0]], np.float32)
    assert scoring.multi_vector([np.ones((1, 4), np.float32)], [document])[0, 0] == -np.inf


def test_what_can_be_compiled_is(monkeypatch: pytest.MonkeyPatch) -> None:
    choose("compiled", monkeypatch)
    documents = texts([3])
    found = {encoding: maxsim._find_compiled(encode_rows(documents, encoding)) is not None for encoding in ENCODINGS}
    assert found == {"float16": False, "int8": True, "1-bit": True}
    assert maxsim._find_compiled(documents) is not None


@pytest.mark.parametrize(("dim", "integers"), [(6, False), (8, True)])
def test_rows_that_end_within_a_word_are_not_read_in_words(dim: int, integers: bool) -> None:
    kernel = pytest.importorskip("m3connect.maxsim_kernel")
    found = {encoding: kernel.fits(encode_rows(texts([3], dim), encoding)) for encoding in ENCODINGS}
    assert found == {"float16": False, "int8": integers, "1-bit": True}
    assert kernel.fits(texts([3], dim))


@pytest.mark.parametrize("place", [0, 7, 60])
def test_what_is_no_number_stays_visible(engine: str, place: int) -> None:
    documents = texts([5, 61, 5])
    documents[1][place, 3] = np.nan
    scores = scoring.multi_vector(texts([33]), documents)[0]
    assert np.isnan(scores).tolist() == [False, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(scoring.multi_vector([documents[1]], texts([9]))).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_codes_there_are_do_not_overflow(engine: str, sign: int) -> None:
    query, document = np.ones((3, 4096), np.float32), np.full((20, 4096), sign, np.float32)
    for encoding in ENCODINGS:
        scores = scoring.multi_vector([query], encode_rows([document], encoding))
        np.testing.assert_allclose(scores, sign * 4096, rtol=1e-6)


def test_exact_scores_load_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(products, "_torch_with_onednn", lambda: pytest.fail("torch was asked for"))
    scoring.multi_vector(texts([3]), texts([4]))
    scoring.multi_vector(texts([3]), encode_rows(texts([4]), "float16"))
