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


class WaitingEncoder(FakeEncoder):
    """Encodes only while `go` is set, and remembers which threads it was called in."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.threads: set[str] = set()

    def encode(self, texts, *, multi_vector=False, max_length=None):
        self.threads.add(threading.current_thread().name)
        self.started.set()
        if not self.go.wait(PATIENCE):
            raise TimeoutError("nobody set the event: the event loop was blocked")
        return super().encode(texts, multi_vector=multi_vector, max_length=max_length)


class WaitingStore(MemoryStore):
    """Answers only while `go` is set."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.started, self.go = threading.Event(), threading.Event()
        self.go.set()

    def _perform(self, call):
        self.started.set()
        if not self.go.wait(PATIENCE):
            raise TimeoutError("nobody set the event: the event loop was blocked")
        return super()._perform(call)


async def while_the_loop_goes_on(waiting: WaitingEncoder | WaitingStore, work: Awaitable[T]) -> T:
    """Await work that can only end if another coroutine runs after it has begun to encode (or to store)."""

    async def let_go() -> None:
        while not waiting.started.is_set():
            await asyncio.sleep(0.001)
        waiting.go.set()

    waiting.started.clear()
    waiting.go.clear()
    async with asyncio.timeout(2 * PATIENCE):
        result, _ = await asyncio.gather(work, let_go())
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
