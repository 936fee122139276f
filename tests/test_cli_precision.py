from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from m3connect.cli import app

LINES = [{"text": f"Text {i} is about {subject}."} for i, subject in enumerate(["bees", "honey", "the moon", "bread"])]


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., Result]:
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["compare-precision", str(file), *map(str, arguments)])

    return run


def test_both_precisions_are_compared_with_float32(compare: Callable[..., Result]) -> None:
    result = compare("--model", "m3-mini", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["texts"] == 4
    assert list(found["precisions"]) == ["bfloat16", "int8"]
    half, eighth = found["precisions"].values()
    assert 0.9999 < half["dense"]["least"] < 1 - 1e-7  # a float32 model would give 1
    assert 0.995 < eighth["dense"]["least"] < half["dense"]["least"]
    assert set(half["ranks"]) == {"dense", "sparse", "multi_vector", "hybrid"}
    assert half["k"] == 3


def test_the_table_names_what_it_shows(compare: Callable[..., Result]) -> None:
    result = compare("--precision", "int8", "--limit", 3, "--top-k", 1)
    assert result.exit_code == 0, result.output
    assert "3 texts, against float32" in result.stdout
    assert "same best 1, hybrid" in result.stdout
    assert "bfloat16" not in result.stdout
    assert result.stderr.count("demonstration model") == 1


def test_one_text_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one", encoding="utf-8")
    result = CliRunner().invoke(app, ["compare-precision", str(tmp_path / "one.txt")])
    assert result.exit_code == 2
    assert "at least 2 texts" in result.stderr


@pytest.mark.parametrize("command", ["encode", "index", "search", "evaluate"])
def test_a_device_that_is_not_there_is_refused_in_one_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n", encoding="utf-8")
    for name in ("corpus", "queries"):
        line = json.dumps({"_id": name[0].replace("c", "d"), "text": "Bees make honey."})
        (tmp_path / f"{name}.jsonl").write_text(line, encoding="utf-8")
    store = ["--store", f"qdrant:{tmp_path / 'store'}"]
    given: dict[str, list[object]] = {
        "encode": [],
        "index": [tmp_path / "corpus.jsonl", *store],
        "search": ["bees", *store],
        "evaluate": [tmp_path],
    }
    if command == "search":
        assert CliRunner().invoke(app, ["index", *map(str, given["index"])]).exit_code == 0
    arguments = [command, *map(str, given[command]), "--device", "cuda:99"]
    result = CliRunner().invoke(app, arguments, input="Bees make honey.\n")
    assert result.exit_code == 1
    assert "error: device 'cuda:99' was asked for" in result.stderr
    assert "take device='cpu'" in result.stderr


def test_the_commands_take_a_precision(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["encode", "--precision", "int8"], input="Bees make honey.\n")
    exact = CliRunner().invoke(app, ["encode"], input="Bees make honey.\n")
    dense, expected = (json.loads(one.stdout)["dense"] for one in (result, exact))
    assert dense != expected
    assert dense == pytest.approx(expected, abs=0.02)
