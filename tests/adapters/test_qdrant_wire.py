"""What goes over the wire to a Qdrant server, to a stand-in for it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from store_checks import assert_same_search, fill, random_embeddings

from m3connect import RRF, Dense, Document, M3Embeddings, MemoryStore, Sparse, SparseRows, Weighted
from m3connect import filters as f
from m3connect.testing import FakeEncoder

pytest.importorskip("qdrant_client")

from m3connect_qdrant import QdrantStore
from qdrant_client import QdrantClient
from qdrant_stand_in import StandIn

ENCODER = FakeEncoder()


@pytest.fixture
def server() -> StandIn:
    return StandIn()


def documents(n: int) -> list[Document]:
    return [Document(f"id {i}", f"word{i} common", {"n": i, "even": i % 2 == 0, "title": f"t{i}"}) for i in range(n)]


def encode(batch: list[Document], *, multi_vector: bool = False) -> M3Embeddings:
    return ENCODER.encode([document.text for document in batch], multi_vector=multi_vector)


def test_a_new_collection_is_asked_for_with_its_layout_marker_and_index(server: StandIn) -> None:
    QdrantStore(server.client(), "docs", dim=16, multi_vector=True)
    (created,) = server.sent("PUT")
    assert created == {
        "vectors": {
            "dense": {"size": 16, "distance": "Dot"},
            "multi_vector": {
                "size": 16,
                "distance": "Dot",
                "hnsw_config": {"m": 0},
                "multivector_config": {"comparator": "max_sim"},
            },
        },
        "sparse_vectors": {"sparse": {}},
        "metadata": {"m3connect": {"schema": 1, "fingerprint": None}},
    }
    assert server.sent("PUT index") == [{"field_name": "filter_tokens", "field_schema": "keyword", "wait": "true"}]


def test_opening_again_writes_nothing(server: StandIn) -> None:
    QdrantStore(server.client(), "docs", dim=16)
    server.requests.clear()
    QdrantStore(server.client(), "docs", dim=16)
    assert [route for route, _, _ in server.requests] == ["GET exists", "GET"]


def test_over_the_wire_all_is_as_in_memory(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=16, multi_vector=True)
    oracle = MemoryStore(dim=16, multi_vector=True)
    batch = [*documents(20), Document("empty", "", {"n": None}, "id 0")]
    vectors = M3Embeddings.concatenate(
        [
            random_embeddings(20, seed=1, multi_vector=True),
            replace(ENCODER.encode([""], multi_vector=True), fingerprint=None),
        ]
    )
    fill([store, oracle], batch, vectors)
    queries = random_embeddings(3, seed=2, multi_vector=True)
    queries = replace(queries, sparse=SparseRows.from_dicts([*queries.sparse.to_dicts()[:2], {}]))
    conditions = [None, f.field("n").between(2, 9), ~(f.field("even") == True), f.field("title").text_contains("1")]  # noqa: E712
    for condition in conditions:
        for fusion in (RRF(), RRF(weights=(1, 2)), Weighted(1, 0.3, 1), Weighted(missing="zero"), Weighted(), Sparse()):
            options = {"fusion": fusion, "filter": condition, "with_scores": True, "candidates": 7}
            assert_same_search(store, oracle, queries, **options)
        assert store.count(condition) == oracle.count(condition)
        assert sorted(one.id for one in store.scroll(condition)) == [one.id for one in oracle.scroll(condition)]
    assert store.get(["empty", "id 3"]) == oracle.get(["empty", "id 3"])
    back, kept = store.get_embeddings(["empty", "id 3"]), oracle.get_embeddings(["empty", "id 3"])
    np.testing.assert_array_equal(back.dense, kept.dense)
    assert back.sparse.to_dicts() == kept.sparse.to_dicts()
    np.testing.assert_array_equal(back.require_multi_vector()[1], kept.require_multi_vector()[1])
    for one in (store, oracle):
        one.delete(["id 1", "absent"])
        one.delete(filter=f.field("title").text_contains("2"))
    assert store.fingerprints(["id 1", "id 2", "id 3"]) == oracle.fingerprints(["id 1", "id 2", "id 3"])
    assert store.count() == oracle.count()


@pytest.mark.parametrize(
    "fusion", [RRF(), RRF(k=0, weights=(2, 2)), Dense(), Sparse(), Weighted(), Weighted(1, 0.3, 1)]
)
def test_a_search_is_one_request_that_brings_the_documents(server: StandIn, fusion: Any) -> None:
    store = QdrantStore(server.client(), "docs", dim=16, multi_vector=True)
    store.upsert(documents(30), random_embeddings(30, seed=1, multi_vector=True))
    server.requests.clear()
    store.search(random_embeddings(3, seed=2, multi_vector=True), top_k=5, fusion=fusion)
    assert [route for route, _, _ in server.requests] == ["POST points/query/batch"]
    (asked,) = server.sent("POST points/query/batch")
    assert [one["limit"] for one in asked["searches"]] == [5, 5, 5]
    assert all(
        one["with_payload"] == ["id", "text", "metadata", "parent_id", "metadata_exact"] for one in asked["searches"]
    )


def test_reciprocal_ranks_are_asked_for_with_a_filter_in_each_leg(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=16)
    store.upsert(documents(30), random_embeddings(30, seed=1))
    store.search(random_embeddings(1, seed=2), candidates=7, filter=f.field("even") == True)  # noqa: E712
    ((asked,),) = (sent["searches"] for sent in server.sent("POST points/query/batch"))
    assert asked["query"] == {"rrf": {"k": 61}}
    assert [(leg["using"], leg["limit"]) for leg in asked["prefetch"]] == [("dense", 7), ("sparse", 7)]
    assert all(leg["filter"]["must"][0]["key"] == "filter_tokens" for leg in asked["prefetch"])
    assert 0 < asked["prefetch"][1]["score_threshold"] < 1e-30


def test_the_score_of_m3_is_asked_for_over_the_same_candidates_in_every_leg(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=16, multi_vector=True)
    store.upsert(documents(30), random_embeddings(30, seed=1, multi_vector=True))
    queries = random_embeddings(1, seed=2, multi_vector=True)
    store.search(queries, candidates=7, fusion=Weighted(1, 0.3, 1))
    ((asked,),) = (sent["searches"] for sent in server.sent("POST points/query/batch"))
    share = 1 / len(queries.require_multi_vector()[0])
    weights = [term["mult"] for term in asked["query"]["formula"]["sum"]]
    assert weights == [[1.0, "$score[0]"], [0.3, "$score[1]"], [pytest.approx(share), "$score[2]"]]
    for leg, scored in zip(["dense", "sparse", "multi_vector"], asked["prefetch"], strict=True):
        assert (scored["using"], scored["limit"], scored["params"]) == (leg, 14, {"exact": True})
        assert [(one["using"], one["limit"]) for one in scored["prefetch"]] == [("dense", 7), ("sparse", 7)]
        assert all("params" not in one for one in scored["prefetch"])


def test_scores_of_named_documents_are_asked_for_exactly_and_in_one_request(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=16)
    store.upsert(documents(30), random_embeddings(30, seed=1))
    store.search(random_embeddings(2, seed=2), top_k=3, candidates=4, with_scores=True)
    _, scored = server.sent("POST points/query/batch")
    assert [one["using"] for one in scored["searches"]] == ["dense", "dense", "sparse", "sparse"]
    for one in scored["searches"]:
        assert one["params"] == {"exact": True}
        assert len(one["filter"]["must"][0]["has_id"]) == one["limit"] == 3


def test_floats_are_sent_as_they_are_and_once_more_as_text(server: StandIn) -> None:
    """The client's JSON is exact; a server's reader of payloads is not (m3connect/points.py)."""
    store = QdrantStore(server.client(), "docs", dim=16)
    numbers = np.random.default_rng(1).uniform(-1, 1, 500).tolist()
    document = Document("a", "", {"x": numbers})
    store.upsert([document], random_embeddings(1, seed=1))
    ((point,),) = (body["points"] for body in server.sent("PUT points"))
    assert point["payload"]["metadata"]["x"] == json.loads(point["payload"]["metadata_exact"])["x"] == numbers
    assert store.get(["a"]) == [document]


def test_no_write_is_larger_than_a_server_takes(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=1024, multi_vector=True)
    batch = [Document(str(i), "語" * 1000) for i in range(4)]
    rng = np.random.default_rng(0)
    matrices = tuple(rng.standard_normal((rows, 1024)).astype(np.float32) for rows in [1023, 0, 5, 200])
    vectors = M3Embeddings(rng.standard_normal((4, 1024)), SparseRows.from_dicts([{7: 0.1}] * 4), matrices)
    store.upsert(batch, vectors)
    sizes = [size for route, _, size in server.requests if route == "PUT points"]
    assert len(sizes) > 1
    assert max(sizes) < 32 * 2**20
    assert all(body["wait"] == "true" for body in server.sent("PUT points"))
    assert store.count() == 4


def test_more_token_vectors_than_a_server_takes_are_refused_before_sending(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=1024, multi_vector=True)
    vectors = M3Embeddings(np.ones((1, 1024)), SparseRows.empty(1), (np.ones((1024, 1024), np.float32),))
    with pytest.raises(ValueError, match=r"document 0 \(id 'long'\): it has 1024 token vectors.*at most 1023"):
        store.upsert([Document("long", "x")], vectors)
    assert server.sent("PUT points") == []


def test_payload_indexes_and_exact_search_are_not_asked_of_local_mode() -> None:
    store = QdrantStore(QdrantClient(":memory:"), "docs", dim=16)  # a warning would be an error here
    store.upsert(documents(5), encode(documents(5)))
    assert store.search(encode(documents(1)), fusion=Weighted(), candidates=1)[0]
