"""Token stores and processes: `kill -9` costs nothing that was acknowledged, and many read while one writes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import REPOSITORY

pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")

import token_worker as worker

from m3connect import token_file
from m3connect.token_rows import encode_rows
from m3connect.token_store import TokenStore


def start(path: Path, log: Path, version: int) -> subprocess.Popen[bytes]:
    log.touch()
    return subprocess.Popen(
        [sys.executable, str(Path(worker.__file__)), str(path), str(log), str(version)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
    )


def acknowledged(log: Path) -> set[int]:
    whole = log.read_text().rpartition("\n")[0]
    return {int(line) for line in whole.splitlines() if line.isdigit()}


def version_of(tokens: TokenStore, batch: int, versions: range) -> int | None:
    """Which version of a batch is stored, whole and with the right numbers; None where it is not there at all."""
    found = None
    for version in versions:
        rows = tokens.get(worker.documents(batch, version))
        assert len(rows.places) in (0, worker.SIZE), "a batch is stored in part"
        if rows.places:
            assert found is None, "a batch is stored in two versions"
            expected = encode_rows(worker.matrices(batch, version), "int8")
            np.testing.assert_array_equal(rows.rows.lengths, expected.lengths)
            np.testing.assert_array_equal(rows.rows.codes, expected.codes)
            found = version
    return found


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path, kills: int) -> None:
    path, chance = tmp_path / "tokens", random.Random(kills)
    least = dict.fromkeys(range(worker.BATCHES), -1)
    version = killed = 0
    while killed < kills:
        assert version < 3 * kills + 3, "the processes end before they can be killed"
        log = tmp_path / f"{version}.log"
        process = start(path, log, version)
        moment, deadline = chance.randrange(worker.BATCHES // 2), time.monotonic() + 60
        while process.poll() is None and len(acknowledged(log)) < moment:
            assert time.monotonic() < deadline, "the writer hangs"
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.01))
        process.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        killed += process.returncode != 0
        least |= dict.fromkeys(acknowledged(log), version)
        with TokenStore(path) as tokens:
            for batch, known in least.items():
                found = version_of(tokens, batch, range(version + 1))
                assert (-1 if found is None else found) >= known, f"batch {batch} fell back behind version {known}"
        version += 1


def test_processes_read_while_another_writes_and_lets_the_map_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is the reader, opened before the writer starts, with a map that soon is too small."""
    monkeypatch.setattr(token_file, "_FIRST_MAP", worker.SMALL_MAP)
    path, log = tmp_path / "tokens", tmp_path / "log"
    TokenStore(path).close()
    with TokenStore(path, readonly=True) as tokens:
        process = start(path, log, 0)
        while process.poll() is None:
            for batch in acknowledged(log):
                assert version_of(tokens, batch, range(1)) == 0
        assert process.returncode == 0, process.communicate()[1].decode()
        assert len(tokens) == worker.BATCHES * worker.SIZE
        assert all(version_of(tokens, batch, range(1)) == 0 for batch in range(worker.BATCHES))
        assert tokens.stats().bytes > 2 * worker.SMALL_MAP
    process.communicate()


def test_two_processes_write_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    writers = [start(path, tmp_path / f"{version}.log", version) for version in range(2)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    with TokenStore(path, readonly=True) as tokens:
        assert len(tokens) == worker.BATCHES * worker.SIZE
        assert all(version_of(tokens, batch, range(2)) is not None for batch in range(worker.BATCHES))
