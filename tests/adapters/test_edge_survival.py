"""The Edge store under killed processes and many threads."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edge_helpers import run_elsewhere
from store_checks import assert_same_search, random_documents, random_embeddings

from m3connect import MemoryStore, ThreadedStore, Weighted
from m3connect.errors import CollectionMismatchError
from m3connect.filters import field

pytest.importorskip("qdrant_edge")

from m3connect_edge import EdgeStore
from m3connect_edge.folder import Folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs"


# -- a process that is killed -----------------------------------------------------------------------------------------

INGEST = """
import os, signal, threading, time
from store_checks import random_documents, random_embeddings
from m3connect_edge import EdgeStore
store, documents, batch = EdgeStore(PATH, dim=16), random_documents(2000), random_embeddings(2000, seed=1)
threading.Timer(DELAY, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
for i in range(0, 2000, 5):
    store.upsert(documents[i : i + 5], batch[i : i + 5])
    os.write(1, f"{i + 5}\\n".encode())
    if i % 250 == 245:
        store.flush()
    time.sleep(0.001)
time.sleep(60)
"""


@pytest.mark.parametrize("delay", [0.01, 0.2, 0.5])
def test_what_was_acknowledged_survives_a_kill(path: Path, delay: float) -> None:
    killed = run_elsewhere(path, f"DELAY = {delay}\n{INGEST}")
    assert killed.returncode == -9, killed.stderr
    acknowledged = int(killed.stdout.split()[-1]) if killed.stdout else 0
    documents, batch, oracle = random_documents(2000), random_embeddings(2000, seed=1), MemoryStore(dim=16)
    with EdgeStore(path, dim=16) as store:
        count = store.count()
        assert acknowledged <= count <= acknowledged + 5
        if count:
            assert store.get([document.id for document in documents]) == documents[:count]
            oracle.upsert(documents[:count], batch[:count])
            assert_same_search(store, oracle, random_embeddings(2, seed=3))
        store.insert(documents, batch)
        assert store.count() == 2000
        assert len({document.id for document in store.scroll()}) == 2000


# -- threads ----------------------------------------------------------------------------------------------------------


def test_writers_and_readers_at_once_lose_nothing(path: Path) -> None:
    documents, batch = random_documents(800), replace(random_embeddings(800, seed=1), fingerprint="one")
    errors: list[BaseException] = []
    done = threading.Event()

    def write(store: EdgeStore, start: int) -> None:
        for i in range(start, start + 200, 10):
            store.upsert(documents[i : i + 10], batch[i : i + 10])
            store.delete([documents[i].id])
            store.insert(documents[i : i + 10], batch[i : i + 10])

    def read(store: EdgeStore, seed: int) -> None:
        while not done.is_set():
            store.search(random_embeddings(2, seed=seed), filter=field("lang") == "de", fusion=Weighted())
            assert len({document.id for document in store.scroll()}) <= 800
            store.flush()

    def guarded(work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001  # told by the main thread
            errors.append(error)

    with EdgeStore(path, dim=16) as store:
        writers = [threading.Thread(target=guarded, args=(write, store, start)) for start in range(0, 800, 200)]
        readers = [threading.Thread(target=guarded, args=(read, store, seed)) for seed in range(4)]
        for thread in writers + readers:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
        assert errors == []
        assert store.count() == 800
        assert store.get([document.id for document in documents]) == documents


def test_of_two_first_fingerprints_one_is_refused(path: Path) -> None:
    with EdgeStore(path, dim=16) as store:
        folder: Folder = store._folder
        folder.write_fingerprint("one")  # as another thread does between the question and the write
        with pytest.raises(CollectionMismatchError, match=r"(?s)one.*two"):
            folder.write_fingerprint("two")
        assert store.info().fingerprint == "one"


async def count_and_search(store: EdgeStore) -> tuple[int, int]:
    wrapped = ThreadedStore(store)
    await wrapped.upsert(random_documents(5), random_embeddings(5, seed=1))
    return await wrapped.count(), len((await wrapped.search(random_embeddings(1, seed=2)))[0])


def test_a_threaded_store_answers_alike(path: Path) -> None:
    with EdgeStore(path, dim=16) as store:
        assert asyncio.run(count_and_search(store)) == (5, 5)
