"""The two ways in which a store is awaited: over an async client in its one event loop, or in threads of its own."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from m3connect.base import AsyncStore, Store
from m3connect.errors import M3ConnectError
from m3connect.flows import Call, Flow, run_async
from m3connect.store import check_count

__all__ = ["BoundClient", "ThreadedStore"]

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

_OTHER_LOOP = ("Event loop is closed", "different loop", "different event loop")
"""What asyncio, httpx and gRPC say of a connection that belongs to another loop."""

_REMEDY = (
    "an async client works in the event loop of its first use alone: build a client and open a store in each loop, and "
    "close the client before its loop ends; or use ThreadedStore over the sync store"
)


class BoundClient:
    """Runs flows over an async client, in the event loop that it was made in and in no other.

    Args:
        perform: awaits one call of the client.
    """

    def __init__(self, perform: Callable[[Call], Coroutine[Any, Any, Any]]) -> None:
        self._client_perform = perform
        self._loop = asyncio.get_running_loop()

    async def run(self, flow: Flow[_T]) -> _T:
        """Run a flow to its end.

        Raises:
            ValueError: the running event loop is not the client's.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise ValueError(f"this store was opened in another event loop; {_REMEDY}")
        return await run_async(flow, self.perform)

    async def perform(self, call: Call) -> Any:  # noqa: ANN401  # the client's answer
        """Await one call.

        Raises:
            ValueError: the client was used in another event loop before.
        """
        try:
            return await self._client_perform(call)
        except Exception as error:
            if any(words in str(error) for words in _OTHER_LOOP):
                raise ValueError(f"this client was used in another event loop before; {_REMEDY}") from error
            raise


class ThreadedStore(AsyncStore):
    """An async form of an embedded store: each operation runs in a thread of its own pool, with all that it computes.

    The event loop waits for nothing but the end, and any loop may use it. Python's lock is what the threads still
    share with the loop; Qdrant Edge keeps it during a call.

    A cancelled task stops waiting at once. Its operation, once begun, goes on to its end, so no write is left half
    done; if it fails then, an error is logged. One that still waits for a thread is never begun.

    Args:
        store: any `Store`; it may go on being used as it is, and is not closed.
        workers: how many operations run at once; the others wait their turn.

    Example:
        >>> import asyncio
        >>> from m3connect import Document, MemoryStore
        >>> from m3connect.testing import FakeEncoder
        >>> async def work():
        ...     encoder = FakeEncoder()
        ...     async with ThreadedStore(MemoryStore(dim=encoder.dim)) as store:
        ...         await store.upsert([Document("a", "red apple")], encoder.encode(["red apple"]))
        ...         return await store.count()
        >>> asyncio.run(work())
        1
    """

    def __init__(self, store: Store, *, workers: int = 4) -> None:
        if not isinstance(store, Store):
            raise ValueError(f"ThreadedStore takes an open sync store, but got {type(store).__name__}")
        check_count("workers", workers)
        super().__init__(store._flows)
        self._store = store
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="m3connect-store")

    @property
    def store(self) -> Store:
        """The sync store whose operations run in the threads."""
        return self._store

    async def _run(self, flow: Flow[_T]) -> _T:
        operation = self._begin(flow)
        try:
            return await asyncio.wrap_future(operation)
        except asyncio.CancelledError:
            if not operation.cancelled():
                operation.add_done_callback(self._tell_failure)
            raise

    def _begin(self, flow: Flow[_T]) -> Future[_T]:
        try:
            return self._pool.submit(contextvars.copy_context().run, self._store._run, flow)
        except RuntimeError as error:
            raise M3ConnectError(f"{self!r} is closed: make a new one over the same store") from error

    def _tell_failure(self, operation: Future[Any]) -> None:
        error = operation.exception()
        if error is not None:
            logger.error("an operation on %r failed after its task was cancelled", self.name, exc_info=error)

    async def close(self) -> None:
        """Begin nothing more, wait for what is under way, and end the threads; the store itself stays open."""
        self._pool.shutdown(wait=False)
        closer = ThreadPoolExecutor(1)  # not the loop's own threads, which may all be busy
        try:
            await asyncio.wrap_future(closer.submit(self._pool.shutdown))
        finally:
            closer.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
