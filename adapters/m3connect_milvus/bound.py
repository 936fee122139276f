"""pymilvus' async client, and what Milvus Lite asks of those who write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pymilvus import AsyncMilvusClient, MilvusClient

from m3connect.flows import Call
from m3connect_milvus.one_writer import OneWriter

__all__ = ["WRITES", "AsyncCalls", "lite_writes"]

WRITES = frozenset(
    {"upsert", "delete", "flush", "create_collection", "create_index", "drop_collection", "alter_collection_properties"}
)

lite_writes = OneWriter()
"""Lite asks for one writer at a time, whatever the client; all Lite databases of a process share its interpreter."""


class AsyncCalls:
    """The calls of an async client, writes one at a time where `one_writer` is set."""

    def __init__(self, client: AsyncMilvusClient, index_client: MilvusClient | None) -> None:
        self._client = client
        self._index_client = index_client
        self.one_writer = False

    async def perform(self, call: Call) -> Any:  # noqa: ANN401  # the client's answer
        """Await one call."""
        async with lite_writes.task() if self.one_writer and call.method in WRITES else contextlib.nullcontext():
            if self._index_client is not None and call.method == "create_index":
                return await _in_a_thread(self._index_client.create_index, call.arguments)
            return await getattr(self._client, call.method)(**call.arguments)


async def _in_a_thread(work: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401  # its answer
    """Use a thread of our own: those of the loop may all be waiting for our turn to end."""
    thread = ThreadPoolExecutor(1)
    try:
        return await asyncio.wrap_future(thread.submit(work, **arguments))
    finally:
        thread.shutdown(wait=False)
