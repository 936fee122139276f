"""Qdrant Edge in the form of the backends in tests/conftest.py, and what several test modules of it use."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from store_checks import random_embeddings
from support import REPOSITORY

from m3connect import Document, HybridStore, M3Embeddings

_numbers = itertools.count()


class EdgeBackend:
    """Folders in a folder. A name that is open is shared, since only one store at a time can have a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[str, tuple[dict[str, Any], Any]] = {}

    def open(self, name: str | None = None, **options: Any) -> HybridStore:
        import m3connect_edge

        name = name or f"edge_{next(_numbers)}"
        known, store = self._open.pop(name, (None, None))
        if known != options:
            if store is not None:
                store.close()
            store = m3connect_edge.EdgeStore(self._path / name, **{"dim": 16} | options)
        self._open[name] = options, store
        return store

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._open)

    def has(self, name: str) -> bool:
        return (self._path / name).exists()

    def reopen(self) -> None:
        for _, store in self._open.values():
            store.close()
        self._open.clear()

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        for name in self.names - kept:
            self._open.pop(name)[1].drop()

    def close(self) -> None:
        self.reopen()


def one(text: str = "text", *, name: str = "a", **fields: Any) -> list[Document]:
    return [Document(name, text, **fields)]


def marked(seed: int = 1, fingerprint: str | None = "one") -> M3Embeddings:
    return replace(random_embeddings(1, seed=seed), fingerprint=fingerprint)


def run_elsewhere(path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in another process, with the store's folder as PATH."""
    roots = [str(REPOSITORY / folder) for folder in ("", "adapters", "tests")]
    script = f"import sys; sys.path[:0] = {roots}; PATH = {str(path)!r}\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
