"""What several test modules of Qdrant Edge use."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from store_checks import random_embeddings
from support import REPOSITORY

from m3connect import Document, M3Embeddings


def one(text: str = "text", *, name: str = "a", **fields: Any) -> list[Document]:
    return [Document(name, text, **fields)]


def marked(seed: int = 1, fingerprint: str | None = "one") -> M3Embeddings:
    return replace(random_embeddings(1, seed=seed), fingerprint=fingerprint)


def run_elsewhere(path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in another process, with the store's folder as PATH."""
    roots = [str(REPOSITORY / folder) for folder in ("", "adapters", "tests")]
    script = f"import sys; sys.path[:0] = {roots}; PATH = {str(path)!r}\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
