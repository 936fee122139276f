"""What goes over the wire to a Qdrant server: a stand-in that speaks its REST interface over a local collection."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from m3connect import RRF, Document, M3Embeddings, MemoryStore, SparseRows, Weighted
from m3connect import filters as f
from m3connect.testing import FakeEncoder

pytest.importorskip("qdrant_client")

import httpx
from m3connect_qdrant import QdrantStore
from pydantic import BaseModel
from qdrant_client import QdrantClient, models

ENCODER = FakeEncoder()


@dataclass
class StandIn:
    """Answers the REST requests of a client from qdrant-client's local mode, and remembers them."""

    local: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    requests: list[tuple[str, Any, int]] = field(default_factory=list)

    def client(self) -> QdrantClient:
        return QdrantClient(url="http://127.0.0.1:1", check_compatibility=False, transport=httpx.MockTransport(self))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        _, name, *rest = request.url.path.strip("/").split("/")
        route = f"{request.method} {'/'.join(rest)}".strip()
        self.requests.append((route, body | dict(request.url.params), len(request.content)))
        return httpx.Response(
            200, json={"result": plain(ROUTES[route](self.local, name, body)), "status": "ok", "time": 0}
        )

    def sent(self, route: str) -> list[Any]:
        return [body for asked, body, _ in self.requests if asked == route]


def plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json(exclude_none=True))
    return [plain(one) for one in value] if isinstance(value, list) else value


def create(local: QdrantClient, name: str, body: dict[str, Any]) -> bool:
    asked = models.CreateCollection.model_validate(body)
    return local.create_collection(
        name, vectors_config=asked.vectors, sparse_vectors_config=asked.sparse_vectors, metadata=asked.metadata
    )


def scroll(local: QdrantClient, name: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = models.ScrollRequest.model_validate(body)
    points, following = local.scroll(
        name, asked.filter, limit=asked.limit or 10, offset=asked.offset, with_payload=asked.with_payload or False
    )
    return {"points": plain(points), "next_page_offset": following}


def query(local: QdrantClient, name: str, body: dict[str, Any]) -> list[Any]:
    asked = models.QueryRequestBatch.model_validate(body).searches
    return list(local.query_batch_points(name, [one.model_copy(update={"params": None}) for one in asked]))


def selector(body: dict[str, Any]) -> Any:
    return (models.PointIdsList if "points" in body else models.FilterSelector).model_validate(body)


def retrieve(local: QdrantClient, name: str, body: dict[str, Any]) -> list[Any]:
    asked = models.PointRequest.model_validate(body)
    vectors = asked.with_vector or False
    return list(local.retrieve(name, asked.ids, with_payload=asked.with_payload or False, with_vectors=vectors))


ROUTES: dict[str, Callable[[QdrantClient, str, dict[str, Any]], Any]] = {
    "GET exists": lambda local, name, _: {"exists": local.collection_exists(name)},
    "GET": lambda local, name, _: local.get_collection(name),
    "PUT": create,
    "PATCH": lambda local, name, body: local.update_collection(name, metadata=body["metadata"]),
    "PUT index": lambda *_: {"status": "completed", "operation_id": 1},
    "PUT points": lambda local, name, body: local.upsert(name, models.PointsList.model_validate(body).points),
    "POST points": retrieve,
    "POST points/scroll": scroll,
    "POST points/count": lambda local, name, body: local.count(name, models.CountRequest.model_validate(body).filter),
    "POST points/delete": lambda local, name, body: local.delete(name, selector(body)),
    "POST points/query/batch": query,
}


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
    for one in (store, oracle):
        one.upsert(batch, encode(batch, multi_vector=True))
    queries = ENCODER.encode(["word3 common", "", "word7"], multi_vector=True)
    conditions = [None, f.field("n").between(2, 9), ~(f.field("even") == True), f.field("title").text_contains("1")]  # noqa: E712
    for condition in conditions:
        for fusion in (RRF(), Weighted(1, 0.3, 1), Weighted(missing="zero")):
            found, expected = (
                one.search(queries, filter=condition, fusion=fusion, with_scores=True) for one in (store, oracle)
            )
            for hits, wanted in zip(found, expected, strict=True):
                assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
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


def test_a_search_is_one_request_that_asks_for_ids_alone(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=16)
    store.upsert(documents(30), encode(documents(30)))
    server.requests.clear()
    store.search(encode(documents(3)), top_k=5, candidates=7, filter=f.field("even") == True)  # noqa: E712
    assert [route for route, _, _ in server.requests] == ["POST points/query/batch", "POST points"]
    (asked,) = server.sent("POST points/query/batch")
    assert [one["using"] for one in asked["searches"]] == ["dense"] * 3 + ["sparse"] * 3
    assert all(one["limit"] == 7 and one["with_payload"] == ["id"] for one in asked["searches"])
    assert all(one["filter"]["must"][0]["key"] == "filter_tokens" for one in asked["searches"])
    assert len(server.sent("POST points")[0]["ids"]) <= 15


def test_scores_of_named_documents_are_asked_for_exactly(server: StandIn) -> None:
    store = QdrantStore(server.client(), "docs", dim=16)
    store.upsert(documents(30), encode(documents(30)))
    store.search(encode(documents(2)), top_k=3, candidates=4, fusion=Weighted())
    candidates, *scored = server.sent("POST points/query/batch")
    assert scored
    assert all("params" not in one for one in candidates["searches"])
    for one in scored[0]["searches"]:
        assert one["params"] == {"exact": True}
        assert len(one["filter"]["must"][0]["has_id"]) == one["limit"]


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
