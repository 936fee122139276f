"""The two ways to run a flow: here and now, or awaited off the event loop.

A flow (`m3connect.flows`) yields calls: `encode` is the model's, `compute` is a function that takes its time, `scan`
walks through documents and keeps the ids of some, every other name is a method of the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from llama_index_m3connect.model import ModelSettings
from m3connect.base import AsyncStore
from m3connect.flows import Call, compute
from m3connect.store import HybridStore

__all__ = ["Performer", "compute"]


class Performer:
    """Does the calls of flows with one store and, where there is one, one model."""

    def __init__(self, store: HybridStore | AsyncStore, model: ModelSettings | None) -> None:
        self._store = store
        self._model = model

    def perform(self, call: Call) -> Any:  # noqa: ANN401  # by method
        """Do a call.

        Raises:
            ValueError: the store can only be awaited.
        """
        if call.method == "encode":
            return self._require_model().encode_texts(**call.arguments)
        if call.method == "settle":
            return self._require_model().sharing.settle()
        if call.method == "compute":
            return call.arguments["work"]()
        if isinstance(self._store, AsyncStore):
            raise ValueError(
                f"{self._store!r} can only be awaited: use the async method (aquery, async_add, aretrieve...)"
            )
        if call.method == "scan":
            documents, keep = self._store.scroll(call.arguments["filter"]), call.arguments["keep"]
            return [document.id for document in documents if keep(document)]
        answer = getattr(self._store, call.method)(**call.arguments)
        return list(answer) if isinstance(answer, Iterator) else answer

    async def aperform(self, call: Call) -> Any:  # noqa: ANN401  # by method
        """Await a call; what a store or model computes runs in a thread."""
        if call.method == "encode":
            return await self._require_model().aencode_texts(**call.arguments)
        if call.method in ("compute", "settle") or not isinstance(self._store, AsyncStore):
            return await asyncio.to_thread(self.perform, call)
        if call.method == "scan":
            keep = call.arguments["keep"]
            return [document.id async for document in self._store.scroll(call.arguments["filter"]) if keep(document)]
        answer = getattr(self._store, call.method)(**call.arguments)
        return [document async for document in answer] if isinstance(answer, AsyncIterator) else await answer

    def _require_model(self) -> ModelSettings:
        if self._model is None:
            raise ValueError(
                "the store has no encoder, so it knows no sparse weights: give encoder= (an M3ConnectEmbedding, which "
                "then shares its passes, or any m3connect encoder); DEFAULT and MMR work without one"
            )
        return self._model
