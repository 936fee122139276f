"""One writer at a time, whether it is a thread or a task of any event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from m3connect.errors import M3ConnectError

__all__ = ["OneWriter"]


@dataclass(frozen=True, eq=False, slots=True)
class _Turn:
    loop: asyncio.AbstractEventLoop | None
    """Of the task that waits; None for a thread."""

    come: Future[None] = field(default_factory=Future)


class OneWriter:
    """A lock that threads and tasks wait for in the order of their coming; a waiting task does not stop its loop."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._line: deque[_Turn] = deque()
        """The first of them writes."""

    @contextmanager
    def thread(self) -> Iterator[None]:
        """Hold the lock from a thread.

        Raises:
            M3ConnectError: a task of this thread's own event loop writes, or comes first, and could never end.
        """
        turn = self._queue_up(_Turn(None))
        try:
            turn.come.result()
            yield
        finally:
            self._leave(turn)

    @asynccontextmanager
    async def task(self) -> AsyncIterator[None]:
        """Hold the lock from a task."""
        turn = self._queue_up(_Turn(asyncio.get_running_loop()))
        try:
            await asyncio.shield(asyncio.wrap_future(turn.come))  # a cancelled task leaves the line, below
            yield
        finally:
            self._leave(turn)

    def _queue_up(self, turn: _Turn) -> _Turn:
        with self._guard:
            if turn.loop is None:
                self._refuse_deadlock()
            self._line.append(turn)
            if self._line[0] is turn:
                turn.come.set_result(None)
        return turn

    def _leave(self, turn: _Turn) -> None:
        """Let the next one in, where it was this one's turn."""
        with self._guard:
            first = self._line[0] is turn
            self._line.remove(turn)
            following = self._line[0] if first and self._line else None
        if following is not None:
            following.come.set_result(None)

    def _refuse_deadlock(self) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return
        if any(turn.loop is running for turn in self._line):
            raise M3ConnectError(
                "a sync store cannot write in the thread of an event loop while an async store of that loop writes: "
                "each would wait for the other. Await ThreadedStore over the sync store instead"
            )
