"""The search flow, its steps answered by hand: what a store is asked, and what comes of the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from m3connect import Dense, Document, Hit, M3Embeddings, Sparse, SparseRows, Weighted
from m3connect.search import FetchDocuments, FetchTokenVectors, FindCandidates, ScoreIds, SearchPlan, Step, search_flow

ONE = M3Embeddings(np.eye(1, 2), SparseRows.from_dicts([{1: 1.0}]))
TWO = M3Embeddings(np.eye(2), SparseRows.from_dicts([{1: 1.0}, {2: 1.0}]))
TOKENS = M3Embeddings(np.eye(1, 2), SparseRows.from_dicts([{1: 1.0}]), (np.eye(2),))


def run(queries: M3Embeddings, answers: dict[type, Any], **options: Any) -> tuple[list[list[Hit]], list[Step]]:
    """Drive a flow; an answer is a value or a function of the step, and documents are made up."""
    asked: list[Step] = []

    def answer(step: Step) -> Any:
        asked.append(step)
        if isinstance(step, FetchDocuments) and FetchDocuments not in answers:
            return {name: Document(name, f"text of {name}") for name in reversed(step.ids)}
        given = answers[type(step)]
        return given(step) if callable(given) else given

    able = {name: options.pop(name, False) for name in ("multi_vector", "scores_tokens")}
    flow = search_flow(queries, SearchPlan(**{"top_k": 2} | options), **able)
    try:
        step = next(flow)
        while True:
            step = flow.send(answer(step))
    except StopIteration as stop:
        return stop.value, asked


def names(hits: list[Hit]) -> list[str]:
    return [hit.document.id for hit in hits]


def test_rrf_asks_for_both_legs_and_for_the_documents_of_the_best() -> None:
    legs = {"dense": [{"a": 0.9, "b": 0.8, "c": 0.1}], "sparse": [{"b": 2.0, "d": 1.0}]}
    (hits,), asked = run(ONE, {FindCandidates: legs})
    assert asked == [FindCandidates(("dense", "sparse"), 100), FetchDocuments(("b", "a"))]
    assert [(hit.document.text, hit.score, hit.scores) for hit in hits] == [
        ("text of b", pytest.approx(1 / 62 + 1 / 61), None),
        ("text of a", pytest.approx(1 / 61), None),
    ]


def test_ranks_come_from_scores_and_not_from_the_order_of_the_answer() -> None:
    legs = {"dense": [{"c": 0.1, "b": 0.8, "a": 0.9}], "sparse": [{}]}
    assert names(run(ONE, {FindCandidates: legs})[0][0]) == ["a", "b"]


@pytest.mark.parametrize("name", ["top_k", "candidates"])
def test_a_count_that_no_database_takes_is_refused(name: str) -> None:
    SearchPlan(**{name: 1_000_000})
    with pytest.raises(ValueError, match=f"{name} must be at most 1,000,000, but is 1000001"):
        SearchPlan(**{name: 1_000_001})


@pytest.mark.parametrize(("top_k", "candidates", "limit"), [(2, None, 100), (30, None, 120), (30, 7, 7), (2, 500, 500)])
def test_each_leg_brings_as_many_candidates_as_said(top_k: int, candidates: int | None, limit: int) -> None:
    empty: dict[str, list[dict[str, float]]] = {"dense": [{}], "sparse": [{}]}
    _, asked = run(ONE, {FindCandidates: empty}, top_k=top_k, candidates=candidates)
    assert asked[0] == FindCandidates(("dense", "sparse"), limit)


@pytest.mark.parametrize("fusion", [Dense(), Sparse()])
def test_one_leg_alone_brings_no_more_than_is_shown(fusion: Any) -> None:
    (leg,) = fusion.legs
    (hits,), asked = run(ONE, {FindCandidates: {leg: [{"a": 0.5, "b": 0.7}]}}, fusion=fusion)
    assert asked == [FindCandidates((leg,), 2), FetchDocuments(("b", "a"))]
    assert [hit.score for hit in hits] == [0.7, 0.5]


def test_weighted_asks_for_the_scores_that_a_leg_did_not_bring() -> None:
    legs = {"dense": [{"a": 0.9}, {"c": 0.4}], "sparse": [{"a": 1.0, "b": 3.0}, {"d": 1.0}]}
    exact = {"dense": [{"b": -0.5}, {"d": 0.2}], "sparse": [{}, {}]}
    found, asked = run(TWO, {FindCandidates: legs, ScoreIds: lambda step: exact[step.leg]}, fusion=Weighted())
    assert asked[1:3] == [ScoreIds("dense", (("b",), ("d",))), ScoreIds("sparse", ((), ("c",)))]
    assert [[(hit.document.id, hit.score) for hit in hits] for hits in found] == [
        [("a", pytest.approx(0.9 + 0.3)), ("b", pytest.approx(-0.5 + 0.9))],
        [("d", pytest.approx(0.2 + 0.3)), ("c", pytest.approx(0.4))],
    ]


def test_weighted_zero_asks_for_nothing_more() -> None:
    legs = {"dense": [{"a": 0.9}], "sparse": [{"b": 3.5}]}
    (hits,), asked = run(ONE, {FindCandidates: legs}, fusion=Weighted(missing="zero"))
    assert [type(step) for step in asked] == [FindCandidates, FetchDocuments]
    assert [(hit.document.id, hit.score) for hit in hits] == [("b", pytest.approx(1.05)), ("a", pytest.approx(0.9))]


def test_weighted_asks_for_nothing_where_both_legs_brought_all() -> None:
    legs = {"dense": [{"a": 0.9, "b": 0.1}], "sparse": [{"b": 3.5, "a": 1.0}]}
    _, asked = run(ONE, {FindCandidates: legs}, fusion=Weighted())
    assert [type(step) for step in asked] == [FindCandidates, FetchDocuments]


@pytest.mark.parametrize("missing", ["exact", "zero"])
def test_token_vectors_are_scored_here(missing: Any) -> None:
    vectors = {"a": np.array([[0.0, -1.0]], np.float32), "b": np.array([[0.6, 0.8]], np.float32)}
    legs = {"dense": [{"a": 0.5, "b": 0.5, "gone": 0.5}], "sparse": [{"a": 1.0, "b": 1.0, "gone": 1.0}]}
    (hits,), asked = run(
        TOKENS,
        {FindCandidates: legs, FetchTokenVectors: vectors},
        fusion=Weighted(1, 1, 1, missing=missing),
        multi_vector=True,
        top_k=3,
    )
    assert asked[1] == FetchTokenVectors(("a", "b", "gone"))
    expected = [("b", pytest.approx(1.5 + 0.7)), ("gone", pytest.approx(1.5)), ("a", pytest.approx(1.5 - 0.5))]
    assert [(hit.document.id, hit.score) for hit in hits] == expected


def test_leg_scores_are_completed_for_the_best_alone() -> None:
    legs = {"dense": [{"a": 0.9, "b": 0.8, "c": 0.7}], "sparse": [{"b": 2.0}]}
    (hits,), asked = run(ONE, {FindCandidates: legs, ScoreIds: [{}]}, with_scores=True)
    assert asked[2] == ScoreIds("sparse", (("a",),))
    assert [dict(hit.scores or {}) for hit in hits] == [{"dense": 0.8, "sparse": 2.0}, {"dense": 0.9, "sparse": 0.0}]


def test_leg_scores_do_not_change_the_fused_score() -> None:
    legs = {"dense": [{"a": 0.9}], "sparse": [{"b": 1.0}]}
    answers = {FindCandidates: legs, ScoreIds: lambda step: [dict.fromkeys(step.ids[0], 100.0)]}
    (hits,), _ = run(ONE, answers, fusion=Weighted(missing="zero"), with_scores=True)
    assert [hit.score for hit in hits] == pytest.approx([0.9, 0.3])
    assert [dict(hit.scores or {}) for hit in hits] == [{"dense": 0.9, "sparse": 100}, {"dense": 100, "sparse": 1}]


def test_leg_scores_of_one_leg_alone_ask_for_the_others() -> None:
    answers = {FindCandidates: {"sparse": [{"a": 2.0}]}, ScoreIds: [{"a": 0.5}]}
    answers[FetchTokenVectors] = {"a": np.eye(1, 2, dtype=np.float32)}
    (hits,), asked = run(TOKENS, answers, fusion=Sparse(), with_scores=True, multi_vector=True)
    assert asked[2:4] == [ScoreIds("dense", (("a",),)), FetchTokenVectors(("a",))]
    assert dict(hits[0].scores or {}) == {"sparse": 2.0, "dense": 0.5, "multi_vector": 0.5}


def test_documents_of_several_queries_are_fetched_once() -> None:
    legs = {"dense": [{"a": 0.9, "b": 0.8}, {"b": 0.9, "a": 0.8}], "sparse": [{}, {}]}
    found, asked = run(TWO, {FindCandidates: legs})
    assert asked[-1] == FetchDocuments(("a", "b"))
    assert [names(hits) for hits in found] == [["a", "b"], ["b", "a"]]


def test_a_document_deleted_meanwhile_is_left_out() -> None:
    legs = {"dense": [{"a": 0.9, "b": 0.8}], "sparse": [{}]}
    (hits,), _ = run(ONE, {FindCandidates: legs, FetchDocuments: {"b": Document("b", "still here")}})
    assert names(hits) == ["b"]


def test_ties_go_by_id() -> None:
    legs = {"dense": [{"b": 0.9, "a": 0.1}], "sparse": [{"a": 9.0, "b": 1.0}]}
    (hits,), _ = run(ONE, {FindCandidates: legs})
    assert names(hits) == ["a", "b"]
    assert hits[0].score == hits[1].score


def test_no_query_asks_nothing() -> None:
    assert run(ONE[:0], {}) == ([], [])


def test_token_vectors_that_query_or_store_lack_are_named() -> None:
    fusion = Weighted(multi_vector=1)
    with pytest.raises(ValueError, match="multi_vector=True"):
        run(ONE, {}, fusion=fusion, multi_vector=True)
    with pytest.raises(ValueError, match="this store has no token vectors"):
        run(TOKENS, {}, fusion=fusion, multi_vector=False)


def test_token_vectors_are_scored_where_they_lie_if_the_store_can() -> None:
    queries = M3Embeddings(np.eye(1, 2), SparseRows.empty(1), (np.eye(1, 2, dtype=np.float32),))
    answers = {FindCandidates: {"dense": [{"a": 0.5}], "sparse": [{}]}, ScoreIds: [{"a": 0.25}]}
    fusion = Weighted(dense=1, sparse=0, multi_vector=1)
    (hits,), asked = run(queries, answers, fusion=fusion, multi_vector=True, scores_tokens=True)
    assert asked[1] == ScoreIds("multi_vector", (("a",),))
    assert [hit.score for hit in hits] == [0.75]
