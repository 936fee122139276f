"""What the LangChain tests share."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable
from typing import TypeVar

from langchain_m3connect import M3ConnectEmbeddings, M3ConnectVectorStore

from m3connect import MemoryStore
from m3connect.testing import FakeEncoder

T = TypeVar("T")

PATIENCE = 10
"""Seconds after which a test that would hang fails instead."""

TEXTS = {"apple": "red apple", "sea": "deep blue sea", "sky": "blue sky over land", "sun": "yellow sun"}
METADATA = {
    "apple": {"kind": "fruit", "size": 1},
    "sea": {"kind": "place", "size": 9},
    "sky": {"kind": "place", "size": 10},
    "sun": {"kind": "star", "size": 99},
}


class Gate:
    """Where calls wait while it is closed: each for a release of its own, and none in the thread of the event loop."""

    def __init__(self) -> None:
        self.closed = False
        self.passed = 0
        self._arrived, self._released = threading.Semaphore(0), threading.Semaphore(0)

    def pass_through(self) -> None:
        if not self.closed:
            return
        if threading.current_thread() is threading.main_thread():
            raise RuntimeError("called in the thread of the event loop")
        self._arrived.release()
        if not self._released.acquire(timeout=PATIENCE):
            raise TimeoutError("nobody released the call: the event loop was blocked")
        self.passed += 1

    async def release_each(self) -> None:
        """Release the calls that have arrived, one a turn of the event loop."""
        while True:
            if self._arrived.acquire(blocking=False):
                self._released.release()
            await asyncio.sleep(0.001)


class WaitingEncoder(FakeEncoder):
    """Encodes when its gate lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def encode(self, texts, *, multi_vector=False, max_length=None):
        self.gate.pass_through()
        return super().encode(texts, multi_vector=multi_vector, max_length=max_length)


class WaitingStore(MemoryStore):
    """Answers each call when its gate lets it."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.gate = Gate()

    def _perform(self, call):
        self.gate.pass_through()
        return super()._perform(call)


class ForgetfulStore(MemoryStore):
    """Loses documents right after each search, as if another client had deleted them."""

    lost: tuple[str, ...] = ()

    def _run(self, flow):
        answer = super()._run(flow)
        if flow.__name__ == "search":
            self.delete(list(self.lost))
        return answer


async def while_the_loop_goes_on(gate: Gate, work: Awaitable[T]) -> T:
    """Await work that comes to the gate, and passes it each time only because another coroutine runs then."""
    gate.closed, gate.passed = True, 0
    releasing = asyncio.create_task(gate.release_each())
    try:
        async with asyncio.timeout(2 * PATIENCE):
            result = await work
    finally:
        releasing.cancel()
        gate.closed = False
    assert gate.passed
    return result


def texts_encoded(encoder: FakeEncoder) -> Counter[str]:
    return Counter(text for call in encoder.calls for text in call)


def filled(store=None, *, encoder=None, **options) -> M3ConnectVectorStore:
    encoder = encoder or FakeEncoder()
    return M3ConnectVectorStore.from_texts(
        list(TEXTS.values()),
        M3ConnectEmbeddings(encoder=encoder),
        list(METADATA.values()),
        ids=list(TEXTS),
        store=store,
        **options,
    )


def ids_of(documents) -> list[str]:
    return [document.id for document in documents]
