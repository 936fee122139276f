"""mteb measures every mode through the adapter, on a task made here."""

from __future__ import annotations

import pytest
from small_set import QRELS, QUERIES

from m3connect.evaluate import MODES, Protocol, evaluate, read_dataset
from m3connect.evaluate.mteb import MtebSearch
from m3connect.testing import FakeEncoder

NAMES = {
    "dense": "Dense",
    "sparse": "Sparse",
    "multi_vector": "Multi-vec",
    "dense_sparse": "Dense+Sparse",
    "all": "All",
}


@pytest.fixture
def task(folder):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed: pip install mteb")
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    dataset = read_dataset(folder)

    class Small(AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name="Small",
            description="A set of this test.",
            reference=None,
            dataset={"path": "local/small", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=("2025-01-01", "2025-01-02"),
            domains=["Written"],
            task_subtypes=[],
            license="not specified",
            annotations_creators="human-annotated",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, **_):
            rows = [{"id": document.id, "title": "", "text": document.text} for document in dataset.documents]
            asked = [{"id": query, "text": QUERIES[query][0]} for query in QRELS]
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_list(rows),
                        "queries": Dataset.from_list(asked),
                        "relevant_docs": QRELS,
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return mteb, Small()


@pytest.mark.parametrize("mode", NAMES)
@pytest.mark.filterwarnings("default")
def test_mteb_gives_the_figures_of_our_table(folder, task, mode):
    mteb, small = task
    result = mteb.evaluate(
        MtebSearch(FakeEncoder(), mode=mode, protocol=Protocol(4, 3)),
        tasks=[small],
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
    )
    scores = result.task_results[0].scores["test"][0]
    expected = evaluate(FakeEncoder(), read_dataset(folder), protocol=Protocol(4, 3))[NAMES[mode]].means
    assert scores["ndcg_at_10"] == pytest.approx(expected["nDCG@10"], abs=1e-5)
    assert scores["recall_at_100"] == pytest.approx(expected["Recall@100"], abs=1e-5)
    assert result.model_name == f"m3connect/m3-{mode}"


def rows():
    return [{"id": "d1", "title": "red", "text": "apple"}, {"id": "d2", "text": "blue sea"}]


@pytest.mark.parametrize("mode", MODES)
def test_it_searches_without_mteb_too(mode):
    search = MtebSearch(FakeEncoder(), mode=mode)
    search.index(rows(), task_metadata=None)
    found = search.search([{"id": "q", "text": "red apple"}], top_k=1, hf_split="test")
    assert list(found["q"]) == ["d1"]


def test_title_and_text_are_one_text():
    encoder = FakeEncoder()
    MtebSearch(encoder, mode="dense").index(rows())
    assert encoder.calls == [["red apple", "blue sea"]]


def test_what_it_cannot_do_is_said():
    search = MtebSearch(FakeEncoder(), mode="dense")
    with pytest.raises(RuntimeError, match="comes before search"):
        search.search([], top_k=1)
    search.index(rows())
    with pytest.raises(ValueError, match="reranking tasks"):
        search.search([], top_k=1, top_ranked={"q": ["d1"]})
    with pytest.raises(ValueError, match="a query must be a string, but 'q' is list"):
        search.search([{"id": "q", "text": ["turn one"]}], top_k=1)
    with pytest.raises(ValueError, match="mode must be one of dense"):
        MtebSearch(FakeEncoder(), mode="hybrid")
