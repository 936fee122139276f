"""Measures, ties, runs and the paired test."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest

from m3connect import SparseRows
from m3connect.evaluate import empty_share, paired_test, per_query, read_run, write_run
from m3connect.evaluate.metrics import mean

QRELS = {"q": {"good": 1, "best": 2}, "r": {"x": 1}}


def test_ties_stand_in_the_worst_order():
    run = {"q": {"best": 0.0, "bad": 0.0, "worse": 0.0}, "r": {"x": 1.0, "y": 1.0}}
    values = per_query(run, QRELS, ["MRR@10", "nDCG@10"])
    assert values["MRR@10"] == {"q": 1 / 3, "r": 1 / 2}
    ideal = 2 + 1 / math.log2(3)
    assert values["nDCG@10"]["q"] == pytest.approx((2 / math.log2(4)) / ideal)


def test_a_dead_head_that_scores_everything_alike_looks_dead():
    documents = [f"d{i:03}" for i in range(500)]
    qrels = {f"q{i}": {document: 1} for i, document in enumerate(documents[:50])}
    run = {query: dict.fromkeys(documents, 0.0) for query in qrels}
    values = per_query(run, qrels, ["nDCG@10", "Recall@100"])
    assert mean(values["nDCG@10"]) == 0
    assert mean(values["Recall@100"]) == 0


def test_a_query_that_found_nothing_counts_zero_and_others_are_not_counted():
    values = per_query({"r": {"x": 1.0}, "unjudged": {"x": 1.0}, "q": {}}, QRELS, ["R@100"])
    assert values["R@100"] == {"q": 0.0, "r": 1.0}
    assert per_query({}, QRELS, ["R@100"])["R@100"] == {"q": 0.0, "r": 0.0}


def test_scores_that_float32_cannot_tell_apart_are_still_ordered():
    assert per_query({"r": {"x": 1.0 + 1e-12, "y": 1.0}}, QRELS, ["MRR@10"])["MRR@10"]["r"] == 1.0


def test_two_names_of_one_measure_are_both_answered():
    values = per_query({"r": {"x": 1.0}}, QRELS, ["R@100", "Recall@100"])
    assert values["R@100"] == values["Recall@100"]


@pytest.mark.parametrize("name", ["nonsense", "R@x", "nDCG@10; import os"])
def test_a_measure_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match="there is no measure"):
        per_query({}, QRELS, [name])


def test_a_run_survives_its_file(tmp_path):
    generator = np.random.default_rng(0)
    run = {f"q{i}": {f"d{j}": float(generator.normal()) for j in range(20)} for i in range(3)}
    for name in ("a.run", "a.run.gz"):
        write_run(tmp_path / name, run, name="ours")
        assert read_run(tmp_path / name) == run
    with gzip.open(tmp_path / "a.run.gz", "rt") as file:
        first = file.readline().split()
    assert first[:2] == ["q0", "Q0"]
    assert first[2] == max(run["q0"], key=run["q0"].get)
    assert first[3] == "1"
    assert first[5] == "ours"


def test_a_run_file_scores_as_the_run_did(tmp_path):
    run = {"q": {"best": 0.3, "good": 0.1, "bad": 0.1}, "r": {"y": 2.0, "x": 1.0}}
    write_run(tmp_path / "a.run", run, name="ours")
    assert per_query(read_run(tmp_path / "a.run"), QRELS) == per_query(run, QRELS)


@pytest.mark.parametrize("line", ["q Q0 d 1 0.5", "q Q0 d 1 high ours", "q Q0 d 1 nan ours"])
def test_a_bad_line_of_a_run_is_named(tmp_path, line):
    (tmp_path / "a.run").write_text(f"q Q0 a 1 0.5 ours\n{line}\n")
    with pytest.raises(ValueError, match=r"a.run:2: expected `query Q0 document rank score name`"):
        read_run(tmp_path / "a.run")


def test_a_document_twice_in_a_run_is_refused(tmp_path):
    (tmp_path / "a.run").write_text("q Q0 a 1 0.5 ours\nq Q0 a 2 0.4 ours\n")
    with pytest.raises(ValueError, match="'a' comes twice for query 'q'"):
        read_run(tmp_path / "a.run")


@pytest.mark.parametrize("name", ["two words", "", "tab\tin"])
def test_an_id_with_white_space_cannot_be_written(tmp_path, name):
    with pytest.raises(ValueError, match="white space"):
        write_run(tmp_path / "a.run", {"q": {name: 1.0}}, name="ours")


def test_a_clear_difference_is_significant_and_noise_is_not():
    generator = np.random.default_rng(1)
    base = {f"q{i}": float(value) for i, value in enumerate(generator.random(80))}
    better = {query: value + 0.1 + 0.05 * generator.normal() for query, value in base.items()}
    noise = {query: value + 0.1 * generator.normal() for query, value in base.items()}
    clear = paired_test(better, base)
    assert clear.p_value < 0.001
    assert clear.difference == pytest.approx(0.1, abs=0.02)
    assert paired_test(noise, base).p_value > 0.05


def test_the_p_value_is_near_that_of_all_signs_tried():
    a, b = (
        {f"q{i}": value for i, value in enumerate(values)}
        for values in ([0.9, 0.4, 0.8, 0.5, 0.7], [0.5, 0.5, 0.1, 0.2, 0.3])
    )
    differences = np.array([a[query] - b[query] for query in a])
    signs = np.array([[1 if number >> bit & 1 else -1 for bit in range(5)] for number in range(32)])
    exact = float((np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean())
    assert paired_test(a, b).p_value == pytest.approx(exact, abs=0.02)


def test_a_paired_test_needs_the_same_queries():
    with pytest.raises(ValueError, match="same queries"):
        paired_test({"a": 1.0}, {"b": 1.0})


def test_the_share_of_empty_sparse_rows():
    assert empty_share(SparseRows.from_dicts([{}, {}, {1: 0.5}, {}])) == 0.75
