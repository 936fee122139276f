"""One document that cannot be encoded costs no run, a broken encoder does, and what was done is told either way."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from m3connect import Document, HybridStore, IngestReport, M3Embeddings, MemoryStore, ingest
from m3connect.blame import MOST_IN_A_ROW
from m3connect.chunking import chunk
from m3connect.testing import FakeEncoder


class Fragile(FakeEncoder):
    """Fails for every batch with a text that says so."""

    def encode(self, texts: Sequence[str], **options: Any) -> M3Embeddings:
        self.calls.append(list(texts))
        if any("poison" in text for text in texts):
            raise RuntimeError("cannot read this")
        return super().encode(texts, **options)


def documents(n: int, *bad: int) -> list[Document]:
    return [Document(f"d{i}", f"poison {i}" if i in bad else f"text {i}") for i in range(n)]


@pytest.mark.parametrize("bad", [(0,), (9,), (3, 4), (0, 5, 9), tuple(range(10))], ids=str)
def test_texts_that_cannot_be_encoded_are_set_aside_and_the_rest_goes_in(
    store: HybridStore, bad: tuple[int, ...]
) -> None:
    stream = documents(10, *bad)
    report = ingest(Fragile(), store, stream, batch_size=10)
    assert [(one.position, one.document) for one in report.rejected] == [(i, stream[i]) for i in bad]
    assert all(one.reason == "it cannot be encoded: RuntimeError('cannot read this')" for one in report.rejected)
    good = [document for i, document in enumerate(stream) if i not in bad]
    assert (report.stored, report.total, store.count()) == (len(good), 10, len(good))
    for document in good:
        expected = FakeEncoder().encode([document.text]).dense
        np.testing.assert_allclose(store.get_embeddings([document.id]).dense, expected, atol=1e-6)


def test_an_encoder_that_fails_for_everything_stops_the_run_at_once() -> None:
    class Broken(FakeEncoder):
        def encode(self, texts: Sequence[str], **options: Any) -> M3Embeddings:
            self.calls.append(list(texts))
            raise MemoryError("no memory")

    encoder, report = Broken(), IngestReport()
    with pytest.raises(MemoryError, match="no memory") as caught:
        ingest(encoder, MemoryStore(dim=16), documents(1000), batch_size=256, report=report)
    assert len(encoder.calls) <= 10  # 256, 128, ... 1, and one harmless text
    assert report.rejected == []
    assert any("no document is to blame" in note for note in caught.value.__notes__)


def test_an_encoder_that_fails_for_very_many_texts_in_a_row_stops_the_run() -> None:
    report = IngestReport()
    with pytest.raises(RuntimeError, match="cannot read this"):
        ingest(Fragile(), MemoryStore(dim=16), documents(1000, *range(5, 1000)), batch_size=10, report=report)
    assert (report.stored, len(report.rejected)) == (5, MOST_IN_A_ROW - 1)


def test_bad_texts_that_are_far_between_never_stop_a_run() -> None:
    report = ingest(Fragile(), MemoryStore(dim=16), documents(200, *range(0, 200, 4)), batch_size=16)
    assert (report.stored, len(report.rejected)) == (150, 50)


def test_what_was_done_before_an_error_is_in_the_report_and_on_the_error() -> None:
    def broken() -> Iterator[Document]:
        yield Document("", "no id")
        yield from documents(7)
        raise OSError("the disk is gone")

    class Slow(MemoryStore):
        def upsert(self, *args: Any, **options: Any) -> None:
            time.sleep(0.05)  # all that follows waits for it
            super().upsert(*args, **options)

    store, report = Slow(dim=16), IngestReport()
    with pytest.raises(OSError, match="the disk is gone") as caught:
        ingest(FakeEncoder(), store, broken(), batch_size=2, report=report)
    assert (report.stored, len(report.rejected), report.unchanged) == (store.count(), 1, 0)
    assert report.stored == 7, "what was encoded before is written"
    assert report.seconds > 0
    assert f"{report.stored} stored, 0 unchanged, 1 set aside" in caught.value.__notes__[0]


def test_a_report_can_be_read_while_the_run_goes_on() -> None:
    report = IngestReport()
    seen: list[int] = []

    def stream() -> Iterator[Document]:
        for document in documents(50):
            seen.append(report.stored)
            yield document

    assert ingest(FakeEncoder(), MemoryStore(dim=16), stream(), batch_size=5, report=report) is report
    assert seen[0] == 0 < seen[-1] < 50 == report.stored


# Windows that a document no longer has.


def spans(text: str) -> Any:
    return np.array([[i, i + 1] for i in range(len(text))]).reshape(-1, 2)


def chunks(**texts: str) -> list[Document]:
    return list(chunk([Document(*one) for one in texts.items()], spans, max_tokens=6, overlap=0))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_windows_that_a_changed_document_no_longer_has_are_deleted(store: HybridStore, batch_size: int) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "chunked": True}
    ingest(FakeEncoder(), store, chunks(a="abcd" * 9, b="abcd" * 3, c="ab", d="abcd" * 2), **options)
    own = [Document("a#9", "mine"), Document("a#x", "mine", {}, "a")]
    store.upsert(own, FakeEncoder().encode(["mine", "mine"]))
    shorter = chunks(a="abcd" * 4, b="ab", c="abcd" * 2, d="abcd" * 2)
    report = ingest(FakeEncoder(), store, shorter, **options)
    assert report.removed == 5 + 3 + 1
    assert sorted(one.id for one in store.scroll()) == sorted(one.id for one in [*shorter, *own])
    again = ingest(FakeEncoder(), store, shorter, **options)
    assert (again.removed, again.stored) == (0, 0)


def test_without_being_told_ingest_deletes_nothing(store: HybridStore) -> None:
    ingest(FakeEncoder(), store, chunks(a="abcd" * 3))
    report = ingest(FakeEncoder(), store, chunks(a="ab"))
    assert (report.removed, store.count()) == (0, 4)


@pytest.mark.parametrize("seed", range(8))
def test_old_windows_go_whatever_call_of_the_store_a_kill_comes_before(seed: int, monkeypatch: Any) -> None:
    """The new version is in the stream again after the kill; nothing of the old one is left then."""
    monkeypatch.setattr("m3connect.chunking._IDS", 3)  # several deletes a document

    class Killed(MemoryStore):
        calls = 10**9

        def _perform(self, call: Any) -> Any:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
            return super()._perform(call)

    chance = random.Random(seed)
    store, before = Killed(dim=16), chunks(a="abcd" * 30, b="abcd" * 5, c="ab")
    ingest(FakeEncoder(), store, before, chunked=True)
    after = chunks(a="xbcd" * 2, b="ab", c="abcd" * 3)
    for _ in range(12):
        store.calls = chance.randrange(1, 30)
        try:
            ingest(FakeEncoder(), store, after, batch_size=2, chunked=True)
        except KeyboardInterrupt:
            continue
    store.calls = 10**9
    ingest(FakeEncoder(), store, after, batch_size=2, chunked=True)
    assert sorted(one.id for one in store.scroll()) == sorted(one.id for one in after)
