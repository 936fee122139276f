"""Which errors of the real clients are tried again, and which never."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from support import require

from m3connect import Document, MemoryStore, ingest
from m3connect.base import Store
from m3connect.flows import Call, run, run_async
from m3connect.testing import FakeEncoder


def refused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_refused_connection_and_a_busy_qdrant_are_passing_errors() -> None:
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    from httpx import Headers
    from m3connect_qdrant import QdrantStore
    from qdrant_client import QdrantClient
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    store = QdrantStore(QdrantClient(":memory:"), "docs", dim=2)
    away = QdrantClient(url=f"http://127.0.0.1:{refused_port()}", check_compatibility=False, timeout=2)
    with pytest.raises(ResponseHandlingException) as caught:
        away.collection_exists("docs")
    assert store.is_transient(caught.value)
    for status, passes in ((429, True), (503, True), (400, False), (404, False), (422, False)):
        assert store.is_transient(UnexpectedResponse(status, "reason", b"", Headers())) is passes
    assert not store.is_transient(ValueError("wrong vector"))


def test_a_refused_connection_and_a_busy_milvus_are_passing_errors(tmp_path: Path) -> None:
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    from m3connect_milvus.flows import MilvusFlows
    from pymilvus.exceptions import ErrorCode, MilvusException, MilvusUnavailableException

    flows = MilvusFlows.__new__(MilvusFlows)
    assert flows.is_transient(MilvusException(ErrorCode.RATE_LIMIT, "rate limit exceeded"))
    assert flows.is_transient(MilvusUnavailableException(message="server unavailable"))
    assert not flows.is_transient(MilvusException(1100, "wrong parameter"))
    assert not flows.is_transient(ValueError("wrong"))


def test_an_interrupted_first_write_leaves_no_claim_behind() -> None:
    class Interrupted(MemoryStore):
        failing = True

        def _perform(self, call: Call) -> Any:
            if call.method == "write_fingerprint" and self.failing:
                self.failing = False
                raise KeyboardInterrupt
            return super()._perform(call)

    store, encoder = Interrupted(dim=16), FakeEncoder()
    with pytest.raises(KeyboardInterrupt):
        store.upsert([Document("a", "text")], encoder.encode(["text"]))
    assert store.fingerprint is None
    store.upsert([Document("a", "text")], encoder.encode(["text"]))
    assert store.info().fingerprint == encoder.fingerprint


def test_a_cancelled_task_ends_its_flow() -> None:
    ended: list[str] = []

    def flow() -> Any:
        try:
            yield Call("wait")
        finally:
            ended.append("ended")

    async def work() -> None:
        task = asyncio.create_task(run_async(flow(), lambda call: asyncio.sleep(60)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert ended == ["ended"]


def test_an_error_of_the_client_reaches_the_flow() -> None:
    def flow() -> Any:
        try:
            yield Call("fail")
        except RuntimeError as error:
            return f"handled {error}"

    def fail(call: Call) -> Any:
        raise RuntimeError(call.method)

    assert run(flow(), fail) == "handled fail"


def test_a_failed_upload_is_told_beside_an_encoders_error_and_at_once() -> None:
    class Full(MemoryStore):
        def upsert(self, documents: Any, embeddings: Any) -> None:
            raise RuntimeError("disk full")

    read = 0

    def stream() -> Any:
        nonlocal read
        for i in range(1000):
            read += 1
            yield Document(f"d{i}", f"text {i}")

    with pytest.raises(RuntimeError, match="disk full"):
        ingest(FakeEncoder(), Full(dim=16), stream(), batch_size=1)
    assert read < 10


@pytest.mark.parametrize("ids", [[1], b"ab", [None], "ab"])
def test_delete_takes_a_list_of_strings(store: Store, ids: Any) -> None:
    with pytest.raises(ValueError, match="id"):
        store.delete(ids)


@pytest.mark.parametrize("legs", ["dense", ["denes"]])
def test_updating_takes_known_legs(store: Store, legs: Any) -> None:
    batch = FakeEncoder().encode(["text"])
    store.upsert([Document("a", "text")], batch)
    with pytest.raises(ValueError, match="legs must be"):
        store.update_embeddings(["a"], batch, legs=legs)
