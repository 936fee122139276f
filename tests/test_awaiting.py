"""How stores are awaited: in threads of their own, in one event loop, and several calls together."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from store_checks import random_documents, random_embeddings

from m3connect import Document, MemoryStore, ThreadedStore
from m3connect.awaiting import BoundClient
from m3connect.errors import M3ConnectError
from m3connect.flows import Call, run, run_async

DIM = 16


class Gated(MemoryStore):
    """Its calls of one method wait until they may go on; a test that blocks the loop never lets them."""

    def __init__(self, method: str = "write") -> None:
        super().__init__(dim=DIM)
        self.method = method
        self.entered, self.released = threading.Event(), threading.Event()
        self.failure: Exception | None = None

    def _perform(self, call: Call) -> Any:
        if call.method == self.method:
            self.entered.set()
            assert self.released.wait(20), "the event loop was blocked"
            if self.failure is not None:
                raise self.failure
        return super()._perform(call)


class GatedBetweenCalls(Gated):
    """What it computes waits, while no call is under way."""

    def __init__(self) -> None:
        super().__init__("none")
        problems = self._flows.problems

        def waiting(*args: Any) -> dict[int, str]:
            assert self.released.wait(20), "the event loop was blocked"
            return problems(*args)

        self._flows.problems = waiting  # type: ignore[method-assign]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def scroll(store: ThreadedStore) -> list[str]:
    return [document.id async for document in store.scroll()]


async def upsert(store: ThreadedStore) -> None:
    await store.upsert(random_documents(3), random_embeddings(3, seed=1))


@pytest.mark.parametrize(
    ("store", "operation"),
    [
        (Gated("select"), lambda store: store.search(random_embeddings(1, seed=2))),
        (Gated("write"), upsert),
        (GatedBetweenCalls(), upsert),
        (Gated("names"), scroll),
        (Gated("rows"), scroll),
    ],
    ids=["a search", "a write", "what is computed between calls", "a walk", "the page of a walk"],
)
async def test_a_store_that_waits_for_another_coroutine_does_not_block_it(store: Gated, operation: Any) -> None:
    async with ThreadedStore(store) as threaded:
        task = asyncio.create_task(operation(threaded))
        await asyncio.sleep(0)
        store.released.set()
        await task


async def test_a_cancelled_write_is_finished_and_not_left_half_done() -> None:
    store = Gated()
    async with ThreadedStore(store) as threaded:
        task = asyncio.create_task(upsert(threaded))
        await until(store.entered.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task  # at once: the write is still under way
        assert store.count() == 0
        store.released.set()
    assert store.count() == 3


async def test_a_write_that_fails_when_nobody_waits_for_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    store = Gated()
    store.failure = RuntimeError("disk full")
    async with ThreadedStore(store) as threaded:
        task = asyncio.create_task(upsert(threaded))
        await until(store.entered.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with caplog.at_level(logging.ERROR, logger="m3connect"):
            store.released.set()
            await threaded.close()
    assert "after its task was cancelled" in caplog.text
    assert "disk full" in caplog.text


async def test_an_error_that_somebody_waits_for_is_raised_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with ThreadedStore(MemoryStore(dim=DIM)) as threaded:
        with pytest.raises(ValueError, match="nothing was written"):
            await threaded.upsert([Document("", "text")], random_embeddings(1, seed=1))
    assert caplog.records == []


async def test_an_operation_that_is_cancelled_before_its_turn_is_never_begun() -> None:
    store = Gated()
    async with ThreadedStore(store, workers=1) as threaded:
        first = asyncio.create_task(upsert(threaded))
        await until(store.entered.is_set)
        second = asyncio.create_task(threaded.delete(["doc-000"]))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        store.released.set()
        await first
    assert store.count() == 3


async def test_no_more_operations_run_at_once_than_there_are_workers() -> None:
    threads: set[str] = set()

    class Named(MemoryStore):
        def _perform(self, call: Call) -> Any:
            threads.add(threading.current_thread().name)
            return super()._perform(call)

    async with ThreadedStore(Named(dim=DIM), workers=2) as threaded:
        await asyncio.gather(*(threaded.count() for _ in range(50)))
    assert 1 <= len(threads) <= 2
    assert all(name.startswith("m3connect-store") for name in threads)


async def test_the_threads_of_the_loop_are_not_used() -> None:
    """They are all busy, with something that ends only after the store has answered."""
    answered = threading.Event()
    loop, pool = asyncio.get_running_loop(), ThreadPoolExecutor(1)
    loop.set_default_executor(pool)
    busy = loop.run_in_executor(None, answered.wait, 20)
    async with ThreadedStore(MemoryStore(dim=DIM)) as threaded:
        await upsert(threaded)
    answered.set()
    assert await busy


async def test_closing_ends_the_threads_and_leaves_the_store_open() -> None:
    store = MemoryStore(dim=DIM)
    before = threading.active_count()
    threaded = ThreadedStore(store)
    await upsert(threaded)
    assert threading.active_count() > before
    await threaded.close()
    await threaded.close()
    await until(lambda: threading.active_count() == before)
    with pytest.raises(M3ConnectError, match="closed: make a new one"):
        await threaded.count()
    assert store.count() == 3


def test_one_threaded_store_serves_several_loops() -> None:
    threaded = ThreadedStore(MemoryStore(dim=DIM))
    asyncio.run(upsert(threaded))
    assert asyncio.run(scroll(threaded)) == ["doc-000", "doc-001", "doc-002"]
    asyncio.run(threaded.close())


@pytest.mark.parametrize(("store", "workers"), [("docs", 4), (MemoryStore(dim=DIM), 0), (None, 1)])
def test_what_cannot_be_run_in_threads_is_refused(store: Any, workers: int) -> None:
    with pytest.raises(ValueError, match=r"takes an open sync store|workers must be at least 1"):
        ThreadedStore(store, workers=workers)


# -- one event loop ---------------------------------------------------------------------------------------------------


def flow(*calls: Call | tuple[Call, ...]) -> Any:
    answers = []
    for call in calls:
        answers.append((yield call))
    return answers


async def echo(call: Call) -> str:
    return call.method


def test_a_client_that_is_bound_to_a_loop_refuses_others() -> None:
    async def bind() -> BoundClient:
        bound = BoundClient(echo)
        assert await bound.run(flow(Call("a"))) == ["a"]
        return bound

    bound = asyncio.run(bind())
    with pytest.raises(ValueError, match=r"opened in another event loop; .*in each loop.*ThreadedStore"):
        asyncio.run(bound.run(flow(Call("a"))))


@pytest.mark.parametrize("words", ["Event loop is closed", "got Future <F> attached to a different loop"])
async def test_a_client_that_another_loop_used_before_is_named_as_the_cause(words: str) -> None:
    async def used(call: Call) -> Any:
        raise RuntimeError(words)

    with pytest.raises(ValueError, match=r"used in another event loop before; .*in each loop.*ThreadedStore") as caught:
        await BoundClient(used).run(flow(Call("a")))
    assert words in str(caught.value.__cause__)


async def test_other_errors_of_a_client_pass_as_they_are() -> None:
    async def failing(call: Call) -> Any:
        raise RuntimeError("no such collection")

    with pytest.raises(RuntimeError, match="no such collection"):
        await BoundClient(failing).run(flow(Call("a")))


# -- calls that do not depend on each other ---------------------------------------------------------------------------

THREE = (Call("a"), Call("b"), Call("c"))


def test_the_sync_runner_does_independent_calls_in_turn() -> None:
    assert run(flow(THREE, Call("d"), ()), lambda call: call.method) == [["a", "b", "c"], "d", []]


async def test_independent_calls_are_under_way_together_and_their_answers_keep_their_order() -> None:
    gates = {call.method: asyncio.Event() for call in THREE}

    async def perform(call: Call) -> str:
        """Each waits for the next one, so the last answers first; one after the other they would wait for ever."""
        if call.method != "c":
            await gates[chr(ord(call.method) + 1)].wait()
        gates[call.method].set()
        return call.method

    async with asyncio.timeout(20):
        assert await run_async(flow(THREE, ()), perform) == [["a", "b", "c"], []]


async def test_a_call_that_fails_cancels_the_others_and_its_error_reaches_the_flow() -> None:
    cancelled: list[str] = []

    async def perform(call: Call) -> None:
        if call.method == "b":
            raise RuntimeError("b failed")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(call.method)
            raise

    def handling() -> Any:
        try:
            yield (Call("a"), Call("b"))
        except RuntimeError as error:
            return str(error)

    assert await run_async(handling(), perform) == "b failed"
    assert cancelled == ["a"]


async def test_few_independent_calls_are_under_way_at_once() -> None:
    under_way, most = 0, 0

    async def perform(call: Call) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await run_async(flow(tuple(Call(str(i)) for i in range(50))), perform)
    assert most == 8
