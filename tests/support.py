"""What several test modules use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def require(adapter: str, *libraries: str, extra: str) -> None:
    """Skip where an adapter or its library is not there; an adapter that is there and broken must fail."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install 'm3connect[{extra}]'")
    spec = importlib.util.find_spec(adapter)
    if spec is None or spec.origin is None:
        pytest.skip(f"the adapter {adapter} is not there")


def store_spec(kind: str, folder: Path) -> str:
    """Name a store of this kind in a folder, as the command line does; skips where its library is missing."""
    if kind == "edge":
        require("m3connect_edge", "qdrant_edge", extra="qdrant-edge")
        return f"edge:{folder / 'edge'}"
    if kind == "qdrant":
        require("m3connect_qdrant", "qdrant_client", extra="qdrant")
        return f"qdrant:{folder / 'qdrant'}"
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    return f"milvus:{folder / 'milvus.db'}"
