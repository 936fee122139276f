"""`m3connect evaluate` as a user drives it."""

from __future__ import annotations

import json

import pytest
from small_set import CORPUS, write_qrels
from support import require
from typer.testing import CliRunner

from m3connect import M3Encoder
from m3connect.cli import app
from m3connect.evaluate import evaluate, per_query, read_dataset, read_run
from m3connect.testing import FakeEncoder


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(M3Encoder, "from_pretrained", lambda name, **_: FakeEncoder())
    runner = CliRunner(env={"COLUMNS": "120"})
    return lambda *arguments: runner.invoke(app, ["evaluate", *map(str, arguments)])


def test_the_table_has_the_rows_of_the_paper(run, folder):
    shown = run(folder)
    assert shown.exit_code == 0, shown.output
    rows = [line.split()[0] for line in shown.stdout.splitlines() if line.strip()]
    assert rows[2:8] == ["Dense", "Sparse", "Multi-vec", "Dense+Sparse", "All", "RRF"]
    assert "nDCG@10 by language" in shown.stdout
    assert "de (2)" in shown.stdout
    assert "m3-mini, a small demonstration model" in shown.stderr


def test_json_has_what_python_gives(run, folder):
    shown = run(folder, "--json", "--measure", "nDCG@10", "--measure", "MRR@10", "--model", "fake")
    assert shown.exit_code == 0, shown.output
    record = json.loads(shown.stdout)
    expected = evaluate(FakeEncoder(), read_dataset(folder), measures=["nDCG@10", "MRR@10"])
    assert {name: row["means"] for name, row in record["rows"].items()} == {
        row.name: row.means for row in expected.rows
    }
    assert record["facts"]["queries"] == 4
    assert set(record["rows"]["All"]["by_language"]) == {"de", "en"}
    assert record["rows"]["Sparse"]["against_dense"]["queries"] == 4


def test_runs_and_values_by_query_can_be_measured_again(run, folder, tmp_path):
    shown = run(folder, "--json", "--run-folder", tmp_path / "runs", "--chart", tmp_path / "chart.png")
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)["rows"]
    assert rows == json.loads((tmp_path / "runs" / "report.json").read_text())["rows"]
    qrels = read_dataset(folder).qrels
    for name, file in {"Dense": "dense", "Dense+Sparse": "dense-sparse", "All": "all", "RRF": "rrf"}.items():
        values = per_query(read_run(tmp_path / "runs" / f"{file}.run"), qrels)["nDCG@10"]
        assert sum(values.values()) / 4 == pytest.approx(rows[name]["means"]["nDCG@10"], abs=1e-12)
    lines = (tmp_path / "runs" / "per_query.tsv").read_text().splitlines()
    assert len(lines) == 1 + 6 * 2 * 4
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_run_of_another_system_stands_beside_ours(run, folder, tmp_path):
    (tmp_path / "bm25.run").write_text("q1 Q0 d1 1 9.5 bm25\nq2 Q0 d4 1 8 bm25\n")
    shown = run(folder, "--json", "--run", tmp_path / "bm25.run", "--mode", "dense")
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)["rows"]
    assert list(rows) == ["Dense", "bm25"]
    assert rows["bm25"]["means"]["Recall@100"] == (0.5 + 1) / 4


def test_weights_are_tuned_on_a_share_and_reported_on_the_rest(run, folder):
    record = json.loads(run(folder, "--json", "--dev-share", 0.5).stdout)
    assert record["facts"]["queries"] == 2
    assert record["tuned"]["all"]["queries"] == 2
    assert "All, tuned" in record["rows"]


def test_weights_are_tuned_on_another_split(run, folder):
    write_qrels(folder / "qrels" / "dev.tsv", {"q5": {"d6": 1}})
    shown = run(folder, "--dev-split", "dev")
    assert shown.exit_code == 0, shown.output
    assert "weights tuned on dev queries" in shown.stdout
    assert "Dense+Sparse, tuned" in shown.stdout


@pytest.mark.parametrize("kind", ["qdrant", "milvus", "edge"])
def test_a_store_is_filled_once_and_keeps_the_set(run, folder, tmp_path, kind):
    library = {"qdrant": "qdrant_client", "milvus": "milvus_lite", "edge": "qdrant_edge"}[kind]
    require(f"m3connect_{kind}", library, extra="all")
    folder = folder.rename(tmp_path / "a small-set")
    place = tmp_path / ("index.db" if kind == "milvus" else "index")
    arguments = (folder, "--json", "--store", f"{kind}:{place}")
    first, second = run(*arguments), run(*arguments)
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    record = json.loads(first.stdout)
    assert record["facts"]["store"].endswith("evaluate_a_small_set")
    assert record["facts"]["documents in the store"] == len(CORPUS)
    exact = json.loads(run(folder, "--json").stdout)
    for name, row in exact["rows"].items():
        assert record["rows"][name]["means"] == pytest.approx(row["means"], abs=1e-6)


def test_other_documents_in_the_store_are_mentioned(run, folder, tmp_path):
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    store = ("--store", f"qdrant:{tmp_path / 'index'}", "--mode", "dense")
    assert run(folder, *store).exit_code == 0
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:-1]))
    assert "the store holds other documents too" in run(folder, *store).stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--split", "nope"], "name one of them, not 'nope'"),
        (["--measure", "nope"], "no measure 'nope'"),
        (["--dev-share", 2], "leaves dev or test empty"),
        (["--run", "absent.run"], "absent.run"),
        (["--mode", "nope"], "nope"),
        (["--dev-share", 0.5, "--dev-split", "dev"], "not both"),
    ],
)
def test_a_mistake_is_said_in_one_line(run, folder, arguments, reason):
    shown = run(folder, *arguments)
    assert shown.exit_code in (1, 2)
    assert reason in " ".join(shown.output.replace("│", " ").split())
    assert "Traceback" not in shown.output


def test_a_folder_that_is_not_there_is_named(run, tmp_path):
    shown = run(tmp_path / "absent")
    assert shown.exit_code == 1
    assert "there is no folder" in shown.output
