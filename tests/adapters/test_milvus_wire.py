"""What goes over the wire: no unescaped id, the filter on every leg, strong reads, requests of a size servers take."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_checks import assert_same_search, fill, random_documents, random_embeddings, unit

from m3connect import RRF, Document, M3Embeddings, MemoryStore, SparseRows, Weighted
from m3connect.errors import CollectionMismatchError
from m3connect.filters import field
from m3connect.fusion import Dense, Fusion, Sparse
from m3connect.prepared import prepare

pymilvus = pytest.importorskip("pymilvus", reason="pip install 'm3connect[milvus]'")
pytest.importorskip("milvus_lite", reason="pip install 'm3connect[milvus]'")

from m3connect_milvus import MilvusStore, convert, requests, schema  # noqa: E402  # after the skip
from m3connect_milvus.columns import Columns  # noqa: E402
from m3connect_milvus.flows import Server  # noqa: E402
from pymilvus.client.prepare import Prepare  # noqa: E402

numbers = itertools.count()
DIM = 16
MOST_BYTES = 64 * 2**20
"""What a server takes in one request."""


def limit_problem(document: Document) -> str | None:
    return convert.limit_problem(document, bound=prepare([document]).sizes[0])


class Recorder:
    """A client that notes each call before it is made."""

    def __init__(self, client: Any) -> None:
        self.client, self.calls = client, []  # type: ignore[var-annotated]

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append((method, arguments))
            return getattr(self.client, method)(**arguments)

        return call

    def made(self, *methods: str) -> list[dict[str, Any]]:
        return [arguments for made, arguments in self.calls if made in methods]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("milvus") / "wire.db"


@pytest.fixture(scope="module")
def lite(database: Path) -> Iterator[Any]:
    from milvus_lite.server_manager import server_manager_instance

    client = pymilvus.MilvusClient(str(database))
    yield client
    client.close()
    server_manager_instance.release_server(str(database))


@pytest.fixture
def client(lite: Any) -> Iterator[Recorder]:
    recorder = Recorder(lite)
    yield recorder
    for name in {arguments["collection_name"] for arguments in recorder.made("create_collection")}:
        lite.drop_collection(name)


@pytest.fixture
def store(client: Recorder) -> MilvusStore:
    return MilvusStore(client, f"w_{next(numbers)}", dim=DIM)  # type: ignore[arg-type]


def test_nothing_goes_out_that_pymilvus_would_not_escape(client: Recorder, store: MilvusStore) -> None:
    """Its `get(ids=)` and `delete(ids=)` paste ids into an expression, and `insert` leaves two rows on a server."""
    hostile = "x'] or id in ['doc-000"
    batch = random_embeddings(4, seed=1)
    store.upsert([*random_documents(3), Document(hostile, "", {"k": hostile}, hostile)], batch)
    store.insert([Document(hostile, "again")], batch[0])
    store.update_embeddings([hostile], batch[1])
    store.get([hostile])
    store.get_embeddings([hostile])
    store.search(batch, filter=field("k") == hostile, with_scores=True)
    list(store.scroll(field("k").text_contains("' or")))
    store.delete([hostile])
    assert {method for method, _ in client.calls}.isdisjoint({"get", "insert", "query_iterator"})
    for method, arguments in client.calls:
        assert "ids" not in arguments, method
        assert "filter_params" not in arguments, "Lite knows no templates"
        assert arguments.get("output_fields") != ["*"]
        if method in ("query", "search", "delete"):
            outside = re.sub(r'"(\\.|[^"\\])*"', "", arguments["filter"])
            assert "doc-000" not in outside
    assert [document.id for document in store.scroll()] == ["doc-000", "doc-001", "doc-002"]


@pytest.mark.parametrize(
    "hostile",
    ["x'] or id in ['doc-000", 'x"] or id in ["doc-000', '" or id != "', '\\" or id != \\"', "%", "{a}", "\\"],
)
def test_a_delete_with_a_hostile_value_or_key_deletes_nothing_else(store: MilvusStore, hostile: str) -> None:
    documents = random_documents(3)
    named = Document("victim", "", {"k": hostile, "list": [hostile], hostile: 1})
    store.upsert([*documents, named], random_embeddings(4, seed=1))
    conditions = [field("k") == hostile, field("list").contains(hostile), field("k").text_contains(hostile)]
    if '"' not in hostile:
        conditions += [field(hostile) == 1, field(hostile) > 0]
    for condition in conditions:
        store.delete(filter=condition & (field("absent") == 1))
        assert store.count() == 4
        store.delete(filter=condition)
        assert list(store.scroll()) == documents
        store.upsert([named], random_embeddings(1, seed=1))


def test_the_filter_is_on_every_leg_and_reads_are_strong(client: Recorder, store: MilvusStore) -> None:
    documents, batch = random_documents(20), random_embeddings(20, seed=1)
    store.upsert(documents, batch)
    for fusion in (RRF(), Weighted()):
        hits = store.search(batch[0], top_k=20, filter=field("even") == True, fusion=fusion)[0]  # noqa: E712
        assert {hit.document.id for hit in hits} == {document.id for document in documents[::2]}
    searches = [(search["anns_field"], search["filter"]) for search in client.made("search")]
    legs = [(leg.anns_field, leg.expr) for hybrid in client.made("hybrid_search") for leg in hybrid["reqs"]]
    expression = 'array_contains_any(filter_tokens, ["=\\"even\\":true"])'
    assert searches == legs == [("dense", expression), ("sparse", expression)]
    for arguments in client.made("search", "hybrid_search", "query"):
        assert arguments.get("consistency_level") == "Strong" or "iterator" in arguments
    assert [made["consistency_level"] for made in client.made("create_collection")] == ["Strong"]


FUSED_THERE = {
    "plain": {},
    "another k": {"fusion": RRF(k=7)},
    "equal weights": {"fusion": RRF(k=1, weights=(0.5, 0.5))},
    "filter": {"filter": field("lang") != "de"},
    "substring": {"filter": ~field("lang").text_contains("z"), "candidates": 7},
    "nothing passes": {"filter": field("lang").text_contains("nowhere")},
    "more than candidates": {"top_k": 300, "candidates": 12},
}
FUSED_HERE = {
    "k of 0": {"fusion": RRF(k=0)},
    "fraction as k": {"fusion": RRF(k=1.5)},
    "weights": {"fusion": RRF(weights=(1, 2))},
    "scores": {"with_scores": True},
    "page": {"offset": 0},
    "groups": {"group_by_parent": True},
    "thresholds": {"min_scores": {"dense": 0.0}},
    "weighted": {"fusion": Weighted(missing="zero")},
    "very many": {"top_k": 513},
}


@pytest.mark.parametrize("case", [*FUSED_THERE, *FUSED_HERE])
def test_a_search_is_one_request_where_milvus_means_the_same(client: Recorder, store: MilvusStore, case: str) -> None:
    oracle = MemoryStore(dim=DIM)
    fill([store, oracle], random_documents(150), random_embeddings(150, seed=1))
    options: dict[str, Any] = (FUSED_THERE | FUSED_HERE)[case]
    assert_same_search(store, oracle, random_embeddings(7, seed=2), **options)
    assert bool(client.made("hybrid_search")) == (case in FUSED_THERE and case != "nothing passes")
    assert bool(client.made("search")) == (case in FUSED_HERE)


@pytest.mark.parametrize("fusion", [Dense(), Sparse()], ids=str)
@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, 0),
        ({"filter": field("lang") != "de"}, 0),
        ({"top_k": 150}, 0),
        ({"with_scores": True}, 2),
        ({"offset": 0}, 1),
        ({"group_by_parent": True}, 1),
        ({"min_scores": {}}, 0),
        ({"top_k": 513}, 1),
    ],
    ids=str,
)
def test_one_leg_brings_its_documents_along_where_its_answer_is_the_list(
    client: Recorder, store: MilvusStore, fusion: Fusion, options: dict[str, Any], reads: int
) -> None:
    oracle = MemoryStore(dim=DIM)
    fill([store, oracle], random_documents(150), random_embeddings(150, seed=1))
    queries = random_embeddings(7, seed=2)
    queries = replace(queries, sparse=SparseRows.from_dicts([{}, *queries.sparse.to_dicts()[1:]]))
    assert_same_search(store, oracle, queries, fusion=fusion, **options)
    assert client.made("search")
    assert len(client.made("query")) == reads


def test_a_batch_of_queries_is_one_request(client: Recorder, store: MilvusStore) -> None:
    store.upsert(random_documents(20), random_embeddings(20, seed=1))
    for options, expected in (
        ({}, ["hybrid_search"]),
        ({"top_k": 20}, ["hybrid_search", "hybrid_search"]),  # whole documents come back: 512 hits an answer
        ({"fusion": Weighted(missing="zero")}, ["search", "search", "query"]),
    ):
        before = len(client.calls)
        store.search(random_embeddings(50, seed=2), **{"top_k": 5, **options})
        assert [method for method, _ in client.calls[before:]] == expected


def test_a_query_that_weighs_nothing_or_the_sentinel_is_fused_here(client: Recorder, store: MilvusStore) -> None:
    batch = replace(random_embeddings(3, seed=1), sparse=SparseRows.from_dicts([{}, {1: 0.5}, {7: 1.0}]))
    oracle = MemoryStore(dim=DIM)
    fill([store, oracle], random_documents(3), batch)
    for weights in ({}, {1: 2.0}):
        query = replace(batch[:2], sparse=SparseRows.from_dicts([weights, {7: 1.0}]))
        assert_same_search(store, oracle, query)
    assert client.made("hybrid_search") == []


def test_only_lite_is_flushed_and_only_when_asked(client: Recorder, store: MilvusStore) -> None:
    store.upsert(random_documents(3), random_embeddings(3, seed=1))
    assert client.made("flush") == []
    store.flush()
    assert len(client.made("flush")) == 1
    store._flows.server = Server("v2.6.5")  # type: ignore[attr-defined]
    store.flush()
    assert len(client.made("flush")) == 1


def test_a_bulk_load_lies_in_segments_after_the_flush(database: Path, store: MilvusStore) -> None:
    def segments() -> list[Path]:
        return [path for path in database.rglob("*.parquet") if store.name in path.parts]

    store.upsert(random_documents(600), random_embeddings(600, seed=1))
    assert segments() == []
    store.flush()
    assert segments() != []
    assert store.count() == 600


def test_a_collection_that_was_released_is_loaded_when_it_is_opened(lite: Any, store: MilvusStore) -> None:
    documents, batch = random_documents(3), random_embeddings(3, seed=1)
    store.upsert(documents, batch)
    lite.release_collection(store.name)
    with pytest.raises(pymilvus.MilvusException):
        store.get(["doc-000"])
    assert MilvusStore(lite, store.name).get(["doc-000"]) == documents[:1]


@pytest.mark.parametrize("dim", [1024, 8])
def test_requests_are_as_small_as_estimated(dim: int) -> None:
    """The largest documents that pass, and many small ones: each request stays far below what a server takes."""
    rng = np.random.default_rng(1)
    many = {f"key {i}": ["v" * 60, i] for i in range(700)}
    documents = [Document(f"{i}" + "é" * 2040, "語" * 21_000, many, "p" * 4000) for i in range(150)]
    documents += [Document(f"s{i}", "short", {"lang": "de", "year": i}) for i in range(1500)]
    assert [limit_problem(document) for document in documents[:151]] == [None] * 151
    weights = {int(token): 0.5 for token in rng.choice(250_000, 400, replace=False)}
    batch = M3Embeddings(
        unit(rng.standard_normal((len(documents), dim))), SparseRows.from_dicts([weights] * len(documents))
    )
    rows = [
        convert.to_row(document, document.fingerprint, vectors)
        for document, vectors in zip(documents, convert.vector_rows(batch), strict=True)
    ]
    fields = schema.to_schema(schema.Layout(dim, Columns(), False)).to_dict()["fields"]
    requests_made = list(convert.batches(rows))
    assert sum(map(len, requests_made)) == len(documents)
    for rows_made in requests_made:
        request = Prepare.row_upsert_param("docs", rows_made, "", fields_info=fields, enable_dynamic=False)
        assert request.ByteSize() <= sum(map(convert._size, rows_made))
        assert request.ByteSize() < MOST_BYTES / 3
    assert len(requests_made) < 40


def test_expressions_stay_below_what_a_server_takes() -> None:
    ids = [f"{i}" + "🙂" * 1020 for i in range(10_000)]
    for most in (None, 16_384):
        cut = requests.groups(ids, most=most)
        assert [name for group in cut for name in group] == ids
        assert all(len(requests.one_of(group).encode()) <= MOST_BYTES / 3 for group in cut)
    assert [len(group) for group in requests.groups(["a", "b", "a"])] == [2]
    assert requests.groups([]) == []


def test_metadata_of_just_the_largest_size_goes_in(store: MilvusStore) -> None:
    room = schema.MOST_JSON_BYTES - len('{"k":""}')
    fits, over = Document("a", "", {"k": "é" * (room // 2)}), Document("b", "", {"k": "é" * (room // 2) + "x"})
    assert limit_problem(fits) is None
    assert "65537 bytes" in (limit_problem(over) or "")
    store.upsert([fits], random_embeddings(1, seed=1))
    assert store.get(["a"]) == [fits]


def test_other_field_names_are_refused_with_what_was_expected(lite: Any) -> None:
    name = f"w_{next(numbers)}"
    theirs = pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    theirs.add_field("pk", pymilvus.DataType.VARCHAR, is_primary=True, max_length=100)
    theirs.add_field("text", pymilvus.DataType.VARCHAR, max_length=65_535)
    theirs.add_field("vector", pymilvus.DataType.FLOAT_VECTOR, dim=DIM)
    lite.create_collection(name, schema=theirs)
    with pytest.raises(
        CollectionMismatchError, match=r"dense: expected FLOAT_VECTOR, found no such field.*pk: .*vector: "
    ):
        MilvusStore(lite, name, dim=DIM)
    lite.drop_collection(name)


def test_an_empty_sparse_row_is_written_read_and_asked_on_every_way(store: MilvusStore) -> None:
    documents = random_documents(3)
    batch = replace(random_embeddings(3, seed=1), sparse=SparseRows.from_dicts([{}, {5: 0.5}, {}]))
    store.upsert(documents, batch)
    store.flush()
    store.update_embeddings(["doc-001"], replace(batch[1], sparse=SparseRows.empty(1)), legs=["sparse"])
    store.insert([Document("new", "")], batch[0])
    assert store.get_embeddings(["doc-000", "doc-001", "new"]).sparse.to_dicts() == [{}, {}, {}]
    for fusion in (RRF(), Weighted()):
        assert len(store.search(batch, fusion=fusion)[0]) == 4


def test_a_refused_request_says_so_and_stores_nothing(store: MilvusStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    store.upsert(random_documents(1), random_embeddings(1, seed=1))
    with pytest.raises(ValueError, match=r"dimension 16, but the embeddings have 8"):
        store.upsert(random_documents(2), random_embeddings(2, dim=8, seed=1))
    with pytest.raises(ValueError, match=r"dimension 16, but the embeddings have 8"):
        store.search(random_embeddings(2, dim=8, seed=1))
    assert store.count() == 1
