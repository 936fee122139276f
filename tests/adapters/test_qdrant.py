"""The Qdrant store where it is more than the conformance suite asks: layout, markers, conversion, local mode."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3connect import RRF, Document, M3Embeddings, MemoryStore, SparseRows, Weighted
from m3connect.errors import CollectionMismatchError, FilterTooBroadError
from m3connect.filters import And, Filter, HasToken, Not, Or, field
from m3connect.prepared import prepare
from m3connect.store import Selection
from m3connect.testing import FakeEncoder

pytest.importorskip("qdrant_client")

from m3connect_qdrant import QdrantStore, convert, limits, local, schema
from m3connect_qdrant.filters import render, to_filter
from qdrant_client import AsyncQdrantClient, QdrantClient, models

ENCODER = FakeEncoder()
DIM = ENCODER.dim
DOCUMENTS = [
    Document("a", "red apple", {"lang": "de", "year": 1990, "title": "Rot"}),
    Document("b", "blue sea", {"lang": "en", "year": 1995, "title": "Blue"}, parent_id="a"),
    Document("c", "green tree", {"lang": "en", "tags": ["x"], "title": "Gruen"}),
]


@pytest.fixture
def client() -> QdrantClient:
    return QdrantClient(":memory:")


def encode(documents: list[Document], *, multi_vector: bool = False) -> M3Embeddings:
    return ENCODER.encode([document.text for document in documents], multi_vector=multi_vector)


def filled(client: QdrantClient, name: str = "docs", **options: Any) -> QdrantStore:
    store = QdrantStore(client, name, dim=DIM, **options)
    store.upsert(DOCUMENTS, encode(DOCUMENTS, multi_vector=store.multi_vector))
    return store


def remove_marker(client: QdrantClient, name: str = "docs") -> None:
    client.update_collection(name, metadata={"m3connect": None})


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "m3connect_qdrant"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ImportError, match=r'pip install "m3connect\[qdrant\]"'):
        importlib.import_module("m3connect_qdrant")


# -- layout -----------------------------------------------------------------------------------------------------------


def test_a_missing_collection_is_not_made_without_a_dimension(client: QdrantClient) -> None:
    with pytest.raises(ValueError, match="give its dim="):
        QdrantStore(client, "docs")
    with pytest.raises(ValueError, match="create=True"):
        QdrantStore(client, "docs", dim=DIM, create=False)
    assert not client.collection_exists("docs")


def test_the_dimension_is_read_from_the_collection(client: QdrantClient) -> None:
    QdrantStore(client, "docs", dim=24)
    assert QdrantStore(client, "docs").dim == 24


def test_an_asynchronous_client_is_refused() -> None:
    with pytest.raises(ValueError, match="AsyncQdrantClient"):
        QdrantStore(AsyncQdrantClient(":memory:"), "docs", dim=DIM)  # type: ignore[arg-type]


DENSE = models.VectorParams(size=DIM, distance=models.Distance.DOT)
SPARSE = {"sparse": models.SparseVectorParams()}
COSINE = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
FOREIGN = {
    "unnamed vector": (DENSE, SPARSE, "vector '': expected none, found 16"),
    "other name": ({"text": DENSE}, SPARSE, "vector 'dense': expected 0|vector 'text': expected none"),
    "one name more": ({"dense": DENSE, "image": DENSE}, SPARSE, "vector 'image': expected none"),
    "cosine": ({"dense": COSINE}, SPARSE, "expected 16 dimensions compared by Dot, found 16 dimensions compared by"),
    "no sparse": ({"dense": DENSE}, None, "expected one named 'sparse', found none"),
    "other sparse": ({"dense": DENSE}, {"bm25": models.SparseVectorParams()}, r"found \['bm25'\]"),
    "idf": ({"dense": DENSE}, {"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)}, "modifier idf"),
    "no marker": ({"dense": DENSE}, SPARSE, "no m3connect marker.*adopt_fingerprint="),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_collection_of_another_layout_is_refused_with_what_was_found(client: QdrantClient, case: str) -> None:
    vectors, sparse, message = FOREIGN[case]
    client.create_collection("docs", vectors_config=vectors, sparse_vectors_config=sparse)
    before = client.get_collection("docs")
    for dim in (DIM, None):
        with pytest.raises(CollectionMismatchError, match=message if dim else "docs"):
            QdrantStore(client, "docs", dim=dim)
    assert client.get_collection("docs") == before


def test_another_dimension_is_refused_with_both_numbers(client: QdrantClient) -> None:
    filled(client)
    with pytest.raises(CollectionMismatchError, match=r"expected 24 dimensions.*found 16 dimensions.*dim="):
        QdrantStore(client, "docs", dim=24)


@pytest.mark.parametrize("stored", [True, False])
def test_token_vectors_must_be_wanted_where_they_are_and_only_there(client: QdrantClient, stored: bool) -> None:
    QdrantStore(client, "docs", dim=DIM, multi_vector=stored)
    with pytest.raises(CollectionMismatchError, match=r"vector 'multi_vector'.*multi_vector="):
        QdrantStore(client, "docs", dim=DIM, multi_vector=not stored)


def test_a_collection_of_a_later_schema_is_refused(client: QdrantClient) -> None:
    filled(client)
    client.update_collection("docs", metadata={"m3connect": {"schema": 2, "fingerprint": None}})
    with pytest.raises(CollectionMismatchError, match="schema 2, but this version reads schema 1"):
        QdrantStore(client, "docs", dim=DIM, adopt_fingerprint="fake-encoder")


# -- fingerprints and adoption ----------------------------------------------------------------------------------------


def test_the_first_batch_with_a_fingerprint_sets_it_for_all_handles(client: QdrantClient) -> None:
    store, other = QdrantStore(client, "docs", dim=DIM), QdrantStore(client, "docs", dim=DIM)
    store.upsert(DOCUMENTS[:1], FakeEncoder(fingerprint=None).encode(["red apple"]))
    assert store.fingerprint is None
    store.upsert(DOCUMENTS, encode(DOCUMENTS))
    assert store.fingerprint == other.info().fingerprint == other.fingerprint == "fake-encoder"
    assert QdrantStore(client, "docs").fingerprint == "fake-encoder"


def test_a_handle_opened_before_the_first_batch_refuses_another_encoder(client: QdrantClient) -> None:
    early = QdrantStore(client, "docs", dim=DIM)
    filled(client)
    stranger = FakeEncoder(fingerprint="other").encode(["red apple"])
    with pytest.raises(CollectionMismatchError, match="filled by fake-encoder"):
        early.search(stranger)
    with pytest.raises(CollectionMismatchError, match="filled by fake-encoder"):
        early.upsert(DOCUMENTS[:1], stranger)


def test_metadata_of_others_stays_when_the_fingerprint_is_written(client: QdrantClient) -> None:
    store = QdrantStore(client, "docs", dim=DIM)
    client.update_collection("docs", metadata={"owner": "someone"})
    store.upsert(DOCUMENTS, encode(DOCUMENTS))
    assert client.get_collection("docs").config.metadata == {"owner": "someone", **schema.marker("fake-encoder")}


def test_a_collection_that_lost_its_marker_is_adopted(client: QdrantClient) -> None:
    filled(client)
    remove_marker(client)
    store = QdrantStore(client, "docs", dim=DIM, adopt_fingerprint="fake-encoder")
    assert store.fingerprint == QdrantStore(client, "docs").fingerprint == "fake-encoder"
    assert [document.id for document in store.get(["b", "a"])] == ["b", "a"]


def test_points_without_our_payload_are_not_adopted(client: QdrantClient) -> None:
    filled(client)
    client.upsert("docs", [models.PointStruct(id=7, vector={"dense": [0.0] * DIM}, payload={"text": "x"})])
    remove_marker(client)
    with pytest.raises(CollectionMismatchError, match="1 of its points lack"):
        QdrantStore(client, "docs", dim=DIM, adopt_fingerprint="fake-encoder")
    assert not (client.get_collection("docs").config.metadata or {}).get("m3connect")


def test_adopting_with_another_fingerprint_is_refused(client: QdrantClient) -> None:
    filled(client)
    with pytest.raises(CollectionMismatchError, match="filled by fake-encoder"):
        QdrantStore(client, "docs", dim=DIM, adopt_fingerprint="other")


def test_adoption_does_not_bend_the_layout(client: QdrantClient) -> None:
    client.create_collection("docs", vectors_config={"dense": COSINE}, sparse_vectors_config=SPARSE)
    with pytest.raises(CollectionMismatchError, match="Cosine"):
        QdrantStore(client, "docs", dim=DIM, adopt_fingerprint="fake-encoder")


def test_a_point_of_someone_else_is_named_as_such(client: QdrantClient) -> None:
    store = filled(client)
    client.upsert("docs", [models.PointStruct(id=7, vector={"dense": [0.0] * DIM}, payload={})])
    with pytest.raises(CollectionMismatchError, match="something else than m3connect wrote it"):
        list(store.scroll())


# -- conversion -------------------------------------------------------------------------------------------------------


def test_point_ids_are_the_uuids_that_every_version_must_give() -> None:
    namespace = uuid.UUID("5b0f1a52-8c0e-5d6f-9a43-6d3363b6e3c1")
    for name in ["a", "日本", 'quote " and \\', "\n", "😀"]:
        assert convert.point_id(name) == str(uuid.uuid5(namespace, name))
    assert convert.point_id("\ud800") != convert.point_id("\ud801")


def test_a_document_comes_back_from_its_payload() -> None:
    document = Document("a", "text\n", {"n": 1, "f": 1.0, "t": ("x", [True, None]), "d": {"k": -0.5}}, parent_id="p")
    (prepared,) = prepare([document])
    stored = convert.from_payload(convert.to_payload(prepared, document.fingerprint))
    assert stored == Document("a", "text\n", {"n": 1, "f": 1.0, "t": ["x", [True, None]], "d": {"k": -0.5}}, "p")
    assert stored.fingerprint == document.fingerprint == convert.to_payload(prepared, stored.fingerprint)["fingerprint"]
    assert type(stored.metadata["f"]) is float


def test_embeddings_come_back_from_their_points_bit_by_bit() -> None:
    batch = ENCODER.encode(["red apple", "", "green"], multi_vector=True)
    points = [convert.to_point({"id": str(i)}, batch, i, multi_vector=True) for i in range(3)]
    assert [sorted(point.vector) for point in points] == [
        ["dense", "multi_vector", "sparse"],
        ["dense"],
        ["dense", "multi_vector", "sparse"],
    ]
    back = convert.from_vectors([point.vector for point in points], dim=DIM, multi_vector=True)
    np.testing.assert_array_equal(back.dense, batch.dense)
    assert back.sparse.to_dicts() == batch.sparse.to_dicts()
    for matrix, expected in zip(back.require_multi_vector(), batch.require_multi_vector(), strict=True):
        np.testing.assert_array_equal(matrix, expected)


def test_metadata_is_stored_as_json_whatever_types_hold_it() -> None:
    (document,) = prepare([Document("a", "", {"score": np.float64(0.5), "pair": (1, 2)})])
    payload = convert.to_payload(document, "")
    assert payload["metadata"] == {"score": 0.5, "pair": [1, 2]}
    assert type(payload["metadata"]["score"]) is float
    assert payload["filter_numbers"] == {"n_score": 0.5}


def test_floats_that_a_servers_json_reader_would_change_are_kept_as_text_too() -> None:
    document = Document("a", "text", {"list": [0.9452706955539223], "deep": {"x": 1e300 / 3}, "short": 0.5})
    payload = convert.to_payload(document, "hash")
    assert convert.from_payload(payload | {"metadata": {"list": [0.94527069555392239], "short": 0.5}}) == document
    assert "metadata_exact" not in convert.to_payload(replace(document, metadata={"short": 0.5, "n": 7}), "hash")
    assert "metadata_exact" in convert.DOCUMENT_FIELDS


def test_local_mode_gives_every_float_back(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).uniform(-1, 1, 2000).tolist()
    document, batch = Document("a", "", {"x": numbers, "y": 1e-300 / 3}), encode([Document("a", "")])
    folder = QdrantClient(path=str(tmp_path))
    QdrantStore(folder, "docs", dim=DIM).upsert([document], batch)
    folder.close()
    again = QdrantClient(path=str(tmp_path))
    stored = QdrantStore(again, "docs").get(["a"])
    (record,), _ = again.scroll("docs")
    again.close()
    assert stored == [document]
    assert (record.payload or {})["metadata"] == document.metadata, "without the text too"


def test_sparse_entries_in_any_order_come_back_sorted() -> None:
    stored = {"dense": [1.0], "sparse": models.SparseVector(indices=[9, 2], values=[0.5, 0.25])}
    assert convert.from_vectors([stored], dim=1, multi_vector=False).sparse.to_dicts() == [{2: 0.25, 9: 0.5}]


def test_no_points_are_an_empty_batch() -> None:
    assert len(convert.from_vectors([], dim=4, multi_vector=True)) == 0


# -- limits -----------------------------------------------------------------------------------------------------------


def size_problem(tokens: int, *, dim: int = 1024, **content: Any) -> str | None:
    matrix = np.zeros((tokens, dim), np.float32)
    batch = M3Embeddings(np.zeros((1, dim)), SparseRows.empty(1), (matrix,))
    prepared = prepare([Document("a", **{"text": ""} | content)])
    return limits.size_problems(prepared, batch, multi_vector=True).get(0)


def test_a_server_takes_1023_token_vectors_of_1024_dimensions() -> None:
    assert size_problem(1023) is None
    reason = size_problem(1024) or ""
    assert "1024 token vectors" in reason
    assert "at most 1023" in reason
    assert "split the text" in reason


def test_a_document_larger_than_a_request_is_a_problem_of_servers_alone(client: QdrantClient) -> None:
    text = "x" * (33 * 2**20)
    assert "33 MB" in (size_problem(0, dim=4, text=text) or "")
    store = QdrantStore(client, "docs", dim=4)
    assert store.problems([Document("a", text)], M3Embeddings(np.zeros((1, 4)), SparseRows.empty(1))) == {}


def test_what_filters_need_counts_as_part_of_a_document() -> None:
    tags = ["t" * 60 + str(i) for i in range(250_000)]
    assert size_problem(0, dim=4, metadata={"tags": tags[:100_000]}) is None
    assert "MB" in (size_problem(0, dim=4, metadata={"tags": tags}) or "")  # 17 MB of metadata, 19 MB of tokens


def test_a_document_is_measured_in_utf8_where_it_is_near_the_limit() -> None:
    assert size_problem(0, dim=4, text="語" * (8 * 2**20)) is None  # 24 MB; 48 MB with every character escaped


def test_a_token_id_beyond_32_bits_is_refused(client: QdrantClient) -> None:
    store = QdrantStore(client, "docs", dim=1)
    batch = M3Embeddings(np.ones((2, 1)), SparseRows.from_dicts([{2**32 - 1: 1.0}, {2**32: 1.0}]))
    assert list(store.problems([Document("a", ""), Document("b", "")], batch)) == [0, 1]


def test_size_estimates_are_at_least_the_size_sent() -> None:
    batch = encode(DOCUMENTS, multi_vector=True)
    odd = {'q"': ['"' * 99, *"abc"], "\x01": "\x02" * 40, "n" * 50: 0.1, "empty": [], "語": {"deep": ["語"]}}
    documents = prepare([replace(document, metadata=odd | dict(document.metadata)) for document in DOCUMENTS])
    sizes = limits.point_sizes(documents, batch, multi_vector=True)
    for i, size in enumerate(sizes):
        point = convert.to_point(convert.to_payload(documents[i], "f" * 32), batch, i, multi_vector=True)
        assert len(point.model_dump_json().encode()) <= size


def test_batches_are_cut_by_count_and_by_bytes() -> None:
    half = 8 * 2**20
    assert list(limits.in_batches([half, half, 1, 40 * 2**20, 1])) == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 4),
        slice(4, 5),
    ]
    assert [part.stop - part.start for part in limits.in_batches([1] * 600)] == [256, 256, 88]
    assert list(limits.in_batches([])) == []


def test_of_duplicates_far_apart_the_last_wins(client: QdrantClient) -> None:
    documents = [Document("same" if i in (0, 299) else str(i), f"text {i}") for i in range(300)]
    store = QdrantStore(client, "docs", dim=DIM)
    store.upsert(documents, encode(documents))
    assert store.count() == 299
    assert store.get(["same"])[0].text == "text 299"
    np.testing.assert_array_equal(store.get_embeddings(["same"]).dense, encode(documents[299:]).dense)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_reaches_the_client(client: QdrantClient, bad: float) -> None:
    store = QdrantStore(client, "docs", dim=DIM)
    batch = encode(DOCUMENTS)
    dense = batch.dense.copy()
    dense[2, 0] = bad
    client.upsert = None  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"document 2 \(id 'c'\).*not finite"):
        store.upsert(DOCUMENTS, M3Embeddings(dense, batch.sparse))
    assert store.count() == 0
    assert store.fingerprint is None


# -- filters ----------------------------------------------------------------------------------------------------------


def test_a_filter_is_rendered_on_the_derived_fields() -> None:
    rendered = render((field("lang") == "de") & (field("a.b") < 3) & ~(field("x") == 1))
    text = rendered.model_dump_json(exclude_none=True)
    assert '"filter_tokens"' in text
    assert '"filter_numbers.x_' in text
    assert '"lt":3.0' in text
    assert '"must_not"' in text


def test_a_substring_is_not_rendered() -> None:
    with pytest.raises(ValueError, match="tokens and numbers decide"):
        render(field("title").text_contains("x"))
    with pytest.raises(ValueError, match="built with field"):
        to_filter(Selection({"lang": "de"}))  # type: ignore[arg-type]


@pytest.mark.parametrize("condition", [HasToken(()), Or(()), Not(And(())), field("lang").in_([])])
def test_a_condition_without_parts_matches_what_logic_says(client: QdrantClient, condition: Filter) -> None:
    store = filled(client)
    assert store.count(condition) == 0
    assert store.count(~condition) == 3
    assert store.search(encode(DOCUMENTS[:1]), filter=condition) == [[]]


def test_a_substring_that_leaves_too_many_is_refused_before_reading(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(client)
    monkeypatch.setattr("m3connect.flows.MOST_READ", 2)
    sea = field("title").text_contains("blue", case=False)
    assert [document.id for document in store.scroll((field("lang") == "en") & sea)] == ["b"]
    monkeypatch.setattr(client, "scroll", None)
    for refused in (
        lambda condition: list(store.scroll(condition)),
        store.count,
        lambda condition: store.delete(filter=condition),
    ):
        with pytest.raises(FilterTooBroadError, match="3 documents to read, more than 2"):
            refused(sea)
    with pytest.raises(FilterTooBroadError):
        store.search(encode(DOCUMENTS[:1]), filter=sea)
    assert store.count() == 3


def test_delete_by_substring_deletes_those_alone(client: QdrantClient) -> None:
    store = filled(client)
    store.delete(filter=field("title").text_contains("lue"))
    assert sorted(document.id for document in store.scroll()) == ["a", "c"]
    store.delete(filter=field("title").text_contains("nowhere"))
    assert store.count() == 2


KEYS = st.sampled_from(
    ["k", "a.b", "a[0]", "ключ", "sp ace", "back\\slash", "filter_tokens", "n_k", "x" * 60, "'", "-"]
)
VALUES = st.one_of(
    st.sampled_from(["", "1", "true", "x", "X", '"', "\\", "a\nb", "ё" * 80, "null"]),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**53 - 1, 0.5, 1.0, 1e300, 5e-324, -0.0]),
)
METADATA = st.dictionaries(KEYS, st.one_of(st.none(), VALUES, st.lists(st.one_of(st.none(), VALUES), max_size=3)))
NUMBERS = st.sampled_from([0, 1, -1, 0.5, 1e300, 2**53 - 1])
SIMPLE = st.one_of(
    st.builds(lambda key, value: field(key) == value, KEYS, VALUES),
    st.builds(lambda key, value: field(key) != value, KEYS, VALUES),
    st.builds(lambda key, values: field(key).not_in(values), KEYS, st.lists(VALUES, max_size=3)),
    st.builds(lambda key, low, high: field(key).between(low, high), KEYS, NUMBERS, NUMBERS),
    st.builds(lambda key, bound: field(key) < bound, KEYS, NUMBERS),
    st.builds(lambda key, values: field(key).contains_all(values), KEYS, st.lists(VALUES, max_size=2)),
    st.builds(lambda key: field(key).is_empty(), KEYS),
    st.builds(
        lambda key, text: field(key).text_contains(text, case=False), KEYS, st.sampled_from(["", "x", "\\", "1"])
    ),
)
CONDITIONS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner), st.builds(lambda a, b: a | b, inner, inner), st.builds(Not, inner)
    ),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(METADATA, min_size=1, max_size=8), conditions=st.lists(CONDITIONS, min_size=1, max_size=6))
def test_filters_agree_with_the_exact_store(rows: list[dict[str, Any]], conditions: list[Filter]) -> None:
    documents = [Document(str(i), f"word{i}", metadata) for i, metadata in enumerate(rows)]
    store, oracle = QdrantStore(QdrantClient(":memory:"), "docs", dim=DIM), MemoryStore(dim=DIM)
    for one in (store, oracle):
        one.upsert(documents, encode(documents))
    for condition in conditions:
        expected = [document.id for document in oracle.scroll(condition)]
        assert sorted(document.id for document in store.scroll(condition)) == expected
        assert store.count(condition) == len(expected)
        (hits,) = store.search(encode(documents[:1]), filter=condition, top_k=20)
        assert sorted(hit.document.id for hit in hits) == expected


# -- vectors ----------------------------------------------------------------------------------------------------------


def test_stored_vectors_come_back_bit_by_bit(client: QdrantClient) -> None:
    store = filled(client, multi_vector=True)
    batch, back = encode(DOCUMENTS, multi_vector=True), store.get_embeddings(["a", "b", "c"])
    np.testing.assert_array_equal(back.dense, batch.dense)
    np.testing.assert_array_equal(back.sparse.values, batch.sparse.values)
    for matrix, expected in zip(back.require_multi_vector(), batch.require_multi_vector(), strict=True):
        np.testing.assert_array_equal(matrix, expected)
    assert back.fingerprint == "fake-encoder"


def test_a_document_without_any_token_is_stored_and_read_back(client: QdrantClient) -> None:
    store = QdrantStore(client, "docs", dim=DIM, multi_vector=True)
    store.upsert([Document("empty", "")], ENCODER.encode([""], multi_vector=True))
    back = store.get_embeddings(["empty"])
    assert back.sparse.to_dicts() == [{}]
    assert back.require_multi_vector()[0].shape == (0, DIM)
    (hits,) = store.search(
        ENCODER.encode(["", "red"], multi_vector=True)[1], fusion=Weighted(1, 0.3, 1), with_scores=True
    )
    assert [hit.document.id for hit in hits] == ["empty"]
    assert hits[0].scores is not None
    assert hits[0].scores["sparse"] == hits[0].scores["multi_vector"] == 0


def test_replacing_a_document_drops_the_vectors_it_no_longer_has(client: QdrantClient) -> None:
    store = filled(client, multi_vector=True)
    store.upsert([Document("a", "")], ENCODER.encode([""], multi_vector=True))
    back = store.get_embeddings(["a"])
    assert back.sparse.to_dicts() == [{}]
    assert len(back.require_multi_vector()[0]) == 0


def test_legs_of_all_queries_are_one_request(client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(client)
    sent: list[int] = []
    ask = client.query_batch_points

    def counted(collection_name: str, requests: Any) -> Any:
        sent.append(len(requests))
        return ask(collection_name, requests)

    monkeypatch.setattr(client, "query_batch_points", counted)
    hits = store.search(ENCODER.encode(["red", "", "sea"]), fusion=RRF(weights=(1, 2)))
    assert sent == [5]  # three dense, two sparse: a sparse query without tokens is not sent
    assert [len(row) for row in hits] == [3, 3, 3]


# -- local mode -------------------------------------------------------------------------------------------------------


def test_local_clients_are_told_from_servers(tmp_path: Path) -> None:
    folder = QdrantClient(path=str(tmp_path))
    server = QdrantClient(url="http://127.0.0.1:1", check_compatibility=False)
    assert local.is_local(QdrantClient(":memory:"))
    assert local.is_local(folder)
    assert not local.is_local(server)
    assert not local.is_local(QdrantClient(location="http://127.0.0.1:1", check_compatibility=False))
    assert local.lock_of(folder) is local.lock_of(folder)
    folder.close()


def test_a_server_that_is_not_there_says_so_itself() -> None:
    from qdrant_client.http.exceptions import ResponseHandlingException

    with pytest.raises(ResponseHandlingException, match="refused"):
        QdrantStore(QdrantClient(url="http://127.0.0.1:1", check_compatibility=False), "docs", dim=DIM)


def test_reopening_a_folder_loses_nothing(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path))
    before = filled(client, multi_vector=True).get_embeddings(["a", "b", "c"])
    client.close()
    client = QdrantClient(path=str(tmp_path))
    store = QdrantStore(client, "docs", multi_vector=True)
    assert store.fingerprint == "fake-encoder"
    assert store.get(["c", "a", "b"]) == [DOCUMENTS[2], DOCUMENTS[0], DOCUMENTS[1]]
    after = store.get_embeddings(["a", "b", "c"])
    np.testing.assert_array_equal(after.dense, before.dense)
    assert after.sparse.to_dicts() == before.sparse.to_dicts()
    assert store.search(encode(DOCUMENTS[:1]), top_k=1)[0][0].document.id == "a"
    client.close()


@pytest.mark.parametrize("on_disk", [False, True])
def test_threads_on_one_local_client_lose_nothing(tmp_path: Path, on_disk: bool) -> None:
    client = QdrantClient(path=str(tmp_path)) if on_disk else QdrantClient(":memory:")
    stores = [QdrantStore(client, "docs", dim=DIM) for _ in range(2)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        encoder = FakeEncoder()
        try:
            for i in range(12):
                document = Document(f"{number}-{i}", f"text {number} {i}")
                stores[number % 2].upsert([document], encoder.encode([document.text]))
                stores[number % 2].search(encoder.encode([document.text]), with_scores=True)
        except BaseException as error:  # noqa: BLE001  # reported by the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert stores[0].count() == 48
    client.close()


# -- a server ---------------------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="set QDRANT_URL to a running Qdrant server")
def test_a_server_agrees_with_the_exact_store() -> None:
    client = QdrantClient(url=os.environ["QDRANT_URL"], api_key=os.environ.get("QDRANT_API_KEY"), timeout=60)
    name = f"m3connect-test-{uuid.uuid4()}"
    try:
        store, oracle = filled(client, name, multi_vector=True), MemoryStore(dim=DIM, multi_vector=True)
        oracle.upsert(DOCUMENTS, encode(DOCUMENTS, multi_vector=True))
        queries = ENCODER.encode(["red sea", "", "green"], multi_vector=True)
        for condition in (None, field("lang") == "en", field("year") > 1991, field("title").text_contains("l")):
            found, expected = (
                one.search(queries, filter=condition, fusion=Weighted(1, 0.3, 1), with_scores=True)
                for one in (store, oracle)
            )
            for hits, wanted in zip(found, expected, strict=True):
                assert [hit.document for hit in hits] == [hit.document for hit in wanted]
                assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
        np.testing.assert_array_equal(store.get_embeddings(["a"]).dense, encode(DOCUMENTS[:1]).dense)
        assert QdrantStore(client, name, multi_vector=True).fingerprint == "fake-encoder"
    finally:
        client.delete_collection(name)
