"""The small set of these tests, as a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_set import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "small")
