"""What the Edge store writes, and its searches in one request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_helpers import one
from store_checks import assert_same_search, fill, random_documents, random_embeddings

from m3connect import RRF, Dense, Document, MemoryStore, SparseRows, Weighted
from m3connect.errors import DocumentNotFoundError
from m3connect.filters import field

pytest.importorskip("qdrant_edge")

import m3connect_edge.flows
from m3connect_edge import EdgeStore, convert
from m3connect_edge.filters import render
from m3connect_edge.folder import Folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs"


# -- writing ----------------------------------------------------------------------------------------------------------


def test_insert_leaves_what_is_there(path: Path) -> None:
    batch = random_embeddings(3, seed=1)
    with EdgeStore(path, dim=16) as store:
        store.upsert(one("old"), batch[0])
        store.insert([Document("a", "new"), Document("b", "first"), Document("b", "second")], batch)
        assert [document.text for document in store.get(["a", "b"])] == ["old", "first"]


def test_one_leg_is_replaced_and_nothing_else(path: Path) -> None:
    old, new = (random_embeddings(2, seed=seed, multi_vector=True) for seed in (1, 2))
    documents = random_documents(2)
    names = [document.id for document in documents]
    with EdgeStore(path, dim=16, multi_vector=True) as store:
        store.upsert(documents, old)
        store.update_embeddings(names, new, legs=["sparse"])
        stored = store.get_embeddings(names)
        assert stored.sparse.to_dicts() == new.sparse.to_dicts()
        np.testing.assert_array_equal(stored.dense, old.dense)
        empty = replace(new, sparse=SparseRows.empty(2), multi_vector=(np.zeros((0, 16), np.float32),) * 2)
        store.update_embeddings(names[::-1], empty, legs=["sparse", "multi_vector"])
        stored = store.get_embeddings(names)
        assert stored.sparse.to_dicts() == [{}, {}]
        assert [len(matrix) for matrix in stored.require_multi_vector()] == [0, 0]
        np.testing.assert_array_equal(stored.dense, old.dense)
        assert store.get(names) == documents
        with pytest.raises(DocumentNotFoundError, match="nowhere"):
            store.update_embeddings(["nowhere"], new[0])
        store.update_embeddings([names[0]] * 2, new)
        np.testing.assert_array_equal(store.get_embeddings(names[:1]).dense, new.dense[1:])


def test_token_vectors_are_passed_over_where_none_are_stored(path: Path) -> None:
    with EdgeStore(path, dim=16) as store:
        store.upsert(one(), random_embeddings(1, seed=1))
        store.update_embeddings(["a"], random_embeddings(1, seed=2))
        np.testing.assert_array_equal(store.get_embeddings(["a"]).dense, random_embeddings(1, seed=2).dense)


def test_all_numbers_come_back_bit_by_bit(path: Path) -> None:
    batch = random_embeddings(40, seed=1, multi_vector=True)
    names = [document.id for document in random_documents(40)]
    with EdgeStore(path, dim=16, multi_vector=True) as store:
        store.upsert(random_documents(40), batch)
    with EdgeStore(path) as store:
        stored = store.get_embeddings(names)
    np.testing.assert_array_equal(stored.dense, batch.dense)
    assert stored.sparse.to_dicts() == batch.sparse.to_dicts()
    for found, given_ in zip(stored.require_multi_vector(), batch.require_multi_vector(), strict=True):
        np.testing.assert_array_equal(found, given_)


def test_large_batches_are_cut_and_flushed_on_the_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m3connect_edge.flows, "_WRITE", 2_000)
    monkeypatch.setattr(m3connect_edge.flows, "_FLUSH", 10_000)
    calls: list[str] = []
    perform = Folder.perform
    monkeypatch.setattr(Folder, "perform", lambda self, call: (calls.append(call.method), perform(self, call))[1])
    with EdgeStore(path, dim=16) as store:
        store.upsert(random_documents(300), random_embeddings(300, seed=1))
        assert calls.count("update") > 10
        assert 1 < calls.count("flush") < calls.count("update")
        assert store.count() == 300


def test_points_look_as_in_a_server_collection() -> None:
    qdrant = pytest.importorskip("m3connect_qdrant.convert")
    document = Document("a", "text", {"year": 1990, "tags": ["x"], "score": 0.5}, parent_id="p")
    assert convert.point_id("größe") == qdrant.point_id("größe")
    assert convert.to_payload(document, "hash") == qdrant.to_payload(document, "hash")


# -- searching --------------------------------------------------------------------------------------------------------


def test_the_m3_score_is_one_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    perform = Folder.perform
    monkeypatch.setattr(Folder, "perform", lambda self, call: (calls.append(call.method), perform(self, call))[1])
    oracle, batch = MemoryStore(dim=16, multi_vector=True), random_embeddings(200, seed=1, multi_vector=True)
    questions = random_embeddings(5, seed=2, multi_vector=True)
    with EdgeStore(path, dim=16, multi_vector=True) as store:
        fill([store, oracle], random_documents(200), batch)
        for fusion in (Weighted(1, 0.3, 1), Weighted(0, 1, 2), Weighted(1, 0, 0.5, missing="zero"), RRF(), Dense()):
            for condition in (None, field("lang") == "de"):
                calls.clear()
                store.search(questions, fusion=fusion, filter=condition, candidates=20)
                assert calls == ["query_batch"]
                assert_same_search(store, oracle, questions, fusion=fusion, filter=condition, candidates=20)
                assert_same_search(store, oracle, questions, fusion=fusion, candidates=20, with_scores=True)


def test_queries_without_tokens_lose_only_those_legs(path: Path) -> None:
    oracle, batch = MemoryStore(dim=16, multi_vector=True), random_embeddings(50, seed=1, multi_vector=True)
    questions = replace(
        random_embeddings(2, seed=2),
        sparse=SparseRows.empty(2),
        multi_vector=(np.zeros((0, 16), np.float32), batch.require_multi_vector()[0]),
    )
    with EdgeStore(path, dim=16, multi_vector=True) as store:
        fill([store, oracle], random_documents(50), batch)
        for fusion in (Weighted(1, 0.3, 1), Weighted(0, 1, 1), Weighted(1, 1, 1, missing="zero"), RRF()):
            assert_same_search(store, oracle, questions, fusion=fusion, candidates=10, with_scores=True)


@pytest.mark.parametrize(
    "options",
    [
        {"offset": 5, "top_k": 5},
        {"group_by_parent": True},
        {"min_scores": {"dense": 0.1}},
        {"fusion": RRF(k=1.5)},
        {"fusion": RRF(weights=(2, 1))},
        {"fusion": Weighted(), "offset": 0, "with_scores": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_edge_would_not_do_exactly_is_done_here(path: Path, options: dict[str, Any]) -> None:
    oracle = MemoryStore(dim=16)
    documents = [
        replace(document, parent_id=f"p{i % 20}" if i % 3 else None) for i, document in enumerate(random_documents(90))
    ]
    with EdgeStore(path, dim=16) as store:
        fill([store, oracle], documents, random_embeddings(90, seed=1))
        questions = random_embeddings(4, seed=2)
        found, expected = (each.search(questions, candidates=30, **options) for each in (store, oracle))
    for hits, wanted in zip(found, expected, strict=True):
        assert [hit.document for hit in hits] == [hit.document for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-5)


def test_optimizing_changes_no_answer(path: Path) -> None:
    oracle = MemoryStore(dim=16)
    with EdgeStore(path, dim=16, filter_fields=["year"]) as store:
        fill([store, oracle], random_documents(300), random_embeddings(300, seed=1))
        for each in (store, oracle):
            each.delete([document.id for document in random_documents(200)])
        assert isinstance(store.optimize(), bool)
        for condition in (None, field("year") >= 2150):
            assert_same_search(store, oracle, random_embeddings(3, seed=2), fusion=Weighted(), filter=condition)
        fill([store, oracle], random_documents(50), random_embeddings(50, seed=3))
        assert_same_search(store, oracle, random_embeddings(3, seed=2))
        assert store.count() == 150


def test_declared_fields_are_indexed_once_and_later_too(path: Path) -> None:
    EdgeStore(path, dim=16).close()
    with EdgeStore(path, filter_fields=["year", "a.b"]) as store:
        details = store.info().details
        assert {"filter_tokens", "filter_numbers.n_year"} < set(details["indexed_fields"])
        store.upsert(random_documents(50), random_embeddings(50, seed=1))
        assert store.count(field("year") >= 1940) == 10
    with EdgeStore(path, filter_fields=["year"]) as store:
        assert store.info().details["indexed_fields"] == details["indexed_fields"]
        assert store.count(field("year") >= 1940) == 10
    with pytest.raises(ValueError, match="list of metadata keys"):
        EdgeStore(path, filter_fields="year")
    with pytest.raises(ValueError, match="double quotes"):
        EdgeStore(path, filter_fields=['ye"ar'])


def test_a_filter_that_only_metadata_decides_is_not_rendered() -> None:
    with pytest.raises(ValueError, match="tokens and numbers decide"):
        render(field("title").text_contains("x"))
