"""What every store can beyond the first contract: paging, grouping, thresholds, inserting, updating."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from store_checks import ids, random_documents, random_embeddings

from m3connect import RRF, Dense, Document, Sparse, Weighted
from m3connect.base import Store
from m3connect.errors import CollectionMismatchError, DocumentNotFoundError

Factory = Callable[..., Store]


@pytest.fixture
def filled(store_factory: Factory) -> Store:
    store = store_factory()
    store.upsert(random_documents(60), random_embeddings(60, seed=1))
    return store


@pytest.mark.parametrize("fusion", [RRF(), Dense(), Sparse(), Weighted()])
def test_pages_neither_repeat_nor_skip_a_hit(filled: Store, fusion: Any) -> None:
    query = random_embeddings(1, seed=2)
    (whole,) = filled.search(query, top_k=60, candidates=60, fusion=fusion)
    pages = [
        filled.search(query, top_k=7, candidates=60, fusion=fusion, offset=offset)[0] for offset in range(0, 70, 7)
    ]
    assert [name for page in pages for name in ids(page)] == ids(whole)


def test_pages_end_with_the_window_of_candidates(filled: Store) -> None:
    query = random_embeddings(1, seed=2)
    assert len(filled.search(query, top_k=10, candidates=15, fusion=Dense(), offset=10)[0]) == 5
    assert filled.search(query, top_k=10, candidates=15, fusion=Dense(), offset=20) == [[]]


def test_grouping_keeps_the_best_hit_of_each_parent(store_factory: Factory) -> None:
    store = store_factory()
    documents = [replace(d, parent_id=f"p{i % 5}" if i % 6 else None) for i, d in enumerate(random_documents(60))]
    store.upsert(documents, random_embeddings(60, seed=1))
    query = random_embeddings(1, seed=2)
    (whole,) = store.search(query, top_k=60, candidates=60)
    expected: dict[str, str] = {}
    for hit in whole:
        expected.setdefault(hit.document.parent_id or hit.document.id, hit.document.id)
    (grouped,) = store.search(query, top_k=8, candidates=60, group_by_parent=True, with_scores=True)
    assert ids(grouped) == list(expected.values())[:8]
    assert all(hit.scores is not None for hit in grouped)
    (second,) = store.search(query, top_k=4, candidates=60, group_by_parent=True, offset=4)
    assert ids(second) == list(expected.values())[4:8]


def test_a_threshold_applies_to_its_leg_alone(filled: Store) -> None:
    query = random_embeddings(1, seed=2)
    (dense,) = filled.search(query, top_k=60, fusion=Dense(), min_scores={"dense": 0.1})
    (unlimited,) = filled.search(query, top_k=60, fusion=Dense())
    assert ids(dense) == [hit.document.id for hit in unlimited if hit.score >= 0.1]
    (fused,) = filled.search(query, top_k=60, min_scores={"dense": 2.0})
    assert ids(fused) == ids(filled.search(query, top_k=60, fusion=RRF(weights=(0, 1)))[0])
    with pytest.raises(ValueError, match="min_scores names"):
        filled.search(query, fusion=Dense(), min_scores={"sparse": 0.1})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"offset": -1}, "offset"), ({"fusion": "rrf"}, "fusion"), ({"candidates": 0}, "candidates")],
)
def test_a_plan_that_means_nothing_is_refused(filled: Store, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filled.search(random_embeddings(1, seed=2), **options)


def test_insert_leaves_documents_that_are_there_as_they_are(store_factory: Factory) -> None:
    store = store_factory()
    store.upsert([Document("a", "old")], random_embeddings(1, seed=1))
    store.insert([Document("a", "new"), Document("b", "first"), Document("b", "second")], random_embeddings(3, seed=2))
    assert [document.text for document in store.get(["a", "b"])] == ["old", "first"]
    np.testing.assert_allclose(store.get_embeddings(["a"]).dense, random_embeddings(1, seed=1).dense, atol=1e-6)


def test_updating_one_leg_changes_nothing_else(store_factory: Factory) -> None:
    store = store_factory()
    documents, old, new = random_documents(3), random_embeddings(3, seed=1), random_embeddings(2, seed=2)
    store.upsert(documents, old)
    names = [documents[0].id, documents[2].id]
    store.update_embeddings(names, new, legs=["sparse"])
    found = store.get_embeddings(names)
    np.testing.assert_allclose(found.dense, old.take([0, 2]).dense, atol=1e-6)
    np.testing.assert_array_equal(found.sparse.indices, new.sparse.indices)
    assert store.get(names) == [documents[0], documents[2]]
    with pytest.raises(DocumentNotFoundError):
        store.update_embeddings(["absent"], new[0])


def test_info_says_what_is_there(filled: Store) -> None:
    info = filled.info()
    assert (info.count, info.dim, info.multi_vector) == (60, 16, False)
    assert info.details["backend"] in {"memory", "qdrant", "milvus", "qdrant-edge"}


def test_two_models_that_come_first_together_do_not_share_a_store(store_factory: Factory) -> None:
    for attempt in range(5):
        store = store_factory()
        barrier = threading.Barrier(2)
        refused: list[str] = []

        def fill(fingerprint: str, store: Store = store, barrier: Any = barrier, refused: Any = refused) -> None:
            batch = replace(random_embeddings(1, seed=1), fingerprint=fingerprint)
            barrier.wait()
            try:
                store.upsert([Document(fingerprint, "text")], batch)
            except CollectionMismatchError:
                refused.append(fingerprint)

        threads = [threading.Thread(target=fill, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 1, attempt
        assert store.count() == 1
