"""Small random checkpoints in both published layouts, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference import Reference

from m3connect import M3Encoder
from m3connect.encoder.checkpoint import find_folder
from m3connect.testing_checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def mini_folder() -> Path:
    return find_folder("m3-mini")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, mini_folder: Path) -> Path:
    """Three random layers; the tokenizer is m3-mini's."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), tokenizer_folder=mini_folder, layers=3)


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)
