"""Weights are chosen on dev queries and on nothing else."""

from __future__ import annotations

import pytest

from m3connect.evaluate import LegRuns, evaluate, read_dataset, split_queries, tune
from m3connect.testing import FakeEncoder

LEGS = LegRuns(
    found={
        "dense": {"q1": {"a": 0.9, "b": 0.8}, "q2": {"a": 0.9, "b": 0.8}, "t": {"a": 0.9, "b": 0.8}},
        "sparse": {"q1": {"b": 0.05}, "q2": {"b": 0.5}, "t": {"a": 5.0}},
    },
    known={
        "dense": {"q1": {"a": 0.9, "b": 0.8}, "q2": {"a": 0.9, "b": 0.8}, "t": {"a": 0.9, "b": 0.8}},
        "sparse": {"q1": {"b": 0.05}, "q2": {"b": 0.5}, "t": {"a": 5.0}},
    },
)


def test_the_best_weights_of_the_grid_are_found():
    tuned = tune(LEGS, {"q1": {"b": 1}, "q2": {"b": 1}}, "dense_sparse", measure="MRR@1", grid=(0.0, 1.0, 3.0, 10.0))
    assert tuned.weights == (1.0, 3.0, 0.0)
    assert tuned.value == 1.0
    assert tuned.queries == 2


def test_of_equals_the_smallest_weights_stay():
    assert tune(LEGS, {"t": {"a": 1}}, "dense_sparse", grid=(0.0, 1.0)).weights == (1.0, 0.0, 0.0)


def test_no_dev_query_is_an_error():
    with pytest.raises(ValueError, match="no dev queries"):
        tune(LEGS, {}, "dense_sparse")


def test_test_queries_do_not_change_the_weights(folder):
    dataset = read_dataset(folder)
    dev = {"q1": {"d1": 1}, "q2": {"d4": 1}}
    honest = dataset.judged_by({"q3": {"d6": 1}, "q4": {"d2": 1}})
    turned = dataset.judged_by({"q3": {"d1": 1}, "q4": {"d3": 1}})
    first, second = (evaluate(FakeEncoder(), each, dev=dev) for each in (honest, turned))
    assert first.tuned == second.tuned
    assert first["All"].means != second["All"].means


def test_a_query_of_both_is_a_test_query_alone(folder):
    dataset = read_dataset(folder)
    test = dataset.judged_by({"q1": {"d1": 1}, "q3": {"d6": 1}})
    both = evaluate(FakeEncoder(), test, dev=dataset.qrels)
    apart = evaluate(FakeEncoder(), test, dev={query: dataset.qrels[query] for query in ("q2", "q4")})
    assert both.tuned == apart.tuned
    assert {tuned.queries for tuned in both.tuned.values()} == {2}
    assert set(both["All, tuned"].values["nDCG@10"]) == {"q1", "q3"}


def test_dev_queries_that_are_all_test_queries_are_an_error(folder):
    dataset = read_dataset(folder)
    with pytest.raises(ValueError, match="no dev queries"):
        evaluate(FakeEncoder(), dataset, dev=dataset.qrels)


def test_a_share_splits_queries_whatever_their_order():
    qrels = {f"q{i}": {"d": 1} for i in range(20)}
    dev, test = split_queries(qrels, 0.25)
    assert len(dev) == 5
    assert dev.keys() | test.keys() == qrels.keys()
    assert not dev.keys() & test.keys()
    assert split_queries(dict(reversed(qrels.items())), 0.25)[0] == dev
    assert split_queries(qrels, 0.25, seed=1)[0] != dev


@pytest.mark.parametrize("share", [0, 1, -0.5, 0.01, 2])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(ValueError, match="leaves dev or test empty"):
        split_queries({f"q{i}": {"d": 1} for i in range(4)}, share)
