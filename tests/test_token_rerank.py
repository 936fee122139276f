"""Token vectors on the way through: written in the pass that indexes, read instead of encoding candidates again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_checks import ids
from token_places import make_place

pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")

from m3connect import Document, Hit, HybridRetriever, HybridStore, MemoryStore, ThreadedStore, ingest
from m3connect.chunking import chunk
from m3connect.errors import CollectionMismatchError, M3ConnectError
from m3connect.testing import FakeEncoder
from m3connect.token_base import TokenStoreBase
from m3connect.token_rows import ENCODINGS, Encoding
from m3connect.token_store import TokenStore

TEXTS = {
    "apple": "a red apple on the old table",
    "sea": "the deep blue sea",
    "sky": "a blue sky over the sea",
    "house": "an old stone house by the sea",
    "empty": "",
    "cat": "the cat sleeps on the red table",
}
DOCUMENTS = [Document(name, text, {"words": len(text.split())}) for name, text in TEXTS.items()]
QUESTIONS = ["blue sea by the old house", "red cat", ""]
BOUNDS: dict[Encoding, float] = {"float16": 1e-3, "int8": 0.02, "1-bit": 0.6}
"""How far from exact a score may be at 16 dimensions."""


@pytest.fixture(params=[*(("folder", encoding) for encoding in ENCODINGS), ("collection", "int8")], ids="-".join)
def tokens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TokenStoreBase]:
    kind, encoding = request.param
    with make_place(kind, tmp_path).open(encoding=encoding) as opened:
        yield opened


def bound(tokens: TokenStoreBase) -> float:
    return BOUNDS[tokens.stats().encoding]


def scores(hits: list[Hit]) -> dict[str, float]:
    return {hit.document.id: hit.score for hit in hits}


# The write path.


def test_ingest_fills_both_stores_in_one_pass(encoder: FakeEncoder, tokens: TokenStoreBase) -> None:
    store = MemoryStore(dim=16)
    report = ingest(encoder, store, DOCUMENTS, batch_size=4, token_store=tokens)
    assert (report.stored, report.rejected) == (6, [])
    assert sorted(text for call in encoder.calls for text in call) == sorted(TEXTS.values())
    assert tokens.missing(DOCUMENTS, fingerprint=encoder.fingerprint) == []
    assert store.count() == len(tokens) == 6
    encoder.calls.clear()
    assert ingest(encoder, store, DOCUMENTS, token_store=tokens).unchanged == 6
    assert encoder.calls == []


def test_ingest_makes_up_for_what_the_token_store_lacks(encoder: FakeEncoder, tokens: TokenStoreBase) -> None:
    store = MemoryStore(dim=16)
    ingest(encoder, store, DOCUMENTS)
    tokens.put(DOCUMENTS[:4], encoder.encode(list(TEXTS.values())[:4], multi_vector=True))
    encoder.calls.clear()
    report = ingest(encoder, store, DOCUMENTS, token_store=tokens)
    assert (report.stored, report.replaced, report.unchanged) == (2, 2, 4)
    assert encoder.calls == [list(TEXTS.values())[4:]]
    assert tokens.missing(DOCUMENTS) == []


def test_a_changed_text_changes_in_both_stores(encoder: FakeEncoder, tokens: TokenStoreBase) -> None:
    store = MemoryStore(dim=16)
    changed = [Document("apple", "a green apple"), *DOCUMENTS[1:]]
    twice = [*DOCUMENTS, *changed]
    assert ingest(encoder, store, twice, batch_size=6, uploaders=3, token_store=tokens).stored == 7
    assert tokens.missing(changed) == []
    assert tokens.missing(DOCUMENTS) == DOCUMENTS[:1]


def test_what_the_store_acknowledged_has_its_token_vectors(encoder: FakeEncoder, tokens: TokenStoreBase) -> None:
    class Watched(MemoryStore):
        def upsert(self, documents: object, embeddings: object) -> None:
            assert tokens.missing(list(documents)) == []  # type: ignore[call-overload]
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        ingest(encoder, Watched(dim=16), DOCUMENTS, token_store=tokens)
    assert tokens.missing(DOCUMENTS) == []


def test_token_vectors_are_checked_and_encoded_once_however_often_they_are_written(
    encoder: FakeEncoder, tokens: TokenStoreBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def watch(name: str, failing: int = 0) -> None:
        real = getattr(tokens, name)

        def watched(*args: Any) -> Any:
            calls.append(name)
            if calls.count(name) <= failing:
                raise ConnectionError("try again")
            return real(*args)

        monkeypatch.setattr(tokens, name, watched)

    watch("problems")
    watch("encode")
    watch("_write", failing=1)
    monkeypatch.setattr(tokens, "is_transient", lambda error: isinstance(error, ConnectionError))
    assert ingest(encoder, MemoryStore(dim=16), DOCUMENTS, token_store=tokens).stored == 6
    assert calls == ["problems", "encode", "_write", "_write"]
    assert tokens.missing(DOCUMENTS) == []


def test_a_document_that_is_set_aside_leaves_no_token_vectors(encoder: FakeEncoder, tokens: TokenStoreBase) -> None:
    report = ingest(encoder, MemoryStore(dim=16), [Document("", "no id"), *DOCUMENTS], token_store=tokens)
    assert len(report.rejected) == 1
    assert len(tokens) == 6


def test_ingest_refuses_a_token_store_that_cannot_take_it(encoder: FakeEncoder, tmp_path: Path) -> None:
    with TokenStore(tmp_path) as tokens:
        ingest(encoder, MemoryStore(dim=16), DOCUMENTS, token_store=tokens)
        encoder.calls.clear()
        with pytest.raises(CollectionMismatchError, match="filled by fake-encoder"):
            ingest(FakeEncoder(fingerprint="other"), MemoryStore(dim=16), DOCUMENTS, token_store=tokens)
    with pytest.raises(M3ConnectError, match="is closed"):
        ingest(encoder, MemoryStore(dim=16), DOCUMENTS, token_store=tokens)
    with TokenStore(tmp_path, readonly=True) as tokens, pytest.raises(ValueError, match="readonly=True"):
        ingest(encoder, MemoryStore(dim=16), DOCUMENTS, token_store=tokens)
    assert encoder.calls == []


# What is deleted.


def windows(**texts: str) -> list[Document]:
    """Documents in windows of three words."""
    spans = lambda text: np.array([match.span() for match in re.finditer(r"\w+", text)]).reshape(-1, 2)  # noqa: E731
    return list(chunk([Document(*one) for one in texts.items()], spans, max_tokens=5, overlap=0))


def test_old_windows_go_from_both_stores(store: HybridStore, encoder: FakeEncoder, tokens: TokenStoreBase) -> None:
    before = windows(shorter="one two three " * 4, whole="one two three " * 3, same="one two three " * 2)
    after = windows(shorter="one two three " * 2, whole="one two three", same="one two three " * 2)
    ingest(encoder, store, before, chunked=True, token_store=tokens)
    assert tokens.missing(before) == []
    report = ingest(encoder, store, after, chunked=True, token_store=tokens)
    assert report.removed == 2 + 3
    assert tokens.missing(after) == []
    assert len(tokens) == store.count() == len(after)


@pytest.mark.parametrize("kill", [0, 1])
def test_what_a_kill_leaves_of_old_windows_goes_the_next_time(
    encoder: FakeEncoder, tokens: TokenStoreBase, kill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two deletions it comes before."""
    store = MemoryStore(dim=16)
    ingest(encoder, store, windows(a="one two three " * 4), chunked=True, token_store=tokens)
    after = windows(a="one two three " * 2)
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(tokens if kill == 0 else store, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(encoder, store, after, chunked=True, token_store=tokens)
    assert store.count() == 4
    ingest(encoder, store, after, chunked=True, token_store=tokens)
    assert len(tokens) == store.count() == 2


# The read path.


@pytest.mark.parametrize("kept", [False, True])
def test_reranked_hits_are_those_without_a_token_store(
    encoder: FakeEncoder, tokens: TokenStoreBase, kept: bool
) -> None:
    store = MemoryStore(dim=16, multi_vector=kept)
    ingest(encoder, store, DOCUMENTS, token_store=tokens)
    encoder.calls.clear()
    retriever = HybridRetriever(encoder, store, rerank=True, token_store=tokens)
    found = retriever.search_batch(QUESTIONS, top_k=6)
    assert encoder.calls == [QUESTIONS], "a candidate was encoded again"
    expected = HybridRetriever(encoder, store, rerank=True).search_batch(QUESTIONS, top_k=6)
    for hits, wanted in zip(found, expected, strict=True):
        assert scores(hits) == pytest.approx(scores(wanted), abs=bound(tokens))
        for hit in hits:
            legs = dict(hit.scores or {})
            assert list(legs) == ["dense", "sparse", "multi_vector"]
            assert hit.score == pytest.approx(legs["dense"] + 0.3 * legs["sparse"] + legs["multi_vector"], abs=1e-6)
    if tokens.stats().encoding != "1-bit":
        assert [ids(hits) for hits in found] == [ids(hits) for hits in expected]


def test_candidates_without_token_vectors_are_encoded_once_and_kept(
    encoder: FakeEncoder, tokens: TokenStoreBase
) -> None:
    """Absent ones and stale ones alike; the scores are the same before and after."""
    store = MemoryStore(dim=16)
    ingest(encoder, store, DOCUMENTS)
    older = [Document("apple", "an older text"), *DOCUMENTS[1:3]]
    tokens.put(older, encoder.encode([document.text for document in older], multi_vector=True))
    retriever = HybridRetriever(encoder, store, rerank=True, token_store=tokens)
    encoder.calls.clear()
    first = retriever.search(QUESTIONS[0], top_k=6)
    assert encoder.calls[0] == QUESTIONS[:1]
    assert sorted(encoder.calls[1]) == sorted(TEXTS[name] for name in ("apple", "house", "empty", "cat"))
    assert tokens.missing(DOCUMENTS) == []
    encoder.calls.clear()
    again = retriever.search(QUESTIONS[0], top_k=6)
    assert encoder.calls == [QUESTIONS[:1]]
    assert scores(again) == pytest.approx(scores(first), abs=1e-6)
    exact = HybridRetriever(encoder, store, rerank=True).search(QUESTIONS[0], top_k=6)
    assert scores(first) == pytest.approx(scores(exact), abs=bound(tokens))


def test_a_store_without_a_fingerprint_and_a_half_filled_token_store_rerank_together(
    encoder: FakeEncoder, tokens: TokenStoreBase
) -> None:
    store = MemoryStore(dim=16)
    by_hand = replace(encoder.encode([document.text for document in DOCUMENTS]), fingerprint=None)
    store.upsert(DOCUMENTS, by_hand)
    tokens.put(DOCUMENTS[:2], encoder.encode([document.text for document in DOCUMENTS[:2]], multi_vector=True))
    hits = HybridRetriever(encoder, store, rerank=True, token_store=tokens).search("blue sea", top_k=9)
    assert len(hits) == len(DOCUMENTS)


@pytest.mark.parametrize("kept", [True, False])
def test_a_document_that_is_deleted_during_a_search_is_left_out(
    encoder: FakeEncoder, tokens: TokenStoreBase, kept: bool
) -> None:
    """Wherever the token vectors are."""

    class Forgetful(MemoryStore):
        def search(self, *args: Any, **options: Any) -> list[list[Hit]]:
            found = super().search(*args, **options)
            self.delete(["sea"])
            return found

    token_store = tokens if kept else None
    store = Forgetful(dim=encoder.dim, multi_vector=not kept)
    ingest(encoder, store, DOCUMENTS, token_store=token_store)
    hits = HybridRetriever(encoder, store, rerank=True, token_store=token_store).search("blue sea", top_k=6)
    assert sorted(ids(hits)) == sorted(document.id for document in DOCUMENTS if document.id != "sea")


def test_a_token_store_to_be_read_is_left_as_it_is(encoder: FakeEncoder, tmp_path: Path) -> None:
    store = MemoryStore(dim=16)
    ingest(encoder, store, DOCUMENTS)
    with TokenStore(tmp_path) as tokens:
        tokens.put(DOCUMENTS[:2], encoder.encode(list(TEXTS.values())[:2], multi_vector=True))
    with TokenStore(tmp_path, readonly=True) as tokens:
        retriever = HybridRetriever(encoder, store, rerank=True, token_store=tokens)
        for _ in range(2):
            encoder.calls.clear()
            retriever.search(QUESTIONS[0], top_k=6)
            assert sorted(encoder.calls[1]) == sorted(list(TEXTS.values())[2:])
        assert len(tokens) == 2


def test_a_search_does_not_fail_where_token_vectors_cannot_be_stored(
    encoder: FakeEncoder, tokens: TokenStoreBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    store = MemoryStore(dim=16)
    ingest(encoder, store, DOCUMENTS)
    monkeypatch.setattr(tokens, "_write", full)
    found = HybridRetriever(encoder, store, rerank=True, token_store=tokens).search(QUESTIONS[0], top_k=6)
    exact = HybridRetriever(encoder, store, rerank=True).search(QUESTIONS[0], top_k=6)
    assert scores(found) == pytest.approx(scores(exact), abs=bound(tokens))
    assert "6 documents" in caplog.text
    assert "the disk is full" in caplog.text


def test_a_search_with_vectors_of_another_length_than_those_stored_is_refused(
    encoder: FakeEncoder, tokens: TokenStoreBase
) -> None:
    tokens.put([Document("other", "text")], FakeEncoder(32, fingerprint=None).encode(["text"], multi_vector=True))
    unnamed = FakeEncoder(fingerprint=None)
    store = MemoryStore(dim=16)
    ingest(unnamed, store, DOCUMENTS)
    with pytest.raises(CollectionMismatchError, match="dimension 32"):
        HybridRetriever(unnamed, store, rerank=True, token_store=tokens).search(QUESTIONS[0])


def test_another_models_token_vectors_are_refused(encoder: FakeEncoder, tokens: TokenStoreBase) -> None:
    other = FakeEncoder(fingerprint="other")
    tokens.put(DOCUMENTS, other.encode(list(TEXTS.values()), multi_vector=True))
    store = MemoryStore(dim=16)
    ingest(encoder, store, DOCUMENTS)
    with pytest.raises(CollectionMismatchError, match="filled by other"):
        HybridRetriever(encoder, store, rerank=True, token_store=tokens).search(QUESTIONS[0])


def test_without_rerank_or_hits_the_token_store_is_not_asked(encoder: FakeEncoder, tmp_path: Path) -> None:
    store = MemoryStore(dim=16)
    tokens = TokenStore(tmp_path)
    tokens.close()
    retriever = HybridRetriever(encoder, store, rerank=True, token_store=tokens)
    assert retriever.search(QUESTIONS[0]) == []
    ingest(encoder, store, DOCUMENTS)
    assert len(retriever.search(QUESTIONS[0], rerank=False, top_k=6)) == 6


def test_every_store_reranks_with_a_token_store(store: HybridStore, encoder: FakeEncoder, tmp_path: Path) -> None:
    with TokenStore(tmp_path, encoding="float16") as tokens:
        ingest(encoder, store, DOCUMENTS, token_store=tokens)
        encoder.calls.clear()
        found = HybridRetriever(encoder, store, rerank=True, token_store=tokens).search(QUESTIONS[0], top_k=6)
        assert encoder.calls == [QUESTIONS[:1]]
        expected = HybridRetriever(encoder, store, rerank=True).search(QUESTIONS[0], top_k=6)
        assert scores(found) == pytest.approx(scores(expected), abs=2e-3)


# The frameworks' retrievers, sync and async.


def langchain(store: MemoryStore, encoder: FakeEncoder, tokens: TokenStoreBase, *, awaited: bool) -> dict[str, float]:
    pytest.importorskip("langchain_core")
    from langchain_m3connect import M3ConnectEmbeddings, M3ConnectRetriever, M3ConnectVectorStore

    vectorstore = M3ConnectVectorStore(store=store, embedding=M3ConnectEmbeddings(encoder=encoder))
    retriever = M3ConnectRetriever(vectorstore=vectorstore, rerank=True, k=6, token_store=tokens, scores_key="scores")
    question = QUESTIONS[0]
    documents = asyncio.run(retriever.ainvoke(question)) if awaited else retriever.invoke(question)
    return {str(document.id): document.metadata["scores"]["score"] for document in documents}


def llama_index(store: MemoryStore, encoder: FakeEncoder, tokens: TokenStoreBase, *, awaited: bool) -> dict[str, float]:
    pytest.importorskip("llama_index.core")
    from llama_index_m3connect import M3ConnectRetriever

    target = ThreadedStore(store) if awaited else store
    retriever = M3ConnectRetriever(target, encoder=encoder, similarity_top_k=6, rerank=True, token_store=tokens)
    question = QUESTIONS[0]
    nodes = asyncio.run(retriever.aretrieve(question)) if awaited else retriever.retrieve(question)
    return {node.node.node_id: float(node.score or 0) for node in nodes}


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("framework", [langchain, llama_index])
def test_frameworks_read_the_token_store_too(
    encoder: FakeEncoder, tmp_path: Path, framework: Callable[..., dict[str, float]], awaited: bool
) -> None:
    store = MemoryStore(dim=16)
    ingest(encoder, store, DOCUMENTS)
    expected = scores(HybridRetriever(encoder, store, rerank=True).search(QUESTIONS[0], top_k=6))
    with TokenStore(tmp_path) as tokens:
        for absent in (True, False):
            encoder.calls.clear()
            assert framework(store, encoder, tokens, awaited=awaited) == pytest.approx(expected, abs=0.02)
            texts = sorted(text for call in encoder.calls for text in call)
            assert texts == sorted([*QUESTIONS[:1], *(TEXTS.values() if absent else ())])
        assert tokens.missing(DOCUMENTS) == []
