"""Small random models with gradients, and files to train them on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training import example, write_jsonl

from m3connect.encoder.checkpoint import find_folder
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.testing_checkpoints import write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mini_folder() -> Path:
    return find_folder("m3-mini")


@pytest.fixture(scope="session")
def tokenizer(mini_folder: Path) -> M3Tokenizer:
    return M3Tokenizer(mini_folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, mini_folder: Path) -> Path:
    """Two random layers of width 32."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(
        folder, tokenizer_folder=mini_folder, layers=2, hidden=32, heads=4, intermediate=64, positions=514
    )


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "train.jsonl", [example(i) for i in range(48)])
