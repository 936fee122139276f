"""What is measured, and the stores of m3connect as the first of them."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from m3connect.fusion import RRF, Dense, Fusion, Sparse
from m3connect.memory import MemoryStore
from m3connect.opening import open_store
from m3connect.store import HybridStore
from store_bench.data import CONDITION, DIM, KINDS, TOP_K, Batch, Data, Found, Kind

OURS, DECLARED = "m3connect", "m3connect, filter_fields"
HAND, PLAIN, LANGCHAIN = "by hand", "by hand, little payload", "LangChain"


class Contender(ABC):
    """A collection, filled and searched in one way."""

    @abstractmethod
    def ingest(self, batch: Batch) -> None:
        """Write a batch and wait for it."""

    def finish(self) -> None:  # noqa: B027  # most have nothing to do
        """Do what a bulk load ends with."""

    @abstractmethod
    def search(self, kind: Kind, i: int) -> Found:
        """Return ids and scores of the best ten for query i."""


@dataclass(slots=True)
class Measured:
    """What was measured of a contender."""

    backend: str
    name: str
    size: int
    ingest: list[float] = field(default_factory=list)
    """Seconds a batch."""

    finish: float = 0.0
    search: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    overlap: dict[Kind, float] = field(default_factory=dict)
    """Share of m3connect's ten hits that it finds too, over three queries."""

    memory: float | None = None
    """MB that a process grew by."""

    @property
    def rate(self) -> float:
        """Documents a second, the end of the load included."""
        return self.size / (sum(self.ingest) + self.finish)

    def median(self, kind: Kind) -> float:
        """Seconds of a search."""
        return statistics.median(self.search[kind])


class Ours(Contender):
    """Any store of m3connect's."""

    def __init__(self, data: Data, store: HybridStore) -> None:
        self._queries, self._store = data.queries, store

    def ingest(self, batch: Batch) -> None:
        """Upsert."""
        self._store.upsert(batch.documents, batch.embeddings)

    def finish(self) -> None:
        """Flush."""
        self._store.flush()

    def search(self, kind: Kind, i: int) -> Found:
        """Search, the documents included."""
        fusions: dict[str, Fusion] = {"dense": Dense(), "sparse": Sparse()}
        condition = CONDITION if kind == "filtered" else None
        hits = self._store.search(self._queries[i], top_k=TOP_K, fusion=fusions.get(kind, RRF()), filter=condition)
        return [(hit.document.id, hit.score) for hit in hits[0]]


def open_ours(backend: str, data: Data, folder: Path, resources: ExitStack) -> Contender:
    """Open a new store of a backend."""
    if backend == "memory":
        return Ours(data, MemoryStore(dim=DIM))
    spec = {"edge": f"edge:{folder}", "qdrant-local": "qdrant::memory:", "milvus-lite": f"milvus:{folder}/ours.db"}
    return Ours(data, resources.enter_context(open_store(spec[backend], "docs", dim=DIM)))


def open_declared(data: Data, folder: Path, resources: ExitStack) -> Contender:
    """Open a Milvus store with a typed column for what the condition asks."""
    from m3connect_milvus import MilvusStore
    from pymilvus import MilvusClient

    client = MilvusClient(f"{folder}/declared.db")
    resources.callback(client.close)
    return Ours(data, MilvusStore(client, "docs", dim=DIM, filter_fields={"lang": "str"}))
