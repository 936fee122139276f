"""Every example runs offline and prints something worth reading."""

import runpy
import sys
from pathlib import Path

import pytest
from support import REPOSITORY, require

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))


@pytest.fixture
def run(capsys, monkeypatch):
    def run(name, *arguments):
        path = REPOSITORY / "examples" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def qdrant():
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")


@pytest.fixture
def milvus():
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")


@pytest.fixture
def langchain():
    require("langchain_m3connect", "langchain_core", extra="langchain")


@pytest.fixture
def llama_index():
    require("llama_index_m3connect", "llama_index", extra="llama-index")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    assert text.startswith('"""')


def test_every_example_has_a_test():
    names = {
        "encode_three_views",
        "populate_qdrant",
        "populate_milvus",
        "filtered_search_with_rerank",
        "index_a_folder",
        "langchain_rag_chain",
        "langchain_rerank",
        "langchain_tenants",
        "from_langchain_qdrant",
        "llama_index_query_engine",
        "move_from_llama_index_milvus",
    }
    assert {path.stem for path in EXAMPLES} == names


def test_encode_three_views(run):
    shown = run("encode_three_views")
    assert "dense: (3, 256)" in shown
    assert "'Bees make honey from nectar.' weighs make" in shown
    nearer, farther = (line.split() for line in shown.splitlines()[-2:])
    assert nearer[6:] == ["Honey", "is", "made", "by", "bees."]
    assert all(float(nearer[i]) > float(farther[i]) for i in (1, 3, 5))


def test_populate_qdrant(run, qdrant):
    check_populated(run("populate_qdrant"))


def test_populate_milvus(run, milvus):
    check_populated(run("populate_milvus"))


def check_populated(shown):
    assert "stored 4, unchanged 0" in shown
    assert "the second time: stored 0, unchanged 4" in shown
    best, _ = shown.splitlines()[-2:]
    assert best.split()[1] == "tides"
    assert "dense" in best
    assert "sparse" in best


def test_filtered_search_with_rerank(run, qdrant):
    everything, modern, on_rails = (part.splitlines() for part in run("filtered_search_with_rerank").split(":\n")[1:])
    assert "Fast trains began" in everything[0]
    assert any("first railway" in line for line in everything)
    assert not any("first railway" in line for line in modern)
    assert any("plane" in line for line in modern)
    assert not any("plane" in line for line in on_rails)


def test_index_a_folder_makes_its_own(run, qdrant):
    shown = run("index_a_folder")
    assert 'faq.jsonl:2: "text" must be a string, but is int' in shown
    assert "4 documents stored" in shown
    assert shown.splitlines()[2].split()[1] == "notes/bread.md"


def test_index_a_folder_of_ones_own(run, qdrant, tmp_path):
    (tmp_path / "moon.md").write_text("The moon pulls at the sea.", encoding="utf-8")
    shown = run("index_a_folder", tmp_path, "Who pulls at the sea?")
    assert "1 documents stored" in shown
    assert "moon.md" in shown


def test_langchain_rag_chain(run, langchain):
    shown = run("langchain_rag_chain")
    assert shown.index("[tides] The moon") < shown.index("Question: Why does the sea rise and fall?")
    assert "Bees" not in shown
    assert shown.splitlines()[-1] == "The moon pulls at it [tides]."


def test_langchain_rerank(run, langchain):
    before, after = (part.splitlines() for part in run("langchain_rerank").split(":\n")[1:])
    assert len(before) == 4  # three documents, and the next title
    assert len(after) == 2
    assert "Fast trains began" in after[0]
    assert all("'multi_vector'" in line for line in after)


def test_langchain_tenants(run, langchain, qdrant):
    farm, since, market = (line.split(": ", 1)[1] for line in run("langchain_tenants").splitlines())
    assert "stored in the cellar" in farm
    assert "prices" not in farm
    assert since == "['The cellar is closed on Sunday.']"
    assert market == "[]"


def test_from_langchain_qdrant(run, langchain, qdrant):
    pytest.importorskip("langchain_qdrant")
    before, after = run("from_langchain_qdrant").splitlines()
    assert before == "langchain-qdrant: Bees make honey from nectar."
    assert after == "m3connect: The moon moves the sea. id kept: True"


def test_llama_index_query_engine(run, qdrant, llama_index):
    found, read = run("llama_index_query_engine").split("the language model read:\n")
    best, second = found.splitlines()
    assert "sea: The moon pulls" in best
    assert float(best.split()[0]) > float(second.split()[0])
    assert "The moon pulls" in read
    assert "Why does the water of the sea rise?" in read


def test_move_from_llama_index_milvus(run, milvus, llama_index):
    moved, best = run("move_from_llama_index_milvus").splitlines()
    assert moved == "moved ['bees', 'tides']"
    assert best.endswith("tides: The moon pulls at the sea.")
