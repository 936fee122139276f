"""`--token-store`: filled by `index`, read by `search --rerank`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import require
from typer.testing import Result

pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")

from m3connect import Document
from m3connect.opening import check_token_spec
from m3connect.testing import FakeEncoder
from m3connect.token_store import TokenStore

Run = Callable[..., Result]


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, Path]:
    """A database that keeps no token vectors, and a folder for these."""
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    return f"qdrant:{tmp_path / 'qdrant'}", tmp_path / "tokens"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, text in {"a.txt": "red apple", "b.txt": "deep blue sea", "c.txt": "blue sky"}.items():
        (folder / name).write_text(text)
    return folder


def encoded(run: Run, encoder: FakeEncoder, *arguments: object) -> tuple[Result, list[str]]:
    """Run a command, and return what it encoded too."""
    encoder.calls.clear()
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result, [text for call in encoder.calls for text in call]


def test_what_index_fills_search_reads(run: Run, place: tuple[str, Path], notes: Path) -> None:
    from m3connect import M3Encoder

    encoder = M3Encoder.from_pretrained("fake")
    assert isinstance(encoder, FakeEncoder)
    spec, folder = place
    options = ("--store", spec, "--model", "fake", "--token-store", folder)
    _, texts = encoded(run, encoder, "index", notes, *options)
    assert sorted(texts) == ["blue sky", "deep blue sea", "red apple"]
    with TokenStore(folder, readonly=True) as tokens:
        assert len(tokens) == 3
    search = ("search", "blue sea", "--store", spec, "--model", "fake", "--rerank", "--json")
    found, texts = encoded(run, encoder, *search, "--token-store", folder)
    assert texts == ["blue sea"]
    without, texts = encoded(run, encoder, *search)
    assert len(texts) == 4
    for hit, expected in zip(lines(found), lines(without), strict=True):
        assert hit["id"] == expected["id"]
        assert hit["score"] == pytest.approx(expected["score"], abs=0.02)


def test_what_index_removes_goes_from_the_token_store_too(run: Run, place: tuple[str, Path], notes: Path) -> None:
    """What `--prune` removes, and the windows that a shorter text no longer has."""
    spec, folder = place
    (notes / "long.txt").write_text("many words about the sea " * 20)
    index = ("index", notes, "--store", spec, "--model", "m3-mini", "--chunk", "16", "--token-store", folder)
    assert run(*index).exit_code == 0
    with TokenStore(folder, readonly=True) as tokens:
        many = len(tokens)
    assert many > 3 + 4
    (notes / "a.txt").unlink()
    (notes / "long.txt").write_text("many words")
    assert "outdated" in run(*index).stdout
    with TokenStore(folder, readonly=True) as tokens:
        assert len(tokens) == 4
    assert "removed    1" in run(*index, "--prune").stdout
    with TokenStore(folder, readonly=True) as tokens:
        assert len(tokens) == 3
        assert tokens.missing([Document("a.txt", "red apple")])
        assert tokens.missing([Document("b.txt", "deep blue sea")]) == []


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_search_says_what_is_wrong_with_a_token_store(run: Run, place: tuple[str, Path], notes: Path) -> None:
    spec, folder = place
    run("index", notes, "--store", spec, "--model", "fake")
    search = ("search", "blue sea", "--store", spec, "--model", "fake", "--token-store", folder)
    missing = run(*search, "--rerank")
    assert missing.exit_code == 1
    assert "there is no token store at" in missing.stderr
    assert not folder.exists()
    unused = run(*search)
    assert unused.exit_code == 2
    assert "only --rerank reads token vectors" in unused.stderr


@pytest.mark.parametrize(
    "spec", ["http://localhost:6333", "Qdrant:https://localhost:6333", "qdrant:", "edge:", "milvus:x.db", "qdrant:x"]
)
def test_what_looks_like_a_database_is_not_taken_for_a_folder(
    run: Run, notes: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(notes)
    before = set(notes.iterdir())
    refused = run("index", notes, "--store", "edge:there", "--model", "fake", "--token-store", spec)
    assert refused.exit_code == 2
    assert "expected a folder, or qdrant:http://HOST:6333" in " ".join(refused.stderr.replace("│", " ").split())
    assert set(notes.iterdir()) == before


@pytest.mark.parametrize("folder", ["qdrant", "a:b", "./qdrant:x"])
def test_other_names_are_folders(folder: str) -> None:
    assert not check_token_spec(folder)
