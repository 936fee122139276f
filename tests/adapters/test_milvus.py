"""What is particular to Milvus; what all stores share is in test_store_conformance.py."""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_checks import assert_same_search, random_documents, random_embeddings

from m3connect import RRF, Dense, Document, HybridStore, M3Embeddings, MemoryStore, Sparse, SparseRows, Weighted
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError, FilterTooBroadError
from m3connect.filters import And, Filter, HasToken, Or, field, matches
from m3connect.splitting import is_exact

pymilvus = pytest.importorskip("pymilvus", reason="pip install 'm3connect[milvus]'")
pytest.importorskip("milvus_lite", reason="pip install 'm3connect[milvus]'")

from m3connect_milvus import MilvusSettings, MilvusStore, convert, filters, requests, schema  # noqa: E402  # after the skip
from m3connect_milvus.columns import Columns  # noqa: E402

numbers = itertools.count()
DIM = 16


def connect(path: Path) -> Any:
    return pymilvus.MilvusClient(str(path))


def disconnect(client: Any, path: Path) -> None:
    from milvus_lite.server_manager import server_manager_instance

    client.close()
    server_manager_instance.release_server(str(path))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("milvus") / "milvus.db"
    client = connect(path)
    yield client
    disconnect(client, path)


@pytest.fixture
def name(client: Any) -> Iterator[str]:
    name = f"c_{next(numbers)}"
    yield name
    client.drop_collection(name)


@pytest.fixture
def store(client: Any, name: str) -> MilvusStore:
    return MilvusStore(client, name, dim=DIM)


def stored(store: HybridStore, n: int = 3, *, seed: int = 1) -> tuple[list[Document], M3Embeddings]:
    documents, batch = random_documents(n), random_embeddings(n, seed=seed)
    store.upsert(documents, batch)
    return documents, batch


def ids(store: HybridStore, condition: Filter | None = None) -> list[str]:
    return [document.id for document in store.scroll(condition)]


def plain_schema(dim: int) -> Any:
    return schema.to_schema(schema.Layout(dim, Columns(), False))


def hand_made(
    client: Any, name: str, *, dim: int = DIM, metric: str = "IP", extra: bool = False, **options: Any
) -> None:
    """A collection like ours, made by someone else."""
    layout = plain_schema(dim)
    if extra:
        layout.add_field("color", pymilvus.DataType.VARCHAR, max_length=9)
    client.create_collection(name, schema=layout, consistency_level="Strong", **options)
    indexes = client.prepare_index_params()
    indexes.add_index("dense", index_type="FLAT", metric_type=metric)
    indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_index(name, indexes, sync=False)


# Opening


def test_without_pymilvus_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    monkeypatch.delitem(sys.modules, "m3connect_milvus")
    with pytest.raises(ImportError, match=r'pip install "m3connect\[milvus\]"'):
        importlib.import_module("m3connect_milvus")


def test_it_is_a_hybrid_store(store: MilvusStore) -> None:
    assert isinstance(store, HybridStore)
    assert (store.dim, store.fingerprint, store.multi_vector) == (DIM, None, False)


def test_opening_writing_and_reading_logs_no_error(client: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        store = MilvusStore(client, name, dim=DIM)
        documents, batch = stored(store)
        store.flush()
        MilvusStore(client, name).search(batch, filter=field("year") > 0)
        store.delete([documents[0].id])
    assert [record.getMessage() for record in caplog.records] == []


def test_without_dim_the_collection_must_exist(client: Any, store: MilvusStore, name: str) -> None:
    assert MilvusStore(client, name).dim == DIM
    with pytest.raises(CollectionNotFoundError, match="give its dim="):
        MilvusStore(client, "nowhere")
    assert not client.has_collection("nowhere")


def test_with_create_false_nothing_is_created(client: Any) -> None:
    with pytest.raises(CollectionNotFoundError, match="open it with create=True"):
        MilvusStore(client, "nowhere", dim=DIM, create=False)
    assert not client.has_collection("nowhere")


def test_token_vectors_are_refused_with_what_to_do(client: Any) -> None:
    with pytest.raises(ValueError, match=r"HybridRetriever\(rerank=True\)"):
        MilvusStore(client, "nowhere", dim=DIM, multi_vector=True)
    assert not client.has_collection("nowhere")


@pytest.mark.parametrize("bad", ["", "1st", "with space", "../up", 'quo"te', "é", "x" * 256])
def test_a_name_that_milvus_refuses_is_refused_by_us(client: Any, bad: str) -> None:
    with pytest.raises(ValueError, match="names a collection"):
        MilvusStore(client, bad, dim=DIM)


@pytest.mark.parametrize("dim", [0, -1, 32_769])
def test_a_dimension_that_milvus_refuses_is_refused_by_us(client: Any, dim: int) -> None:
    with pytest.raises(ValueError, match=r"dim|no collection|there is none"):
        MilvusStore(client, "nowhere", dim=dim)


def test_another_dimension_is_refused(client: Any, store: MilvusStore, name: str) -> None:
    with pytest.raises(CollectionMismatchError, match="expected dimension 8, found 16"):
        MilvusStore(client, name, dim=8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "not made by m3connect.*adopt_fingerprint="),
        ({"extra": True}, r"color: expected no such field, found VARCHAR\(9\)"),
        ({"metric": "L2", "properties": {"m3connect.schema": "1"}}, "expected metric IP on dense, found L2"),
        ({"properties": {"m3connect.schema": "2"}}, "expected layout version 1, found 2"),
    ],
)
def test_a_collection_that_does_not_fit_is_refused(client: Any, name: str, options: Any, expected: str) -> None:
    hand_made(client, name, **options)
    with pytest.raises(CollectionMismatchError, match=expected):
        MilvusStore(client, name, dim=DIM)


def test_a_collection_of_another_library_is_refused(client: Any, name: str) -> None:
    client.create_collection(name, dimension=DIM)
    with pytest.raises(CollectionMismatchError, match=r"text: expected VARCHAR\(65535\), found no such field"):
        MilvusStore(client, name, dim=DIM, adopt_fingerprint="theirs")


def test_a_collection_of_our_layout_can_be_adopted(client: Any, name: str) -> None:
    hand_made(client, name)
    assert MilvusStore(client, name, adopt_fingerprint="theirs").fingerprint == "theirs"
    assert MilvusStore(client, name).fingerprint == "theirs"
    with pytest.raises(CollectionMismatchError, match="filled by theirs"):
        MilvusStore(client, name, adopt_fingerprint="ours")


def test_a_collection_left_without_indexes_by_a_crash_is_completed(client: Any, name: str) -> None:
    client.create_collection(
        name, schema=plain_schema(DIM), properties={"m3connect.schema": "1"}, consistency_level="Strong"
    )
    documents, batch = stored(MilvusStore(client, name))
    assert MilvusStore(client, name).search(batch[0], top_k=1)[0][0].document == documents[0]


def test_reopening_loses_nothing_flushed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "milvus.db"
    documents, batch = random_documents(40), random_embeddings(40, seed=3)
    for position, flush in ((0, True), (20, False)):
        client = connect(path)
        store = MilvusStore(client, "docs", dim=DIM)
        part = slice(position, position + 20)
        store.upsert(documents[part], M3Embeddings(batch.dense[part], batch.sparse[part], fingerprint="model-a"))
        if flush:
            store.flush()
        disconnect(client, path)
    client = connect(path)
    store = MilvusStore(client, "docs", create=False)
    oracle = MemoryStore(dim=DIM)
    oracle.upsert(documents, batch)
    assert (store.fingerprint, store.count()) == ("model-a", 40)
    assert list(store.scroll()) == documents
    assert_same_search(store, oracle, random_embeddings(3, seed=4), with_scores=True)
    disconnect(client, path)


# Fingerprints


def test_the_first_fingerprint_stays_and_others_are_refused(client: Any, store: MilvusStore, name: str) -> None:
    documents, batch = stored(store)
    assert store.fingerprint is None
    other = MilvusStore(client, name)
    store.upsert(documents, M3Embeddings(batch.dense, batch.sparse, fingerprint='model "a" é'))
    assert store.fingerprint == MilvusStore(client, name).fingerprint == 'model "a" é'
    foreign = M3Embeddings(batch.dense, batch.sparse, fingerprint="model-b")
    for late in (store, other):  # `other` was opened before there was a fingerprint
        with pytest.raises(CollectionMismatchError, match="filled by"):
            late.upsert(documents, foreign)
        with pytest.raises(CollectionMismatchError, match="filled by"):
            late.search(foreign)
    assert store.get_embeddings(["doc-000"]).fingerprint == 'model "a" é'


# Rows


@pytest.mark.parametrize("parent", [None, "", "p"])
def test_a_document_survives_its_row(parent: str | None) -> None:
    metadata = {"b": [1, 2.5, None, True, {"ü": "\u2028\n"}], "a": -(2**63), "f": 1e300, "q\\": '"'}
    document = Document('i"d', "text\x00\x07", metadata, parent)
    row = convert.to_row(document, document.fingerprint, {"dense": [1.0], "sparse": convert.EMPTY_SPARSE})
    read = dict(row, metadata=json.loads(row["metadata"]))
    assert convert.to_document(read) == document
    assert row["fingerprint"] == document.fingerprint


def test_metadata_may_be_any_mapping_of_any_numbers(store: MilvusStore) -> None:
    class Score(float):
        pass

    metadata = MappingProxyType({"score": Score(0.5), "pair": (1, 2)})
    store.upsert([Document("a", "", metadata)], random_embeddings(1, seed=1))
    assert store.get(["a"])[0].metadata == {"score": 0.5, "pair": [1, 2]}
    assert ids(store, (field("score") <= 0.5) & field("pair").contains(2)) == ["a"]


def test_embeddings_survive_their_rows() -> None:
    batch = random_embeddings(3, seed=1)
    read = convert.to_embeddings(convert.vector_rows(batch), dim=DIM, fingerprint="f")
    np.testing.assert_array_equal(read.dense, batch.dense)
    assert read.sparse.to_dicts() == batch.sparse.to_dicts()
    assert len(convert.to_embeddings([], dim=DIM, fingerprint=None)) == 0


def test_requests_are_cut_by_rows_and_by_bytes() -> None:
    vectors = convert.vector_rows(random_embeddings(1, seed=1))[0]
    small = convert.to_row(Document("a", ""), "hash", vectors)
    large = convert.to_row(Document("a", "x" * 60_000), "hash", vectors)
    assert [len(batch) for batch in convert.batches([small] * 1030)] == [512, 512, 6]
    assert [len(batch) for batch in convert.batches([large] * 100)] == [69, 31]
    assert [len(batch) for batch in convert.batches([{"id": "a", **vectors}] * 600)] == [512, 88]
    assert list(convert.batches([])) == []


def test_the_sentinel_of_empty_rows_is_no_score_even_where_its_token_is_asked_for(store: MilvusStore) -> None:
    sparse = SparseRows.from_dicts([{}, {1: 0.5}, {1: 1e-3, 7: 1.0}])
    batch = M3Embeddings(random_embeddings(3, seed=1).dense, sparse)
    store.upsert(random_documents(3), batch)
    assert store.get_embeddings(["doc-000", "doc-001"]).sparse.to_dicts() == [{}, {1: 0.5}]
    query = M3Embeddings(batch.dense[:2], SparseRows.from_dicts([{1: 2.0}, {}]))
    found = store.search(query, fusion=Sparse())
    assert [[hit.document.id for hit in hits] for hits in found] == [["doc-001", "doc-002"], []]
    scores = store.search(query[0], fusion=Dense(), with_scores=True)[0]
    assert {hit.document.id: (hit.scores or {})["sparse"] for hit in scores} == pytest.approx(
        {"doc-000": 0.0, "doc-001": 1.0, "doc-002": 2e-3}
    )


def test_an_empty_sparse_query_is_never_sent(store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_embeddings(2, seed=1)
    query = M3Embeddings(batch.dense, SparseRows.empty(2))
    monkeypatch.setattr(store._client, "search", None)
    assert store.search(query, fusion=Sparse()) == [[], []]


# Limits


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (Document("é" * 2049, ""), "its id has 4098 bytes.*at most 4096.*hash"),
        (Document("a", "", {}, "é" * 2049), "its parent_id has 4098 bytes"),
        (Document("a", "é" * 32_768), "its text has 65536 bytes.*at most 65535.*split"),
        (Document("a", "", {"k": "語" * 22_000}), "its metadata has 66008 bytes.*at most 65536"),
        (Document("a", "", {"k": list(range(5000))}), "5002 keys and list members.*at most 4096"),
        (Document("a", "", {chr(0x4E00 + i): i for i in range(1800)}), "more numbers than Milvus can order"),
    ],
)
def test_limits_count_bytes_and_say_what_to_do(store: MilvusStore, document: Document, reason: str) -> None:
    batch = random_embeddings(2, seed=1)
    documents = [Document("good", ""), document]
    with pytest.raises(ValueError, match=f"document 1 .*{reason}.*nothing was written"):
        store.upsert(documents, batch)
    assert list(store.problems(documents, batch)) == [1]
    assert store.count() == 0


def test_the_largest_document_goes_in(store: MilvusStore) -> None:
    metadata = {"k": "x" * 60_000, "many": list(range(1000))}
    document = Document("é" * 2048, "é" * 32_767, metadata, "p" * 4096)
    store.upsert([document], random_embeddings(1, seed=1))
    assert store.get([document.id]) == [document]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_never_reach_the_client(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    batch = random_embeddings(2, seed=1)
    dense = batch.dense.copy()
    dense[1, 3] = bad
    monkeypatch.setattr(store, "_client", None)
    with pytest.raises(ValueError, match=r"document 1 .*not finite"):
        store.upsert(random_documents(2), M3Embeddings(dense, batch.sparse))
    with pytest.raises(ValueError, match="not finite"):
        store.search(M3Embeddings(dense, batch.sparse))


def test_more_hits_than_a_server_gives_are_refused(store: MilvusStore) -> None:
    query = random_embeddings(1, seed=1)
    for options in ({"candidates": 16_385}, {"top_k": 16_385}, {"top_k": 16_385, "fusion": Dense()}):
        with pytest.raises(ValueError, match="16384 hits"):
            store.search(query, **options)
    assert store.search(query, top_k=16_384, fusion=Dense()) == [[]]
    assert store.search(query, top_k=5000) == [[]]  # four times as many candidates would be too many


# Ids

HOSTILE = [
    "x'] or id in ['a",
    'x"] or id in ["a',
    '" or id != "',
    "\\",
    '\\"',
    "a\nb\r\t",
    "\x00\x01\x08\x0c\x7f",
    "🙂",
    "%",
    "{a}",
]


def test_hostile_ids_are_stored_found_and_deleted_alone(store: MilvusStore) -> None:
    names = ["a", *HOSTILE]
    documents = [Document(name, "t", parent_id=name) for name in names]
    store.upsert(documents, random_embeddings(len(names), seed=1))
    store.flush()
    assert store.get(names) == documents
    assert ids(store) == sorted(names)
    for i, name in enumerate(HOSTILE, start=1):
        store.delete([name])
        assert ids(store) == sorted([*names[:1], *names[i + 1 :]])


def test_the_walk_crosses_pages_at_hostile_ids(store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_IDS_A_PAGE", 2)
    names = sorted(["a", *HOSTILE])
    store.upsert([Document(name, "") for name in names], random_embeddings(len(names), seed=1))
    assert ids(store) == names


def test_requests_by_ids_are_cut_and_join_again(store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "IDS_A_REQUEST", 3)
    monkeypatch.setattr(requests, "QUERIES_A_REQUEST", 2)
    documents, batch = stored(store, 10)
    names = [document.id for document in documents]
    assert store.get([*names, "absent", names[0]]) == [*documents, documents[0]]
    found = store.search(batch, top_k=1, fusion=Weighted())
    assert [hits[0].document for hits in found] == documents
    store.delete(names[2:])
    assert ids(store) == names[:2]


def test_an_upsert_after_a_flush_replaces_everything(store: MilvusStore) -> None:
    stored(store)
    store.flush()
    after = Document("doc-000", "new", {"other": 1}, None)
    store.upsert([Document("doc-000", "old", {"old": 1}, "p"), after], random_embeddings(2, seed=9))
    assert store.get(["doc-000"]) == [after]
    assert (store.count(), ids(store, field("other") == 1), ids(store, field("old") == 1)) == (3, ["doc-000"], [])


# Filters


@pytest.mark.parametrize(
    ("condition", "expression"),
    [
        (field("a") == "x", 'array_contains_any(filter_tokens, ["=\\"a\\":\\"x\\""])'),
        (field("a") != 1, 'not (array_contains_any(filter_tokens, ["=\\"a\\":1"]))'),
        (field("a").in_([]), 'id == ""'),
        (field("a").not_in([]), 'id != ""'),
        (field("a") > -1, 'filter_numbers["n_a"] > -1.0'),
        (~(field("a") > 1e22), '(not (exists filter_numbers["n_a"]) or filter_numbers["n_a"] <= 1e+22)'),
        (
            ~field("a").between(1, 2) & (field("b") < 3) & (field("c") < 4),
            '(((not (exists filter_numbers["n_a"]) or filter_numbers["n_a"] < 1.0) or '
            '(not (exists filter_numbers["n_a"]) or filter_numbers["n_a"] > 2.0)) and '
            'filter_numbers["n_b"] < 3.0 and filter_numbers["n_c"] < 4.0)',
        ),
        (And(()), 'id != ""'),
        (~Or(()), 'id != ""'),
        (Or((HasToken(()),)), 'id == ""'),
    ],
)
def test_filters_are_written_as_milvus_reads_them(condition: Filter, expression: str) -> None:
    assert filters.to_expression(condition) == expression


def test_a_filter_for_the_metadata_itself_is_not_written() -> None:
    with pytest.raises(ValueError, match="tokens and numbers"):
        filters.to_expression(field("a").text_contains("x"))


def test_long_chains_stay_flat_and_the_deepest_filter_works(store: MilvusStore) -> None:
    stored(store)
    wide = field("year") == 0
    for year in range(1, 100):
        wide = wide | (field("year") == 1600 + year) | (field("year") > 1600 + year)
    assert ids(store, wide) == ["doc-000", "doc-001", "doc-002"]
    deep: Filter = field("year") > 0
    for level in range(60):
        deep = (deep & (field("year") > 1)) if level % 2 else (deep | (field("even") == True))  # noqa: E712
    assert ids(store, deep) == ids(store)


VALUES = st.sampled_from(
    ["x", "X y", 'q"', "\\", "é\n", "", True, False, 0, 1, 1.0, -1.5, 2**53 - 1, 1e300, "1", "true"]
)
KEYS = st.sampled_from(["a", "b", "a.b", "é", "x'y", "not", "k" * 60])
BOUNDS = st.sampled_from([0, 1, -1.5, 2**53 - 1, 1e-7, -1e300])
METADATA = st.dictionaries(KEYS, VALUES | st.none() | st.lists(VALUES | st.none(), max_size=3), max_size=4)
LEAVES = st.one_of(
    st.builds(lambda k, v: field(k) == v, KEYS, VALUES),
    st.builds(lambda k, v: field(k) != v, KEYS, VALUES),
    st.builds(lambda k, v: field(k).in_(v), KEYS, st.lists(VALUES, max_size=3)),
    st.builds(lambda k, v: field(k).contains_any(v), KEYS, st.lists(VALUES, max_size=3)),
    st.builds(lambda k, v: field(k).contains_all(v), KEYS, st.lists(VALUES, max_size=2)),
    st.builds(lambda k, b: field(k) < b, KEYS, BOUNDS),
    st.builds(lambda k, b: field(k) >= b, KEYS, BOUNDS),
    st.builds(lambda k, low, high: field(k).between(low, high), KEYS, BOUNDS, BOUNDS),
    st.builds(lambda k, case: field(k).text_contains("x", case=case), KEYS, st.booleans()),
    st.builds(lambda k: field(k).is_empty(), KEYS),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda p: ~p, inner),
        st.builds(lambda p, q: p & q, inner, inner),
        st.builds(lambda p, q: p | q, inner, inner),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def varied(client: Any) -> Iterator[tuple[MilvusStore, list[Document]]]:
    """Documents with every kind of metadata, half of them flushed."""
    import random

    name = f"c_{next(numbers)}"
    store = MilvusStore(client, name, dim=DIM)
    chance = random.Random(5)
    values = ["x", "X y", 'q"', "\\", "é\n", "", True, False, 0, 1, 1.0, -1.5, 2**53 - 1, 1e300, "1", "true", None]
    keys = ["a", "b", "a.b", "é", "x'y", "not", "k" * 60]
    documents = [
        Document(
            f"d{i:02}",
            "",
            {
                key: chance.choice(values) if chance.random() < 0.7 else chance.choices(values, k=chance.randrange(3))
                for key in chance.sample(keys, chance.randrange(6))
            },
        )
        for i in range(60)
    ]
    batch = random_embeddings(60, seed=2)
    store.upsert(documents[:30], batch[:30])
    store.flush()
    store.upsert(documents[30:], batch[30:])
    yield store, documents
    client.drop_collection(name)


@settings(max_examples=60, deadline=None)
@given(condition=CONDITIONS)
def test_every_filter_means_what_it_means_in_memory(
    varied: tuple[MilvusStore, list[Document]], condition: Filter
) -> None:
    store, documents = varied
    expected = [document.id for document in documents if matches(condition, document.metadata)]
    assert ids(store, condition) == expected
    assert store.count(condition) == len(expected)
    hits = store.search(random_embeddings(1, seed=8), top_k=100, filter=condition, fusion=Dense())[0]
    assert sorted(hit.document.id for hit in hits) == expected


@settings(max_examples=40, deadline=None)
@given(condition=CONDITIONS.filter(is_exact), metadata=METADATA)
def test_lite_reads_every_written_filter(
    varied: tuple[MilvusStore, list[Document]], condition: Filter, metadata: dict[str, Any]
) -> None:
    from milvus_lite.search.filter import parse_expr

    parse_expr(filters.to_expression(condition))
    assert all(len(token) <= 96 for token in convert.to_row(Document("a", "", metadata), "", {})["filter_tokens"])


def test_a_substring_filter_over_too_many_documents_reads_none(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(store)
    monkeypatch.setattr("m3connect.flows.MOST_READ", 1)
    monkeypatch.setattr(requests, "fetch", None)
    condition = field("lang").text_contains("e") & (field("year") > 1900)
    refused: list[Callable[[], object]] = [
        lambda: store.count(condition),
        lambda: list(store.scroll(condition)),
        lambda: store.delete(filter=condition),
        lambda: store.search(random_embeddings(1, seed=1), filter=condition),
    ]
    for call in refused:
        with pytest.raises(FilterTooBroadError, match="2 documents to read, more than 1"):
            call()


def test_a_delete_by_substring_deletes_what_matches(store: MilvusStore) -> None:
    stored(store, 8)
    store.delete(filter=field("lang").text_contains("E", case=False))  # de and en
    assert ids(store) == ["doc-002", "doc-003", "doc-006", "doc-007"]
    store.delete(filter=field("lang").text_contains("nothing"))
    assert store.count() == 4


# A server


@pytest.mark.server
@pytest.mark.skipif("MILVUS_URI" not in os.environ, reason="set MILVUS_URI to a Milvus server of 2.5 or newer")
def test_a_server_gives_the_hits_of_the_exact_store() -> None:
    client = pymilvus.MilvusClient(os.environ["MILVUS_URI"], token=os.environ.get("MILVUS_TOKEN", ""))
    name = f"m3connect_test_{os.getpid()}"
    try:
        settings = MilvusSettings(dense_index={"index_type": "FLAT"})
        store = MilvusStore(client, name, dim=DIM, settings=settings, filter_fields={"year": "number", "lang": "str"})
        oracle = MemoryStore(dim=DIM)
        for each in (store, oracle):
            stored(each, 200)
            each.update_embeddings(["doc-007"], random_embeddings(1, seed=6))
            each.insert(random_documents(201), random_embeddings(201, seed=7))
        store.upsert([Document(name, "") for name in HOSTILE], random_embeddings(len(HOSTILE), seed=9))
        assert len(store.get(HOSTILE)) == len(HOSTILE)
        store.delete(HOSTILE)
        assert list(store.scroll()) == list(oracle.scroll())
        for condition in (None, field("lang") != "de", ~(field("year") < 2000), ~(field("missing") > 1)):
            assert store.count(condition) == oracle.count(condition)
            for fusion in (RRF(), Dense(), Sparse(), Weighted()):
                assert_same_search(store, oracle, random_embeddings(3, seed=4), filter=condition, fusion=fusion)
    finally:
        client.drop_collection(name)
