"""What loading takes at its peak: the memory of the precision, and not that of float32."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY

from m3connect.encoder import linear
from m3connect.testing_checkpoints import write_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, which Linux has")

VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, POSITIONS = 60_000, 512, 2048, 4, 1026
MEGABYTE = 1e6
WORKING = 90
"""Megabytes that come on top: 50 for the tokenizer, a layer on its way, hidden states. A copy of all weights in float32
would be 170, one of the layers alone 50."""

PER_WEIGHT = {"float32": (0, 4), "bfloat16": (2, 2), "int8": (2, 1)}
"""Bytes for each number of the embeddings and of the layers; float32 embeddings stay in the mapped file."""


@pytest.fixture(scope="module")
def large_tokenizer(tmp_path_factory: pytest.TempPathFactory, mini_folder: Path) -> Path:
    """The tokenizer of m3-mini with many more pieces."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = json.loads((mini_folder / "tokenizer.json").read_text("utf-8"))
    pieces = tokenizer["model"]["vocab"]
    pieces += [[f"\u2581piece{i}", -20.0] for i in range(VOCABULARY - len(pieces))]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["safetensors", "bin"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, large_tokenizer: Path) -> Path:
    weights: Any = request.param
    return write_checkpoint(
        tmp_path_factory.mktemp("large"),
        tokenizer_folder=large_tokenizer,
        layers=LAYERS,
        hidden=HIDDEN,
        heads=8,
        intermediate=INTERMEDIATE,
        positions=POSITIONS,
        weights=weights,
    )


def resident(pid: int) -> float:
    """Megabytes of a process's own pages, swapped ones included; those of mapped files do not count."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:")))
    return kilobytes * 1024 / MEGABYTE


class Watch(threading.Thread):
    """Looks at a process's memory until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.stopped = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            self.peak = max(self.peak, resident(self.pid))
            time.sleep(0.001)


def load(folder: Path, name: str) -> tuple[float, float]:
    """Return the megabytes at the peak and at the end of loading, less those before."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("loading_worker.py")), str(folder), name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before, watch = resident(process.pid), Watch(process.pid)
        watch.start()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        watch.stopped.set()
        watch.join()
        after = resident(process.pid)
        process.stdin.write("\n")
    return watch.peak - before, after - before


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
@pytest.mark.skipif(not linear.has_onednn(), reason="float32 weights stay in the mapped file")
def test_loading_peaks_at_the_memory_of_its_precision(large: Path, name: str) -> None:
    of_embeddings, of_layers = PER_WEIGHT[name]
    layers = LAYERS * HIDDEN * (4 * HIDDEN + 2 * INTERMEDIATE) * of_layers
    weights = ((VOCABULARY + POSITIONS) * HIDDEN * of_embeddings + layers) / MEGABYTE
    peak, after = load(large, name)
    print(f"{name}: weights {weights:.0f} MB, peak {peak:.0f} MB, after {after:.0f} MB")
    assert after > weights - 20  # or the bound means nothing; what was there before may have been given back
    assert peak < weights + WORKING
