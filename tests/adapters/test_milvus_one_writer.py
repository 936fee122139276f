"""Milvus Lite has one writer at a time in a process, whether it is a thread or a task of any event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from store_checks import random_documents, random_embeddings

from m3connect.errors import M3ConnectError

pymilvus = pytest.importorskip("pymilvus", reason="pip install 'm3connect[milvus]'")
pytest.importorskip("milvus_lite", reason="pip install 'm3connect[milvus]'")

from backends import AsyncMilvusBackend  # noqa: E402  # after the skip
from m3connect_milvus import MilvusStore  # noqa: E402
from m3connect_milvus.one_writer import OneWriter  # noqa: E402


class Register:
    """Who holds the lock; a second one who comes in is remembered."""

    def __init__(self) -> None:
        self.inside = 0
        self.together = 0
        self.times = 0

    def __enter__(self) -> None:
        self.inside += 1
        self.together = max(self.together, self.inside)
        self.times += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


def test_threads_and_tasks_of_two_loops_come_in_one_at_a_time() -> None:
    lock, register = OneWriter(), Register()

    def work_in_a_thread() -> None:
        for _ in range(200):
            with lock.thread(), register:
                pass

    async def work_in_a_task() -> None:
        for _ in range(100):
            async with lock.task():
                with register:
                    await asyncio.sleep(0)

    async def loop() -> None:
        await asyncio.gather(work_in_a_task(), work_in_a_task())

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(work_in_a_thread) for _ in range(2)] + [pool.submit(asyncio.run, loop()) for _ in range(2)]
        for done in work:
            done.result(60)
    assert (register.together, register.times) == (1, 800)


async def test_a_task_that_waits_for_a_thread_does_not_stop_its_loop() -> None:
    lock, held, released = OneWriter(), threading.Event(), threading.Event()

    def hold() -> bool:
        with lock.thread():
            held.set()
            return released.wait(20)  # only the loop lets it go

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        assert held.wait(20)
        waiting = asyncio.create_task(enter(lock))
        await asyncio.sleep(0)
        assert not waiting.done()
        released.set()
        await waiting
        assert holding.result(20)


async def enter(lock: OneWriter) -> None:
    async with lock.task():
        pass


async def test_a_cancelled_task_lets_the_others_by() -> None:
    lock = OneWriter()
    async with lock.task():
        waiting = [asyncio.create_task(enter(lock)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
    async with asyncio.timeout(20):
        assert isinstance((await asyncio.gather(*waiting, return_exceptions=True))[0], asyncio.CancelledError)
    assert [task.cancelled() for task in waiting] == [True, False, False]
    await enter(lock)


async def test_a_task_that_is_cancelled_as_its_turn_comes_keeps_nobody_out() -> None:
    lock = OneWriter()
    async with lock.task():
        waiting = asyncio.create_task(enter(lock))
        await asyncio.sleep(0)
    waiting.cancel()  # its turn has come, but it has not gone on yet
    async with asyncio.timeout(20):
        await asyncio.gather(waiting, return_exceptions=True)
        await enter(lock)


async def test_waiting_for_a_task_of_the_same_thread_is_refused_instead_of_lasting_for_ever() -> None:
    lock = OneWriter()
    async with lock.task():
        with pytest.raises(M3ConnectError, match="ThreadedStore"), lock.thread():
            pass
    with lock.thread():
        pass


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[AsyncMilvusBackend]:
    backend = AsyncMilvusBackend(tmp_path / "lite.db")
    yield backend
    backend.close()


class Recording:
    """A client that says when two of its kind write at once."""

    def __init__(self, client: Any, register: Register) -> None:
        self._client, self._register = client, register

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        if name != "upsert":
            return member
        return self._awaited(member) if asyncio.iscoroutinefunction(member) else self._called(member)

    def _called(self, member: Any) -> Any:
        def call(**arguments: Any) -> Any:
            with self._register:
                return member(**arguments)

        return call

    def _awaited(self, member: Any) -> Any:
        async def call(**arguments: Any) -> Any:
            with self._register:
                return await member(**arguments)

        return call


def test_two_async_stores_and_a_sync_one_write_at_once_and_in_turn(backend: AsyncMilvusBackend) -> None:
    register = Register()
    backend.async_client, client = Recording(backend.async_client, register), backend.client
    first, second = backend.open("first").inner, backend.open("second").inner
    sync = MilvusStore(Recording(client, register), "first")
    documents, batch = random_documents(60), random_embeddings(60, seed=1)
    parts = [slice(start, start + 5) for start in range(0, 60, 5)]

    async def write() -> None:
        async with asyncio.TaskGroup() as group:
            for part in parts[:6]:
                group.create_task(first.upsert(documents[part], batch[part]))
            for part in parts:
                group.create_task(second.upsert(documents[part], batch[part]))

    with ThreadPoolExecutor(2) as pool:
        writes = [pool.submit(sync.upsert, documents[part], batch[part]) for part in parts[6:]]
        backend.loop.run(write())
        for done in writes:
            done.result(60)
    assert (register.together, register.times) == (1, 24)
    for store in ("first", "second"):
        assert sorted(backend.open(store).scroll(), key=lambda document: document.id) == documents


def test_a_store_can_be_opened_while_the_threads_of_the_loop_wait_for_it_to_write(backend: AsyncMilvusBackend) -> None:
    """Making an index holds the lock and needs a thread; the loop's are taken by sync stores that want the lock."""
    sync = MilvusStore(backend.client, "first", dim=16)
    documents, batch = random_documents(12), random_embeddings(12, seed=1)

    async def work() -> None:
        loop, pool = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        loop.set_default_executor(pool)
        opening = asyncio.create_task(backend.opening("second"))
        writes = [asyncio.to_thread(sync.upsert, [documents[i]], batch[i]) for i in range(12)]
        async with asyncio.timeout(60):
            await asyncio.gather(opening, *writes)

    backend.loop.run(work())
    assert sync.count() == 12
    assert backend.has("second")
