"""How Qdrant collections are kept: profiles, settings, payload indexes, tenants, and the limits of a server."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from store_checks import assert_same_search, fill, random_documents, random_embeddings, unit

from m3connect import RRF, Dense, Document, M3Embeddings, MemoryStore, SparseRows, Weighted
from m3connect.errors import CollectionMismatchError
from m3connect.filters import field

pytest.importorskip("qdrant_client")

from m3connect_qdrant import PROFILES, QdrantSettings, QdrantStore, VectorSettings, convert, opening
from m3connect_qdrant.filters import render
from qdrant_client import QdrantClient, models
from qdrant_stand_in import StandIn


@pytest.fixture
def server() -> StandIn:
    return StandIn()


def created(server: StandIn, **options: Any) -> Any:
    QdrantStore(server.client(), "docs", dim=16, **options)
    (body,) = server.sent("PUT")
    return body


# -- profiles ---------------------------------------------------------------------------------------------------------


def test_the_small_profile_leaves_all_to_the_server(server: StandIn) -> None:
    assert set(created(server)) == {"vectors", "sparse_vectors", "metadata"}


def test_the_large_profile_searches_small_copies_in_memory(server: StandIn) -> None:
    body = created(server, profile="large", multi_vector=True)
    dense, tokens = body["vectors"]["dense"], body["vectors"]["multi_vector"]
    assert (dense["datatype"], dense["on_disk"], dense["distance"]) == ("float16", True, "Dot")
    assert dense["quantization_config"]["scalar"] == {"type": "int8", "quantile": 0.99, "always_ram": True}
    assert (tokens["datatype"], tokens["on_disk"], tokens["hnsw_config"]["m"]) == ("float16", True, 0)
    assert body["sparse_vectors"]["sparse"]["index"] == {"on_disk": True, "datatype": "float16"}
    assert body["on_disk_payload"] is True
    assert "shard_number" not in body


def test_a_cluster_has_shards_and_replicas_on_top(server: StandIn) -> None:
    body = created(server, profile="cluster")
    assert (body["shard_number"], body["replication_factor"], body["write_consistency_factor"]) == (12, 2, 1)
    assert body["vectors"]["dense"]["datatype"] == "float16"


def test_every_setting_reaches_the_server_as_the_clients_own_object(server: StandIn) -> None:
    settings = QdrantSettings(
        dense=VectorSettings(hnsw=models.HnswConfigDiff(m=32), memory=models.Memory.COLD),
        shard_number=4,
        optimizers=models.OptimizersConfigDiff(indexing_threshold=0),
        wal=models.WalConfigDiff(wal_capacity_mb=64),
        strict_mode=models.StrictModeConfig(enabled=True),
    )
    body = created(server, settings=settings)
    assert body["vectors"]["dense"] == {"size": 16, "distance": "Dot", "hnsw_config": {"m": 32}, "memory": "cold"}
    assert body["optimizers_config"] == {"indexing_threshold": 0}
    assert body["wal_config"] == {"wal_capacity_mb": 64}
    assert body["strict_mode_config"] == {"enabled": True}
    assert body["shard_number"] == 4


def test_a_profile_is_a_starting_point(server: StandIn) -> None:
    assert created(server, settings=replace(PROFILES["cluster"], shard_number=2))["shard_number"] == 2


def test_profiles_and_settings_that_contradict_each_other_are_refused(server: StandIn) -> None:
    with pytest.raises(ValueError, match=r"expected a profile among \['cluster', 'large', 'small'\], but got 'huge'"):
        created(server, profile="huge")
    with pytest.raises(ValueError, match=r"both settings= and profile='large'"):
        created(server, profile="large", settings=QdrantSettings())
    assert server.requests == []


def test_quantised_vectors_are_searched_twice_as_deep_and_rescored(server: StandIn) -> None:
    QdrantStore(server.client(), "docs", dim=16, profile="large")
    store = QdrantStore(server.client(), "docs")  # opened by someone who knows nothing of the profile
    for fusion in (RRF(), RRF(weights=(1, 2)), Weighted(), Dense()):
        server.requests.clear()
        store.search(random_embeddings(1, seed=1), fusion=fusion)
        (body,) = server.sent("POST points/query/batch")
        searches = [leaf for search in body["searches"] for leaf in leaves(search)]
        assert {search["using"]: search.get("params") for search in searches} == {
            "dense": {"quantization": {"rescore": True, "oversampling": 2.0}}
        } | ({} if fusion == Dense() else {"sparse": None})


def leaves(search: Any) -> list[Any]:
    """Return the searches of the whole collection that a request is made of."""
    inner = search.get("prefetch") or []
    return [leaf for prefetch in inner for leaf in leaves(prefetch)] or [search]


def test_search_settings_are_those_of_whoever_searches(server: StandIn) -> None:
    settings = QdrantSettings(search=models.SearchParams(hnsw_ef=256))
    store = QdrantStore(server.client(), "docs", dim=16, settings=settings)
    store.search(random_embeddings(1, seed=1))
    ((asked,),) = (body["searches"] for body in server.sent("POST points/query/batch"))
    assert [leg.get("params") for leg in asked["prefetch"]] == [{"hnsw_ef": 256}, None]


def test_local_mode_says_once_what_it_ignores(caplog: pytest.LogCaptureFixture) -> None:
    client = QdrantClient(":memory:")
    opening.say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        store = QdrantStore(client, "docs", dim=16, profile="large", filter_fields=["year"], tenant_field="owner")
    (message,) = [record.getMessage() for record in caplog.records]
    for ignored in ("dense.quantization", "sparse", "on_disk_payload", "an index on 'year'", "tenant_field"):
        assert ignored in message
    assert "quantization_config" not in store.info().details["vectors"]["dense"]
    caplog.clear()
    store.upsert(random_documents(5), random_embeddings(5, seed=1))
    QdrantStore(client, "docs")
    QdrantStore(client, "others", dim=16, profile="large", filter_fields=["year"], tenant_field="owner")
    assert caplog.records == []


# -- payload indexes and tenants --------------------------------------------------------------------------------------


def test_declared_fields_are_indexed_before_anything_is_written(server: StandIn) -> None:
    QdrantStore(server.client(), "docs", dim=16, filter_fields=["year", "a.b"])
    indexed = [(body["field_name"], body["field_schema"]) for body in server.sent("PUT index")]
    assert [kind for _, kind in indexed] == ["keyword", "float", "float"]
    assert [name for name, _ in indexed][:2] == ["filter_tokens", "filter_numbers.n_year"]
    assert indexed[2][0] == render(field("a.b") > 1).must[0].key  # type: ignore[index,union-attr]
    assert [route for route, _, _ in server.requests][-4:] == ["GET", *["PUT index"] * 3]


def test_a_field_declared_later_is_indexed_then(server: StandIn) -> None:
    QdrantStore(server.client(), "docs", dim=16, filter_fields=["year"])
    server.requests.clear()
    store = QdrantStore(server.client(), "docs", filter_fields=["year", "score"])
    assert [body["field_name"] for body in server.sent("PUT index")] == ["filter_numbers.n_score"]
    assert set(store.info().details["payload_indexes"]) == {
        "filter_tokens",
        "filter_numbers.n_year",
        "filter_numbers.n_score",
    }


def test_a_string_is_no_list_of_fields(server: StandIn) -> None:
    with pytest.raises(ValueError, match="list of metadata keys"):
        created(server, filter_fields="year")


TENANTS = ["acme", 'say "hi"', "größe", 7, 7.0, True, "x" * 300, None, ["acme"], ""]


def test_tenants_have_a_field_an_index_and_links_of_their_own(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=16, tenant_field="owner")
    (body,) = server.sent("PUT")
    assert body["vectors"]["dense"]["hnsw_config"] == {"payload_m": 16}
    assert body["metadata"]["m3connect"]["tenant_field"] == "owner"
    assert server.sent("PUT index")[1]["field_schema"] == {"type": "keyword", "is_tenant": True}
    store.upsert([Document("a", "x", {"owner": "acme"})], random_embeddings(1, seed=1))
    store.count(field("owner") == "acme")
    condition = server.sent("POST points/count")[0]["filter"]["must"][0]
    stored = server.sent("PUT points")[0]["points"][0]["payload"]
    assert (condition["key"], condition["match"]["any"]) == ("filter_tenant", [stored["filter_tenant"]])


@pytest.mark.parametrize("tenant", TENANTS, ids=repr)
def test_filters_by_tenant_mean_what_they_mean_without(tenant: Any) -> None:
    plain, tenants = (
        QdrantStore(StandIn().client(), "docs", dim=16, **options) for options in ({}, {"tenant_field": "owner"})
    )
    documents = [Document(f"d{i}", "x", {"owner": owner}) for i, owner in enumerate(TENANTS)]
    fill([plain, tenants], [*documents, Document("none", "x")], random_embeddings(len(TENANTS) + 1, seed=1))
    if not isinstance(tenant, list | None):
        for condition in (field("owner") == tenant, field("owner") != tenant, field("owner").contains(tenant)):
            assert {one.id for one in tenants.scroll(condition)} == {one.id for one in plain.scroll(condition)}
    for condition in (field("owner").is_empty(), field("owner") > 5, field("owner").in_(["acme", 7, "x" * 300])):
        assert {one.id for one in tenants.scroll(condition)} == {one.id for one in plain.scroll(condition)}


def test_the_tenant_field_is_remembered_and_cannot_change(server: StandIn) -> None:
    QdrantStore(server.client(), "docs", dim=16, tenant_field="owner")
    store = QdrantStore(server.client(), "docs")
    batch = replace(random_embeddings(1, seed=1), fingerprint="one")
    store.upsert([Document("a", "x", {"owner": "acme"})], batch)  # writes the fingerprint, and leaves the tenant field
    assert QdrantStore(server.client(), "docs").info().details["tenant_field"] == "owner"
    with pytest.raises(CollectionMismatchError, match="made with tenant_field='owner', not 'team'"):
        QdrantStore(server.client(), "docs", tenant_field="team")


# -- what a server refuses --------------------------------------------------------------------------------------------


def test_a_server_that_keeps_no_metadata_is_refused(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    create = server.local.create_collection
    monkeypatch.setattr(server.local, "create_collection", lambda *a, metadata, **more: create(*a, **more))
    with pytest.raises(CollectionMismatchError, match=r"Qdrant does from 1\.16 on"):
        QdrantStore(server.client(), "docs", dim=16)
    monkeypatch.setattr(server.local, "update_collection", lambda *_, **__: True)
    with pytest.raises(CollectionMismatchError, match=r"Qdrant does from 1\.16 on"):
        QdrantStore(server.client(), "docs", dim=16, adopt_fingerprint="one")


def long_query(rows: int) -> M3Embeddings:
    tokens = unit(np.random.default_rng(0).standard_normal((rows, 1024)))
    return M3Embeddings(tokens[:1], SparseRows.from_dicts([{7: 0.5}]), (tokens,))


def test_a_query_longer_than_a_server_takes_is_scored_here(server: StandIn) -> None:
    store, oracle = (
        QdrantStore(server.client(), "docs", dim=1024, multi_vector=True),
        MemoryStore(dim=1024, multi_vector=True),
    )
    fill([store, oracle], random_documents(5), random_embeddings(5, dim=1024, seed=1, multi_vector=True))
    query = long_query(1024)
    for fusion in (Weighted(1, 0.3, 1), RRF()):
        assert_same_search(store, oracle, query, fusion=fusion, with_scores=True)
    assert max(size for _, _, size in server.requests) < 2**20


def test_many_long_queries_go_in_several_requests(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=1024, multi_vector=True)
    query = long_query(1000)
    store.search(M3Embeddings.concatenate([query] * 3), fusion=Weighted(1, 0.3, 1), top_k=1)
    sizes = [size for route, _, size in server.requests if route == "POST points/query/batch"]
    assert len(sizes) == 3
    assert max(sizes) < 32 * 2**20


def test_an_update_of_many_token_vectors_goes_in_several_requests(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=1024, multi_vector=True)
    documents, query = random_documents(3), long_query(800)
    store.upsert(documents, random_embeddings(3, dim=1024, seed=1, multi_vector=True))
    store.update_embeddings(
        [document.id for document in documents], M3Embeddings.concatenate([query] * 3), legs=["multi_vector"]
    )
    sizes = [size for route, _, size in server.requests if route == "PUT points/vectors"]
    assert len(sizes) > 1
    assert max(sizes) < 32 * 2**20


def test_a_payload_without_tenant_has_no_field_for_it() -> None:
    assert "filter_tenant" not in convert.to_payload(Document("a", "x", {"other": 1}), "hash", tenant_field="owner")
    assert "filter_tenant" not in convert.to_payload(Document("a", "x", {"owner": "acme"}), "hash")
