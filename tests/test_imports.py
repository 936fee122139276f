"""Which room may import which, and what an import costs and changes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY, require

import m3connect

LAYERS: list[set[str]] = [
    {"_version", "errors", "facts", "threads"},
    {"embeddings"},
    {"compiling"},
    {"device_rows", "token_rows"},
    {"maxsim_products"},
    {"maxsim_kernel"},
    {"maxsim"},
    {"scoring", "fusion", "filters"},
    {"splitting"},
    {"store"},
    {"document_checks", "token_entries", "token_file"},
    {"token_base"},
    {"blame", "points", "prepared", "search", "token_store", "chunking", "encoding", "pool", "agreement"},
    {"flows"},
    {"base", "foreign"},
    {"awaiting", "memory", "ingestion", "retrieval"},
]
"""The core: a room imports from the layers below its own and from nowhere else."""

MODEL = {
    "encoder": {"compiling", "errors", "embeddings", "threads"},
    "train": {"errors", "embeddings", "encoder", "fusion", "scoring", "store"},
}
"""Beside the core stands the model; of stores it knows what they are, for mining."""

CORE = set.union(*LAYERS)

LIBRARIES: dict[str, set[str]] = {
    "device_rows": {"torch"},
    "ingestion": {"tenacity", "tqdm"},
    "compiling": {"llvmlite", "numba"},
    "maxsim_kernel": {"llvmlite", "numba"},
    "maxsim_products": {"torch"},
    "threads": {"torch"},
    "token_file": {"lmdb"},
    "token_store": {"lmdb"},
    "encoder": {"huggingface_hub", "llvmlite", "numba", "safetensors", "tokenizers", "torch", "tqdm", "transformers"},
    "train": {"matplotlib", "safetensors", "tokenizers", "torch", "tqdm", "transformers"},
    "evaluate": {"ir_measures", "matplotlib", "mteb", "rich", "tqdm"},
    "cli": {"rich", "typer"},
    "opening": {"m3connect_edge", "m3connect_milvus", "m3connect_qdrant", "milvus_lite", "pymilvus", "qdrant_client"},
    "testing_checkpoints": {"safetensors", "tokenizers", "torch", "transformers"},
}
"""What a room may import, apart from the standard library and numpy, even inside a function."""

ADAPTERS = {
    "m3connect_qdrant": {"grpc", "qdrant_client"},
    "m3connect_edge": {"filelock", "qdrant_edge"},
    "m3connect_milvus": {"grpc", "pymilvus"},
    "langchain_m3connect": {"langchain_core", "langchain_milvus", "langchain_qdrant", "pydantic"},
    "llama_index_m3connect": {"llama_index", "pydantic"},
}


def modules(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file names in an import, wherever it stands, and whether only type checkers see it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in unseen) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            module = node.module or ""
            parts = [f"{module}.{alias.name}" for alias in node.names] if module == "m3connect" else [module]
            yield from ((part, id(node) in unseen) for part in parts)


def room_of(module: str) -> str:
    """The part of m3connect that a module belongs to; names that the package itself exports have no room."""
    room = [*module.split("."), ""][1]
    found = REPOSITORY / "m3connect" / room
    return room if room and (found.is_dir() or found.with_suffix(".py").is_file()) else ""


def rooms() -> list[Path]:
    return [
        path
        for path in modules(REPOSITORY / "m3connect")
        if path.name != "__init__.py" or path.parent.name != "m3connect"
    ]


def room_of_path(path: Path) -> str:
    return path.relative_to(REPOSITORY / "m3connect").parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", rooms(), ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of_path(path)
    named = {room_of(module) for module, unseen in imported(path) if module.startswith("m3connect.") and not unseen}
    if room in CORE:
        level = next(i for i, layer in enumerate(LAYERS) if room in layer)
        allowed = set().union(*LAYERS[:level]) | {room}
    elif room in MODEL:
        allowed = MODEL[room] | {room}
    else:
        return  # on top: cli, evaluate, demo and the like may import everything
    assert named <= allowed, f"{room} must not import {sorted(named - allowed)}"


@pytest.mark.parametrize("path", rooms(), ids=name_of)
def test_a_room_imports_only_its_own_libraries(path: Path) -> None:
    allowed = {"m3connect", "numpy", *sys.stdlib_module_names} | LIBRARIES.get(room_of_path(path), set())
    assert {module.split(".")[0] for module, _ in imported(path)} <= allowed


@pytest.mark.parametrize("path", modules(REPOSITORY / "adapters"), ids=name_of)
def test_an_adapter_imports_the_core_and_its_one_library(path: Path) -> None:
    package = path.relative_to(REPOSITORY / "adapters").parts[0]
    allowed = {"m3connect", "numpy", package, *sys.stdlib_module_names} | ADAPTERS[package]
    names = {module for module, _ in imported(path)}
    assert {name.split(".")[0] for name in names} <= allowed
    used = {room_of(name) for name in names if name.split(".")[0] == "m3connect"}
    assert used <= CORE | {"", "chunking", "encoder"}, f"{package} must not import {sorted(used)}"


def test_nothing_but_tests_imports_the_test_doubles() -> None:
    for path in rooms() + modules(REPOSITORY / "adapters"):
        if not path.name.startswith("testing"):
            assert not any(name.startswith("m3connect.testing") for name, _ in imported(path)), path


def test_every_package_says_what_it_offers() -> None:
    for path in modules(REPOSITORY / "m3connect") + modules(REPOSITORY / "adapters"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "__init__.py" and any(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body):
            targets = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
            assert any(target.startswith("__all__") for target in targets), path


def test_no_top_level_module_is_called_adapters() -> None:
    assert not list((REPOSITORY / "adapters").glob("__init__.py"))


def run(code: str) -> str:
    """Run code in a fresh interpreter that sees only the repository and the installed libraries."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "adapters")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_numpy_and_no_other_third_party_package() -> None:
    code = """
import sys, numpy
before = set(sys.modules)
import m3connect, m3connect.filters, m3connect.testing, m3connect.errors
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {"numpy"}))
"""
    assert run(code) == "['m3connect']"


def test_importing_the_package_changes_nothing() -> None:
    code = """
import logging, os, sys, threading, warnings, numpy
state = lambda: (dict(os.environ), list(warnings.filters), threading.active_count(), list(logging.getLogger().handlers))
before = state()
import m3connect
print(state() == before, logging.getLogger("m3connect").handlers)
"""
    assert run(code) == "True []"


@pytest.mark.parametrize(
    ("adapter", "library", "extra"),
    [
        ("m3connect_qdrant", "qdrant_client", "qdrant"),
        ("m3connect_milvus", "pymilvus", "milvus"),
        ("langchain_m3connect", "langchain_core", "langchain"),
        ("llama_index_m3connect", "llama_index", "llama-index"),
    ],
)
def test_a_missing_library_names_the_extra(adapter: str, library: str, extra: str) -> None:
    code = f"""
import sys
sys.modules[{library!r}] = None
try:
    import {adapter}
except ImportError as error:
    print(error)
"""
    assert f"m3connect[{extra}]" in run(code)


def test_the_llamaindex_adapter_loads_no_model_and_no_database() -> None:
    require("llama_index_m3connect", "llama_index", extra="llama-index")
    heavy = ["torch", "transformers", "qdrant_client", "pymilvus", "qdrant_edge", "langchain_core"]
    assert run(f"import sys, llama_index_m3connect; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_the_encoder_is_found_when_it_is_asked_for() -> None:
    assert "M3Encoder" in m3connect.__all__
    assert all(hasattr(m3connect, name) for name in m3connect.__all__ if name != "M3Encoder")
    with pytest.raises(AttributeError, match="no attribute 'M3Decoder'"):
        m3connect.M3Decoder  # noqa: B018
