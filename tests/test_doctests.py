"""The examples in docstrings show what really comes out."""

from __future__ import annotations

import doctest
import importlib

import pytest
from support import REPOSITORY, require

ROOTS = {"m3connect": REPOSITORY, "adapters": REPOSITORY / "adapters"}
LIBRARIES = {
    "m3connect_qdrant": ("qdrant_client", "qdrant"),
    "m3connect_edge": ("qdrant_edge", "qdrant-edge"),
    "m3connect_milvus": ("pymilvus", "milvus"),
    "langchain_m3connect": ("langchain_core", "langchain"),
    "llama_index_m3connect": ("llama_index", "llama-index"),
}


def with_examples() -> list[str]:
    """Modules whose text has a prompt; the others are not even imported."""
    found = []
    for folder, root in ROOTS.items():
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                found.append(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", with_examples())
def test_docstring_examples_are_true(name: str) -> None:
    package = name.split(".")[0]
    if package in LIBRARIES:
        library, extra = LIBRARIES[package]
        require(package, library, extra=extra)
    if name.startswith("m3connect.evaluate"):
        pytest.importorskip("ir_measures", reason="measures need the extra eval")
    if name == "m3connect.token_store":
        pytest.importorskip("lmdb", reason="token stores need the extra rerank")
    if name == "m3connect.opening":
        require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, "see the captured output"
    assert result.attempted > 0
