"""pymilvus' async client, held to the event loop that it belongs to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from pymilvus import AsyncMilvusClient, MilvusClient

from m3connect.flows import Call

__all__ = ["WRITES", "BoundClient"]

WRITES = frozenset(
    {"upsert", "delete", "flush", "create_collection", "create_index", "drop_collection", "alter_collection_properties"}
)

_REMEDY = (
    "pymilvus' async client works in the event loop of its first use alone: build a client and open a store in each "
    "loop, and close the client before its loop ends; or use ThreadedStore(MilvusStore(...))"
)


class BoundClient:
    """Awaits calls of an async client in the loop that it was made in."""

    def __init__(self, client: AsyncMilvusClient, index_client: MilvusClient | None) -> None:
        self._client = client
        self._index_client = index_client
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()
        self.one_writer = False
        """Whether writes wait for each other, as Lite asks."""

    async def perform(self, call: Call) -> Any:  # noqa: ANN401  # the client's answer
        """Await one call.

        Raises:
            ValueError: the running event loop is not the client's.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise ValueError(f"this store was opened in another event loop; {_REMEDY}")
        async with self._writing if self.one_writer and call.method in WRITES else contextlib.nullcontext():
            if self._index_client is not None and call.method == "create_index":
                return await asyncio.to_thread(self._index_client.create_index, **call.arguments)
            try:
                return await getattr(self._client, call.method)(**call.arguments)
            except Exception as error:
                if "Event loop is closed" in str(error) or "different loop" in str(error):
                    raise ValueError(f"this client was used in another event loop before; {_REMEDY}") from error
                raise
