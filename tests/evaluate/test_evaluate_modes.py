"""The table of the paper against a computation by hand: raw embeddings, numpy and pytrec_eval."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import pytrec_eval
from small_set import QRELS
from support import REPOSITORY, require

from m3connect import Document, M3Encoder, MemoryStore, SparseRows
from m3connect.evaluate import Dataset, Protocol, evaluate, read_dataset, run_modes, search_legs
from m3connect.evaluate.tokens import KeepingEncoder, TokenVectors, score_pairs
from m3connect.testing import FakeEncoder

DEMO = REPOSITORY / "m3connect" / "assets" / "demo"
NAMES = ("Dense", "Sparse", "Multi-vec", "Dense+Sparse", "All")
WEIGHTS = (1.0, 0.3, 1.0)


@pytest.fixture(scope="module")
def mini():
    return M3Encoder.from_pretrained("m3-mini")


@pytest.fixture(scope="module")
def demo():
    """The bundled passages and questions as a set."""
    passages = [json.loads(line) for line in (DEMO / "passages.jsonl").read_text("utf-8").splitlines()]
    questions = [json.loads(line) for line in (DEMO / "questions.jsonl").read_text("utf-8").splitlines()]
    return Dataset(
        "demo",
        tuple(Document(row["id"], row["text"]) for row in passages),
        {row["id"]: row["text"] for row in questions},
        {row["id"]: dict.fromkeys(row["answers"], 1) for row in questions},
        {row["id"]: row["lang"] for row in questions},
    )


def by_hand(encoder, dataset, *, depth, rerank_depth, missing):
    """Runs of the five modes, one query at a time, with nothing of ours but the raw embeddings."""
    ids = [document.id for document in dataset.documents]
    corpus = encoder.encode([document.text for document in dataset.documents], multi_vector=True)
    lexical = corpus.sparse.to_dicts()
    runs = {name: {} for name in NAMES}
    for query in dataset.qrels:
        row = encoder.encode([dataset.queries[query]], multi_vector=True)
        weights = row.sparse.to_dicts()[0]
        dense = {name: float(vector @ row.dense[0]) for name, vector in zip(ids, corpus.dense, strict=True)}
        sparse = {
            name: sum(weight * text[token] for token, weight in weights.items() if token in text)
            for name, text in zip(ids, lexical, strict=True)
        }
        multi = {
            name: float((row.multi_vector[0] @ vectors.T).max(axis=1).mean())
            for name, vectors in zip(ids, corpus.multi_vector, strict=True)
        }
        best_dense = sorted(ids, key=lambda name: (-dense[name], name))[:depth]
        best_sparse = [n for n in sorted(ids, key=lambda name: (-sparse[name], name))[:depth] if sparse[n] > 0]
        found_dense = dense if missing == "exact" else {name: dense[name] for name in best_dense}
        found_sparse = sparse if missing == "exact" else {name: sparse[name] for name in best_sparse}
        reranked = best_dense[:rerank_depth]
        runs["Dense"][query] = {name: dense[name] for name in best_dense}
        runs["Sparse"][query] = {name: sparse[name] for name in best_sparse}
        runs["Multi-vec"][query] = {name: multi[name] for name in reranked}
        runs["Dense+Sparse"][query] = {
            name: WEIGHTS[0] * found_dense.get(name, 0) + WEIGHTS[1] * found_sparse.get(name, 0)
            for name in {*best_dense, *best_sparse}
        }
        runs["All"][query] = {
            name: WEIGHTS[0] * dense[name] + WEIGHTS[1] * found_sparse.get(name, 0) + WEIGHTS[2] * multi[name]
            for name in reranked
        }
    return runs


def table_by_hand(runs, qrels):
    """Means of nDCG@10 and Recall@100 by pytrec_eval; a query that found nothing counts 0."""
    evaluator = pytrec_eval.RelevanceEvaluator(
        {q: dict(judged) for q, judged in qrels.items()}, {"ndcg_cut.10", "recall.100"}
    )
    table = {}
    for name, run in runs.items():
        results = evaluator.evaluate({query: scores for query, scores in run.items() if scores})
        table[name] = tuple(
            sum(results.get(query, {}).get(measure, 0.0) for query in qrels) / len(qrels)
            for measure in ("ndcg_cut_10", "recall_100")
        )
    return table


def ours(evaluation):
    return {name: tuple(evaluation[name].means.values()) for name in NAMES}


@pytest.mark.parametrize(
    ("depth", "rerank_depth", "missing"), [(1000, 200, "exact"), (40, 15, "zero"), (40, 15, "exact")]
)
def test_the_table_equals_a_computation_by_hand(mini, demo, depth, rerank_depth, missing):
    few = demo.judged_by({query: demo.qrels[query] for query in list(demo.qrels)[:25]})
    evaluation = evaluate(mini, few, protocol=Protocol(depth, rerank_depth, missing))
    expected = table_by_hand(by_hand(mini, few, depth=depth, rerank_depth=rerank_depth, missing=missing), few.qrels)
    for name in NAMES:
        assert ours(evaluation)[name] == pytest.approx(expected[name], abs=1e-6), name
    assert len({values[0] for values in expected.values()}) > 3, "the modes must differ for this to mean something"


@pytest.mark.slow
def test_the_table_of_an_open_set_equals_a_computation_by_hand(mini, open_data):
    dataset = read_dataset(open_data / "arcd")
    few = dataset.judged_by({query: dataset.qrels[query] for query in list(dataset.qrels)[::12]})
    evaluation = evaluate(mini, few, protocol=Protocol(100, 50, "exact"))
    expected = table_by_hand(by_hand(mini, few, depth=100, rerank_depth=50, missing="exact"), few.qrels)
    for name in NAMES:
        assert ours(evaluation)[name] == pytest.approx(expected[name], abs=1e-6), name


def test_zero_and_exact_differ_where_a_leg_did_not_find_a_document(demo, mini):
    few = demo.judged_by({query: demo.qrels[query] for query in list(demo.qrels)[:10]})
    runs = [
        evaluate(mini, few, modes=["dense", "dense_sparse"], protocol=Protocol(10, 5, missing))["Dense+Sparse"].run
        for missing in ("exact", "zero")
    ]
    assert runs[0].keys() == runs[1].keys()
    assert all(exact.keys() == runs[1][query].keys() for query, exact in runs[0].items())
    assert any(exact[name] > runs[1][query][name] + 1e-6 for query, exact in runs[0].items() for name in exact)


def open_named(kind, dim):
    """A store with token vectors, or one without."""
    if kind == "memory with tokens":
        return MemoryStore(dim=dim, multi_vector=True)
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    from m3connect_qdrant import QdrantStore
    from qdrant_client import QdrantClient

    return QdrantStore(QdrantClient(":memory:"), "small", dim=dim, multi_vector=kind.endswith("tokens"))


@pytest.mark.parametrize("kind", ["memory with tokens", "qdrant", "qdrant with tokens"])
def test_a_real_store_gives_the_table_of_the_exact_one(folder, kind):
    encoder, dataset = FakeEncoder(), read_dataset(folder)
    exact = evaluate(encoder, dataset, protocol=Protocol(4, 3))
    other = evaluate(encoder, dataset, store=open_named(kind, encoder.dim), protocol=Protocol(4, 3))
    for mine, theirs in zip(exact.rows, other.rows, strict=True):
        assert mine.name == theirs.name
        assert theirs.means == pytest.approx(mine.means, abs=1e-6), mine.name
        for query, scores in mine.run.items():
            assert theirs.run[query] == pytest.approx(scores, abs=1e-5)


def test_rrf_is_the_sum_of_reciprocal_ranks(folder):
    evaluation = evaluate(FakeEncoder(), read_dataset(folder))
    legs = [
        {query: sorted(scores, key=lambda name: (-scores[name], name)) for query, scores in evaluation[row].run.items()}
        for row in ("Dense", "Sparse")
    ]
    for query, scores in evaluation["RRF"].run.items():
        expected = {}
        for leg in legs:
            for place, name in enumerate(leg[query], start=1):
                expected[name] = expected.get(name, 0) + 1 / (60 + place)
        assert scores == pytest.approx(expected)


class DeadSparse(FakeEncoder):
    """Its sparse head gives no weight to anything."""

    def encode(self, texts, *, multi_vector=False, max_length=None):
        batch = super().encode(texts, multi_vector=multi_vector, max_length=max_length)
        return replace(batch, sparse=SparseRows.empty(len(batch)))


def test_a_dead_sparse_head_scores_nothing_and_is_reported(folder):
    evaluation = evaluate(DeadSparse(), read_dataset(folder))
    assert evaluation["Sparse"].means == {"nDCG@10": 0.0, "Recall@100": 0.0}
    assert evaluation.facts["empty sparse queries"] == 1.0
    assert evaluation["Dense+Sparse"].means == evaluation["Dense"].means
    assert evaluation["Dense"].means["nDCG@10"] > 0.5


def test_a_corpus_is_read_by_the_model_once(folder):
    encoder, dataset = FakeEncoder(), read_dataset(folder)
    evaluate(encoder, dataset)
    read = [text for call in encoder.calls for text in call]
    assert sorted(read) == sorted([*(d.text for d in dataset.documents), *(dataset.queries[q] for q in QRELS)])


def test_token_vectors_that_do_not_fit_are_made_again(folder):
    inner, dataset = FakeEncoder(), read_dataset(folder)
    texts = [document.text for document in dataset.documents]
    keeping = KeepingEncoder(inner, kept_bytes=10 * 4 * inner.dim)
    batch = keeping.encode(texts)
    assert batch.multi_vector is None
    expected = inner.encode(texts, multi_vector=True).multi_vector
    inner.calls.clear()
    for got, wanted in zip(keeping.token_vectors(texts), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [len(call) for call in inner.calls] == [len(texts) - 2], "two texts of five words each fit"


def test_long_documents_are_encoded_in_small_parts_while_token_vectors_are_kept(monkeypatch):
    monkeypatch.setattr("m3connect.evaluate.tokens._CHUNK_CHARACTERS", 20)
    inner, texts = FakeEncoder(), ["one two three four five six", "short", "shorter", "a b c d e f g h i j k"]
    keeping = KeepingEncoder(inner)
    batch = keeping.encode(texts)
    assert inner.calls == [texts[:1], texts[1:3], texts[3:]]
    np.testing.assert_array_equal(batch.dense, FakeEncoder().encode(texts).dense)
    assert len(keeping.encode([])) == 0


def test_a_run_cannot_take_the_name_of_a_row(folder):
    with pytest.raises(ValueError, match="a run is called dense"):
        evaluate(FakeEncoder(), read_dataset(folder), modes=["dense"], runs={"dense": {}})


def test_pairs_score_like_a_loop_whatever_the_groups(monkeypatch):
    generator = np.random.default_rng(0)
    queries = [generator.normal(size=(n, 8)).astype(np.float32) for n in (3, 0, 5, 1)]
    documents = {f"d{i}": generator.normal(size=(n, 8)).astype(np.float32) for i, n in enumerate((4, 9, 0))}
    wanted = {"d0": np.array([0, 1, 2]), "d1": np.array([0, 1, 2, 3]), "d2": np.array([3])}
    for limit in (1, 40, 2**20):
        monkeypatch.setattr("m3connect.evaluate.tokens._PRODUCT_FLOATS", limit)
        scores = score_pairs(queries, wanted, iter(documents.items()))
        for (name, vectors), i in product(documents.items(), range(4)):
            if i not in wanted[name]:
                assert name not in scores[i]
                continue
            loop = np.mean([max(q @ d for d in vectors) for q in queries[i]]) if len(queries[i]) and len(vectors) else 0
            assert scores[i][name] == pytest.approx(float(loop), abs=1e-5)


def test_weights_are_tried_without_searching_again(folder):
    encoder, dataset = FakeEncoder(), read_dataset(folder)
    store = MemoryStore(dim=encoder.dim)
    store.upsert(dataset.documents, encoder.encode([document.text for document in dataset.documents]))
    queries = {query: encoder.encode([dataset.queries[query]], multi_vector=True) for query in dataset.qrels}
    legs = search_legs(store, queries, TokenVectors(store, KeepingEncoder(encoder)))
    dense_alone = run_modes(legs, ["dense", "all"], weights=(1.0, 0.0, 0.0))
    assert dense_alone["all"] == dense_alone["dense"]


def test_shorter_texts_are_another_encoder(folder):
    encoder, dataset = FakeEncoder(), read_dataset(folder)
    short = evaluate(encoder, dataset, max_length=2)
    assert short.facts["model"] == "fake-encoder-length2"
    assert short.facts["documents cut"] == 6
    assert short["Dense"].means != evaluate(encoder, dataset)["Dense"].means


def test_a_set_is_told_by_language(folder):
    evaluation = evaluate(FakeEncoder(), read_dataset(folder))
    assert evaluation.languages == {"de": ["q3", "q4"], "en": ["q1", "q2"]}
    row = evaluation["Dense"]
    values = row.values["nDCG@10"]
    assert row.means_of(["q3", "q4"])["nDCG@10"] == pytest.approx((values["q3"] + values["q4"]) / 2)


@pytest.mark.parametrize("numbers", [(0, 1, "exact"), (10, 0, "exact"), (10, 11, "exact"), (10, 5, "maybe")])
def test_a_protocol_out_of_range_is_refused(numbers):
    with pytest.raises(ValueError, match="must be"):
        Protocol(*numbers)


def test_a_mode_or_measure_that_does_not_exist_is_refused_before_work(folder):
    encoder = FakeEncoder()
    with pytest.raises(ValueError, match="modes must be some of dense, sparse"):
        evaluate(encoder, read_dataset(folder), modes=["hybrid"])
    with pytest.raises(ValueError, match="no measure 'nope'"):
        evaluate(encoder, read_dataset(folder), measures=["nope"])
    assert encoder.calls == []
