"""The command line as a user drives it."""

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError, field_validator
from support import REPOSITORY, require, store_spec

from m3connect import M3Encoder
from m3connect.cli.conditions import parse_filter, parse_filters
from m3connect.cli.messages import message_of
from m3connect.filters import matches
from m3connect.opening import open_store, size_advice


@pytest.fixture(params=["qdrant", "milvus"])
def spec(request, tmp_path):
    return store_spec(request.param, tmp_path / "databases")


@pytest.fixture
def qdrant(tmp_path):
    return store_spec("qdrant", tmp_path)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "tree.txt").write_text("a tall green tree", encoding="utf-8")
    rows = [
        {"id": "apple", "text": "red apple in the garden", "lang": "en", "year": 1990},
        {"id": "sea", "text": "deep blue sea", "lang": "en", "year": 2000},
        {"id": "apfel", "text": "roter apple im Garten", "lang": "de", "year": 2010},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def ids(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


def test_index_then_search_finds_the_documents(run, spec, folder):
    indexed = run("index", folder, "--store", spec, "--model", "fake")
    assert indexed.exit_code == 0, indexed.output
    assert "stored     4" in indexed.stdout
    assert "holds 4 documents" in " ".join(indexed.stdout.split())
    found = run("search", "deep blue sea", "--store", spec, "--model", "fake", "--json", "--top-k", 2)
    assert ids(found)[0] == "sea"
    first = json.loads(found.stdout.splitlines()[0])
    assert first["rank"] == 1
    assert first["scores"].keys() == {"dense", "sparse"}
    origin = [folder.as_posix(), (folder / "rows.jsonl").as_posix()]
    assert first["metadata"] == {"source": "rows.jsonl", "lang": "en", "year": 2000, "indexed_from": origin}


def test_a_second_run_encodes_nothing(run, spec, folder):
    run("index", folder, "--store", spec, "--model", "fake")
    again = run("index", folder, "--store", spec, "--model", "fake")
    assert again.exit_code == 0
    assert "stored     0" in again.stdout
    assert "unchanged  4" in again.stdout


def test_filters_narrow_a_search(run, spec, folder):
    run("index", folder, "--store", spec, "--model", "fake")
    search = ("search", "apple", "--store", spec, "--model", "fake", "--json")
    assert ids(run(*search, "--filter", "lang=de")) == ["apfel"]
    assert set(ids(run(*search, "--filter", "year>=1990", "--filter", "year<2010"))) == {"apple", "sea"}
    assert set(ids(run(*search, "--filter", "lang!=en"))) == {"apfel", "tree.txt"}
    assert ids(run(*search, "--where", "lang=en", "--where", "year>1990")) == ["sea"]
    assert ids(run(*search, "--where", "lang~D")) == ["apfel"]


def test_rerank_brings_the_score_of_every_leg(run, spec, folder):
    run("index", folder, "--store", spec, "--model", "fake")
    result = run("search", "red apple", "--store", spec, "--model", "fake", "--rerank", "--json")
    assert ids(result)[0] == "apple"
    hit = json.loads(result.stdout.splitlines()[0])
    legs = hit["scores"]
    assert hit["score"] == pytest.approx(legs["dense"] + 0.3 * legs["sparse"] + legs["multi_vector"])


@pytest.mark.parametrize("fusion", ["rrf", "weighted", "dense", "sparse"])
def test_every_fusion_finds_the_text_itself(run, qdrant, folder, fusion):
    run("index", folder, "--store", qdrant, "--model", "fake")
    assert ids(
        run("search", "red apple in the garden", "--store", qdrant, "--model", "fake", "--fusion", fusion, "--json")
    )[0] == ("apple")


def test_search_shows_a_table_of_hits_with_each_score(run, qdrant, folder):
    run("index", folder, "--store", qdrant, "--model", "fake")
    shown = run("search", "deep blue sea", "--store", qdrant, "--model", "fake", "--top-k", 1).stdout
    header, row = (line.split() for line in shown.splitlines())
    assert header == ["#", "score", "dense", "sparse", "multi", "id", "text"]
    assert row[:3] == ["1", "0.033", "1.000"]
    assert row[4:] == ["-", "sea", "deep", "blue", "sea"]


def test_a_search_that_finds_nothing_says_so(run, qdrant, folder):
    run("index", folder, "--store", qdrant, "--model", "fake")
    result = run("search", "apple", "--store", qdrant, "--model", "fake", "--filter", "lang=xx")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing was found" in result.stderr


def test_what_was_set_aside_is_listed_and_the_exit_code_is_3(run, qdrant, folder):
    (folder / "bad.jsonl").write_text('{"text": "cut\n{"text": "fine"}\n{"text": "no", "n": NaN}\n', encoding="utf-8")
    result = run("index", folder, "--store", qdrant, "--model", "fake")
    assert result.exit_code == 3
    assert "stored     5" in result.stdout
    assert "set aside  2" in result.stdout
    listed = " ".join(result.stderr.split())
    assert "1 this is not JSON" in listed
    assert "'bad.jsonl:3' - metadata['n'] holds nan" in listed


def test_token_vectors_are_found_again_without_being_asked_for(run, qdrant, folder):
    run("index", folder, "--store", qdrant, "--model", "fake", "--multi-vector")
    assert run("index", folder, "--store", qdrant, "--model", "fake").exit_code == 0
    assert "token vectors  stored" in run("info", "--store", qdrant).stdout
    hit = json.loads(run("search", "sea", "--store", qdrant, "--model", "fake", "--json").stdout.splitlines()[0])
    assert hit["scores"].keys() == {"dense", "sparse", "multi_vector"}


def test_the_default_model_is_announced_as_a_demonstration(run, spec, tmp_path):
    (tmp_path / "a.txt").write_text("Bees make honey.", encoding="utf-8")
    (tmp_path / "b.txt").write_text("The train leaves at noon.", encoding="utf-8")
    indexed = run("index", tmp_path / "a.txt", tmp_path / "b.txt", "--store", spec)
    found = run("search", "honey of bees", "--store", spec, "--json", "--rerank")
    assert ids(found) == ["a.txt", "b.txt"]
    for result in (indexed, found):
        assert "m3-mini, a small demonstration model; real work wants --model BAAI/bge-m3" in result.stderr
    assert "demonstration" not in run("search", "honey", "--store", spec, "--model", "m3-mini").stderr


def test_encode_prints_one_json_object_a_line(run, mini):
    result = run("encode", "--multi-vector", "--batch-size", 2, text="Bees make honey.\n\n蜜蜂酿蜜。\r\n")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["Bees make honey.", "", "蜜蜂酿蜜。"]
    batch = mini.encode([row["text"] for row in rows], multi_vector=True)
    for i, row in enumerate(rows):
        assert row["dense"] == pytest.approx(batch.dense[i].tolist(), abs=1e-5)
        assert {int(token) for token in row["sparse"]} == set(batch.sparse.to_dicts()[i])
        assert len(row["multi_vector"]) == len(batch.multi_vector[i])


def test_encode_leaves_out_lines_that_are_not_utf8_and_names_them(run, tmp_path):
    content = "\ufeffgood\n".encode() + b"b\xffd\n" + "蜜蜂\n".encode() + b"\xe9t\xe9\n" + b"last"
    (tmp_path / "texts.txt").write_bytes(content)
    for result in (run("encode", "--model", "fake", text=content), run("encode", tmp_path / "texts.txt")):
        assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["good", "蜜蜂", "last"]
        assert result.exit_code == 2
        [line] = [line for line in result.stderr.splitlines() if not line.startswith("note:")]
        assert line == "error: lines 2, 4 are not UTF-8; all other lines were encoded"
    one = run("encode", "--model", "fake", text=b"\xff\n")
    assert "error: line 1 is not UTF-8" in one.stderr


def test_encode_shows_pieces_of_words_heaviest_first(run, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("Bees make honey.\n", encoding="utf-8")
    row = json.loads(run("encode", path, "--tokens").stdout)
    assert "make" in row["sparse"]
    assert list(row["sparse"].values()) == sorted(row["sparse"].values(), reverse=True)
    assert "multi_vector" not in row


def test_info_shows_what_is_installed_the_model_and_the_store(run, mini, spec, folder):
    run("index", folder, "--store", spec, "--model", "m3-mini", "--collection", "notes")
    shown = run("info", "--model", "m3-mini", "--store", spec, "--collection", "notes").stdout
    for fact in (
        "m3connect",
        "torch",
        "extra qdrant",
        "extra milvus",
        "8,192 tokens",
        "documents      4",
        "settings",
        "version",
    ):
        assert fact in shown
    assert shown.count(mini.fingerprint) == 2


def test_info_shows_the_settings_of_every_embedded_store(run, any_spec, folder):
    run("index", folder, "--store", any_spec, "--model", "fake")
    shown = run("info", "--model", "m3-mini", "--store", any_spec).stdout
    before, settings = shown.split("settings\n")
    assert {"collection docs", "documents 4", "token vectors not stored"} <= {
        " ".join(x.split()) for x in before.splitlines()
    }
    backend = {"edge": "qdrant-edge", "qdrant": "qdrant", "milvus": "milvus"}[any_spec.partition(":")[0]]
    assert ["backend", backend] in [line.split() for line in settings.splitlines()]


def test_the_version_is_shown(run):
    assert run("--version").stdout.startswith("m3connect 0.")


@pytest.mark.parametrize("command", ["index", "search", "encode", "info", "demo"])
def test_every_command_explains_itself_with_an_example(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert f"m3connect {command}" in result.stdout
    assert "Exit codes: 0 done; 1 failure" in result.stdout


def test_the_help_of_search_explains_filters(run):
    shown = " ".join(run("search", "--help", columns=200).stdout.replace("│", " ").split())
    assert "--filter,--where" in shown.replace(", ", ",")
    assert "key=value, key!=value, key>number, key>=number, key<number, key<=number, key~text" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--store", "qdrant"], "names no store"),
        (["--store", "elastic:x"], "names no store"),
        (["--store", "milvus:folder"], "ends in .db"),
        (["--store", "qdrant:http://[::1"], "is no address"),
        (["--store", "milvus:http://host:port"], "is no address"),
        (["--store", "qdrant::memory:", "--filter", "year"], "is no filter"),
        (["--store", "qdrant::memory:", "--filter", "year>soon"], "order is for numbers"),
        (["--store", "qdrant::memory:", "--top-k", "0"], "--top-k"),
        (["--store", "qdrant::memory:", "--fusion", "magic"], "--fusion"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_was_expected(run, arguments, message):
    result = run("search", "question", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_a_path_that_is_not_there_ends_with_2(run):
    result = run("index", "nowhere", "--store", "qdrant::memory:")
    assert result.exit_code == 2
    assert "does not exist" in " ".join(result.stderr.replace("│", " ").split())


def failure(result):
    """The one line that a failure is."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if not line.startswith("note:")]
    return line


def test_a_database_that_is_not_there_is_one_line_and_is_not_made(run, spec):
    assert "there is no database at" in failure(run("search", "question", "--store", spec))
    assert not Path(spec.partition(":")[2]).exists()


def test_a_collection_that_is_not_there_is_one_line(run, spec, folder):
    run("index", folder, "--store", spec, "--model", "fake")
    assert "'other'" in failure(run("search", "question", "--store", spec, "--collection", "other", "--model", "fake"))


@pytest.fixture(params=["edge", "qdrant", "milvus"])
def any_spec(request, tmp_path):
    return store_spec(request.param, tmp_path)


PYTHON = re.compile(r"\b[a-z_]+=|\w\(|[a-z]_[a-z]|Errno|Value error")
"""What belongs to Python: arguments, calls, names."""


def assert_plain(line, spec):
    assert not PYTHON.search(line.replace(spec.partition(":")[2], "")), line


def test_another_model_than_the_one_that_indexed_is_one_line_about_options(run, any_spec, folder):
    run("index", folder, "--store", any_spec, "--model", "fake")
    for command in (("search", "question"), ("index", folder)):
        line = failure(run(*command, "--store", any_spec, "--model", "other"))
        assert "other-encoder" in line
        assert "--model that filled it, or another --collection" in line
        line = failure(run(*command, "--store", any_spec, "--model", "wide"))
        assert "holds vectors of dimension 16, but the model makes 32: name the --model that filled it" in line
        assert_plain(line, any_spec)


def test_token_vectors_that_a_collection_lacks_or_has_are_one_line_about_options(run, any_spec, folder):
    index = ("index", folder, "--store", any_spec, "--model", "fake")
    run(*index)
    if any_spec.startswith("milvus"):
        assert run(*index, "--multi-vector").exit_code == 2
    else:
        assert "without token vectors: leave --multi-vector out" in failure(run(*index, "--multi-vector"))
        both = ("--collection", "both")
        run(*index, *both, "--multi-vector")
        assert "with token vectors: leave --no-multi-vector out" in failure(run(*index, *both, "--no-multi-vector"))


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 300])
def test_a_collection_that_cannot_be_named_so_is_one_line(run, any_spec, folder, name):
    line = failure(run("index", folder, "--store", any_spec, "--model", "fake", "--collection", name))
    assert_plain(line, any_spec)


def test_a_collection_that_m3connect_did_not_make_is_one_line_about_options(run, any_spec, folder):
    make_foreign(any_spec)
    for command in (("search", "question"), ("index", folder), ("info",)):
        line = failure_of_any(run(*command, "--store", any_spec, "--model", "m3-mini"))
        assert "--collection" in line
        assert_plain(line, any_spec)


def make_foreign(spec):
    """Make a collection that lacks m3connect's marker."""
    kind, _, path = spec.partition(":")
    with open_store(spec, "docs", dim=16):
        pass
    if kind == "edge":
        (Path(path) / "docs" / "m3connect.json").unlink()
    elif kind == "qdrant":
        from qdrant_client import QdrantClient, models

        with closing(QdrantClient(path=path)) as client:
            client.delete_collection("docs")
            vectors = {"dense": models.VectorParams(size=16, distance=models.Distance.DOT)}
            client.create_collection("docs", vectors, sparse_vectors_config={"sparse": models.SparseVectorParams()})
    else:
        with open_store(spec, "docs") as store:
            store._client.drop_collection_properties("docs", ["m3connect.schema"])


def failure_of_any(result):
    assert result.exit_code == 1, result.output
    [line] = [line for line in result.stderr.splitlines() if not line.startswith("note:")]
    return line


def test_too_many_hits_for_milvus_name_the_option(run, tmp_path, folder):
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    spec = f"milvus:{tmp_path / 'm.db'}"
    run("index", folder, "--store", spec, "--model", "fake")
    line = failure(run("search", "sea", "--store", spec, "--model", "fake", "--top-k", 20_000))
    assert line.endswith("lower --top-k")
    assert_plain(line, spec)


def test_what_a_validating_library_says_is_shown_without_its_trappings():
    class Point(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def _check(cls, value):
            raise ValueError("x is too far out")

    with pytest.raises(ValidationError) as caught:
        Point(x=1)
    assert message_of(caught.value) == "x is too far out"
    assert message_of(PermissionError(13, "Permission denied", "a.db")) == "a.db: Permission denied"


def test_a_database_in_use_is_one_line(spec):
    with open_store(spec, "docs", dim=16):
        done = python("-m", "m3connect", "search", "question", "--store", spec)
    assert done.returncode == 1
    assert f"error: cannot open {spec}:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_does_not_answer_is_one_line(run):
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    assert "cannot open qdrant:http://127.0.0.1:9" in failure(
        run("search", "q", "--store", "qdrant:http://127.0.0.1:9")
    )


def test_a_missing_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    for name in [name for name in sys.modules if name.startswith("m3connect_qdrant")]:
        monkeypatch.delitem(sys.modules, name)
    line = failure(run("search", "question", "--store", "qdrant::memory:"))
    assert "m3connect[qdrant]" in line


def test_debug_lets_the_traceback_through(run, spec):
    result = run("search", "question", "--store", spec, "--debug")
    assert isinstance(result.exception, FileNotFoundError)


def test_a_bug_of_ours_is_not_hidden(run, monkeypatch):
    monkeypatch.setattr(M3Encoder, "from_pretrained", lambda name, **_: 1 / 0)
    assert isinstance(run("encode", text="a").exception, ZeroDivisionError)


def test_a_closed_store_can_be_opened_by_another_process(spec):
    with open_store(spec, "docs", dim=16) as store:
        assert store.count() == 0
    code = f"""
from m3connect.opening import open_store
with open_store({spec!r}, "docs", create=False) as store:
    print(store.count())
"""
    assert python("-c", code).stdout.strip() == "0"


def test_closing_one_store_of_a_milvus_file_leaves_the_other_open(tmp_path):
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    spec = f"milvus:{tmp_path / 'two.db'}"
    with open_store(spec, "a", dim=16) as first:
        with open_store(spec, "b", dim=16) as second:
            assert second.count() == 0
        assert first.count() == 0


@pytest.mark.parametrize(
    ("condition", "passing", "failing"),
    [
        ("lang=de", {"lang": "de"}, {"lang": "en"}),
        ("lang = de", {"lang": "de"}, {}),
        ("year=1990", {"year": 1990}, {"year": 1991}),
        ("year=1990", {"year": "1990"}, {"year": True}),
        ('year="1990"', {"year": "1990"}, {"year": 1990}),
        ("new=true", {"new": True}, {"new": False}),
        ("new=true", {"new": "true"}, {"new": 1}),
        ("tags=red", {"tags": ["red", "blue"]}, {"tags": ["blue"]}),
        ("lang!=de", {"lang": "en"}, {"lang": "de"}),
        ("lang!=de", {}, {"lang": ["de"]}),
        ("year>1990", {"year": 1991}, {"year": 1990}),
        ("year>=1990", {"year": 1990}, {"year": "1990"}),
        ("price<1.5", {"price": 1.25}, {"price": 1.5}),
        ("price<=-1.5", {"price": -2}, {"price": 0}),
        ("title~Apple", {"title": "red apples"}, {"title": "sea"}),
        ("url=http://a?b=c", {"url": "http://a?b=c"}, {"url": "http://a"}),
        ("note=", {"note": ""}, {}),
        ("key with spaces=a b", {"key with spaces": "a b"}, {"key": "a b"}),
    ],
)
def test_a_filter_means_what_it_says(condition, passing, failing):
    assert matches(parse_filter(condition), passing)
    assert not matches(parse_filter(condition), failing)


@pytest.mark.parametrize("text", ["", "lang", "=de", ">3", "year>", "year>=true", "year<NaN", 'a"b=c'])
def test_what_is_no_filter_is_refused(text):
    with pytest.raises(ValueError, match=r"filter|order|key"):
        parse_filter(text)


def test_several_filters_must_all_hold():
    both = parse_filters(["a=1", "b=2"])
    assert matches(both, {"a": 1, "b": 2})
    assert not matches(both, {"a": 1})
    assert parse_filters([]) is None


def python(*arguments):
    """Run Python in a process of its own, as a user would."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "adapters")])
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


def test_help_loads_neither_torch_nor_a_database():
    code = """
import sys
sys.argv = ["m3connect", "--help"]
from m3connect.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "qdrant_client", "pymilvus", "milvus_lite", "grpc"}
    print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = python("-c", code)
    assert done.returncode == 0
    assert "Usage: m3connect" in done.stdout
    assert done.stderr.strip() == "[]"


def test_a_failure_in_a_process_of_its_own_is_one_line_and_a_code(tmp_path):
    done = python("-m", "m3connect", "search", "question", "--store", f"qdrant:{tmp_path / 'none'}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no database at")
    assert done.stderr.count("\n") == 1


def test_a_blank_question_is_wrong_usage(run, tmp_path):
    result = run("search", "  ", "--store", f"qdrant:{tmp_path / 'x'}")
    assert result.exit_code == 2
    assert "blank" in result.stderr


def test_without_a_store_the_folder_of_qdrant_edge_is_used(run, tmp_path, monkeypatch):
    require("m3connect_edge", "qdrant_edge", extra="qdrant-edge")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("deep blue sea")
    indexed = run("index", "notes", "--model", "fake")
    assert (indexed.exit_code, (tmp_path / "m3connect-index" / "docs").is_dir()) == (0, True)
    assert "edge:m3connect-index" in indexed.stderr
    found = run("search", "sea", "--model", "fake", "--json")
    assert ids(found) == ["a.txt"]


def test_outgrown_databases_are_named():
    assert "edge:PATH" in size_advice("qdrant:folder", 5_001)
    assert size_advice("milvus:docs.db", 20_000) is None
    assert "20,001" in size_advice("milvus:docs.db", 20_001)
    assert size_advice("qdrant:http://host:6333", 10**9) is None
    assert size_advice("edge:folder", 10**6) is None


def test_without_a_store_and_without_edge_one_must_be_named(run, monkeypatch):
    monkeypatch.setattr("m3connect.cli.options.find_spec", lambda name: None)
    result = run("search", "question")
    assert result.exit_code == 2
    assert "--store" in result.stderr
