"""`m3connect index` run again and again: what stays, what goes, and whose file an id belongs to."""

import json

import numpy as np
import pytest
from support import require, store_spec

from m3connect import MemoryStore
from m3connect.chunking import chunk
from m3connect.cli.indexing import index_files
from m3connect.opening import open_store
from m3connect.testing import FakeEncoder


@pytest.fixture(params=["edge", "qdrant", "milvus"])
def spec(request, tmp_path):
    return store_spec(request.param, tmp_path)


@pytest.fixture
def edge(tmp_path):
    return store_spec("edge", tmp_path)


@pytest.fixture
def notes(tmp_path):
    """A folder of four documents: two files, and two lines of one file."""
    return write(tmp_path / "notes", {"a.txt": "red apple", "sub/b.md": "deep sea", "rows.jsonl": rows("one", "two")})


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def rows(*names):
    return "".join(json.dumps({"id": name, "text": f"row {name}", "source": "a paper"}) + "\n" for name in names)


def stored(spec):
    with open_store(spec, "docs", create=False, multi_vector=None) as store:
        return {document.id: document.text for document in store.scroll()}


def test_what_was_removed_from_the_files_goes_with_prune_alone(run, spec, notes):
    index = ("index", notes, "--store", spec, "--model", "fake")
    assert run(*index).exit_code == 0
    (notes / "sub" / "b.md").unlink()
    write(notes, {"rows.jsonl": rows("two")})
    kept = run(*index)
    assert "removed   " not in kept.stdout
    assert stored(spec).keys() == {"a.txt", "sub/b.md", "one", "two"}
    pruned = run(*index, "--prune")
    assert pruned.exit_code == 0, pruned.output
    assert "removed    2 that the files no longer have" in pruned.stdout
    assert "unchanged  2" in pruned.stdout
    assert stored(spec).keys() == {"a.txt", "two"}


def test_prune_leaves_alone_what_came_from_elsewhere(run, edge, notes, tmp_path):
    other = write(tmp_path / "other", {"c.txt": "blue sky", "rows.csv": "id,text\nthree,row three\n"})
    run("index", notes, "--store", edge, "--model", "fake")
    run("index", other, "--store", edge, "--model", "fake")
    (other / "c.txt").unlink()
    assert "removed    1" in run("index", other, "--store", edge, "--model", "fake", "--prune").stdout
    assert stored(edge).keys() == {"a.txt", "sub/b.md", "one", "two", "three"}


def test_prune_of_one_file_concerns_that_file_alone(run, edge, notes):
    run("index", notes, "--store", edge, "--model", "fake")
    write(notes, {"rows.jsonl": rows("one")})
    (notes / "a.txt").unlink()
    result = run("index", notes / "rows.jsonl", "--store", edge, "--model", "fake", "--prune")
    assert "unchanged  1" in result.stdout
    assert stored(edge).keys() == {"a.txt", "sub/b.md", "one"}


def test_prune_of_a_folder_inside_leaves_what_the_outer_one_brought(run, edge, notes):
    run("index", notes, "--store", edge, "--model", "fake")
    run("index", notes / "sub", "--store", edge, "--model", "fake", "--prune")
    assert stored(edge).keys() == {"a.txt", "sub/b.md", "b.md", "one", "two"}


def test_prune_keeps_what_came_from_a_file_that_cannot_be_read_now(run, edge, notes):
    run("index", notes, "--store", edge, "--model", "fake")
    write(notes, {"rows.jsonl": rows("one") + '{"id": "two", "text": cut\n'})
    (notes / "a.txt").write_bytes(b"\xff")
    (notes / "sub" / "b.md").unlink()
    result = run("index", notes, "--store", edge, "--model", "fake", "--prune")
    assert result.exit_code == 3
    assert "removed    1" in result.stdout
    assert stored(edge).keys() == {"a.txt", "one", "two"}


def test_prune_finds_the_folder_however_it_is_written(run, edge, notes, monkeypatch):
    run("index", notes, "--store", edge, "--model", "fake")
    (notes / "a.txt").unlink()
    monkeypatch.chdir(notes / "sub")
    assert "removed    1" in run("index", "..", "--store", edge, "--model", "fake", "--prune").stdout


def test_a_file_does_not_replace_one_of_the_same_name_from_another_folder(run, spec, notes, tmp_path):
    other = write(tmp_path / "other", {"a.txt": "green pear", "c.txt": "blue sky"})
    run("index", notes, "--store", spec, "--model", "fake")
    result = run("index", other, "--store", spec, "--model", "fake", columns=500)
    assert result.exit_code == 3
    reason = f"its id 'a.txt' is taken by {notes / 'a.txt'}: index the folder that holds both files, or use another"
    assert reason in result.stderr
    assert stored(spec)["a.txt"] == "red apple"
    assert stored(spec)["c.txt"] == "blue sky"


def test_a_folder_that_was_moved_replaces_its_files_and_says_so(run, edge, notes, tmp_path):
    run("index", notes, "--store", edge, "--model", "fake")
    moved = notes.rename(tmp_path / "moved")
    write(moved, {"a.txt": "red apple, moved"})
    result = run("index", moved, "--store", edge, "--model", "fake")
    assert result.exit_code == 0, result.output
    assert "note: 4 documents replaced ones with the same id from" in result.stderr
    assert stored(edge)["a.txt"] == "red apple, moved"
    assert len(stored(edge)) == 4
    assert "replaced" not in run("index", moved, "--store", edge, "--model", "fake").stderr


def test_an_id_given_in_two_files_is_noted(run, edge, notes, tmp_path):
    other = write(tmp_path / "other", {"rows.jsonl": rows("one")})
    run("index", notes, "--store", edge, "--model", "fake")
    result = run("index", other, "--store", edge, "--model", "fake")
    assert result.exit_code == 0
    assert f"note: 1 document replaced one with the same id from {notes / 'rows.jsonl'}" in result.stderr


LONG = " ".join(f"The river number {i} flows into the sea." for i in range(60))


def test_long_documents_become_windows_and_search_shows_the_best(run, spec, notes):
    write(notes, {"long.txt": LONG})
    indexed = run("index", notes, "--store", spec, "--model", "m3-mini", "--chunk", 64)
    assert indexed.exit_code == 0, indexed.output
    names = [name for name in stored(spec) if name.startswith("long.txt#")]
    assert len(names) > 5
    assert "long.txt" not in stored(spec)
    search = ("search", "river number 7", "--store", spec, "--model", "m3-mini", "--json")
    for options in ((), ("--rerank",), ("--fusion", "dense")):
        found = [json.loads(line) for line in run(*search, *options).stdout.splitlines()]
        assert [hit.get("parent_id") for hit in found].count("long.txt") == 1
    every = [json.loads(line) for line in run(*search, "--no-group").stdout.splitlines()]
    assert [hit.get("parent_id") for hit in every].count("long.txt") > 1


def test_a_document_that_becomes_shorter_leaves_no_window_behind(run, spec, notes):
    index = ("index", notes, "--store", spec, "--model", "m3-mini", "--chunk", 64)
    write(notes, {"long.txt": LONG})
    run(*index)
    before = len(stored(spec))
    write(notes, {"long.txt": LONG[: len(LONG) // 2]})
    shorter = run(*index)
    after = stored(spec)
    assert f"outdated   {before - len(after)} windows" in shorter.stdout
    assert 4 < len(after) < before
    write(notes, {"long.txt": "The river."})
    run(*index)
    assert stored(spec).keys() == {"a.txt", "sub/b.md", "one", "two", "long.txt"}


def test_changing_to_windows_and_back_stores_nothing_twice(run, edge, notes):
    index = ("index", notes, "--store", edge, "--model", "m3-mini")
    write(notes, {"long.txt": LONG})
    run(*index)
    run(*index, "--chunk", 64)
    assert "long.txt" not in stored(edge)
    assert "long.txt#40" not in stored(edge)
    run(*index, "--chunk", 16, "--overlap", 0)
    assert "long.txt#40" in stored(edge)
    assert "outdated" not in run(*index, "--chunk", 16, "--overlap", 0).stdout
    run(*index)
    assert stored(edge).keys() == {"a.txt", "sub/b.md", "one", "two", "long.txt"}


@pytest.mark.parametrize("text", ["red apple", LONG], ids=["whole", "cut"])
def test_a_document_with_the_id_of_a_further_window_stays_where_a_file_holds_it(run, spec, notes, text):
    index = ("index", notes, "--store", spec, "--model", "m3-mini", "--chunk", 64)
    whole = json.dumps({"id": "a", "text": text})
    write(notes, {"rows.jsonl": whole})
    run(*index)
    further = f"a#{sum(name.startswith('a#') for name in stored(spec))}"
    write(notes, {"rows.jsonl": whole + "\n" + json.dumps({"id": further, "parent_id": "a", "text": "deep sea"})})
    for unchanged in (len(stored(spec)), len(stored(spec)) + 1):
        again = run(*index)
        assert f"unchanged  {unchanged}" in again.stdout
        assert "outdated" not in again.stdout
        assert further in stored(spec)


@pytest.mark.parametrize("texts", [(LONG, "The river."), ("The river.", LONG)], ids=["shorter", "longer"])
def test_of_an_id_that_comes_twice_the_last_document_is_stored_alone(run, edge, notes, texts):
    index = ("index", notes, "--store", edge, "--model", "m3-mini", "--chunk", 64)
    write(notes, {"rows.jsonl": json.dumps({"id": "a", "text": texts[-1]})})
    run(*index)
    expected = stored(edge).keys()
    write(notes, {"rows.jsonl": "\n".join(json.dumps({"id": "a", "text": text}) for text in texts)})
    for _ in range(2):
        run(*index)
        assert stored(edge).keys() == expected


def test_what_did_not_change_is_read_once(notes):
    class Asked(MemoryStore):
        def get(self, ids):
            asked.extend(ids)
            return super().get(ids)

    def cut(document):
        return list(chunk([document], letters, max_tokens=10, overlap=0))

    def letters(text):
        return np.array([[i, i + 1] for i in range(len(text))])

    store = Asked(dim=16)
    for _ in range(2):
        asked = []
        index_files(FakeEncoder(), store, [notes], cut=cut)
        assert sorted(asked) == sorted(set(asked))
    assert {"a.txt", "a.txt#0", "a.txt#2", "one", "one#0"} <= set(asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--overlap", "8"], "without --chunk"),
        (["--chunk", "32", "--overlap", "17"], "more than half"),
        (["--chunk", "3"], "--chunk"),
        (["--chunk", "9000"], "8192 tokens"),
        (["--filter-field", "year:int"], "NAME:number"),
        (["--filter-field", ":str"], "NAME:number"),
        (["--filter-field", "lang", "--filter-field", "lang:number"], "declared twice"),
        (["--store", "milvus:x.db", "--multi-vector"], "search --rerank"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(run, notes, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = run("index", notes, "--store", "qdrant:x", "--model", "m3-mini", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "x").exists()


def test_declared_filter_fields_are_kept_with_the_collection(run, spec, tmp_path):
    folder = write(tmp_path / "rows", {"rows.csv": "id,text,lang,year\na,red apple,de,1990\nb,deep sea,en,2000\n"})
    index = ("index", folder, "--store", spec, "--model", "fake")
    declared = run(*index, "--filter-field", "lang", "--filter-field", "year:number")
    assert declared.exit_code == 0, declared.output
    assert run(*index).exit_code == 0
    assert run(*index, "--filter-field", "lang:str", "--filter-field", "year:number").exit_code == 0
    search = ("search", "apple", "--store", spec, "--model", "fake", "--json")
    found = run(*search, "--where", "year>=1990", "--where", "lang=de").stdout.splitlines()
    assert [json.loads(line)["id"] for line in found] == ["a"]


def test_milvus_shows_declared_fields_and_refuses_others_later(run, tmp_path):
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    spec = f"milvus:{tmp_path / 'milvus.db'}"
    folder = write(tmp_path / "rows", {"a.txt": "red apple"})
    index = ("index", folder, "--store", spec, "--model", "fake")
    run(*index, "--filter-field", "year:number")
    assert "filter_fields.year" in run("info", "--store", spec).stdout
    refused = run(*index, "--filter-field", "lang")
    assert refused.exit_code == 1
    assert "was made with --filter-field year:number, and that stays: leave --filter-field out" in refused.stderr
