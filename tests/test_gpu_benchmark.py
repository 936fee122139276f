"""benchmarks/gpu.py where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
