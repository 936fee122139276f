"""benchmarks/gpu.py where there is no GPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY


def test_without_a_gpu_the_benchmark_says_so_in_one_line(tmp_path: Path) -> None:
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "adapters")])
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), "--json", str(tmp_path / "gpu.json")],
        env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    [line] = done.stdout.splitlines()
    assert line.startswith("skipped: torch ")
    assert "finds no GPU here" in line
    assert json.loads((tmp_path / "gpu.json").read_text())["skipped"] == line


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("gpu")


def test_a_peer_that_fails_is_left_out_with_its_reason_and_m3connect_is_not(gpu: Any) -> None:
    def fail(texts: Sequence[str]) -> object:
        raise MemoryError(f"no room for {len(texts)} texts [of 8,192 tokens]")

    left_out: dict[str, str] = {}
    assert gpu.attempt(len, ["a"], name=gpu.FLAG, left_out=left_out, calls=3) >= 0
    assert left_out == {}
    assert gpu.attempt(fail, ["a", "b"], name=gpu.FLAG, left_out=left_out) is None
    assert left_out == {"FlagEmbedding": "MemoryError: no room for 2 texts [of 8,192 tokens]"}
    with pytest.raises(MemoryError, match="no room for 2 texts"):
        gpu.attempt(fail, ["a", "b"], name=gpu.OURS, left_out=left_out)
