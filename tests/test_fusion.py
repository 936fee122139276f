"""How legs become one list."""

from __future__ import annotations

from typing import Any

import pytest

from m3connect import RRF, Dense, Sparse, Weighted
from m3connect.fusion import rank, reciprocal_ranks, weighted_sum


def test_ranks_fall_with_the_score_and_ties_go_by_id() -> None:
    assert rank({"b": 0.5, "a": 0.5, "d": -1.0, "c": 0.9}) == ["c", "a", "b", "d"]
    assert rank({}) == []


def test_reciprocal_ranks_by_hand() -> None:
    """Ranks count from 1: a has 1/61 + 1/62, b has 1/62 + 1/61, c has 1/63."""
    fused = reciprocal_ranks([["a", "b"], ["b", "a", "c"]])
    assert fused == pytest.approx({"a": 1 / 61 + 1 / 62, "b": 1 / 62 + 1 / 61, "c": 1 / 63})


def test_k_and_weights_enter_the_formula() -> None:
    fused = reciprocal_ranks([["a", "b"], ["b"]], k=0, weights=[3, 0.5])
    assert fused == pytest.approx({"a": 3.0, "b": 1.5 + 0.5})


def test_a_leg_of_weight_zero_brings_nobody_in() -> None:
    assert reciprocal_ranks([["a"], ["b"]], weights=[0, 1]) == pytest.approx({"b": 1 / 61})


def test_each_ranking_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="shorter"):
        reciprocal_ranks([["a"], ["b"]], weights=[1])


def test_weighted_sum_by_hand() -> None:
    scores = {"dense": {"a": 0.5, "b": -0.25}, "sparse": {"b": 2.0, "c": 4.0}}
    fused = weighted_sum(["a", "b"], scores, {"dense": 1, "sparse": 0.3, "multi_vector": 0})
    assert fused == pytest.approx({"a": 0.5, "b": 0.35})


@pytest.mark.parametrize(
    ("fusion", "legs"),
    [
        (RRF(), ("dense", "sparse")),
        (Weighted(), ("dense", "sparse")),
        (Weighted(sparse=0), ("dense",)),
        (Weighted(dense=0, sparse=1, multi_vector=1), ("sparse",)),
        (Dense(), ("dense",)),
        (Sparse(), ("sparse",)),
    ],
)
def test_each_mode_names_the_legs_that_find_candidates(fusion: Any, legs: tuple[str, ...]) -> None:
    assert fusion.legs == legs


def test_defaults_are_those_of_the_paper_and_of_the_contract() -> None:
    assert (RRF().k, RRF().weights) == (60, None)
    assert Weighted() == Weighted(dense=1, sparse=0.3, multi_vector=0, missing="exact")


def test_rrf_weights_are_taken_by_name_too() -> None:
    assert RRF(weights={"sparse": 2, "dense": 1}) == RRF(weights=(1, 2))  # type: ignore[arg-type]
    assert RRF(weights=[1, 2]).weights == (1, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RRF(k=-1), "k >= 0"),
        (lambda: RRF(weights=(1,)), "two weights"),  # type: ignore[arg-type]
        (lambda: RRF(weights=(1, 1, 1)), "two weights"),  # type: ignore[arg-type]
        (lambda: RRF(weights=(0, 0)), "not both 0"),
        (lambda: RRF(weights=(-1, 1)), "none below 0"),
        (lambda: RRF(weights={"dense": 1}), "keys dense and sparse"),  # type: ignore[arg-type]
        (lambda: RRF(k=float("nan")), "k >= 0"),
        (lambda: RRF(k=float("inf")), "k >= 0"),
        (lambda: RRF(weights=(float("nan"), 1)), "two weights"),
        (lambda: Weighted(dense=-1), "finite weights of at least 0"),
        (lambda: Weighted(sparse=-0.1), "finite weights of at least 0"),
        (lambda: Weighted(multi_vector=-1), "finite weights of at least 0"),
        (lambda: Weighted(dense=float("nan")), "finite weights of at least 0"),
        (lambda: Weighted(sparse=float("inf")), "finite weights of at least 0"),
        (lambda: Weighted(dense=0, sparse=0, multi_vector=1), "find the candidates"),
        (lambda: Weighted(missing="nothing"), "exact"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_modes_are_values() -> None:
    assert len({RRF(), RRF(), RRF(k=1), Weighted(), Dense(), Sparse(), Dense()}) == 5
