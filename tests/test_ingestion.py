"""The write path: it streams, it can be run again, and one bad document stops nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from m3connect import Document, HybridStore, M3Embeddings, MemoryStore, ingest
from m3connect.errors import CollectionMismatchError
from m3connect.testing import FakeEncoder


def documents(n: int, word: str = "text") -> list[Document]:
    return [Document(f"d{i}", f"{word} number {i}", {"n": i}) for i in range(n)]


def encoded(encoder: FakeEncoder) -> list[str]:
    return [text for call in encoder.calls for text in call]


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(dim=16)


def test_everything_goes_in_with_its_vectors(store: HybridStore, encoder: FakeEncoder) -> None:
    report = ingest(encoder, store, documents(7), batch_size=3)
    assert (report.stored, report.unchanged, report.rejected, report.total) == (7, 0, [], 7)
    assert store.get([f"d{i}" for i in range(7)]) == documents(7)
    assert [len(call) for call in encoder.calls] == [3, 3, 1]
    assert store.fingerprint == encoder.fingerprint
    expected = encoder.encode(["text number 4"])
    np.testing.assert_allclose(store.get_embeddings(["d4"]).dense, expected.dense, atol=1e-6)


def test_a_second_run_encodes_and_writes_nothing(store: HybridStore, encoder: FakeEncoder) -> None:
    ingest(encoder, store, documents(5))
    encoder.calls.clear()
    report = ingest(encoder, store, documents(5))
    assert (report.stored, report.unchanged, report.total) == (0, 5, 5)
    assert encoder.calls == []
    assert store.count() == 5


@pytest.mark.parametrize(
    "change", [{"text": "other"}, {"metadata": {"n": 2.0}}, {"metadata": {}}, {"parent_id": "p"}], ids=str
)
def test_what_changed_is_encoded_again(store: HybridStore, encoder: FakeEncoder, change: dict[str, Any]) -> None:
    before = documents(4)
    ingest(encoder, store, before)
    encoder.calls.clear()
    after = [*before[:2], replace(before[2], **change), before[3]]
    report = ingest(encoder, store, after)
    assert (report.stored, report.unchanged) == (1, 3)
    assert encoded(encoder) == [after[2].text]
    assert store.get(["d2"]) == [after[2]]
    assert store.count() == 4


def test_a_stream_is_read_as_it_is_stored(memory: MemoryStore, encoder: FakeEncoder) -> None:
    """What was read but not yet stored never exceeds a few batches, however long the stream."""
    ahead: list[int] = []

    def stream() -> Iterator[Document]:
        for i, document in enumerate(documents(200)):
            ahead.append(i + 1 - memory.count())
            yield document

    report = ingest(encoder, memory, stream(), batch_size=10)
    assert report.stored == 200
    assert max(ahead) <= 3 * 10


def test_nothing_is_read_before_it_is_needed(memory: MemoryStore) -> None:
    class Failing(FakeEncoder):
        def encode(self, texts: Sequence[str], **options: Any) -> M3Embeddings:
            raise RuntimeError("out of memory")

    read: list[str] = []
    stream = (read.append(document.id) or document for document in documents(100))
    with pytest.raises(RuntimeError, match="out of memory"):
        ingest(Failing(), memory, stream, batch_size=8)
    assert len(read) <= 3 * 8


def test_an_interrupted_run_goes_on_where_it_stopped(store: HybridStore, encoder: FakeEncoder) -> None:
    def broken() -> Iterator[Document]:
        yield from documents(10)[:7]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        ingest(encoder, store, broken(), batch_size=3)
    stored = store.count()
    assert 3 <= stored <= 7
    encoder.calls.clear()
    report = ingest(encoder, store, documents(10), batch_size=3)
    assert (report.unchanged, report.stored) == (stored, 10 - stored)
    assert len(encoded(encoder)) == 10 - stored
    assert store.count() == 10


def test_bad_documents_are_set_aside_and_the_rest_goes_in(store: HybridStore, encoder: FakeEncoder) -> None:
    good = documents(3)
    bad = [
        Document("", "no id"),
        Document("x", 7),  # type: ignore[arg-type]
        Document("y", "set", {"tags": {1}}),
        Document("z", "half \ud800"),
        "no document",
        Document("w", "text", None),  # type: ignore[arg-type]
    ]
    stream: list[Any] = [bad[0], good[0], *bad[1:5], good[1], bad[5], good[2]]
    report = ingest(encoder, store, stream, batch_size=4)
    assert (report.stored, report.total) == (3, 9)
    assert [(rejected.position, rejected.document) for rejected in report.rejected] == [
        (stream.index(one), one) for one in bad
    ]
    for rejected, reason in zip(
        report.rejected, ("non-empty", "string", "set", "surrogate", "Document", "mapping"), strict=True
    ):
        assert reason in rejected.reason
    assert set(encoded(encoder)) == {document.text for document in good}
    assert store.count() == 3


class Poisoned(FakeEncoder):
    """Gives numbers that are not finite for texts that say so."""

    def encode(self, texts: Sequence[str], **options: Any) -> M3Embeddings:
        batch = super().encode(texts, **options)
        dense, values = batch.dense.copy(), batch.sparse.values.copy()
        for i, text in enumerate(texts):
            if "poison" in text:
                dense[i, 0] = np.nan
            if "venom" in text:
                values[batch.sparse.indptr[i]] = np.inf
        return replace(batch, dense=dense, sparse=replace(batch.sparse, values=values))


def test_vectors_that_are_not_finite_reject_only_their_document(store: HybridStore) -> None:
    stream = [Document("a", "fine"), Document("b", "poison"), Document("c", "good"), Document("d", "venom")]
    report = ingest(Poisoned(), store, stream)
    assert report.stored == 2
    assert [(one.position, one.document.id) for one in report.rejected] == [(1, "b"), (3, "d")]
    assert "dense" in report.rejected[0].reason
    assert "sparse" in report.rejected[1].reason
    assert sorted(document.id for document in store.scroll()) == ["a", "c"]
    expected = FakeEncoder().encode(["good"]).dense
    np.testing.assert_allclose(store.get_embeddings(["c"]).dense, expected, atol=1e-6)


def test_a_batch_of_bad_documents_alone_is_no_error(memory: MemoryStore) -> None:
    report = ingest(Poisoned(), memory, [Document("a", "poison"), Document("", "x")])
    assert (report.stored, len(report.rejected), memory.count()) == (0, 2, 0)


def test_what_the_store_refuses_is_set_aside_too(encoder: FakeEncoder) -> None:
    class Small(MemoryStore):
        def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
            return {i: "too long for this store" for i, one in enumerate(documents) if len(one.text) > 20}

    store = Small(dim=16)
    report = ingest(encoder, store, [Document("a", "short"), Document("b", "long " * 10), Document("c", "short too")])
    assert [(one.position, one.reason) for one in report.rejected] == [(1, "too long for this store")]
    assert store.count() == 2


def test_another_model_is_refused_before_anything_is_read_or_encoded(store: HybridStore) -> None:
    ingest(FakeEncoder(fingerprint="one"), store, documents(1))
    other, read = FakeEncoder(fingerprint="two"), []
    stream = (read.append(document) or document for document in documents(5))
    with pytest.raises(CollectionMismatchError, match=r"(?s)one.*two"):
        ingest(other, store, stream)
    assert other.calls == read == []
    assert store.count() == 1


def test_another_dimension_is_refused_before_anything_is_encoded(memory: MemoryStore) -> None:
    other = FakeEncoder(dim=8)
    with pytest.raises(ValueError, match=r"16.*8|8.*16"):
        ingest(other, memory, documents(5))
    assert other.calls == []


def test_of_duplicates_in_a_batch_the_last_stays(store: HybridStore, encoder: FakeEncoder) -> None:
    stream = [Document("a", "first"), Document("b", "other"), Document("a", "second"), Document("a", "third")]
    report = ingest(encoder, store, stream)
    assert (report.stored, report.replaced_in_batch, report.total) == (2, 2, 4)
    assert store.get(["a"])[0].text == "third"
    assert sorted(encoded(encoder)) == ["other", "third"]


def test_of_duplicates_in_different_batches_the_last_stays(store: HybridStore, encoder: FakeEncoder) -> None:
    report = ingest(encoder, store, [Document("a", "first"), Document("a", "second")], batch_size=1)
    assert (report.stored, report.total) == (2, 2)
    assert store.get(["a"])[0].text == "second"


def test_cut_texts_are_counted_and_told(memory: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    class Short(FakeEncoder):
        def encode(self, texts: Sequence[str], **options: Any) -> M3Embeddings:
            return super().encode(texts, **options | {"max_length": 2})

    with caplog.at_level(logging.WARNING):
        report = ingest(Short(), memory, [*documents(2), Document("s", "two words")])
    assert (report.truncated, report.stored) == (2, 3)
    assert "2 documents are longer" in caplog.text


def test_one_log_line_tells_how_many_were_set_aside(
    memory: MemoryStore, encoder: FakeEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ingest(encoder, memory, [Document("", "x"), Document("", "y"), Document("a", "z")])
    assert len(caplog.records) == 1
    assert "2 documents were set aside" in caplog.text


def test_token_vectors_are_made_where_the_store_keeps_them(token_store: HybridStore, encoder: FakeEncoder) -> None:
    ingest(encoder, token_store, [*documents(2), Document("empty", "")])
    lengths = [len(rows) for rows in token_store.get_embeddings(["d0", "empty"]).require_multi_vector()]
    assert lengths == [3, 0]


def test_the_store_is_told_to_flush_once_at_the_end(encoder: FakeEncoder) -> None:
    class Counting(MemoryStore):
        flushed = 0

        def flush(self) -> None:
            assert self.count() == 5
            self.flushed += 1

    store = Counting(dim=16)
    ingest(encoder, store, documents(5), batch_size=2)
    assert store.flushed == 1


def test_no_documents_are_no_error(store: HybridStore, encoder: FakeEncoder) -> None:
    report = ingest(encoder, store, [])
    assert (report.total, report.rejected) == (0, [])
    assert encoder.calls == []


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(memory: MemoryStore, encoder: FakeEncoder, batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ingest(encoder, memory, documents(1), batch_size=batch_size)


def test_progress_is_shown_only_where_asked(
    memory: MemoryStore, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(encoder, memory, documents(3))
    assert capsys.readouterr() == ("", "")
    ingest(encoder, memory, (document for document in documents(3)), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "3" in shown.err


def test_the_time_spent_is_reported(memory: MemoryStore, encoder: FakeEncoder) -> None:
    report = ingest(encoder, memory, documents(3))
    assert report.seconds_encoding > 0
    assert report.seconds_storing > 0
