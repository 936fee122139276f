"""What MemoryStore promises beyond the conformance suite: it is the oracle, so it is checked against the formulas."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from store_checks import ids, random_documents, random_embeddings, unit

from m3connect import (
    RRF,
    Dense,
    Document,
    HybridStore,
    M3Embeddings,
    MemoryStore,
    Sparse,
    SparseRows,
    Weighted,
    scoring,
)
from m3connect.errors import DocumentNotFoundError
from m3connect.filters import field
from m3connect.flows import Call


@pytest.fixture
def filled() -> MemoryStore:
    store = MemoryStore(dim=16, multi_vector=True)
    store.upsert(random_documents(50), random_embeddings(50, seed=1, multi_vector=True))
    return store


QUERY = random_embeddings(1, seed=2, multi_vector=True)


def leg_scores(store: MemoryStore, leg: str) -> dict[str, float]:
    names = [document.id for document in store.scroll()]
    rows = store.get_embeddings(names)
    values = {
        "dense": lambda: scoring.dense(QUERY.dense, rows.dense),
        "sparse": lambda: scoring.sparse(QUERY.sparse, rows.sparse),
        "multi_vector": lambda: scoring.multi_vector(QUERY.require_multi_vector(), rows.require_multi_vector()),
    }[leg]()[0]
    return dict(zip(names, values.tolist(), strict=True))


def ranks(scores: dict[str, float], limit: int, *, positive: bool) -> dict[str, int]:
    order = sorted((name for name in scores if not positive or scores[name] > 0), key=lambda name: -scores[name])
    return {name: place for place, name in enumerate(order[:limit], start=1)}


def test_it_is_a_hybrid_store() -> None:
    assert isinstance(MemoryStore(dim=4), HybridStore)


def test_single_legs_are_the_best_inner_products(filled: MemoryStore) -> None:
    for leg, fusion in (("dense", Dense()), ("sparse", Sparse())):
        scores = leg_scores(filled, leg)
        expected = sorted((score for score in scores.values() if leg == "dense" or score > 0), reverse=True)[:10]
        hits = filled.search(QUERY, fusion=fusion)[0]
        assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-6)
        assert [scores[name] for name in ids(hits)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("candidates", [5, 50])
def test_rrf_is_the_formula(filled: MemoryStore, candidates: int) -> None:
    dense = ranks(leg_scores(filled, "dense"), candidates, positive=False)
    sparse = ranks(leg_scores(filled, "sparse"), candidates, positive=True)
    expected = {
        name: sum(weight / (7 + leg[name]) for leg, weight in ((dense, 0.5), (sparse, 2)) if name in leg)
        for name in dense | sparse
    }
    hits = filled.search(QUERY, fusion=RRF(k=7, weights=(0.5, 2)), candidates=candidates, top_k=50)[0]
    assert {hit.document.id: hit.score for hit in hits} == pytest.approx(expected)
    assert ids(hits) == sorted(expected, key=lambda name: (-expected[name], name))


@pytest.mark.parametrize("missing", ["exact", "zero"])
def test_weighted_is_the_sum_of_the_legs(filled: MemoryStore, missing: str) -> None:
    legs = {leg: leg_scores(filled, leg) for leg in ("dense", "sparse", "multi_vector")}
    found = {
        "dense": ranks(legs["dense"], 6, positive=False),
        "sparse": ranks(legs["sparse"], 6, positive=True),
    }
    union = found["dense"] | found["sparse"]
    known = lambda leg, name: missing == "exact" or leg == "multi_vector" or name in found[leg]  # noqa: E731
    weights = {"dense": 1.0, "sparse": 0.3, "multi_vector": 2.0}
    expected = {
        name: sum(weight * legs[leg][name] for leg, weight in weights.items() if known(leg, name)) for name in union
    }
    fusion = Weighted(1, 0.3, 2, missing=missing)  # type: ignore[arg-type]
    hits = filled.search(QUERY, fusion=fusion, candidates=6, top_k=50)[0]
    assert {hit.document.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)


def test_leg_scores_include_token_vectors_where_both_have_them(filled: MemoryStore) -> None:
    hits = filled.search(QUERY, with_scores=True)[0]
    for leg in ("dense", "sparse", "multi_vector"):
        expected = leg_scores(filled, leg)
        assert [(hit.scores or {})[leg] for hit in hits] == pytest.approx(
            [expected[name] for name in ids(hits)], abs=1e-5
        )
    bare = filled.search(replace(QUERY, multi_vector=None), with_scores=True)[0]
    assert all(set(hit.scores or {}) == {"dense", "sparse"} for hit in bare)


def test_ties_are_ordered_by_id() -> None:
    store, row = MemoryStore(dim=2), M3Embeddings(np.array([[1.0, 0.0]]), SparseRows.from_dicts([{1: 1.0}]))
    for name in ("c", "a", "d", "b"):
        store.upsert([Document(name, name)], row)
    for fusion in (RRF(), Weighted(), Dense(), Sparse()):
        assert ids(store.search(row, fusion=fusion, top_k=3)[0]) == ["a", "b", "c"]


def test_a_sparse_hit_without_shared_tokens_has_no_rank() -> None:
    rows = M3Embeddings(unit(np.array([[1.0, 0], [0.5, 1]])), SparseRows.from_dicts([{1: 1.0}, {2: 1.0}]))
    store = MemoryStore(dim=2)
    store.upsert([Document("a", ""), Document("b", "")], rows)
    scores = {hit.document.id: hit.score for hit in store.search(rows[0], fusion=RRF())[0]}
    assert scores == pytest.approx({"a": 2 / 61, "b": 1 / 62})


def test_changing_the_arrays_afterwards_changes_nothing_stored() -> None:
    store, batch = MemoryStore(dim=16), random_embeddings(1, seed=1)
    store.upsert([Document("a", "text")], batch)
    before = batch.dense.copy()
    batch.dense[:] = 0
    batch.sparse.values[:] = 9
    np.testing.assert_array_equal(store.get_embeddings(["a"]).dense, before)
    assert 9 not in store.get_embeddings(["a"]).sparse.values


def test_threads_may_write_and_search_at_once() -> None:
    store, batch = MemoryStore(dim=16), random_embeddings(40, seed=1)

    def work(worker: int) -> None:
        for i in range(10):
            store.upsert([Document(f"{worker}-{i}", "text", {"worker": worker})], batch[worker * 10 + i])
            assert store.search(batch[worker * 10 + i], fusion=Dense(), top_k=1)[0][0].document.id == f"{worker}-{i}"
            store.delete(filter=field("worker") == worker + 100)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.count() == 40


def test_an_update_of_a_document_that_is_gone_changes_nothing() -> None:
    """Between the check and the write another thread may delete; what searches see stays what is stored."""
    store, query = MemoryStore(dim=16), random_embeddings(1, seed=3)
    store.upsert(random_documents(2), random_embeddings(2, seed=1))
    before = store.search(query)
    arguments = {"ids": ["doc-000", "gone"], "embeddings": random_embeddings(2, seed=2), "legs": ["dense"]}
    with pytest.raises(DocumentNotFoundError, match="'gone'"):
        store._perform(Call("write_vectors", arguments))
    assert store.search(query) == before
    np.testing.assert_array_equal(store.get_embeddings(["doc-000"]).dense, random_embeddings(2, seed=1).dense[:1])
