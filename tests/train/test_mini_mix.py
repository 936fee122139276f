"""What m3-mini is trained on: the same batch for the same step, and no row that it is measured on."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support import REPOSITORY


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package of the build script."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import m3_mini.corpus
    import m3_mini.material
    import m3_mini.mix

    return m3_mini


def toy_material(scripts: ModuleType):
    random = np.random.default_rng(0)

    def texts(count: int, length: int) -> list[np.ndarray]:
        return [random.integers(5, 500, length) for _ in range(count)]

    def answered(count: int):
        near = [[(i + step) % count for step in range(1, 11)] for i in range(count)]
        return scripts.material.Answered(texts(count, 300), [texts(2, 12) for _ in range(count)], np.array(near))

    return scripts.material.Material(
        languages=["eng", "deu", "swa"],
        rows={language: texts(200, 30) for language in ("eng", "deu", "swa")},
        documents=[list(range(start, start + 5)) for start in range(0, 200, 5)],
        everyday=[texts(3, 8) for _ in range(300)],
        by_language=[[(group, number) for group in range(300)] for number in range(3)],
        same_language=answered(60),
        across=answered(60),
        abstracts=answered(60),
        windows=texts(60, 256),
        asked=[[1, 4, 7], [], [0]],
        rarity=random.random(500).astype(np.float32),
        other_case=np.arange(500),
    )


def ids(batch) -> list[list[int]]:
    return [text.tolist() for text in [*batch.queries, *batch.passages]]


def test_a_step_has_the_same_batch_whenever_it_is_asked_for(scripts: ModuleType) -> None:
    settings = scripts.mix.Settings()
    first, second = (scripts.mix.Mix(toy_material(scripts), settings) for _ in range(2))
    in_order = [ids(first.batch(step, rank=0, world_size=1)) for step in range(12)]
    backwards = [ids(second.batch(step, rank=0, world_size=1)) for step in reversed(range(12))]
    assert in_order == backwards[::-1]
    assert len({str(batch) for batch in in_order}) == 12


@pytest.mark.parametrize(
    "kind",
    [
        *("translations", "everyday", "gathered", "questions", "questions_across", "quotes", "news", "abstracts"),
        *("sketches", "asked"),
    ],
)
def test_every_kind_of_pair_is_whole_and_short_enough(scripts: ModuleType, kind: str) -> None:
    settings = scripts.mix.Settings(shares={kind: 1.0})
    batch = scripts.mix.Mix(toy_material(scripts), settings).batch(0, rank=0, world_size=1)
    assert len(batch.queries) == len(batch.passages) == settings.sizes[kind]
    for text in (*batch.queries, *batch.passages):
        assert (text[0], text[-1]) == (0, 2)
        assert 3 <= len(text) <= settings.passage_tokens + 2
        assert text[1:-1].min() >= 5


def test_ranks_share_a_batch(scripts: ModuleType) -> None:
    mix = scripts.mix.Mix(toy_material(scripts), scripts.mix.Settings())
    whole = mix.batch(3, rank=0, world_size=1)
    parts = [mix.batch(3, rank=rank, world_size=2) for rank in (0, 1)]
    assert [part.queries[0].tolist() for part in parts] == [query.tolist() for query in whole.queries[:2]]
    assert sum(len(part.queries) for part in parts) == len(whole.queries)


def test_questions_come_with_passages_like_their_own(scripts: ModuleType) -> None:
    material = toy_material(scripts)
    settings = scripts.mix.Settings(shares={"questions": 1.0}, dropped=0.0, passage_tokens=300)
    batch = scripts.mix.Mix(material, settings).batch(0, rank=0, world_size=1)
    passages = [text.tolist() for text in material.same_language.passages]
    chosen = [passages.index(text[1:-1].tolist()) for text in batch.passages]
    assert len(set(chosen)) == len(chosen)
    near = material.same_language.neighbours
    assert all(
        set(near[number].tolist() + np.flatnonzero((near == number).any(axis=1)).tolist()) & set(chosen)
        for number in chosen
    )


def test_rows_that_it_is_measured_on_are_not_trained_on(scripts: ModuleType, open_data: Path) -> None:
    corpus = scripts.corpus.read_corpus(open_data)
    assert {len(rows) for rows in corpus.train.values()} == {1662}
    assert sorted(row for document in corpus.documents for row in document) == list(range(1662))
    assert not set(corpus.dev["eng"]) & set(corpus.train["eng"])
    trained = {question.passage for question in corpus.questions}
    assert len(corpus.held_out) > 800
    assert not trained & {question.passage for question in corpus.held_out}
    assert len(corpus.abstracts) == 500
