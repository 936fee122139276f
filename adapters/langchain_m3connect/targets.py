"""Who answers the calls of a flow: the embedding and the store, sync or async."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Protocol, TypeVar

from langchain_core.embeddings import Embeddings

from langchain_m3connect.embeddings import M3ConnectEmbeddings
from langchain_m3connect.flows import ENCODING
from langchain_m3connect.plain import PlainEncoding
from m3connect import HybridStore, M3Embeddings
from m3connect.awaiting import ThreadedStore
from m3connect.base import AsyncStore, Store
from m3connect.flows import Call, Flow, run, run_async

__all__ = ["Encoding", "Targets", "encoding_of"]

_T = TypeVar("_T")


class Encoding(Protocol):
    """What makes embeddings of texts, ours or a plain one seen as ours; each method has an async twin."""

    def encode(self, texts: list[str], *, multi_vector: bool = False) -> M3Embeddings:
        """Encode documents, row i being text i."""
        ...

    async def aencode(self, texts: list[str], *, multi_vector: bool = False) -> M3Embeddings:
        """See `encode`."""
        ...

    def encode_query(self, text: str) -> M3Embeddings:
        """Encode a question, token vectors included where there are any."""
        ...

    async def aencode_query(self, text: str) -> M3Embeddings:
        """See `encode_query`."""
        ...

    def dimension(self) -> int:
        """Return the dimension of the dense vectors."""
        ...

    async def adimension(self) -> int:
        """See `dimension`."""
        ...


def encoding_of(embedding: Embeddings) -> Encoding:
    """Return ours as it is, and any other `Embeddings` as the dense leg alone."""
    if isinstance(embedding, M3ConnectEmbeddings):
        return embedding
    if isinstance(embedding, Embeddings):
        return PlainEncoding(embedding)
    raise ValueError(
        f"expected LangChain Embeddings, but got {type(embedding).__name__}; an encoder goes into "
        "M3ConnectEmbeddings(encoder=...)"
    )


class Targets:
    """An embedding and a store, which do the calls of flows."""

    def __init__(self, encoding: Encoding, store: HybridStore | AsyncStore) -> None:
        if not isinstance(store, AsyncStore | HybridStore):
            raise ValueError(
                f"expected a store, for instance m3connect_qdrant.QdrantStore(client, name, dim=...), but got "
                f"{type(store).__name__}"
            )
        self._encoding = encoding
        self._store = store
        self._async_store = ThreadedStore(store) if isinstance(store, Store) else store

    def run(self, flow: Flow[_T]) -> _T:
        """Run a flow to its end."""
        return run(flow, self._perform)

    async def arun(self, flow: Flow[_T]) -> _T:
        """Run a flow to its end, awaiting its calls; one to a sync store is done in a thread."""
        return await run_async(flow, self._aperform)

    def _perform(self, call: Call) -> Any:  # noqa: ANN401  # the target's answer
        if call.method == "compute":
            return call.arguments["work"]()
        if isinstance(self._store, AsyncStore):
            raise ValueError(
                f"{type(self._store).__name__} is async: await the method's twin (asimilarity_search, aadd_documents, "
                "ainvoke, ...), or give the vector store a sync store"
            )
        target = self._encoding if call.method in ENCODING else self._store
        return getattr(target, call.method)(**call.arguments)

    async def _aperform(self, call: Call) -> Any:  # noqa: ANN401  # the target's answer
        if call.method == "compute":
            return await asyncio.to_thread(call.arguments["work"])
        if call.method in ENCODING:
            return await getattr(self._encoding, f"a{call.method}")(**call.arguments)
        method = partial(getattr(self._async_store, call.method), **call.arguments)
        return await method() if isinstance(self._async_store, AsyncStore) else await asyncio.to_thread(method)
