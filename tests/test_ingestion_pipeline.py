"""Writing overlaps encoding, survives passing errors, and loses no document on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from m3connect import Document, M3Embeddings, MemoryStore, ingest
from m3connect.testing import FakeEncoder


def documents(n: int, *, version: int = 0) -> list[Document]:
    return [Document(f"d{i}", f"text number {i} version {version}") for i in range(n)]


class Flaky(MemoryStore):
    """Fails the first writes with this error."""

    def __init__(self, error: Exception, failures: int) -> None:
        super().__init__(dim=16)
        self.error, self.failures, self.writes = error, failures, 0

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        self.writes += 1
        if self.writes <= self.failures:
            raise self.error
        super().upsert(documents, embeddings)


def test_the_next_batch_is_encoded_while_one_is_written() -> None:
    """The first write waits until the second batch is being encoded: one after the other, it would wait for ever."""
    second = threading.Event()

    class Waiting(MemoryStore):
        def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
            assert second.wait(20)
            super().upsert(documents, embeddings)

    class Telling(FakeEncoder):
        def encode(self, texts: Sequence[str], **options: Any) -> M3Embeddings:
            if self.calls:
                second.set()
            return super().encode(texts, **options)

    report = ingest(Telling(), Waiting(dim=16), documents(4), batch_size=2)
    assert report.stored == 4


def test_few_batches_are_held_however_slow_the_store_is() -> None:
    """The stream may be ahead of the store by one batch encoded, one waiting and one being written."""
    written = 0
    most_ahead = 0

    class Counting(MemoryStore):
        def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
            nonlocal written
            super().upsert(documents, embeddings)
            written += len(documents)

    def stream() -> Any:
        nonlocal most_ahead
        for i, document in enumerate(documents(100)):
            most_ahead = max(most_ahead, i - written)
            yield document

    ingest(FakeEncoder(), Counting(dim=16), stream(), batch_size=5)
    assert most_ahead <= 15


def test_a_passing_error_is_tried_again() -> None:
    store = Flaky(ConnectionError("refused"), failures=2)
    assert ingest(FakeEncoder(), store, documents(3)).stored == 3
    assert store.writes == 3


def test_a_passing_error_that_stays_is_raised_in_the_end() -> None:
    with pytest.raises(ConnectionError, match="refused"):
        ingest(FakeEncoder(), Flaky(ConnectionError("refused"), failures=10**6), documents(3), retry_seconds=0.3)


def test_a_callers_mistake_is_never_tried_again() -> None:
    store = Flaky(ValueError("wrong"), failures=1)
    with pytest.raises(ValueError, match="wrong"):
        ingest(FakeEncoder(), store, documents(3))
    assert store.writes == 1


def test_what_was_stored_before_an_error_is_not_encoded_again() -> None:
    class Dying(MemoryStore):
        alive = 3

        def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
            if not self.alive:
                raise RuntimeError("disk full")
            self.alive -= 1
            super().upsert(documents, embeddings)

    store, encoder = Dying(dim=16), FakeEncoder()
    with pytest.raises(RuntimeError, match="disk full"):
        ingest(encoder, store, documents(20), batch_size=2)
    assert store.count() == 6
    store.alive = 10**6
    encoder.calls.clear()
    report = ingest(encoder, store, documents(20), batch_size=2)
    assert (report.unchanged, report.stored, store.count()) == (6, 14, 20)
    assert sum(map(len, encoder.calls)) == 14


@pytest.mark.parametrize("uploaders", [1, 4])
def test_the_last_version_of_a_document_wins_whatever_is_under_way(uploaders: int) -> None:
    store = MemoryStore(dim=16)
    stream = [document for version in range(30) for document in documents(3, version=version)]
    report = ingest(FakeEncoder(), store, stream, batch_size=2, uploaders=uploaders)
    assert [document.text for document in store.scroll()] == [f"text number {i} version 29" for i in range(3)]
    assert report.total == 90


def test_a_document_that_is_under_way_is_not_encoded_again() -> None:
    encoder = FakeEncoder()
    report = ingest(encoder, MemoryStore(dim=16), documents(2) * 10, batch_size=2)
    assert (report.stored, report.unchanged) == (2, 18)
    assert sum(map(len, encoder.calls)) == 2


def test_set_aside_documents_are_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    stream = [*documents(2), Document("", "no id"), Document("nan", "text", {"x": float("nan")})]
    for _ in range(2):
        ingest(FakeEncoder(), MemoryStore(dim=16), stream, rejects=path)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(line["position"], line["id"]) for line in lines] == [(2, ""), (3, "nan")] * 2
    assert "non-empty" in lines[0]["reason"]


def test_the_report_says_where_the_time_went() -> None:
    report = ingest(FakeEncoder(), MemoryStore(dim=16), documents(20), batch_size=5)
    assert report.seconds >= report.seconds_encoding > 0
    assert report.seconds_storing > 0
