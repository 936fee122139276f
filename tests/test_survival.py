"""What was acknowledged outlives `kill -9`, and many threads at once lose nothing, on the embedded databases."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import survival_worker as worker
from support import REPOSITORY, require

from m3connect import Document, HybridStore, M3Embeddings
from m3connect.filters import field
from m3connect.testing import FakeEncoder

FEW = ["ack", "ack"]
MANY = ["ack"] * 10 + ["begin"] * 2 + ["flush"] * 2
"""Ten kills while batches go in, and more while the database is opened or made, and while it is flushed."""


@pytest.fixture(params=["edge", "milvus-lite"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "edge":
        require("m3connect_edge", "qdrant_edge", "filelock", extra="qdrant-edge")
    else:
        require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    return str(request.param)


# Killed processes.


class Ingests:
    """Processes that ingest into one database, one after the other, and what each of them noted."""

    def __init__(self, kind: str, folder: Path, seed: int) -> None:
        self.kind = kind
        self.path = folder / "database"
        self.version = 0
        self.kills = 0
        self.runs = 0
        self._folder = folder
        self._random = random.Random(seed)
        self._acknowledged: set[tuple[int, str]] = set()

    def run(self, moment: str | None = None) -> bool:
        """Start a process, kill it some milliseconds after a moment, and say whether it was killed before its end."""
        self.runs += 1
        log, errors = self._folder / f"run-{self.runs}.log", self._folder / f"run-{self.runs}.err"
        log.touch()
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, str(Path(worker.__file__)), self.kind, str(self.path), str(log), str(self.version)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "adapters")])},
                stderr=sink,
            )
        try:
            if moment is not None:
                self._wait(process, log, moment)
                process.kill()
            code = process.wait(timeout=120)
        finally:
            process.kill()
            process.wait()
        events = read_log(log)
        assert code in (0, -signal.SIGKILL), f"run {self.runs}: {errors.read_text(errors='replace')[-4000:]}"
        self._judge(events)
        self.kills += code != 0
        return code != 0

    def _wait(self, process: subprocess.Popen[bytes], log: Path, moment: str) -> None:
        times = self._random.randint(1, 12) if moment == "ack" else 1
        # Edge is open within milliseconds, Lite takes half a second.
        pause = 10 ** self._random.uniform(-3, -0.3) if moment == "begin" else self._random.uniform(0, 0.03)
        deadline = time.monotonic() + 120
        while process.poll() is None and sum(event == moment for event, _ in read_log(log)) < times:
            assert time.monotonic() < deadline, f"run {self.runs} hangs before {moment}"
            time.sleep(0.001)
        time.sleep(pause)

    def _judge(self, events: Sequence[tuple[str, list[str]]]) -> None:
        encoded = Counter(name for event, ids in events if event == "encode" for name in ids)
        assert max(encoded.values(), default=1) == 1, "one process encoded a document twice"
        again = {name for name in encoded if (self.version, name) in self._acknowledged}
        assert not again, f"run {self.runs} encoded {len(again)} documents that were acknowledged: {sorted(again)[:5]}"
        self._acknowledged |= {(self.version, name) for event, ids in events if event == "ack" for name in ids}

    def check(self) -> None:
        """Everything is there, once, as it should be."""
        with worker.opened(self.kind, self.path) as store:
            check_contents(store, worker.documents(self.version))


def read_log(log: Path) -> list[tuple[str, list[str]]]:
    """Events with their ids, without a line that the kill cut off."""
    whole = log.read_text().rpartition("\n")[0]
    return [(line.split()[0], line.split()[1:]) for line in whole.splitlines()]


@pytest.mark.parametrize(
    ("moments", "seed"),
    [pytest.param(FEW, 1, id="2-kills"), pytest.param(MANY, 2, id="14-kills", marks=pytest.mark.slow)],
)
def test_a_killed_ingest_goes_on_where_it_was(kind: str, tmp_path: Path, moments: list[str], seed: int) -> None:
    """A process that comes to its end before it is killed leaves the next ones to replace every document."""
    ingests = Ingests(kind, tmp_path, seed)
    planned = random.Random(seed).sample(moments, len(moments))
    while planned:
        assert ingests.runs < 3 * len(moments) + 3, "the processes end before they can be killed"
        if ingests.run(planned[0]):
            planned.pop(0)
        else:
            ingests.check()
            ingests.version += 1
    assert ingests.kills == len(moments)
    assert not ingests.run()
    ingests.check()
    assert not ingests.run()  # encodes nothing, or `run` would say so
    print(f"{kind}: {ingests.kills} kills in {ingests.runs} processes, {ingests.version + 1} versions")


def check_contents(store: HybridStore, expected: Sequence[Document]) -> None:
    """The store holds these documents, each once, with what the encoder makes of its text."""
    assert store.count() == len(expected)
    found = list(store.scroll())
    assert len(found) == len(expected)
    assert {document.id: document for document in found} == {document.id: document for document in expected}
    encoder = FakeEncoder(worker.DIM)
    for start in range(0, len(expected), 500):
        part = expected[start : start + 500]
        wanted = encoder.encode([document.text for document in part], multi_vector=store.multi_vector)
        check_embeddings(store.get_embeddings([document.id for document in part]), wanted)
    for document in expected[:: max(1, len(expected) // 10)]:
        (hits,) = store.search(encoder.encode([document.text], multi_vector=store.multi_vector), top_k=50)
        names = [hit.document.id for hit in hits]
        assert names[0] == document.id
        assert len(set(names)) == len(names) == 50


def check_embeddings(stored: M3Embeddings, wanted: M3Embeddings) -> None:
    np.testing.assert_allclose(stored.dense, wanted.dense, atol=1e-6)
    np.testing.assert_array_equal(stored.sparse.indptr, wanted.sparse.indptr)
    np.testing.assert_array_equal(stored.sparse.indices, wanted.sparse.indices)
    np.testing.assert_allclose(stored.sparse.values, wanted.sparse.values, atol=1e-6)
    if wanted.multi_vector is not None:
        for rows, expected in zip(stored.require_multi_vector(), wanted.multi_vector, strict=True):
            np.testing.assert_allclose(rows, expected, atol=1e-6)


# Threads.

WRITERS, READERS = 4, 8
SEEDED, MOST, WRITTEN = 100, 400, 20
"""Documents that a writer has at the beginning, has at most, and writes at a time."""


class Shelf:
    """The documents of one writer: which version of each was begun, and which was acknowledged."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun: dict[str, int] = {}
        self.acknowledged: dict[str, int] = {}

    def document(self, name: str, version: int) -> Document:
        text = f"{name} version{version} shelf{self.number} topic{int(name.rpartition('-')[2]) % 7}"
        return Document(name, text, {"shelf": self.number, "version": version})

    def write(self, store: HybridStore, names: Sequence[str]) -> None:
        for name in names:
            self.begun[name] = self.begun.get(name, 0) + 1
        batch = [self.document(name, self.begun[name]) for name in names]
        encoder = FakeEncoder(worker.DIM)
        embeddings = encoder.encode([document.text for document in batch], multi_vector=store.multi_vector)
        store.upsert(batch, embeddings)
        self.acknowledged |= {name: self.begun[name] for name in names}

    def names(self, numbers: Sequence[int]) -> list[str]:
        return [f"shelf{self.number}-{i}" for i in numbers]

    def check(self, document: Document, least: int) -> None:
        """A document read is whole, of a version that was begun, and not older than what was acknowledged before."""
        version = document.metadata["version"]
        assert document == self.document(document.id, version), f"{document} is mixed from several"
        assert least <= version <= self.begun[document.id], f"{document.id}: version {version}, acknowledged {least}"


class Readers:
    """What readers do, and what they may expect while writers are at work."""

    def __init__(self, store: HybridStore, shelves: Sequence[Shelf], seed: int) -> None:
        self.actions = [self.search, self.get, self.count, self.scroll]
        self._store = store
        self._shelves = shelves
        self._random = random.Random(seed)
        self._encoder = FakeEncoder(worker.DIM)

    def search(self) -> None:
        shelf = self._random.choice(self._shelves)
        known = dict(shelf.acknowledged)
        texts = [f"version{self._random.randint(1, 9)} topic{self._random.randint(0, 6)} shelf{shelf.number}"]
        queries = self._encoder.encode(texts, multi_vector=self._store.multi_vector)
        (hits,) = self._store.search(queries, top_k=10, filter=field("shelf") == shelf.number)
        assert len({hit.document.id for hit in hits}) == len(hits) == 10
        for hit in hits:
            shelf.check(hit.document, known.get(hit.document.id, 1))

    def get(self) -> None:
        shelf = self._random.choice(self._shelves)
        known = dict(shelf.acknowledged)
        names = self._random.sample(sorted(known), 10)
        found = self._store.get(names)
        assert [document.id for document in found] == names
        for document in found:
            shelf.check(document, known[document.id])

    def count(self) -> None:
        shelf = self._random.choice(self._shelves)
        least = len(shelf.acknowledged)
        number = self._store.count(field("shelf") == shelf.number)
        assert least <= number <= len(shelf.begun)

    def scroll(self) -> None:
        known = [dict(shelf.acknowledged) for shelf in self._shelves]
        found = list(islice(self._store.scroll(), 300))
        assert len({document.id for document in found}) == len(found) == 300
        for document in found:
            number = document.metadata["shelf"]
            self._shelves[number].check(document, known[number].get(document.id, 1))


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_four_writers_and_eight_readers_lose_nothing(kind: str, tmp_path: Path, seconds: int) -> None:
    shelves = [Shelf(number) for number in range(WRITERS)]
    with worker.opened(kind, tmp_path / "database") as store:
        for shelf in shelves:
            shelf.write(store, shelf.names(range(SEEDED)))
        done = soak(store, shelves, seconds)
        check_contents(store, expected_on(shelves))
    with worker.opened(kind, tmp_path / "database") as store:
        check_contents(store, expected_on(shelves))
    print(f"{kind}, {seconds} s: {dict(done)}, {len(expected_on(shelves))} documents")
    assert all(done[name] for name in ("write", "search", "get", "count", "scroll")), done


def soak(store: HybridStore, shelves: Sequence[Shelf], seconds: float) -> Counter[str]:
    """Let all threads work for this time, and count what they did."""
    stop = threading.Event()
    errors: list[BaseException] = []
    done: list[Counter[str]] = []

    def start(steps: Iterator[tuple[str, Callable[[], None]]]) -> threading.Thread:
        counter: Counter[str] = Counter()
        done.append(counter)

        def work() -> None:
            try:
                while not stop.is_set():
                    name, action = next(steps)
                    action()
                    counter[name] += 1
            except BaseException as error:  # noqa: BLE001  # reported by the main thread
                errors.append(error)
                stop.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    threads = [start(writes(store, shelf)) for shelf in shelves]
    threads += [start(reads(Readers(store, shelves, seed), first=seed)) for seed in range(READERS)]
    stop.wait(seconds)
    stop.set()
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert all(counter.total() for counter in done), f"a thread got nothing done: {done}"
    return sum(done, Counter())


def writes(store: HybridStore, shelf: Shelf) -> Iterator[tuple[str, Callable[[], None]]]:
    """Write new documents together with new versions of old ones, at random."""
    chance = random.Random(shelf.number)
    while True:
        known = len(shelf.begun)
        new = range(known, min(known + WRITTEN // 4, MOST))
        old = chance.sample(range(known), WRITTEN - len(new))
        yield "write", partial(shelf.write, store, shelf.names([*old, *new]))


def reads(readers: Readers, *, first: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """All actions in turn; threads begin with different ones."""
    turn = first
    while True:
        action = readers.actions[turn % len(readers.actions)]
        yield action.__name__, action
        turn += 1


def expected_on(shelves: Sequence[Shelf]) -> list[Document]:
    return [shelf.document(name, version) for shelf in shelves for name, version in shelf.acknowledged.items()]
