"""Token vectors in a Qdrant collection: what is asked of the database, and how it lives beside the documents'."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from store_checks import ids
from token_places import DOCUMENTS, encoded
from typer.testing import Result

from m3connect import Document, HybridRetriever, M3Embeddings, MemoryStore, SparseRows, ingest
from m3connect.errors import CollectionMismatchError
from m3connect.testing import FakeEncoder
from m3connect.token_entries import entry_bytes
from m3connect.token_rows import Encoding, encode_rows

pytest.importorskip("qdrant_client")

from m3connect_qdrant import QdrantStore, QdrantTokenStore
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_stand_in import StandIn, listening

TEXTS = [document.text for document in DOCUMENTS]


@pytest.fixture
def server() -> StandIn:
    return StandIn()


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    opened = QdrantClient(":memory:")
    yield opened
    opened.close()


def intercepted(handler: Callable[[httpx.Request], httpx.Response]) -> QdrantClient:
    return QdrantClient(url="http://127.0.0.1:1", check_compatibility=False, transport=httpx.MockTransport(handler))


def long_batch(names: list[str], *, rows: int, dim: int = 1024) -> tuple[list[Document], M3Embeddings]:
    matrix = np.zeros((rows, dim), np.float32)
    documents = [Document(name, f"text of {name}") for name in names]
    dense = np.ones((len(names), dim), np.float32)
    return documents, M3Embeddings(dense, SparseRows.empty(len(names)), (matrix,) * len(names))


# What goes over the wire.


def test_a_new_collection_has_no_vectors_and_says_how_it_was_made(server: StandIn) -> None:
    QdrantTokenStore(server.client(), "tokens", encoding="1-bit", pooling=2)
    (created,) = server.sent("PUT")
    settings = {"format": 1, "encoding": "1-bit", "pooling": 2, "dim": None, "fingerprint": None}
    assert created == {"vectors": {}, "on_disk_payload": True, "metadata": {"m3connect_tokens": settings}}


def test_only_get_reads_entries_and_only_of_the_documents_asked_for(server: StandIn) -> None:
    tokens = QdrantTokenStore(server.client(), "tokens")
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    server.requests.clear()
    tokens.missing(DOCUMENTS, fingerprint="fake-encoder")
    assert [body["with_payload"] for body in server.sent("POST points")] == [["id", "content"]]
    server.requests.clear()
    tokens.get(DOCUMENTS[:1])
    ((asked,),) = (server.sent("POST points"),)
    assert (asked["with_payload"], len(asked["ids"])) == (["id", "entry"], 1)
    assert [route for route, _, _ in server.requests] == ["POST points"], "what cannot change is asked for again"


def test_over_the_wire_all_comes_back_as_it_was(server: StandIn) -> None:
    tokens = QdrantTokenStore(server.client(), "tokens", encoding="float16")
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    found = QdrantTokenStore(server.client(), "tokens", readonly=True).get(DOCUMENTS)
    expected = encode_rows(encoded(DOCUMENTS).require_multi_vector(), "float16")
    assert found.rows.codes.tobytes() == expected.codes.tobytes()
    tokens.delete([DOCUMENTS[0].id])
    assert tokens.missing(DOCUMENTS) == DOCUMENTS[:1]


def test_no_request_is_larger_than_a_server_takes(server: StandIn) -> None:
    """12 documents of 2,000 tokens are 48 MB in float16, and 64 as text."""
    tokens = QdrantTokenStore(server.client(), "tokens", encoding="float16")
    documents, embeddings = long_batch([f"d{i}" for i in range(12)], rows=2000)
    tokens.put(documents, embeddings)
    sizes = [size for route, _, size in server.requests if route == "PUT points"]
    assert len(sizes) > 3
    assert max(sizes) <= 16 * 2**20
    assert all(body["wait"] == "true" for body in server.sent("PUT points"))
    assert tokens.get(documents).rows.lengths.tolist() == [2000] * 12


def test_the_largest_entry_that_is_let_through_fits_a_request(server: StandIn) -> None:
    tokens = QdrantTokenStore(server.client(), "tokens", encoding="float16")
    rows = (32 * 2**20 - 300) * 3 // 4 // 2048
    for count, refused in ((rows, False), (rows + 1, True)):
        documents, embeddings = long_batch(["long"], rows=count)
        problems = tokens.problems(documents, embeddings)
        assert bool(problems) == refused
    assert "which take 32 MB, but a Qdrant server takes 32 MB a request" in problems[0]
    assert "encoding= or pooling=" in problems[0]
    tokens.put(*long_batch(["long"], rows=rows))
    (size,) = (size for route, _, size in server.requests if route == "PUT points")
    assert 31 * 2**20 < size <= 32 * 2**20
    with pytest.raises(ValueError, match="nothing was written"):
        tokens.put_rows(documents, tokens.encode(embeddings.require_multi_vector()), fingerprint=None)


def test_a_server_without_collection_metadata_is_refused(server: StandIn) -> None:
    """Qdrant before 1.16 takes them and forgets them."""

    def forgetful(request: httpx.Request) -> httpx.Response:
        answer = server(request)
        body = answer.json()
        if isinstance(body["result"], dict) and "config" in body["result"]:
            body["result"]["config"].pop("metadata", None)
        return httpx.Response(answer.status_code, json=body)

    with pytest.raises(CollectionMismatchError, match=r"1\.16 or newer"):
        QdrantTokenStore(intercepted(forgetful), "tokens")


@pytest.mark.parametrize("route", ["PUT points", "POST points"])
def test_ingest_tries_again_where_the_error_passes(server: StandIn, encoder: FakeEncoder, route: str) -> None:
    failed: list[str] = []

    def busy(request: httpx.Request) -> httpx.Response:
        asked = f"{request.method} {request.url.path.strip('/').split('/', 2)[-1]}"
        if asked == route and not failed:
            failed.append(asked)
            return httpx.Response(503, json={"status": {"error": "starting"}})
        return server(request)

    tokens, store = QdrantTokenStore(intercepted(busy), "tokens"), MemoryStore(dim=16)
    assert ingest(encoder, store, DOCUMENTS, token_store=tokens).stored == 3
    assert failed == [route]
    assert tokens.missing(DOCUMENTS) == []


# Whose collection it is.


def test_a_collection_of_something_else_is_refused(client: QdrantClient, encoder: FakeEncoder) -> None:
    QdrantStore(client, "docs", dim=16)
    with pytest.raises(CollectionMismatchError, match="not made for token vectors"):
        QdrantTokenStore(client, "docs")
    client.create_collection("facts", vectors_config={})
    client.upsert("facts", [models.PointStruct(id=1, vector={}, payload={"fact": "of somebody else"})])
    with pytest.raises(CollectionMismatchError, match="not made for token vectors"):
        QdrantTokenStore(client, "facts")
    QdrantTokenStore(client, "tokens")
    with pytest.raises(CollectionMismatchError, match="another layout"):
        QdrantStore(client, "tokens", dim=16)
    with pytest.raises(ValueError, match="AsyncQdrantClient"):
        QdrantTokenStore(AsyncQdrantClient(":memory:"), "tokens")  # type: ignore[arg-type]


def test_an_empty_collection_made_by_hand_is_taken(client: QdrantClient) -> None:
    client.create_collection("tokens", vectors_config={}, metadata={"owner": "somebody"})
    assert len(QdrantTokenStore(client, "tokens", readonly=True)) == 0
    QdrantTokenStore(client, "tokens", encoding="float16").put(DOCUMENTS, encoded(DOCUMENTS))
    assert QdrantTokenStore(client, "tokens").stats().encoding == "float16"


def test_two_openings_of_one_collection_see_each_others_entries(client: QdrantClient) -> None:
    one, other = QdrantTokenStore(client, "tokens"), QdrantTokenStore(client, "tokens")
    one.put(DOCUMENTS[:1], encoded(DOCUMENTS[:1]))
    assert other.missing(DOCUMENTS, fingerprint="fake-encoder") == DOCUMENTS[1:]
    with pytest.raises(CollectionMismatchError, match="filled by fake-encoder"):
        other.put(DOCUMENTS, encoded(DOCUMENTS, fingerprint="other-encoder"))


# What other programs do meanwhile.


def test_of_two_first_writers_of_different_models_one_is_refused(server: StandIn) -> None:
    """Both read that nothing is stored, and both say whose collection it is, before either asks again."""
    guard, both = threading.Lock(), threading.Barrier(2, timeout=30)

    def together(request: httpx.Request) -> httpx.Response:
        marks = request.method == "PATCH"
        if marks:
            both.wait()
        with guard:
            answer = server(request)
        if marks:
            both.wait()
        return answer

    stores = [QdrantTokenStore(intercepted(together), "tokens") for _ in range(2)]

    def put(store: QdrantTokenStore, fingerprint: str) -> str | None:
        try:
            store.put(DOCUMENTS, encoded(DOCUMENTS, fingerprint=fingerprint))
        except CollectionMismatchError:
            return None
        return fingerprint

    with ThreadPoolExecutor(2) as pool:
        done = [name for name in pool.map(put, stores, ["one-encoder", "other-encoder"]) if name is not None]
    (winner,) = done
    reader = QdrantTokenStore(server.client(), "tokens", readonly=True)
    assert reader.fingerprint == winner
    assert reader.missing(DOCUMENTS) == []


@pytest.mark.parametrize("route", ["GET", "POST"])
def test_what_is_first_written_while_it_is_read_is_found_or_a_miss(server: StandIn, route: str) -> None:
    """The batch goes in before the reader asks for the settings, or before it asks for the entries."""
    writer = QdrantTokenStore(server.client(), "tokens")
    waiting: list[list[Document]] = []

    def meanwhile(request: httpx.Request) -> httpx.Response:
        if waiting and request.method == route:
            batch = waiting.pop()
            writer.put(batch, encoded(batch))
        return server(request)

    reader = QdrantTokenStore(intercepted(meanwhile), "tokens", readonly=True)
    waiting.append(DOCUMENTS)
    found = reader.get(DOCUMENTS)
    assert waiting == []
    assert len(found.places) == (3 if route == "POST" else 0)
    assert reader.get(DOCUMENTS).rows.lengths.tolist() == [7, 4, 0]


@pytest.mark.parametrize(
    ("encoding", "dim", "reason"),
    [("int8", 16, "made with encoding='int8'"), ("float16", 8, "dimension 8, but these have 16")],
)
def test_a_collection_that_was_dropped_and_filled_otherwise_is_not_written_to(
    client: QdrantClient, encoding: Encoding, dim: int, reason: str
) -> None:
    tokens = QdrantTokenStore(client, "tokens", encoding="float16")
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    client.delete_collection("tokens")
    other = QdrantTokenStore(client, "tokens", encoding=encoding)
    other.put(DOCUMENTS, encoded(DOCUMENTS, dim=dim))
    with pytest.raises(CollectionMismatchError, match=reason):
        tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    assert tokens.get(DOCUMENTS[:2]).places == {}
    expected = encode_rows(encoded(DOCUMENTS, dim=dim).require_multi_vector(), encoding)
    assert other.get(DOCUMENTS).rows.codes.tobytes() == expected.codes.tobytes()


def test_a_collection_that_was_dropped_and_filled_by_another_model_is_not_written_to(client: QdrantClient) -> None:
    tokens = QdrantTokenStore(client, "tokens")
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    client.delete_collection("tokens")
    QdrantTokenStore(client, "tokens").put(DOCUMENTS, encoded(DOCUMENTS, fingerprint="other-encoder"))
    with pytest.raises(CollectionMismatchError, match="filled by other-encoder"):
        tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    assert tokens.get(DOCUMENTS).places == {}


def test_a_collection_that_was_dropped_and_made_anew_is_filled_again(client: QdrantClient) -> None:
    tokens = QdrantTokenStore(client, "tokens", encoding="float16")
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    client.delete_collection("tokens")
    client.create_collection("tokens", vectors_config={})
    tokens.put(DOCUMENTS[:1], encoded(DOCUMENTS[:1]))
    again = QdrantTokenStore(client, "tokens", readonly=True)
    assert (again.stats().encoding, again.stats().dim, again.fingerprint) == ("float16", 16, "fake-encoder")
    assert again.get(DOCUMENTS).rows.lengths.tolist() == [7]


def test_a_reader_goes_by_what_the_first_writer_of_a_collection_made_by_hand_chose(client: QdrantClient) -> None:
    client.create_collection("tokens", vectors_config={})
    reader = QdrantTokenStore(client, "tokens", readonly=True)
    strict = QdrantTokenStore(client, "tokens", encoding="int8", readonly=True)
    QdrantTokenStore(client, "tokens", encoding="float16").put(DOCUMENTS, encoded(DOCUMENTS))
    assert reader.get(DOCUMENTS).rows.encoding == reader.encode([np.eye(16, dtype=np.float32)]).encoding == "float16"
    for _ in range(2):
        with pytest.raises(CollectionMismatchError, match="made with encoding='float16'"):
            strict.get(DOCUMENTS)


# Beside the documents.


def test_reranking_needs_nothing_but_the_database(client: QdrantClient, encoder: FakeEncoder) -> None:
    """Filled by one program, read by another; a document that is stored again keeps its token vectors."""
    store = QdrantStore(client, "docs", dim=16)
    ingest(encoder, store, DOCUMENTS, token_store=QdrantTokenStore(client, "docs-tokens", encoding="float16"))
    store.upsert(DOCUMENTS, encoder.encode(TEXTS))
    encoder.calls.clear()
    tokens = QdrantTokenStore(client, "docs-tokens", readonly=True)
    found = HybridRetriever(encoder, store, rerank=True, token_store=tokens).search("blue sea", top_k=3)
    assert encoder.calls == [["blue sea"]]
    exact = HybridRetriever(encoder, store, rerank=True).search("blue sea", top_k=3)
    assert ids(found) == ids(exact)
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in exact], abs=2e-3)


def test_searches_and_scrolls_of_documents_never_ask_for_entries(server: StandIn, encoder: FakeEncoder) -> None:
    store = QdrantStore(server.client(), "docs", dim=16)
    tokens = QdrantTokenStore(server.client(), "docs-tokens")
    ingest(encoder, store, DOCUMENTS, token_store=tokens)
    server.requests.clear()
    queries = encoder.encode(["blue sea"])
    store.search(queries, with_scores=True)
    store.get(["a"])
    assert len(list(store.scroll())) == store.count() == 3
    asked = [str(body) for _, body, _ in server.requests]
    assert asked
    assert not any("entry" in body or "'with_payload': True" in body for body in asked)


def test_a_document_that_takes_too_much_is_set_aside_and_the_others_go_in(client: QdrantClient) -> None:
    class Wide(FakeEncoder):
        """One text has as many token vectors as fit no request."""

        def encode(self, texts: Any, **options: Any) -> M3Embeddings:
            batch = super().encode(texts, **options)
            huge = np.zeros((800_000, 16), np.float32)
            matrices = [huge if "table" in text else m for text, m in zip(texts, batch.multi_vector or (), strict=True)]
            return replace(batch, multi_vector=tuple(matrices))

    tokens = QdrantTokenStore(client, "docs-tokens", encoding="float16")
    report = ingest(Wide(), MemoryStore(dim=16), DOCUMENTS, token_store=tokens)
    assert [rejected.document.id for rejected in report.rejected] == ["a"]
    assert "it has 800000 token vectors, which take" in report.rejected[0].reason
    assert (report.stored, len(tokens)) == (2, 2)


def test_token_vectors_of_a_long_document_that_a_multi_vector_cannot_hold_go_in_as_bytes(server: StandIn) -> None:
    documents, embeddings = long_batch(["long"], rows=1024)
    stored = QdrantStore(server.client(), "docs", dim=1024, multi_vector=True)
    assert "keep token vectors in a TokenStore" in stored.problems(documents, embeddings)[0]
    tokens = QdrantTokenStore(server.client(), "docs-tokens")
    tokens.put(documents, embeddings)
    assert tokens.get(documents).rows.lengths.tolist() == [1024]


def test_ingest_sets_aside_what_a_multi_vector_cannot_hold(server: StandIn) -> None:
    class Wide(FakeEncoder):
        """One text has more token vectors than a server takes."""

        def encode(self, texts: Any, **options: Any) -> M3Embeddings:
            batch = super().encode(texts, **options)
            matrices = [np.ones((2**16, 16)) if "table" in text else np.eye(2, 16) for text in texts]
            return replace(batch, multi_vector=tuple(matrices))

    store = QdrantStore(server.client(), "docs", dim=16, multi_vector=True)
    report = ingest(Wide(), store, DOCUMENTS)
    assert [rejected.document.id for rejected in report.rejected] == ["a"]
    assert "at most 65535 of dimension 16" in report.rejected[0].reason
    assert (report.stored, store.count()) == (2, 2)


def test_an_entry_takes_a_third_more_than_in_a_file(client: QdrantClient) -> None:
    tokens = QdrantTokenStore(client, "tokens")
    tokens.put(*long_batch(["a"], rows=120))
    (point,), _ = client.scroll("tokens", with_payload=True)
    assert sorted(point.payload or {}) == ["content", "entry", "id"]
    entry = (point.payload or {})["entry"]
    assert len(base64.b64decode(entry)) == entry_bytes(120, 1024, "int8")
    assert len(entry) == 4 * -(-entry_bytes(120, 1024, "int8") // 3)


# The command line.


def test_the_command_line_fills_and_reads_a_collection_on_a_server(
    run: Callable[..., Result], server: StandIn, tmp_path: Path
) -> None:
    """And what `--prune` removes goes from it too."""
    notes = tmp_path / "notes"
    notes.mkdir()
    for name, text in {"a.txt": "red apple", "b.txt": "deep blue sea", "c.txt": "blue sky"}.items():
        (notes / name).write_text(text)
    with listening(server) as url:
        options = ("--store", f"qdrant:{url}", "--token-store", f"qdrant:{url}", "--collection", "notes")
        indexed = run("index", notes, *options, "--model", "fake")
        assert indexed.exit_code == 0, indexed.output
        tokens = QdrantTokenStore(server.client(), "notes-tokens", readonly=True)
        assert len(tokens) == 3
        found = run("search", "blue sea", *options, "--model", "fake", "--rerank", "--json")
        assert json.loads(found.stdout.splitlines()[0])["id"] == "b.txt"
        (notes / "a.txt").unlink()
        assert "removed    1" in run("index", notes, *options, "--model", "fake", "--prune").stdout
        assert len(tokens) == 2
        elsewhere = ("--store", f"qdrant:{url}", "--token-store", f"qdrant:{url}", "--collection", "nowhere")
        assert "there is no collection" in run("search", "blue", *elsewhere, "--model", "fake", "--rerank").stderr


@pytest.mark.parametrize("spec", ["qdrant:folder", "edge:folder", "milvus:http://localhost:19530"])
def test_the_command_line_refuses_other_databases_for_token_vectors(run: Callable[..., Result], spec: str) -> None:
    refused = run("search", "blue", "--store", "qdrant::memory:", "--token-store", spec, "--rerank")
    assert refused.exit_code == 2
    assert "expected a folder, or" in refused.stderr
