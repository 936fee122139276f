"""Profiles, settings, declared filter fields and tenants: on Lite, and as the requests that a server would get."""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from store_checks import assert_same_search, fill, random_documents, random_embeddings
from test_milvus import CONDITIONS, DIM

from m3connect import RRF, Dense, Document, M3Embeddings, MemoryStore, Weighted
from m3connect.errors import CollectionMismatchError
from m3connect.filters import Filter, field, matches

pymilvus = pytest.importorskip("pymilvus", reason="pip install 'm3connect[milvus]'")
pytest.importorskip("milvus_lite", reason="pip install 'm3connect[milvus]'")

from m3connect_milvus import PROFILES, MilvusSettings, MilvusStore, convert, filters  # noqa: E402  # after the skip
from m3connect_milvus import settings as settings_module  # noqa: E402
from m3connect_milvus.columns import Columns  # noqa: E402
from pymilvus.client.prepare import Prepare  # noqa: E402

numbers = itertools.count()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from milvus_lite.server_manager import server_manager_instance

    path: Path = tmp_path_factory.mktemp("milvus") / "settings.db"
    client = pymilvus.MilvusClient(str(path))
    yield client
    client.close()
    server_manager_instance.release_server(str(path))


@pytest.fixture
def name(client: Any) -> Iterator[str]:
    name = f"s_{next(numbers)}"
    yield name
    client.drop_collection(name)


class FakeServer:
    """Notes each request, keeps a collection's schema and properties, and answers as an empty server of 2.6 would."""

    def __init__(self, version: str = "v2.6.5") -> None:
        self.version, self.calls, self.indexes = version, [], {}  # type: ignore[var-annotated]
        self.schema: Any = None
        self.properties: dict[str, str] = {}

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            return lambda **_: None

        def call(**arguments: Any) -> Any:
            self.calls.append((method, arguments))
            return getattr(self, f"_{method}")(**arguments)

        return call

    def made(self, method: str) -> list[dict[str, Any]]:
        return [arguments for made, arguments in self.calls if made == method]

    def _get_server_version(self) -> str:
        return self.version

    def _has_collection(self, **_: Any) -> bool:
        return self.schema is not None

    def _create_collection(self, schema: Any, properties: Any, **_: Any) -> None:
        self.schema, self.properties = schema, dict(properties)

    def _describe_collection(self, **_: Any) -> Any:
        return {**self.schema.to_dict(), "properties": self.properties, "consistency_level_name": "Strong"}

    def _alter_collection_properties(self, properties: Any, **_: Any) -> None:
        self.properties |= properties

    def _list_indexes(self, **_: Any) -> list[str]:
        return list(self.indexes)

    def _describe_index(self, index_name: str, **_: Any) -> Any:
        return self.indexes[index_name]

    def _create_index(self, index_params: Any, **_: Any) -> None:
        self.indexes |= {
            index.field_name: {"field_name": index.field_name, **index.to_dict()} for index in index_params
        }

    def _search(self, data: Any, **_: Any) -> Any:
        return [[] for _ in data]

    def _hybrid_search(self, reqs: Any, **_: Any) -> Any:
        return [[] for _ in reqs[0].data]

    def _query(self, output_fields: list[str], **_: Any) -> Any:
        return [{"count(*)": 0}] if output_fields == ["count(*)"] else []


# Settings


def test_profiles_and_settings_exclude_each_other(client: Any) -> None:
    with pytest.raises(ValueError, match="not both"):
        MilvusStore(client, "nowhere", dim=DIM, profile="large", settings=MilvusSettings())
    with pytest.raises(ValueError, match="small, large, cluster, but is 'huge'"):
        MilvusStore(client, "nowhere", dim=DIM, profile="huge")  # type: ignore[arg-type]
    assert not client.has_collection("nowhere")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shards": 0}, "shards must be at least 1"),
        ({"partitions": 0}, "partitions must be at least 1"),
        ({"replicas": -1}, "replicas must be at least 1"),
        ({"consistency": "Eventual"}, "consistency must be"),
        ({"dense_index": {"index_type": "HNSW", "metric_type": "COSINE"}}, "expected metric_type IP"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MilvusSettings(**wrong)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_works_on_lite_which_says_once_what_it_ignores(
    client: Any, name: str, profile: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_module.say_once.cache_clear()
    oracle = MemoryStore(dim=DIM)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            store = MilvusStore(client, name, dim=DIM, profile=profile)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (0 if profile == "small" else 1)
    ignored = {"large": ["efConstruction", "DAAT_MAXSCORE", "shards"], "cluster": ["half_precision", "mmap", "nprobe"]}
    assert all(word in messages[0] for word in ignored.get(profile, []))
    fill([store, oracle], random_documents(300), random_embeddings(300, seed=1))
    store.flush()
    queries = random_embeddings(20, seed=2)
    recall = [
        len({hit.document.id for hit in found} & {hit.document.id for hit in wanted}) / 10
        for found, wanted in zip(
            store.search(queries, fusion=Dense()), oracle.search(queries, fusion=Dense()), strict=True
        )
    ]
    with capsys.disabled():
        print(f"\n  {profile} on Lite: dense recall@10 {np.mean(recall):.3f}")
    assert np.mean(recall) > 0.9
    if profile != "large":  # the others are exact here
        assert_same_search(store, oracle, queries, fusion=RRF())


def test_a_server_gets_what_the_profile_says() -> None:
    server = FakeServer()
    store = MilvusStore(server, "docs", dim=DIM, profile="cluster", filter_fields={"year": "number"})  # type: ignore[arg-type]
    (made,) = server.made("create_collection")
    assert (made["num_shards"], made["consistency_level"], made["properties"]["mmap.enabled"]) == (8, "Strong", "true")
    indexes = server.indexes
    assert indexes["dense"]["index_type"] == "IVF_RABITQ"
    assert {name: index.get("index_type") for name, index in indexes.items() if name not in ("dense", "sparse")} == {
        "filter_tokens": "INVERTED",
        "n_year": "INVERTED",
    }
    for fusion in (Weighted(), RRF()):
        store.search(random_embeddings(1, seed=1), filter=field("year") > 3, fusion=fusion)
    dense, sparse = server.made("search")
    (hybrid,) = server.made("hybrid_search")
    assert hybrid["consistency_level"] == "Session"
    assert [leg.param for leg in hybrid["reqs"]] == [
        {"metric_type": "IP", "params": {"nprobe": 64, "refine_k": 4}},
        {"metric_type": "IP"},
    ]
    assert [leg.expr for leg in hybrid["reqs"]] == ["n_year > 3.0"] * 2
    assert hybrid["reqs"][0].data[0].dtype == np.float16
    assert dense["search_params"] == {"params": {"nprobe": 64, "refine_k": 4}}
    assert sparse["search_params"] == {}
    assert dense["filter"] == sparse["filter"] == "n_year > 3.0"
    assert dense["consistency_level"] == "Session"
    assert dense["data"][0].dtype == np.float16
    request = Prepare.create_collection_request("docs", made["schema"], num_shards=8, properties=made["properties"])
    assert request.shards_num == 8


def test_a_reopened_collection_is_searched_as_it_was_made_for() -> None:
    server = FakeServer()
    MilvusStore(server, "docs", dim=DIM, profile="large")  # type: ignore[arg-type]
    query = random_embeddings(1, seed=1)
    MilvusStore(server, "docs").search(query, fusion=Dense(), top_k=500)  # type: ignore[arg-type]
    own = MilvusSettings(dense_search={"ef": 64, "level": 2}, consistency="Bounded", replicas=2)
    MilvusStore(server, "docs", settings=own).search(query, fusion=Dense())  # type: ignore[arg-type]
    first, second = server.made("search")
    assert first["search_params"] == {"params": {"ef": 500}}  # a server refuses an ef below the limit
    assert (second["search_params"], second["consistency_level"]) == ({"params": {"ef": 64, "level": 2}}, "Bounded")
    assert [call.get("replica_number") for call in server.made("load_collection")] == [None, None, 2]
    assert len(server.made("create_index")) == 1


def test_settings_that_come_too_late_are_said_once(client: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    MilvusStore(client, name, dim=DIM)
    late = MilvusSettings(dense_index={"index_type": "IVF_FLAT"})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert MilvusStore(client, name, settings=late).info().details["indexes"]["dense"]["index_type"] == "FLAT"
    (record,) = caplog.records
    assert "keeps its dense index FLAT, although IVF_FLAT is asked for" in record.getMessage()


def test_half_precision_goes_in_as_16_bits_and_comes_back() -> None:
    server = FakeServer()
    store = MilvusStore(server, "docs", dim=DIM, settings=MilvusSettings(half_precision=True))  # type: ignore[arg-type]
    batch = random_embeddings(3, seed=1)
    store.upsert(random_documents(3), batch)
    (sent,) = server.made("upsert")
    fields = server._describe_collection()["fields"]
    request = Prepare.row_upsert_param("docs", sent["data"], "", fields_info=fields, enable_dynamic=False)
    wired = next(data for data in request.fields_data if data.field_name == "dense").vectors.float16_vector
    rows = [{"dense": wired[i * 2 * DIM : (i + 1) * 2 * DIM], "sparse": {1: 1.0}} for i in range(3)]
    for form in (rows, [{**row, "dense": [row["dense"]]} for row in rows]):
        read = convert.to_embeddings(form, dim=DIM, fingerprint=None).dense
        np.testing.assert_allclose(read, batch.dense, atol=1e-3)
    large = M3Embeddings(np.full((1, DIM), 1e5, np.float32), batch[0].sparse)
    with pytest.raises(ValueError, match="beyond 65504, the most that 16 bits hold"):
        store.upsert(random_documents(1), large)
    assert store.info().details["half_precision"] is True


def test_an_old_server_gets_whole_rows_for_new_vectors() -> None:
    for version, whole in (("v2.5.10", True), ("v2.6.5", False)):
        server = FakeServer(version)
        store = MilvusStore(server, "docs", dim=DIM, filter_fields={"year": "number"})  # type: ignore[arg-type]
        document, batch = random_documents(1)[0], random_embeddings(1, seed=1)
        vectors = convert.vector_rows(batch)[0]
        row = convert.to_row(document, document.fingerprint, vectors, columns=Columns({"year": "number"}))
        read = {**row, "metadata": json.loads(row["metadata"]), "filter_numbers": json.loads(row["filter_numbers"])}
        server._query = lambda read=read, **_: [read]  # type: ignore[method-assign,misc]
        store.update_embeddings([document.id], random_embeddings(1, seed=2), legs=["sparse"])
        (sent,) = server.made("upsert")
        new = convert.vector_rows(random_embeddings(1, seed=2))[0]["sparse"]
        if whole:
            (written,) = sent["data"]
            assert {**written, "dense": None} == {**row, "dense": None, "sparse": new}
            np.testing.assert_array_equal(written["dense"], batch.dense[0])
        else:
            assert (sent["data"], sent["partial_update"]) == ([{"id": document.id, "sparse": new}], True)


# Declared filter fields and tenants

FIELDS: Any = {"a": "number", "b": "str", "a.b": "str", "é": "number", "x'y": "str", "k" * 60: "number"}


@pytest.fixture(scope="module")
def declared(client: Any) -> Iterator[tuple[MilvusStore, list[Document]]]:
    """Documents with every kind of metadata in declared and other fields, half of them flushed."""
    name = f"s_{next(numbers)}"
    store = MilvusStore(client, name, dim=DIM, filter_fields=FIELDS, tenant_field="not")
    chance = random.Random(7)
    values = ["x", "X y", 'q"', "\\", "é\n", "", True, False, 0, 1, -0.0, -1.5, 2**53 - 1, 1e300, "1", "true", None]
    documents = []
    for i in range(80):
        keys = chance.sample([*FIELDS, "other"], chance.randrange(6))
        metadata = {
            key: chance.choice(values) if chance.random() < 0.8 else chance.choices(values, k=2) for key in keys
        }
        documents.append(Document(f"d{i:02}", "", {**metadata, "not": chance.choice(["x", "X y", 'q"', "\\", "é\n"])}))
    batch = random_embeddings(80, seed=2)
    store.upsert(documents[:40], batch[:40])
    store.flush()
    store.upsert(documents[40:], batch[40:])
    yield store, documents
    client.drop_collection(name)


@settings(max_examples=120, deadline=None)
@given(condition=CONDITIONS)
@example(condition=field("a") != 0)
def test_filters_on_declared_fields_mean_what_they_mean_in_memory(
    declared: tuple[MilvusStore, list[Document]], condition: Filter
) -> None:
    store, documents = declared
    expected = [document.id for document in documents if matches(condition, document.metadata)]
    assert [document.id for document in store.scroll(condition)] == expected
    assert store.count(condition) == len(expected)
    hits = store.search(random_embeddings(1, seed=8), top_k=100, filter=condition, fusion=Dense())[0]
    assert sorted(hit.document.id for hit in hits) == expected


@pytest.mark.parametrize(
    ("condition", "expression"),
    [
        (field("year") >= 1990, "n_year >= 1990.0"),
        (~(field("year") >= 1990), "(n_year is null or n_year < 1990.0)"),
        (field("year") == 1990, "n_year == 1990.0"),
        (field("year") != 1990, "(n_year is null or n_year not in [1990.0])"),
        (field("year") == "1990", 'array_contains_any(filter_tokens, ["=\\"year\\":\\"1990\\""])'),
        (field("year") == True, 'array_contains_any(filter_tokens, ["=\\"year\\":true"])'),  # noqa: E712
        (field("lang").in_(["de", 'q"']), 's_lang in ["de", "q\\""]'),
        (field("lang").in_(["de", 1]), '(s_lang == "de" or array_contains_any(filter_tokens, ["=\\"lang\\":1"]))'),
        (
            field("lang").not_in(["de", 1]),
            '((s_lang is null or s_lang not in ["de"]) and not (array_contains_any(filter_tokens, ["=\\"lang\\":1"])))',
        ),
        (field("lang").contains("de"), 'array_contains_any(filter_tokens, ["~\\"lang\\":\\"de\\""])'),
        ((field("org") == "acme") & (field("lang") == "de"), '(tenant == "acme" and s_lang == "de")'),
        (field("org") != "acme", 'tenant not in ["acme"]'),
        (field("other") > 1, 'filter_numbers["n_other"] > 1.0'),
    ],
)
def test_declared_fields_are_asked_where_they_can_tell(condition: Filter, expression: str) -> None:
    columns = Columns({"year": "number", "lang": "str"}, "org")
    assert filters.to_expression(condition, columns) == expression


def test_a_long_string_is_left_to_the_tokens(client: Any, name: str) -> None:
    store = MilvusStore(client, name, dim=DIM, filter_fields={"k": "str"})
    texts = ["x" * 87, "x" * 88, "x" * 200, "é" * 14, "é" * 15, "é" * 90]
    store.upsert([Document(f"d{i}", "", {"k": text}) for i, text in enumerate(texts)], random_embeddings(6, seed=1))
    for i, text in enumerate(texts):
        assert [document.id for document in store.scroll(field("k") == text)] == [f"d{i}"]
        assert store.count(field("k") != text) == 5


def test_declared_fields_stay_and_others_are_refused(client: Any, name: str) -> None:
    first = MilvusStore(client, name, dim=DIM, filter_fields={"year": "number"}, tenant_field="org")
    for options in ({}, {"filter_fields": {"year": "number"}}, {"tenant_field": "org"}):
        details = MilvusStore(client, name, **options).info().details
        assert (details["filter_fields"], details["tenant_field"]) == ({"year": "number"}, "org")
    with pytest.raises(CollectionMismatchError, match=r"filter_fields=.*'str'.*leave filter_fields out"):
        MilvusStore(client, name, filter_fields={"year": "str"})
    with pytest.raises(CollectionMismatchError, match="tenant_field='team'"):
        MilvusStore(client, name, tenant_field="team")
    document = Document("a", "", {"org": "acme", "year": 3})
    first.upsert([document], replace(random_embeddings(1, seed=1), fingerprint="one"))
    assert MilvusStore(client, name).fingerprint == "one"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_fields": {"year": "date"}}, "must be 'number' or 'str', but is 'date'"),
        ({"filter_fields": {'a"b': "str"}}, "without double quotes"),
        ({"filter_fields": {"org": "str"}, "tenant_field": "org"}, "must be different keys"),
    ],
)
def test_declarations_that_make_no_sense_are_refused(client: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MilvusStore(client, "nowhere", dim=DIM, **options)
    assert not client.has_collection("nowhere")


def test_tenants_share_a_collection_and_see_their_own(client: Any, name: str) -> None:
    store, oracle = MilvusStore(client, name, dim=DIM, tenant_field="lang"), MemoryStore(dim=DIM)
    fill([store, oracle], random_documents(60), random_embeddings(60, seed=1))
    store.flush()
    moved = [replace(document, metadata={"lang": "de"}) for document in random_documents(60)[1:3]]
    fill([store, oracle], moved, random_embeddings(2, seed=2))
    for condition in (field("lang") == "de", field("lang").in_(["de", "zh"]), field("lang") != "de", None):
        assert_same_search(store, oracle, random_embeddings(3, seed=3), filter=condition, fusion=Weighted())
        assert store.count(condition) == oracle.count(condition)
    store.update_embeddings(["doc-001"], random_embeddings(1, seed=4))
    store.delete(filter=field("lang") == "de")
    oracle.delete(filter=field("lang") == "de")
    assert list(store.scroll()) == list(oracle.scroll())
    assert store.info().details["tenant_field"] == "lang"


@pytest.mark.parametrize("metadata", [{}, {"org": None}, {"org": 3}, {"org": ""}, {"org": ["acme"]}, {"org": "x" * 99}])
def test_a_document_without_tenant_is_refused(client: Any, name: str, metadata: Any) -> None:
    store = MilvusStore(client, name, dim=DIM, tenant_field="org")
    with pytest.raises(ValueError, match=r"document 1 .*metadata\['org'\] is the tenant.*nothing was written"):
        store.upsert([Document("a", "", {"org": "acme"}), Document("b", "", metadata)], random_embeddings(2, seed=1))
    assert store.count() == 0
