"""Hard negatives: which texts are drawn, and that an interrupted run goes on."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from typer.testing import CliRunner

from m3connect import Dense, Document, M3Encoder, MemoryStore
from m3connect.cli import app
from m3connect.store import Encoder
from m3connect.testing import FakeEncoder
from m3connect.train.mining import MiningOptions, mine, mine_file, three_head_teacher

WORDS = ("red", "green", "blue", "apple", "sea", "tree", "night", "bread")
TEXTS = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in ("garden", "harbour") if a < b]
ROWS = [{"query": f"{a} {b}", "pos": [f"{a} {b} garden"], "type": "normal"} for a in WORDS for b in WORDS if a < b]
QUICK = MiningOptions(negatives=3, ranks=(1, 20), fusion=Dense(), batch_size=4)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return FakeEncoder()


@pytest.fixture(scope="module")
def store(encoder):
    store = MemoryStore(dim=encoder.dim)
    store.upsert([Document(text, text) for text in TEXTS], encoder.encode(TEXTS))
    return store


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def ranked(encoder, store, query):
    hits = store.search(encoder.encode([query]), top_k=len(TEXTS), fusion=Dense())[0]
    return [hit.document.text for hit in hits]


def test_negatives_come_from_the_ranks_asked_for(encoder, store):
    options = MiningOptions(negatives=5, ranks=(4, 12), fusion=Dense())
    for row in mine(encoder, store, ROWS, options=options):
        window = set(ranked(encoder, store, row["query"])[3:12]) - set(row["pos"])
        assert len(row["neg"]) == 5
        assert set(row["neg"]) <= window


def test_everything_of_the_window_is_taken_where_it_is_small(encoder, store):
    row = next(mine(encoder, store, ROWS, options=MiningOptions(negatives=50, ranks=(1, 6), fusion=Dense())))
    assert sorted(row["neg"]) == sorted(set(ranked(encoder, store, row["query"])[:6]) - set(row["pos"]))


def test_positives_the_query_and_duplicates_are_left_out(encoder):
    texts = ["red apple", "Red  Apple", "red apple pie", "RED APPLE pie", "red apple tree"]
    store = MemoryStore(dim=encoder.dim)
    store.upsert([Document(f"d{i}", text) for i, text in enumerate(texts)], encoder.encode(texts))
    rows = [{"query": "Red apple", "pos": ["RED apple tree"]}]
    row = next(mine(encoder, store, rows, options=MiningOptions(negatives=5, ranks=(1, 5), fusion=Dense())))
    assert [text.lower() for text in row["neg"]] == ["red apple pie"]


def test_what_nearly_answers_is_left_out_by_the_margin(encoder, store):
    options = MiningOptions(negatives=50, ranks=(1, 50), fusion=Dense(), margin=0.8)
    wide = MiningOptions(negatives=50, ranks=(1, 50), fusion=Dense())
    dropped = 0
    for row, free in zip(
        mine(encoder, store, ROWS, options=options), mine(encoder, store, ROWS, options=wide), strict=True
    ):
        query = encoder.encode([row["query"]])
        for text in free["neg"]:
            scores = [
                float(query.dense[0] @ batch.dense[0])
                + 0.3 * sum(w * batch.sparse.to_dicts()[0].get(t, 0) for t, w in query.sparse.to_dicts()[0].items())
                for batch in (encoder.encode([text]), encoder.encode(row["pos"]))
            ]
            if abs(scores[0] - 0.8 * scores[1]) > 1e-5:
                assert (text in row["neg"]) == (scores[0] <= 0.8 * scores[1])
                dropped += text not in row["neg"]
    assert dropped > 10


def test_a_teacher_scores_positives_and_negatives(encoder, store):
    teacher = three_head_teacher(encoder)
    for row in islice(mine(encoder, store, ROWS, options=QUICK, teacher=teacher), 5):
        assert row["pos_scores"] == pytest.approx(teacher(row["query"], row["pos"]))
        assert row["neg_scores"] == pytest.approx(teacher(row["query"], row["neg"]), abs=1e-5)
        assert row["type"] == "normal"


def test_a_teachers_margin_is_kept(encoder, store):
    def by_garden(query, texts):
        return [1.0 if "garden" in text else 0.2 for text in texts]

    options = MiningOptions(negatives=3, ranks=(1, 30), fusion=Dense(), margin=0.9)
    for row in mine(encoder, store, ROWS, options=options, teacher=by_garden):
        assert len(row["neg"]) == 3
        assert row["neg_scores"] == [0.2] * 3


def test_old_scores_go_with_the_old_negatives(encoder, store):
    row = {"query": "red apple", "pos": ["x"], "neg": ["old"], "pos_scores": [1], "neg_scores": [2], "prompt": "p"}
    mined = next(mine(encoder, store, [row], options=QUICK))
    assert "old" not in mined["neg"]
    assert mined["prompt"] == "p"
    assert not mined.keys() & {"pos_scores", "neg_scores"}


@pytest.mark.parametrize("kept", [0, 3, 4, 9, 1000])
def test_an_interrupted_run_goes_on_to_the_same_bytes(encoder, store, source, tmp_path, kept):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert mine_file(encoder, store, source, whole, options=QUICK) == len(ROWS)
    lines = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:kept]) + (lines[kept][:20] if kept < len(lines) else b""))
    counting = FakeEncoder()
    assert mine_file(counting, store, source, cut, options=QUICK) == len(ROWS)
    assert cut.read_bytes() == whole.read_bytes()
    assert sum(len(call) for call in counting.calls) == len(ROWS) - min(kept, len(ROWS)) // 4 * 4


def test_another_seed_draws_other_negatives(encoder, store):
    first, again, other = (
        [row["neg"] for row in mine(encoder, store, ROWS, options=MiningOptions(3, (1, 20), Dense(), seed=seed))]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_bad_lines_are_told_and_left_out(encoder, store, source, tmp_path):
    with source.open("a") as file:
        file.write('{\n{"query": "x"}\n{"query": "x", "pos": "text"}\n["row"]\n')
    problems = []
    count = mine_file(
        encoder, store, source, tmp_path / "out.jsonl", options=QUICK, on_problem=lambda *told: problems.append(told)
    )
    assert count == len(ROWS)
    assert [number for number, _ in problems] == [len(ROWS) + i for i in (1, 2, 3, 4)]
    assert '"pos" must be a list' in problems[1][1]


def test_a_file_cannot_be_mined_into_itself(encoder, store, source):
    with pytest.raises(ValueError, match="write into another"):
        mine_file(encoder, store, source, source)
    assert len(source.read_text().splitlines()) == len(ROWS)


@pytest.mark.parametrize("options", [{"ranks": (0, 5)}, {"ranks": (6, 5)}, {"negatives": 0}, {"batch_size": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"from 1 on|at least 1"):
        MiningOptions(**options)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(M3Encoder, "from_pretrained", lambda name, **_: FakeEncoder())
    return lambda *arguments: CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(each) for each in arguments])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_draws_from_the_positives_of_other_rows(run, source, tmp_path):
    target = tmp_path / "mined.jsonl"
    shown = run("mine", source, target, "--negatives", 2, "--ranks", 2, 12, "--teacher", "fake")
    assert shown.exit_code == 0, shown.output
    assert f"holds {len(ROWS)} rows" in shown.stdout
    positives = {text for row in ROWS for text in row["pos"]}
    for row in read(target):
        assert len(row["neg"]) == len(row["neg_scores"]) == 2
        assert set(row["neg"]) <= positives - set(row["pos"])


def test_the_command_draws_from_files_or_from_a_store(run, source, tmp_path):
    pytest.importorskip("qdrant_client")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in TEXTS))
    spec = f"qdrant:{tmp_path / 'index'}"
    assert run("index", corpus, "--store", spec).exit_code == 0
    files, stored = tmp_path / "files.jsonl", tmp_path / "stored.jsonl"
    options = ("--negatives", 3, "--ranks", 1, 20, "--fusion", "dense")
    assert run("mine", source, files, "--corpus", corpus, *options).exit_code == 0
    assert run("mine", source, stored, "--store", spec, *options).exit_code == 0
    assert read(files) == read(stored)
    assert all(len(row["neg"]) == 3 for row in read(files))


def test_the_command_says_which_lines_it_left_out(run, source, tmp_path):
    with source.open("a") as file:
        file.write("nonsense\n")
    shown = run("mine", source, tmp_path / "mined.jsonl", "--ranks", 1, 5)
    assert shown.exit_code == 3
    assert "29" in shown.stderr
