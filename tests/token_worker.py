"""The process that test_token_processes.py starts and kills: it fills a token store, and keeps a log of what it did.

Run as `python token_worker.py PATH LOG VERSION`: documents come in batches, each text in this version, and a line of
the log says that a batch is stored. Lines go to the system at once, so they outlive the process.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from m3connect import Document, M3Embeddings, SparseRows, token_file
from m3connect.embeddings import FloatArray
from m3connect.token_store import TokenStore

DIM = 32
BATCHES = 40
SIZE = 8
"""Documents in a batch."""

SMALL_MAP = 2**18
"""So small a map grows several times while the store is filled."""


def documents(batch: int, version: int) -> list[Document]:
    """The documents of one batch, in one version."""
    return [Document(f"d{batch}.{i}", f"text {i} of batch {batch}, version {version}") for i in range(SIZE)]


def matrices(batch: int, version: int) -> list[FloatArray]:
    """Their token vectors, of other lengths in each version."""
    rng = np.random.default_rng([batch, version])
    return [rng.standard_normal((40 + (7 * i + version) % 30, DIM)).astype(np.float32) for i in range(SIZE)]


def embeddings(batch: int, version: int) -> M3Embeddings:
    """The same as a batch."""
    tokens = tuple(matrices(batch, version))
    return M3Embeddings(np.zeros((SIZE, DIM), np.float32), SparseRows.empty(SIZE), multi_vector=tokens)


def main(path: str, log: str, version: str) -> None:
    """Store all batches, one after the other."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    token_file._FIRST_MAP = SMALL_MAP
    os.write(file, b"begin\n")
    with TokenStore(path) as tokens:
        for batch in range(BATCHES):
            tokens.put(documents(batch, int(version)), embeddings(batch, int(version)))
            os.write(file, f"{batch}\n".encode())
    os.write(file, b"done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
