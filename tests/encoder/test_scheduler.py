import gc
import signal
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
import torch

from m3connect.embeddings import IntArray, M3Embeddings, SparseRows
from m3connect.encoder import scheduler as module
from m3connect.encoder.scheduler import Scheduler

WAIT = 20.0
"""Seconds after which a test that hangs fails."""


class Packs:
    """Computes a text's first token id as its vector, remembers the packs, and stops where it is told to."""

    def __init__(self) -> None:
        self.lengths: list[list[int]] = []
        self.multi_vector: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.threads: set[int] = set()

    def __call__(self, token_ids: Sequence[IntArray], multi_vector: bool) -> M3Embeddings:
        self.lengths.append([len(ids) for ids in token_ids])
        self.multi_vector.append(multi_vector)
        self.threads.add(torch.get_num_threads())
        self.entered.release()
        assert self.gate.wait(WAIT)
        if any(ids[0] < 0 for ids in token_ids):
            raise MemoryError("too large")
        dense = np.array([[ids[0]] for ids in token_ids], np.float32)
        vectors = tuple(np.ones((len(ids), 1), np.float32) for ids in token_ids) if multi_vector else None
        return M3Embeddings(dense, SparseRows.empty(len(token_ids)), vectors)


def texts(lengths: Sequence[int], *, first: int = 1) -> list[IntArray]:
    """Texts of these lengths, whose first token ids count up from `first`."""
    return [np.full(length, first + i, np.int64) for i, length in enumerate(lengths)]


def firsts(batch: M3Embeddings) -> list[int]:
    return batch.dense[:, 0].astype(int).tolist()


@pytest.fixture
def packs() -> Packs:
    return Packs()


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_rows_come_back_in_order_and_packs_keep_to_their_budget(packs: Packs) -> None:
    lengths = sorted(np.random.default_rng(0).integers(1, 900, 200).tolist(), reverse=True)
    batch = Scheduler(packs).run(texts(lengths), multi_vector=True)
    assert firsts(batch) == list(range(1, 201))
    assert [len(vectors) for vectors in batch.require_multi_vector()] == lengths
    assert max(map(sum, packs.lengths)) <= 1024
    assert len(packs.lengths) < 150
    assert sorted(chain.from_iterable(packs.lengths), reverse=True) == lengths


def test_a_small_call_that_is_alone_is_one_pack_on_all_threads(packs: Packs) -> None:
    Scheduler(packs).run(texts([30, 20, 10]), multi_vector=False)
    assert packs.lengths == [[30, 20, 10]]
    assert packs.threads == {2}


def test_many_packs_share_the_threads_and_the_callers_setting_stays(packs: Packs) -> None:
    Scheduler(packs).run(texts([500] * 20), multi_vector=False)
    assert packs.threads == {1}
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


def test_calls_that_wait_at_the_same_time_share_a_pack(packs: Packs, pool: ThreadPoolExecutor) -> None:
    scheduler = Scheduler(packs)
    packs.gate.clear()
    busy = [pool.submit(scheduler.run, texts([900, 900]), multi_vector=False)]
    for _ in range(2):
        assert packs.entered.acquire(timeout=WAIT)
    short = [pool.submit(scheduler.run, texts([5 + i], first=100 + i), multi_vector=False) for i in range(8)]
    while len(scheduler._waiting) < 8:
        threading.Event().wait(0.01)
    packs.gate.set()
    assert [firsts(call.result(WAIT)) for call in short] == [[100 + i] for i in range(8)]
    assert firsts(busy[0].result(WAIT)) == [1, 2]
    assert len(packs.lengths) == 3
    assert packs.lengths[-1] == sorted(packs.lengths[-1], reverse=True)


def test_calls_with_and_without_token_vectors_do_not_share_a_pack(packs: Packs, pool: ThreadPoolExecutor) -> None:
    scheduler = Scheduler(packs)
    packs.gate.clear()
    calls = [pool.submit(scheduler.run, texts([900, 900]), multi_vector=False)]
    for _ in range(2):
        assert packs.entered.acquire(timeout=WAIT)
    calls += [pool.submit(scheduler.run, texts([9]), multi_vector=flag) for flag in (True, False, True)]
    while len(scheduler._waiting) < 3:
        threading.Event().wait(0.01)
    packs.gate.set()
    results = [call.result(WAIT) for call in calls]
    assert [batch.multi_vector is not None for batch in results] == [False, True, False, True]


class Tickets:
    """A gate that lets so many packs through."""

    def __init__(self) -> None:
        self._semaphore = threading.Semaphore(0)

    def admit(self, packs: int) -> None:
        self._semaphore.release(packs)

    def wait(self, timeout: float) -> bool:
        return self._semaphore.acquire(timeout=timeout)


def test_a_short_call_does_not_wait_for_the_end_of_a_long_one(packs: Packs, pool: ThreadPoolExecutor) -> None:
    scheduler = Scheduler(packs)
    packs.gate = tickets = Tickets()
    long = pool.submit(scheduler.run, texts([1000] * 50), multi_vector=False)
    for _ in range(2):
        assert packs.entered.acquire(timeout=WAIT)
    short = pool.submit(scheduler.run, texts([7]), multi_vector=False)
    while len(scheduler._waiting) < 2:
        threading.Event().wait(0.01)
    while not short.done():
        tickets.admit(1)
        threading.Event().wait(0.01)
    assert firsts(short.result(WAIT)) == [1]
    assert not long.done()
    tickets.admit(50)
    assert len(long.result(WAIT)) == 50


def test_long_texts_leave_a_worker_free(packs: Packs, pool: ThreadPoolExecutor) -> None:
    scheduler = Scheduler(packs)
    packs.gate.clear()
    long = pool.submit(scheduler.run, texts([8000, 8000, 8000]), multi_vector=False)
    assert packs.entered.acquire(timeout=WAIT)
    assert not packs.entered.acquire(timeout=0.2)
    short = pool.submit(scheduler.run, texts([7]), multi_vector=False)
    assert packs.entered.acquire(timeout=WAIT)
    assert packs.lengths == [[8000], [7]]
    packs.gate.set()
    assert firsts(long.result(WAIT)) == [1, 2, 3]
    assert firsts(short.result(WAIT)) == [1]


def test_one_thread_computes_long_texts_too(packs: Packs) -> None:
    torch.set_num_threads(1)
    assert firsts(Scheduler(packs).run(texts([3000, 3000, 5]), multi_vector=False)) == [1, 2, 3]


def test_an_error_reaches_the_call_it_belongs_to_and_the_next_one_works(packs: Packs) -> None:
    scheduler = Scheduler(packs)
    with pytest.raises(MemoryError, match="too large"):
        scheduler.run([*texts([900] * 5), np.full(800, -1), *texts([700] * 50)], multi_vector=False)
    assert len(packs.lengths) < 40
    with pytest.raises(MemoryError, match="too large"):
        scheduler.run([np.full(3, -1)], multi_vector=False)
    assert firsts(scheduler.run(texts([900] * 5), multi_vector=False)) == [1, 2, 3, 4, 5]
    assert not scheduler._waiting
    assert not scheduler._running


@pytest.mark.usefixtures("interruptible")
def test_a_caller_that_is_interrupted_leaves_nothing_behind(packs: Packs) -> None:
    scheduler = Scheduler(packs)
    packs.gate.clear()

    def interrupt() -> None:
        assert packs.entered.acquire(timeout=WAIT)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        scheduler.run(texts([900] * 9), multi_vector=False)
    assert not scheduler._waiting
    packs.gate.set()


def test_progress_counts_every_text(packs: Packs) -> None:
    counted: list[int] = []
    Scheduler(packs).run(texts([400] * 30), multi_vector=False, on_done=counted.append)
    Scheduler(packs).run(texts([4]), multi_vector=False, on_done=counted.append)
    assert sum(counted) == 31


def test_idle_workers_end_and_give_the_model_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.05)
    packs = Packs()
    scheduler = Scheduler(packs)
    scheduler.run(texts([900] * 5), multi_vector=False)
    workers, gone = list(scheduler._workers), weakref.ref(packs)
    for worker in workers:
        worker.join(WAIT)
    assert workers
    assert not any(worker.is_alive() for worker in workers)
    assert firsts(scheduler.run(texts([900] * 3), multi_vector=False)) == [1, 2, 3]
    for worker in list(scheduler._workers):
        worker.join(WAIT)
    del packs, scheduler
    gc.collect()
    assert gone() is None


def test_what_is_submitted_is_computed_meanwhile_and_what_is_cancelled_is_not(packs: Packs) -> None:
    scheduler = Scheduler(packs)
    one = scheduler.submit(texts([5]), multi_vector=False)
    assert packs.entered.acquire(timeout=WAIT), "before anybody asks for the result"
    assert firsts(one.result()) == [1]
    packs.gate.clear()
    many = scheduler.submit(texts([900] * 50), multi_vector=False)
    assert packs.entered.acquire(timeout=WAIT)
    many.cancel()
    packs.gate.set()
    assert firsts(scheduler.run(texts([900] * 3), multi_vector=False)) == [1, 2, 3]
    assert len(packs.lengths) < 12


def test_a_pack_may_hold_a_little_more_than_its_share_so_that_all_packs_are_equal(packs: Packs) -> None:
    Scheduler(packs).run(texts([400, 400, *[100] * 20]), multi_vector=False)
    assert sorted(map(sum, packs.lengths)) == [600, 700, 700, 800]
