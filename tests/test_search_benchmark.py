"""What benchmarks/search.py times: the retriever as users have it, with its stages told apart."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import REPOSITORY

from m3connect import Document, HybridRetriever, MemoryStore, ingest
from m3connect.testing import FakeEncoder

pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")

DOCUMENTS = [
    Document(f"d{i}", f"text number {i} about {word}") for i, word in enumerate(["seas", "birds", "trees"] * 5)
]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    parts = ("contenders", "measuring", "reporting", "stages")
    return SimpleNamespace(**{name: importlib.import_module(f"search_bench.{name}") for name in parts})


@pytest.fixture
def contenders(bench: Any, encoder: FakeEncoder, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Over one filled store: with its token store, and without."""
    from m3connect.token_store import TokenStore

    store = MemoryStore(dim=encoder.dim)
    with TokenStore(tmp_path) as tokens:
        ingest(encoder, store, DOCUMENTS, token_store=tokens)
        encoder.calls.clear()
        ours = bench.contenders.Ours
        yield SimpleNamespace(stored=ours(encoder, store, tokens), anew=ours(encoder, store), store=store)


def test_with_a_token_store_only_the_question_is_encoded(encoder: FakeEncoder, contenders: Any) -> None:
    answer = contenders.stored.answer("birds", 12)
    assert encoder.calls == [["birds"]]
    assert answer.seconds["encode candidates"] == 0 < answer.seconds["fetch"]
    encoder.calls.clear()
    answer = contenders.anew.answer("birds", 12)
    assert [len(texts) for texts in encoder.calls] == [1, 12]
    assert answer.seconds["fetch"] == 0 < answer.seconds["encode candidates"]


def test_the_stages_add_up_to_the_whole(bench: Any, contenders: Any) -> None:
    for contender in (contenders.stored, contenders.anew):
        seconds = contender.answer("trees", 12).seconds
        assert list(seconds) == [*bench.stages.STAGES, "total"]
        assert min(seconds.values()) >= 0
        assert sum(seconds[stage] for stage in bench.stages.STAGES) == pytest.approx(seconds["total"])


def test_what_is_timed_finds_what_the_retriever_finds(encoder: FakeEncoder, contenders: Any) -> None:
    hits = HybridRetriever(encoder, contenders.store, rerank=True, depth=12).search("seas", top_k=10)
    assert contenders.anew.answer("seas", 12).found == [(hit.document.id, hit.score) for hit in hits]


def test_ratios_are_medians_of_questions_side_by_side(bench: Any) -> None:
    names, measured = bench.contenders, bench.measuring.Measured
    ours = measured(1000, 30, "edge", names.STORED, [{"total": 1.0}, {"total": 2.0}, {"total": 4.0}])
    peer = measured(1000, 30, "edge", names.HAND, [{"total": 10.0}, {"total": 60.0}, {"total": 80.0}])
    elsewhere = measured(1000, 30, "memory", names.STORED, [{"total": 0.1}] * 3)
    line = {"documents": 1000, "depth": 30, "backend": "edge", "peer": names.HAND, "contender": names.STORED}
    assert bench.reporting.ratios([ours, peer, elsewhere]) == [{**line, "times": 20.0}]


@pytest.mark.parametrize("peer", ["by hand, encode", "by hand, compute_score"])
def test_scores_by_hand_must_be_ours(bench: Any, contenders: Any, peer: str) -> None:
    exact = contenders.anew.answer("seas", 12)
    answers = {bench.contenders.STORED: contenders.stored.answer("seas", 12), bench.contenders.ANEW: exact}
    collection = bench.measuring.Collection(len(DOCUMENTS), "memory", {})
    bench.measuring._check(collection, {**answers, peer: exact})
    off = bench.stages.Answer([(name, score + 0.01) for name, score in exact.found], exact.seconds)
    with pytest.raises(ValueError, match=f"{peer}: 10 of m3connect's 10 hits were found, with scores off by 1.0e-02"):
        bench.measuring._check(collection, {**answers, peer: off})
