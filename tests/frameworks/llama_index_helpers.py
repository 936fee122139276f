"""What the tests of llama_index_m3connect share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
from support import require

pytest.importorskip("llama_index.core", reason="pip install 'm3connect[llama-index]'")
require("llama_index_m3connect", "llama_index", extra="llama-index")

from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode  # noqa: E402  # after the skip

from m3connect import MemoryStore  # noqa: E402
from m3connect.testing import FakeEncoder  # noqa: E402

PATIENCE = 20
"""Seconds after which a test that would hang fails instead."""

TEXTS = {
    "apple": "red apple on the table",
    "sea": "deep blue sea",
    "bottle": "seven green bottles",
    "ship": "a ship on the blue sea",
}


class Gate:
    """Lets calls through one by one, each only once a coroutine has let it go; a call in the loop's thread fails."""

    def __init__(self) -> None:
        self.passed = 0
        self._waiting: list[threading.Event] = []
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait for a release of one's own."""
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("this runs in the thread of the event loop")
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
        if not mine.wait(PATIENCE):
            raise TimeoutError("nobody let the call go: the event loop was blocked")
        with self._lock:
            self.passed += 1

    async def release_during(self, work: Awaitable[Any]) -> Any:
        """Await work, and meanwhile let one call go after the other."""
        task = asyncio.ensure_future(work)
        while not task.done():
            with self._lock:
                first = self._waiting.pop(0) if self._waiting else None
            if first is not None:
                first.set()
            await asyncio.sleep(0.001)
        return await task


class WaitingEncoder(FakeEncoder):
    """Each call waits at a gate."""

    def __init__(self, gate: Gate | None = None, **settings) -> None:
        super().__init__(**settings)
        self.gate = gate or Gate()

    def encode(self, texts, *, multi_vector=False, max_length=None):
        self.gate.wait()
        return super().encode(texts, multi_vector=multi_vector, max_length=max_length)


class WaitingStore(MemoryStore):
    """Each call of its database waits at a gate, once `gate` is there."""

    def __init__(self, *, dim: int = 16, multi_vector: bool = False) -> None:
        super().__init__(dim=dim, multi_vector=multi_vector)
        self.gate: Gate | None = None

    def _perform(self, call):
        if self.gate is not None:
            self.gate.wait()
        return super()._perform(call)


def times_encoded(encoder: FakeEncoder, text: str) -> int:
    return sum(call.count(text) for call in encoder.calls)


def nodes_of(texts: dict[str, str] = TEXTS, *, source: str | None = None, **metadata) -> list[TextNode]:
    relations = {} if source is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)}
    return [
        TextNode(id_=name, text=text, metadata=dict(metadata), relationships=relations) for name, text in texts.items()
    ]


def ids(scored: Sequence) -> list[str]:
    return [one.node.node_id for one in scored]
