"""Qdrant's part of the contract, in local mode and over the wire: inserts, updates, pages, groups, info, async."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from store_checks import assert_same_hits, assert_same_search, fill, ids, random_documents, random_embeddings

from m3connect import RRF, Dense, Document, M3Embeddings, MemoryStore, Sparse, SparseRows, ThreadedStore, Weighted
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError, DocumentNotFoundError
from m3connect.filters import field

pytest.importorskip("qdrant_client")

from m3connect_qdrant import AsyncQdrantStore, QdrantStore
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_stand_in import StandIn

FUSIONS = {
    "rrf": RRF(),
    "rrf equal weights": RRF(k=3, weights=(0.5, 0.5)),
    "rrf other weights": RRF(weights=(1, 3)),
    "rrf broken k": RRF(k=2.5),
    "rrf k of 0": RRF(k=0),
    "dense": Dense(),
    "sparse": Sparse(),
    "m3": Weighted(1, 0.3, 1),
    "m3 zero": Weighted(1, 0.3, 1, missing="zero"),
    "m3 without sparse": Weighted(0.5, 0, 2),
    "m3 without dense": Weighted(0, 0.5, 2),
    "two legs": Weighted(),
    "two legs zero": Weighted(missing="zero"),
}


NAME = f"m3connect-test-{uuid.uuid4()}"

SERVER = pytest.param(
    "server",
    marks=[
        pytest.mark.server,
        pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="set QDRANT_URL to a running Qdrant server"),
    ],
)


@pytest.fixture(params=["local", "wire", SERVER])
def client(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    client = connect(request.param)
    yield client
    for name in (NAME, f"{NAME}-new"):
        client.delete_collection(name)
    client.close()


def connect(kind: str) -> QdrantClient:
    if kind == "server":
        return QdrantClient(url=os.environ["QDRANT_URL"], api_key=os.environ.get("QDRANT_API_KEY"), timeout=60)
    return QdrantClient(":memory:") if kind == "local" else StandIn().client()


def pair(client: QdrantClient, n: int = 60, **options: Any) -> tuple[QdrantStore, MemoryStore]:
    """The same random documents in Qdrant and in the exact store, with every view of some of them empty."""
    stores = QdrantStore(client, NAME, dim=16, multi_vector=True), MemoryStore(dim=16, multi_vector=True)
    documents = [
        replace(document, parent_id=f"p{i % 7}" if i % 3 else None) for i, document in enumerate(random_documents(n))
    ]
    fill(stores, documents, some_empty(random_embeddings(n, seed=1, multi_vector=True)))
    return stores


def some_empty(batch: M3Embeddings) -> M3Embeddings:
    rows = [row if i % 5 else {} for i, row in enumerate(batch.sparse.to_dicts())]
    matrices = tuple(matrix[: len(matrix) if i % 4 else 0] for i, matrix in enumerate(batch.require_multi_vector()))
    return replace(batch, sparse=SparseRows.from_dicts(rows), multi_vector=matrices)


# -- search -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FUSIONS)
def test_every_search_means_what_the_exact_store_means(client: QdrantClient, case: str) -> None:
    store, oracle = pair(client)
    queries = some_empty(random_embeddings(6, seed=2, multi_vector=True))
    for options in ({}, {"filter": field("lang") == "de"}, {"candidates": 5, "with_scores": True}):
        assert_same_search(store, oracle, queries, fusion=FUSIONS[case], **options)


@pytest.mark.parametrize("case", FUSIONS)
def test_pages_neither_repeat_nor_skip(client: QdrantClient, case: str) -> None:
    store, oracle = pair(client)
    queries = random_embeddings(2, seed=3, multi_vector=True)
    options: dict[str, Any] = {"top_k": 7, "candidates": 20, "fusion": FUSIONS[case]}
    pages = [[one.search(queries, offset=offset, **options) for offset in range(0, 49, 7)] for one in (store, oracle)]
    for i in range(len(queries)):
        found, expected = ([hit for page in side for hit in page[i]] for side in pages)
        assert_same_hits(found, expected, expected)
        assert pages[0][-1][i] == []


@pytest.mark.parametrize("case", FUSIONS)
def test_groups_and_thresholds_are_those_of_the_exact_store(client: QdrantClient, case: str) -> None:
    store, oracle = pair(client)
    queries, fusion = random_embeddings(3, seed=4, multi_vector=True), FUSIONS[case]
    leg = fusion.legs[0]
    for options in ({"group_by_parent": True}, {"min_scores": {leg: 0.2}}, {"group_by_parent": True, "offset": 2}):
        found, expected = (one.search(queries, fusion=fusion, top_k=4, **options) for one in (store, oracle))
        for hits, wanted in zip(found, expected, strict=True):
            assert_same_hits(hits, wanted, wanted)


def test_nothing_that_any_leg_could_find_gives_no_hits(client: QdrantClient) -> None:
    store, _ = pair(client)
    queries = replace(random_embeddings(2, seed=5, multi_vector=True), sparse=SparseRows.empty(2))
    assert store.search(queries, fusion=Sparse()) == [[], []]
    assert store.search(queries, fusion=Weighted(0, 1, 1), with_scores=True) == [[], []]


# -- writing ----------------------------------------------------------------------------------------------------------


def test_insert_leaves_what_is_there_alone(client: QdrantClient) -> None:
    store = QdrantStore(client, NAME, dim=16)
    batch = random_embeddings(4, seed=1)
    store.upsert([Document("a", "old")], batch[0])
    store.insert([Document("a", "new"), Document("b", "first"), Document("c", "new"), Document("b", "second")], batch)
    assert [document.text for document in store.get(["a", "b", "c"])] == ["old", "first", "new"]
    np.testing.assert_array_equal(store.get_embeddings(["a"]).dense, batch[0].dense)
    np.testing.assert_array_equal(store.get_embeddings(["b"]).dense, batch[1].dense)
    store.insert([Document("b", "third")], batch[3])
    assert store.get(["b"])[0].text == "first"


@pytest.mark.parametrize("legs", [("dense",), ("sparse",), ("multi_vector",), ("dense", "sparse", "multi_vector")])
def test_an_update_replaces_these_legs_and_nothing_else(client: QdrantClient, legs: Any) -> None:
    store, oracle = pair(client, 10)
    names = [f"doc-{i:03}" for i in range(10)]
    before, batch = store.get(names), random_embeddings(6, seed=6, multi_vector=True)
    batch = some_empty(batch)  # rows 0 and 5 lose their sparse entries, rows 0 and 4 their token vectors
    for one in (store, oracle):
        one.update_embeddings(names[2:8], batch, legs=legs)
    assert store.get(names) == before
    assert_same_embeddings(store.get_embeddings(names), oracle.get_embeddings(names))
    assert_same_search(store, oracle, random_embeddings(3, seed=7, multi_vector=True), fusion=Weighted(1, 0.3, 1))


def test_an_update_of_an_absent_document_writes_nothing(client: QdrantClient) -> None:
    store, oracle = pair(client, 10)
    with pytest.raises(DocumentNotFoundError, match="nowhere"):
        store.update_embeddings(["doc-001", "nowhere"], random_embeddings(2, seed=6, multi_vector=True))
    assert_same_embeddings(store.get_embeddings(["doc-001"]), oracle.get_embeddings(["doc-001"]))


def test_token_vectors_are_not_updated_where_none_are_kept(client: QdrantClient) -> None:
    store, batch = QdrantStore(client, NAME, dim=16), random_embeddings(2, seed=1, multi_vector=True)
    store.upsert([Document("a", "x")], batch[0])
    store.update_embeddings(["a"], batch[1])
    np.testing.assert_array_equal(store.get_embeddings(["a"]).dense, batch[1].dense)
    assert store.get_embeddings(["a"]).multi_vector is None


def assert_same_embeddings(found: M3Embeddings, expected: M3Embeddings) -> None:
    np.testing.assert_array_equal(found.dense, expected.dense)
    assert found.sparse.to_dicts() == expected.sparse.to_dicts()
    for matrix, wanted in zip(found.require_multi_vector(), expected.require_multi_vector(), strict=True):
        np.testing.assert_array_equal(matrix, wanted)


# -- the collection ---------------------------------------------------------------------------------------------------


def test_info_tells_what_there_is_and_how_it_is_kept(client: QdrantClient) -> None:
    store, _ = pair(client, 10)
    info = store.info()
    assert (info.name, info.count, info.dim, info.multi_vector, info.fingerprint) == (NAME, 10, 16, True, None)
    assert info.details["backend"] == "qdrant"
    local = client.init_options.get("location") == ":memory:"
    assert info.details["mode"] == ("local" if local else "server")
    assert info.details["version"]
    assert info.details["vectors"]["dense"]["distance"] == "Dot"
    assert info.details["vectors"]["multi_vector"]["hnsw_config"] == {"m": 0}
    assert info.details["payload_indexes"] == ({} if local else {"filter_tokens": "keyword"})


def test_a_dropped_collection_is_gone_and_can_be_made_anew(client: QdrantClient) -> None:
    store, _ = pair(client, 10)
    store.drop()
    assert not client.collection_exists(NAME)
    with pytest.raises(CollectionNotFoundError):
        QdrantStore(client, NAME)
    assert QdrantStore(client, NAME, dim=8).count() == 0


@pytest.mark.parametrize("stored", [True, False])
def test_a_collection_is_taken_as_it_was_made(client: QdrantClient, stored: bool) -> None:
    QdrantStore(client, NAME, dim=16, multi_vector=stored)
    assert QdrantStore(client, NAME, multi_vector=None).multi_vector == stored
    assert not QdrantStore(client, f"{NAME}-new", dim=16, multi_vector=None).multi_vector


def test_two_that_make_a_collection_at_once_both_get_it(client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    QdrantStore(client, NAME, dim=16)
    exists, answers = client.collection_exists, [False]
    monkeypatch.setattr(client, "collection_exists", lambda **asked: answers.pop() if answers else exists(**asked))
    assert QdrantStore(client, NAME, dim=16).count() == 0
    answers.append(False)
    with pytest.raises(CollectionMismatchError, match="16 dimensions"):
        QdrantStore(client, NAME, dim=8)


def test_a_collection_that_cannot_be_made_says_why(client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError("read only")

    monkeypatch.setattr(client, "create_collection", refuse)
    with pytest.raises(PermissionError, match="read only"):
        QdrantStore(client, NAME, dim=16)


# -- async ------------------------------------------------------------------------------------------------------------


async def use(store: Any, oracle: MemoryStore) -> None:
    """Call everything that an async store has, and compare."""
    documents, batch = random_documents(30), random_embeddings(30, seed=1)
    batch = replace(batch, fingerprint="one")
    oracle.upsert(documents, batch)
    await store.upsert(documents[:20], batch[:20])
    await store.insert(documents, batch)
    assert await store.count() == 30
    names = [document.id for document in documents]
    assert await store.get(names) == documents
    assert [document.id async for document in store.scroll(field("lang") == "de")] != []
    assert await store.fingerprints(names[:2]) == oracle.fingerprints(names[:2])
    queries = replace(random_embeddings(3, seed=2), fingerprint="one")
    several = [store.search(queries, fusion=fusion, with_scores=True) for fusion in (RRF(), Weighted(), Dense())]
    for found, fusion in zip(await asyncio.gather(*several), (RRF(), Weighted(), Dense()), strict=True):
        for hits, wanted in zip(found, oracle.search(queries, fusion=fusion, with_scores=True), strict=True):
            assert_same_hits(hits, wanted, wanted)
    await store.update_embeddings(names[:1], batch[1], legs=["dense"])
    np.testing.assert_array_equal((await store.get_embeddings(names[:1])).dense, batch[1].dense)
    with pytest.raises(CollectionMismatchError, match=r"(?s)one.*two"):
        await store.search(replace(queries, fingerprint="two"))
    await store.delete(names[:5])
    await store.delete(filter=field("lang") == "de")
    await store.flush()
    info = await store.info()
    assert (info.count, info.fingerprint) == (await store.count(), "one")
    await store.drop()


def test_an_async_store_does_what_the_sync_one_does() -> None:
    async def main() -> None:
        client = StandIn().async_client()
        await use(await AsyncQdrantStore.open(client, NAME, dim=16), MemoryStore(dim=16))
        with pytest.raises(CollectionNotFoundError):
            await AsyncQdrantStore.open(client, NAME)
        await client.close()

    asyncio.run(main())


def test_an_async_store_stays_in_the_loop_it_was_opened_in() -> None:
    stand_in = StandIn()

    async def open_store() -> AsyncQdrantStore:
        return await AsyncQdrantStore.open(stand_in.async_client(), NAME, dim=16)

    store, asked = asyncio.run(open_store()), len(stand_in.requests)
    with pytest.raises(ValueError, match=r"another event loop.*in each loop.*ThreadedStore"):
        asyncio.run(store.count())
    assert len(stand_in.requests) == asked


def test_local_mode_is_async_in_threads() -> None:
    store = QdrantStore(QdrantClient(":memory:"), NAME, dim=16)
    asyncio.run(use(ThreadedStore(store), MemoryStore(dim=16)))


def test_an_async_client_in_local_mode_is_refused(tmp_path: Any) -> None:
    for place in ({"location": ":memory:"}, {"path": str(tmp_path)}):
        client = AsyncQdrantClient(**place)
        with pytest.raises(ValueError, match=r"blocks the event loop.*ThreadedStore\(QdrantStore"):
            asyncio.run(AsyncQdrantStore.open(client, NAME, dim=16))
        asyncio.run(client.close())


def test_the_wrong_kind_of_client_is_told_where_to_go() -> None:
    with pytest.raises(ValueError, match=r"AsyncQdrantStore\.open"):
        QdrantStore(AsyncQdrantClient(":memory:"), NAME)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="goes to QdrantStore"):
        asyncio.run(AsyncQdrantStore.open(QdrantClient(":memory:"), NAME))  # type: ignore[arg-type]


def test_ids_of_hits_are_our_own(client: QdrantClient) -> None:
    store, oracle = pair(client, 10)
    queries = random_embeddings(1, seed=2, multi_vector=True)
    assert set(ids(store.search(queries)[0])) == set(ids(oracle.search(queries)[0]))
