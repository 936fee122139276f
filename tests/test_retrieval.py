"""The read path: one encoding a question, whatever it is used for, and M3's own score after reranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from store_checks import ids

from m3connect import (
    RRF,
    Dense,
    Document,
    HybridRetriever,
    HybridStore,
    MemoryStore,
    Sparse,
    Weighted,
    ingest,
    retrieval,
    scoring,
)
from m3connect.filters import field
from m3connect.testing import FakeEncoder

TEXTS = {
    "apple": "a red apple on the old table",
    "sea": "the deep blue sea",
    "sky": "a blue sky over the sea",
    "house": "an old stone house by the sea",
    "empty": "",
    "cat": "the cat sleeps on the red table",
}
QUESTION = "blue sea by the old house"


def filled(store: HybridStore, encoder: FakeEncoder) -> HybridStore:
    ingest(encoder, store, [Document(name, text, {"words": len(text.split())}) for name, text in TEXTS.items()])
    encoder.calls.clear()
    return store


@pytest.fixture
def memory(encoder: FakeEncoder) -> HybridStore:
    return filled(MemoryStore(dim=16), encoder)


@pytest.fixture
def with_tokens(encoder: FakeEncoder) -> HybridStore:
    return filled(MemoryStore(dim=16, multi_vector=True), encoder)


def hybrid_scores(question: str, weights: tuple[float, float, float] = (1.0, 0.3, 1.0)) -> dict[str, float]:
    fresh = FakeEncoder()
    query = fresh.encode([question], multi_vector=True)
    rows = fresh.encode(list(TEXTS.values()), multi_vector=True)
    return dict(zip(TEXTS, scoring.hybrid(query, rows, weights=weights)[0].tolist(), strict=True))


def test_a_search_encodes_the_question_once(memory: HybridStore, encoder: FakeEncoder) -> None:
    hits = HybridRetriever(encoder, memory).search(QUESTION, top_k=3)
    assert encoder.calls == [[QUESTION]]
    expected = memory.search(encoder.encode([QUESTION]), top_k=3)[0]
    assert hits == expected


def test_a_reranked_search_encodes_the_question_once_and_each_candidate_once(
    memory: HybridStore, encoder: FakeEncoder
) -> None:
    HybridRetriever(encoder, memory, rerank=True).search_batch([QUESTION, "red cat"], top_k=2)
    assert encoder.calls[0] == [QUESTION, "red cat"]
    assert len(encoder.calls) == 2
    assert sorted(encoder.calls[1]) == sorted(TEXTS.values())


def test_stored_token_vectors_are_not_made_again(with_tokens: HybridStore, encoder: FakeEncoder) -> None:
    HybridRetriever(encoder, with_tokens, rerank=True).search(QUESTION)
    assert encoder.calls == [[QUESTION]]


@pytest.mark.parametrize("weights", [(1.0, 0.3, 1.0), (0.2, 0.0, 2.0), (0.0, 1.0, 0.0)])
@pytest.mark.parametrize("kept", ["memory", "with_tokens"])
def test_reranked_scores_are_the_hybrid_score(
    request: pytest.FixtureRequest, encoder: FakeEncoder, kept: str, weights: tuple[float, float, float]
) -> None:
    retriever = HybridRetriever(encoder, request.getfixturevalue(kept), rerank=True, weights=weights)
    expected = hybrid_scores(QUESTION, weights)
    hits = retriever.search(QUESTION, top_k=10)
    assert {hit.document.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
    assert ids(hits) == sorted(expected, key=lambda name: (-round(expected[name], 6), name))
    for hit in hits:
        legs = dict(hit.scores or {})
        assert list(legs) == ["dense", "sparse", "multi_vector"]
        total = sum(weight * score for weight, score in zip(weights, legs.values(), strict=True))
        assert hit.score == pytest.approx(total, abs=1e-6)


def test_every_store_reranks_alike(store: HybridStore, encoder: FakeEncoder) -> None:
    hits = HybridRetriever(encoder, filled(store, encoder), rerank=True).search(QUESTION, top_k=10)
    assert {hit.document.id: hit.score for hit in hits} == pytest.approx(hybrid_scores(QUESTION), abs=1e-5)


def test_an_empty_document_scores_zero_in_its_leg(memory: HybridStore, encoder: FakeEncoder) -> None:
    hits = {hit.document.id: hit for hit in HybridRetriever(encoder, memory, rerank=True).search(QUESTION, top_k=10)}
    assert (hits["empty"].scores or {})["multi_vector"] == (hits["empty"].scores or {})["sparse"] == 0


def test_an_empty_question_is_answered(memory: HybridStore, encoder: FakeEncoder) -> None:
    for rerank in (False, True):
        hits = HybridRetriever(encoder, memory, rerank=rerank).search("", top_k=2, with_scores=True)
        assert len(hits) == 2
        assert all((hit.scores or {})["sparse"] == 0 for hit in hits)


def test_fewer_documents_than_asked_for_are_all_given(memory: HybridStore, encoder: FakeEncoder) -> None:
    assert len(HybridRetriever(encoder, memory, rerank=True, depth=100).search(QUESTION, top_k=50)) == len(TEXTS)


def test_an_empty_store_gives_no_hits(encoder: FakeEncoder) -> None:
    for rerank in (False, True):
        retriever = HybridRetriever(encoder, MemoryStore(dim=16), rerank=rerank)
        assert retriever.search(QUESTION) == []
        assert retriever.search_batch([QUESTION, "other"]) == [[], []]


def test_no_questions_give_no_lists(memory: HybridStore, encoder: FakeEncoder) -> None:
    for rerank in (False, True):
        assert HybridRetriever(encoder, memory, rerank=rerank).search_batch([]) == []


def test_only_the_best_of_the_store_are_reranked(memory: HybridStore, encoder: FakeEncoder) -> None:
    first = HybridRetriever(encoder, memory).search(QUESTION, top_k=3)
    hits = HybridRetriever(encoder, memory, rerank=True, depth=3).search(QUESTION, top_k=2)
    scores = {name: score for name, score in hybrid_scores(QUESTION).items() if name in ids(first)}
    assert ids(hits) == sorted(scores, key=lambda name: -scores[name])[:2]


def test_asking_for_more_than_depth_reranks_as_many_as_asked(memory: HybridStore, encoder: FakeEncoder) -> None:
    assert len(HybridRetriever(encoder, memory, rerank=True, depth=1).search(QUESTION, top_k=4)) == 4


@pytest.mark.parametrize("rerank", [False, True])
def test_a_filter_holds_for_every_hit(memory: HybridStore, encoder: FakeEncoder, rerank: bool) -> None:
    condition = field("words") >= 6
    hits = HybridRetriever(encoder, memory, rerank=rerank).search(QUESTION, top_k=10, filter=condition)
    assert set(ids(hits)) == {name for name, text in TEXTS.items() if len(text.split()) >= 6}


def test_a_search_may_differ_from_the_retriever(memory: HybridStore, encoder: FakeEncoder) -> None:
    retriever = HybridRetriever(encoder, memory, rerank=True, fusion=Dense())
    plain = retriever.search(QUESTION, rerank=False, fusion=Sparse(), top_k=10)
    assert plain == memory.search(encoder.encode([QUESTION]), fusion=Sparse(), top_k=10)[0]
    assert HybridRetriever(encoder, memory).search(QUESTION, rerank=True)[0].scores is not None


def test_the_retrievers_fusion_finds_the_candidates(memory: HybridStore, encoder: FakeEncoder) -> None:
    found = HybridRetriever(encoder, memory, rerank=True, fusion=Sparse()).search(QUESTION, top_k=10)
    assert "empty" not in ids(found)


def test_several_questions_are_encoded_together_and_answered_like_one(
    memory: HybridStore, encoder: FakeEncoder
) -> None:
    questions = [QUESTION, "red table", "cat"]
    for rerank in (False, True):
        retriever = HybridRetriever(encoder, memory, rerank=rerank)
        encoder.calls.clear()
        together = retriever.search_batch(questions)
        assert encoder.calls[0] == questions
        for hits, question in zip(together, questions, strict=True):
            alone = retriever.search(question)
            assert ids(hits) == ids(alone)
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-6)


def test_leg_scores_come_where_asked(with_tokens: HybridStore, memory: HybridStore, encoder: FakeEncoder) -> None:
    assert all(hit.scores is None for hit in HybridRetriever(encoder, memory).search(QUESTION))
    for store, legs in ((memory, {"dense", "sparse"}), (with_tokens, {"dense", "sparse", "multi_vector"})):
        hits = HybridRetriever(encoder, store).search(QUESTION, with_scores=True)
        assert all(set(hit.scores or {}) == legs for hit in hits)


def test_a_fusion_that_weighs_token_vectors_gets_them(with_tokens: HybridStore, encoder: FakeEncoder) -> None:
    hits = HybridRetriever(encoder, with_tokens, fusion=Weighted(1, 0.3, 1)).search(QUESTION, top_k=10)
    assert {hit.document.id: hit.score for hit in hits} == pytest.approx(hybrid_scores(QUESTION), abs=1e-5)
    assert encoder.calls == [[QUESTION]]


def test_equal_scores_are_ordered_by_id(encoder: FakeEncoder) -> None:
    store = MemoryStore(dim=16)
    ingest(encoder, store, [Document(name, "the same text") for name in "cab"])
    assert ids(HybridRetriever(encoder, store, rerank=True).search("the text")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda retriever: retriever.search(["a", "b"]), "search takes one string"),
        (lambda retriever: retriever.search(None), "search takes one string"),
        (lambda retriever: retriever.search_batch("a question"), "takes a list of strings"),
        (lambda retriever: retriever.search("a", top_k=0), "top_k must be at least 1"),
        (lambda retriever: retriever.search("a", top_k=0, rerank=True), "top_k must be at least 1"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    memory: HybridStore, encoder: FakeEncoder, ask: Callable[[HybridRetriever], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask(HybridRetriever(encoder, memory))


def test_a_depth_below_one_is_refused(memory: HybridStore, encoder: FakeEncoder) -> None:
    with pytest.raises(ValueError, match="depth must be at least 1"):
        HybridRetriever(encoder, memory, depth=0)


def test_another_model_is_refused(memory: HybridStore) -> None:
    with pytest.raises(ValueError, match="filled by fake-encoder"):
        HybridRetriever(FakeEncoder(fingerprint="other"), memory, fusion=RRF()).search(QUESTION)


@pytest.mark.parametrize("weights", [(1, float("nan"), 1), (float("inf"), 1, 1), (-1, 1, 1), (1, 1)])
def test_weights_that_mean_nothing_are_refused(encoder: FakeEncoder, weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="three numbers of at least 0"):
        HybridRetriever(encoder, MemoryStore(dim=encoder.dim), weights=weights)


def test_token_vectors_of_all_questions_are_not_held_at_once(
    encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(dim=encoder.dim)
    ingest(encoder, store, [Document(str(i), f"text number {i}") for i in range(30)])
    questions = [f"number {i}" for i in range(6)]
    retriever = HybridRetriever(encoder, store, rerank=True, depth=10)
    expected = retriever.search_batch(questions)
    monkeypatch.setattr(retrieval, "_CANDIDATES_HELD", 20)
    encoder.calls.clear()
    assert retriever.search_batch(questions) == expected
    assert all(len(call) <= 20 for call in encoder.calls)


@pytest.mark.parametrize("rerank", [False, True])
def test_hits_are_grouped_by_parent_where_that_is_asked_for(encoder: FakeEncoder, rerank: bool) -> None:
    store = MemoryStore(dim=16)
    parts = [Document(f"book#{i}", f"deep sea {i}", parent_id="book") for i in range(5)]
    ingest(encoder, store, [*parts, Document("sky", "blue sky")])
    retriever = HybridRetriever(encoder, store, rerank=rerank)
    assert len(retriever.search("deep sea", top_k=6)) == 6
    grouped = retriever.search("deep sea", top_k=6, group_by_parent=True)
    assert [hit.document.parent_id or hit.document.id for hit in grouped] == ["book", "sky"]
