"""Inserting, updating vectors, paging, grouping, thresholds and `info` on Milvus, with MemoryStore as the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_checks import assert_same_search, fill, ids, random_documents, random_embeddings

from m3connect import RRF, Dense, Document, MemoryStore, Sparse, SparseRows, Weighted
from m3connect.errors import CollectionMismatchError, DocumentNotFoundError
from m3connect.filters import field

pymilvus = pytest.importorskip("pymilvus", reason="pip install 'm3connect[milvus]'")
pytest.importorskip("milvus_lite", reason="pip install 'm3connect[milvus]'")

from m3connect_milvus import MilvusStore  # noqa: E402  # after the skip
from m3connect_milvus.flows import Server  # noqa: E402

numbers = itertools.count()
DIM = 16


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from milvus_lite.server_manager import server_manager_instance

    path: Path = tmp_path_factory.mktemp("milvus") / "contract.db"
    client = pymilvus.MilvusClient(str(path))
    yield client
    client.close()
    server_manager_instance.release_server(str(path))


@pytest.fixture
def name(client: Any) -> Iterator[str]:
    name = f"c_{next(numbers)}"
    yield name
    client.drop_collection(name)


@pytest.fixture
def store(client: Any, name: str) -> MilvusStore:
    return MilvusStore(client, name, dim=DIM)


@pytest.fixture
def oracle() -> MemoryStore:
    return MemoryStore(dim=DIM)


def assert_same_contents(store: MilvusStore, oracle: MemoryStore) -> None:
    documents = list(oracle.scroll())
    names = [document.id for document in documents]
    assert list(store.scroll()) == documents
    assert store.fingerprints(names) == oracle.fingerprints(names)
    stored, expected = store.get_embeddings(names), oracle.get_embeddings(names)
    np.testing.assert_allclose(stored.dense, expected.dense, atol=1e-6)
    assert stored.sparse.to_dicts() == expected.sparse.to_dicts()


# Inserting


@pytest.mark.parametrize("flush", [False, True])
def test_insert_leaves_alone_what_is_there(store: MilvusStore, oracle: MemoryStore, flush: bool) -> None:
    fill([store, oracle], random_documents(10), random_embeddings(10, seed=1))
    if flush:
        store.flush()
    changed = [replace(document, text="changed") for document in random_documents(15)]
    for each in (store, oracle):
        each.insert(changed, random_embeddings(15, seed=2))
    assert_same_contents(store, oracle)
    assert [document.text for document in store.get(["doc-000", "doc-014"])] == ["text number 0", "changed"]


def test_of_one_id_twice_the_first_is_inserted(store: MilvusStore, oracle: MemoryStore) -> None:
    documents = [Document("a", "first"), Document("a", "second"), Document("x'] or id in ['a", "hostile")]
    for each in (store, oracle):
        each.insert(documents, random_embeddings(3, seed=1))
        each.insert(documents, random_embeddings(3, seed=2))
    assert_same_contents(store, oracle)


def test_inserting_nothing_new_sends_nothing(store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, batch = random_documents(3), random_embeddings(3, seed=1)
    store.insert(documents, batch)
    monkeypatch.setattr(store._client, "upsert", None)
    store.insert(documents, batch)
    assert store.count() == 3


# Updating vectors

LEGS = {"dense": ["dense"], "sparse": ["sparse"], "both": ["dense", "sparse"], "all": None, "tokens": ["multi_vector"]}


@pytest.mark.parametrize("version", ["milvus_lite-3.2.2", "v2.6.2", "v2.5.27"])
@pytest.mark.parametrize("legs", LEGS)
def test_vectors_are_replaced_and_nothing_else(
    store: MilvusStore, oracle: MemoryStore, legs: str, version: str
) -> None:
    """The last version cannot update a part of a row, so rows are read and written back."""
    store._flows.server = Server(version)  # type: ignore[attr-defined]
    metadata = {"lang": "de", "tags": ["a", 1], "year": 1990, 'q"': [None, {"deep": 1.5}]}
    documents = [*random_documents(8), Document("x'] or id in ['a", "ü", metadata, "p"), Document("z", "")]
    fill([store, oracle], documents, random_embeddings(10, seed=1))
    store._run(store._flows.flush())
    new = random_embeddings(10, seed=2)
    new = replace(new, sparse=SparseRows.from_dicts([{}, *new.sparse.to_dicts()[1:]]))
    names = [document.id for document in documents]
    options = {} if LEGS[legs] is None else {"legs": LEGS[legs]}
    for each in (store, oracle):
        each.update_embeddings(names[:9], new[:9], **options)
    assert_same_contents(store, oracle)
    assert ids_of(store, field("lang") == "de") == ids_of(oracle, field("lang") == "de")
    assert ids_of(store, field("tags").contains("a") & (field("year") <= 1990)) == ["x'] or id in ['a"]
    assert_same_search(store, oracle, random_embeddings(3, seed=3), with_scores=True)


def ids_of(store: Any, condition: Any) -> list[str]:
    return [document.id for document in store.scroll(condition)]


def test_an_update_of_an_absent_document_writes_nothing(store: MilvusStore, oracle: MemoryStore) -> None:
    fill([store, oracle], random_documents(3), random_embeddings(3, seed=1))
    with pytest.raises(DocumentNotFoundError, match="nowhere"):
        store.update_embeddings(["doc-000", "nowhere"], random_embeddings(2, seed=2))
    assert_same_contents(store, oracle)


def test_an_update_is_checked_before_it_is_written(store: MilvusStore, oracle: MemoryStore) -> None:
    fill([store, oracle], random_documents(2), replace(random_embeddings(2, seed=1), fingerprint="one"))
    bad = random_embeddings(2, seed=2)
    bad.dense[1, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        store.update_embeddings(["doc-000", "doc-001"], bad)
    with pytest.raises(CollectionMismatchError, match="filled by one"):
        store.update_embeddings(["doc-000"], replace(random_embeddings(1, seed=2), fingerprint="two"))
    assert_same_contents(store, oracle)


# Searching


def parents(n: int) -> list[Document]:
    return [
        replace(document, parent_id=None if i % 7 == 0 else f"p'{i % 5}")
        for i, document in enumerate(random_documents(n))
    ]


@pytest.mark.parametrize("fusion", [RRF(), Weighted(), Weighted(missing="zero"), Dense(), Sparse()], ids=repr)
@pytest.mark.parametrize("group", [False, True])
def test_pages_neither_repeat_nor_skip(store: MilvusStore, oracle: MemoryStore, fusion: Any, group: bool) -> None:
    fill([store, oracle], parents(90), random_embeddings(90, seed=1))
    store.flush()
    query = random_embeddings(1, seed=2)
    options = {"fusion": fusion, "candidates": 60, "group_by_parent": group, "filter": field("year") < 1985}
    whole = oracle.search(query, top_k=500, offset=0, **options)[0]
    pages: list[str] = []
    for offset in range(0, 120, 7):
        found = store.search(query, top_k=7, offset=offset, **options)[0]
        pages += ids(found)
        assert [hit.score for hit in found] == pytest.approx(
            [hit.score for hit in whole[offset : offset + 7]], abs=1e-5
        )
    assert pages == ids(whole)
    assert len(pages) == len(set(pages))


def test_thresholds_are_for_legs(store: MilvusStore, oracle: MemoryStore) -> None:
    fill([store, oracle], parents(60), random_embeddings(60, seed=1))
    queries = random_embeddings(4, seed=2)
    for options in (
        {"min_scores": {"dense": 0.1}},
        {"min_scores": {"sparse": 0.5}},
        {"min_scores": {"dense": 0.2, "sparse": 0.4}, "group_by_parent": True},
        {"min_scores": {"dense": 0.2}, "fusion": Dense(), "with_scores": True},
        {"min_scores": {"sparse": 1e9}, "fusion": Sparse()},
        {"min_scores": {"sparse": 0.4}, "fusion": Weighted(), "filter": field("lang") != "de"},
    ):
        found, expected = store.search(queries, **options), oracle.search(queries, **options)
        assert [ids(hits) for hits in found] == [ids(hits) for hits in expected], options
        for hits, wanted in zip(found, expected, strict=True):
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
    with pytest.raises(ValueError, match="min_scores names"):
        store.search(queries, min_scores={"sparse": 0.5}, fusion=Dense())


def test_a_page_beyond_what_milvus_gives_is_refused(store: MilvusStore) -> None:
    query = random_embeddings(1, seed=1)
    assert store.search(query, top_k=10, offset=16_380, candidates=16_384) == [[]]
    with pytest.raises(ValueError, match="16384 hits"):
        store.search(query, top_k=10, offset=16_380, candidates=16_385)


def test_every_leg_is_filtered_in_one_or_in_many_expressions(
    store: MilvusStore, oracle: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids that one expression cannot hold are searched group by group, and the best of all kept."""
    documents = [replace(document, metadata={"note": f"n{i}"}) for i, document in enumerate(random_documents(80))]
    fill([store, oracle], documents, random_embeddings(80, seed=1))
    condition = ~field("note").text_contains("7")
    for size in (16 * 2**20, 300):
        monkeypatch.setattr("m3connect_milvus.requests._EXPRESSION_BYTES", size)
        for fusion in (RRF(), Dense(), Sparse(), Weighted()):
            options = {"filter": condition, "fusion": fusion, "top_k": 5, "candidates": 9}
            assert_same_search(store, oracle, random_embeddings(3, seed=2), **options)
        assert store.count(condition) == oracle.count(condition)
        assert ids_of(store, condition) == ids_of(oracle, condition)


# The collection


@pytest.mark.parametrize("multi_vector", [None, False])
def test_a_collection_is_taken_as_made(client: Any, name: str, multi_vector: bool | None) -> None:
    for _ in range(2):
        assert MilvusStore(client, name, dim=DIM, multi_vector=multi_vector).multi_vector is False


def test_info_says_what_the_collection_is(store: MilvusStore, name: str) -> None:
    fill([store], random_documents(7), replace(random_embeddings(7, seed=1), fingerprint="one"))
    info = store.info()
    assert (info.name, info.count, info.dim, info.multi_vector, info.fingerprint) == (name, 7, DIM, False, "one")
    details = info.details
    assert (details["backend"], details["lite"]) == ("milvus", True)
    assert details["version"].startswith("milvus_lite-3")
    assert {field: index["index_type"] for field, index in details["indexes"].items()} == {
        "dense": "FLAT",
        "sparse": "SPARSE_INVERTED_INDEX",
    }
    assert all(index["metric_type"] == "IP" for index in details["indexes"].values())
    assert details["properties"]["m3connect.fingerprint"] == "one"


def test_drop_leaves_nothing(client: Any, store: MilvusStore, name: str) -> None:
    fill([store], random_documents(3), replace(random_embeddings(3, seed=1), fingerprint="one"))
    store.drop()
    assert not client.has_collection(name)
    again = MilvusStore(client, name, dim=8)
    assert (again.count(), again.fingerprint, again.dim) == (0, None, 8)


def test_a_client_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    from milvus_lite.server_manager import server_manager_instance

    path = str(tmp_path / "other.db")
    with pytest.raises(ValueError, match=r"AsyncMilvusStore\.open"):
        MilvusStore(pymilvus.AsyncMilvusClient(path), "docs", dim=DIM)
    server_manager_instance.release_server(path)


@pytest.mark.parametrize(
    ("version", "lite", "parts"),
    [
        ("milvus_lite-3.2.2", True, True),
        ("2.5.27", False, False),
        ("v2.6.1", False, False),
        ("v2.6.2-dev", False, True),
        ("v3.0.1", False, True),
    ],
)
def test_versions_are_told_apart(version: str, lite: bool, parts: bool) -> None:
    assert (Server(version).lite, Server(version).updates_parts) == (lite, parts)
