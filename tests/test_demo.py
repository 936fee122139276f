"""The demonstration: what it counts, and that both databases count the same."""

import io
import shlex
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from support import require
from typer.testing import CliRunner

from m3connect import Document, Hit, IngestReport, M3Encoder, MemoryStore, demo
from m3connect.cli import app
from m3connect.cli.demo_tables import own_files, print_outcome
from m3connect.cli.show import snippet
from m3connect.demo import WAYS, Corpus, EncodeOnce, Outcome, Question, Trial, choose, load_corpus, run_demo, try_store
from m3connect.testing import FakeEncoder


@pytest.fixture(scope="module")
def mini():
    return M3Encoder.from_pretrained("m3-mini")


@pytest.fixture(scope="module")
def outcome(mini):
    """The whole demonstration, once."""
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    return run_demo(mini)


def question(name, lang, kind="same-language", answers=("a",)):
    return Question(name, f"question {name}", lang, kind, frozenset(answers))


def hits(*ids):
    return [Hit(Document(name, name, {"lang": "en"}), 1.0) for name in ids]


def test_the_corpus_is_as_promised():
    corpus = load_corpus()
    ids = {passage.id for passage in corpus.passages}
    languages = {passage.id: passage.metadata["lang"] for passage in corpus.passages}
    assert len(ids) == len(corpus.passages) >= 150
    assert len(set(languages.values())) >= 12
    for asked in corpus.questions:
        assert asked.answers <= ids
        in_own_language = {languages[name] for name in asked.answers} == {asked.lang}
        assert in_own_language == (asked.kind == "same-language")
        assert asked.kind == "same-language" or asked.lang not in {languages[name] for name in asked.answers}


def test_only_the_first_hit_counts_as_found():
    questions = [question("1", "en"), question("2", "de"), question("3", "fr", "cross-language"), question("4", "en")]
    trial = Trial("qdrant", IngestReport(), {"RRF": [hits("a", "b"), hits("b", "a"), hits("a"), []]})
    assert trial.found_first("RRF", questions) == 2
    assert trial.found_first("RRF", questions, "same-language") == 1
    assert trial.found_first("RRF", questions, "cross-language") == 1


def test_chance_is_what_a_blind_pick_finds():
    passages = tuple(Document(str(i), "text") for i in range(10))
    corpus = Corpus(passages, (question("1", "en"), question("2", "de", "cross-language", ["1", "2", "3"])))
    assert corpus.chance("same-language") == pytest.approx(0.1)
    assert corpus.chance(None) == pytest.approx(0.4)


def test_a_text_goes_through_the_model_once():
    inner = FakeEncoder()
    once = EncodeOnce(inner)
    assert len(once.encode([])) == 0
    once.encode(["a", "b", "a"])
    batch = once.encode(["c", "b"], multi_vector=True)
    assert inner.calls == [["a", "b"], ["c"]]
    assert once.passes == 3
    expected = inner.encode(["c", "b"], multi_vector=True)
    np.testing.assert_array_equal(batch.dense, expected.dense)
    np.testing.assert_array_equal(batch.multi_vector[1], expected.multi_vector[1])


def test_questions_are_chosen_by_kind_and_language_alone():
    corpus = load_corpus()
    chosen = choose(corpus.questions, 8)
    assert [asked.kind for asked in chosen] == ["same-language", "cross-language"] * 4
    assert len({asked.lang for asked in chosen}) == 8
    assert sorted(choose(corpus.questions, 99), key=lambda asked: asked.id) == sorted(
        corpus.questions, key=lambda asked: asked.id
    )
    assert choose(corpus.questions, 0) == []


def test_every_text_is_encoded_once_for_both_databases(outcome):
    texts = [passage.text for passage in outcome.corpus.passages] + [asked.text for asked in outcome.corpus.questions]
    assert outcome.passes == len(set(texts))
    assert [trial.report.stored for trial in outcome.trials] == [len(outcome.corpus.passages)] * 2
    assert not any(trial.report.rejected or trial.report.truncated for trial in outcome.trials)


def test_both_databases_find_what_the_exact_store_finds(outcome, mini):
    exact = try_store("exact", MemoryStore(dim=mini.dim), EncodeOnce(mini), outcome.corpus)
    for trial in outcome.trials:
        for way in WAYS:
            for kind in ("same-language", "cross-language"):
                counts = [one.found_first(way, outcome.corpus.questions, kind) for one in (trial, exact)]
                assert counts[0] == counts[1], (trial.name, way, kind)
            for found, expected in zip(trial.hits[way], exact.hits[way], strict=True):
                assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_the_model_is_better_than_chance_in_the_questions_own_language(outcome):
    for way in WAYS:
        found = outcome.trials[0].found_first(way, outcome.corpus.questions, "same-language")
        assert found > 10 * outcome.corpus.chance("same-language")


def printed(outcome, width=100, shown=8):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_outcome(outcome, console, shown=shown)
    return console.file.getvalue()


def test_what_another_language_answers_is_shown_with_how_many_were_asked(outcome):
    trial, asked = outcome.trials[0], outcome.corpus.of_kind("cross-language")
    found = trial.found_first("reranked", outcome.corpus.questions, "cross-language")
    assert 1 <= found < len(asked)
    part = printed(outcome, shown=0).split("Answered first from another language: ")[1].split("How many answers")[0]
    assert part.startswith(f"{found} of {len(asked)} questions")
    found_by = zip(outcome.corpus.questions, trial.hits["reranked"], strict=True)
    best = {question: hits[0].document for question, hits in found_by}
    right = [question for question in asked if best[question].id in question.answers]
    assert len(right) == found == len(part.strip().split("\n\n")) - 1
    assert all(best[question].id in part and question.text in " ".join(part.split()) for question in right)


def test_the_tables_say_what_was_counted(outcome):
    text = printed(outcome)
    for trial in outcome.trials:
        for way in WAYS:
            n = trial.found_first(way, outcome.corpus.questions, "cross-language")
            assert any(line.split()[:1] == [way] and f" {n} of 28" in line for line in text.splitlines())
    assert "same documents in the same order" in text or "gave other documents" in text
    assert f"{outcome.passes} texts, one forward pass each" in " ".join(text.split())
    for asked in choose(outcome.corpus.questions, 8):
        assert asked.text in " ".join(text.split())


def test_nothing_is_wider_than_80_columns_or_broken_over_lines(outcome):
    lines = printed(outcome, width=80, shown=56).splitlines()
    assert sum("-language: " in line for line in lines) >= 56
    assert max(map(cell_len, lines)) <= 80
    for way in WAYS:
        rows = [line for line in lines if line.split()[:1] == [way] and " of 56" in line]
        assert len(rows) == len(outcome.trials)


@pytest.mark.parametrize("columns", [80, None], ids=["terminal", "pipe"])
def test_the_demo_command_fits_80_columns(run, monkeypatch, columns):
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    corpus = load_corpus()
    monkeypatch.setattr(demo, "load_corpus", lambda: Corpus(corpus.passages, corpus.questions[:4]))
    shown = run("demo", "--store", "qdrant", "--questions", 4, columns=columns)
    assert shown.exit_code == 0, shown.output
    assert max(map(cell_len, shown.stdout.splitlines())) <= 80


def test_where_the_databases_differ_it_is_said(outcome):
    first, second = outcome.trials
    changed = replace(second, hits=second.hits | {"dense": [hits("x"), *second.hits["dense"][1:]]})
    different = Outcome(outcome.corpus, (first, changed), outcome.passes, 1.0, 2.0)
    assert ("dense", 0) in different.disagreements()
    assert f"dense {outcome.corpus.questions[0].id}" in printed(different, shown=0)


def test_right_to_left_text_stands_between_isolates():
    assert snippet("النحل").plain == "\u2068النحل\u2069"
    assert snippet("two\nlines\x1b[31m").plain == "two lines [31m"
    assert snippet("word " * 100, 20).plain == "word word word word…"


def test_the_printed_commands_work(outcome, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "a.txt").write_text("A question of mine.", encoding="utf-8")
    commands = [shlex.split(line) for line in own_files().splitlines() if "#" not in line]
    assert [command[1] for command in commands] == ["index", "search"]
    for command in commands:
        result = CliRunner().invoke(app, command[1:])
        assert result.exit_code == 0, result.output
    assert "a.txt" in result.stdout


def test_the_demo_command_prints_the_tables(monkeypatch, mini):
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    monkeypatch.setattr(M3Encoder, "from_pretrained", lambda name, **_: mini)
    corpus = load_corpus()
    few = Corpus(corpus.passages[:20], corpus.questions[:4])
    monkeypatch.setattr(demo, "load_corpus", lambda: few)
    result = CliRunner().invoke(app, ["demo", "--store", "qdrant", "--questions", "1"])
    assert result.exit_code == 0, result.output
    assert "20 passages" in result.stdout
    assert "embedded Qdrant" in result.stdout
    assert "Milvus (embedded)" not in result.stdout
    assert "demonstration model" in result.stderr
