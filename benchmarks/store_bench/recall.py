"""recall@10 of approximate and quantised indexes: how many of the exact store's best ten they find.

Documents come in groups that resemble each other, as texts do; among random vectors, which do not, a graph finds half.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from m3connect.base import Store
from m3connect.embeddings import M3Embeddings
from m3connect.fusion import RRF, Dense, Fusion
from m3connect.memory import MemoryStore
from store_bench.data import BATCH, DIM, TOP_K, draw_embeddings, make_document

__all__ = ["measure_recall"]

_ALIKE = 20
"""Documents in a group."""

_SPREAD = 0.8
"""The length of what sets a document apart from the centre of its group, whose length is 1."""

_QUERIES = 50

_LITE_INDEXES = ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "HNSW_SQ")

Opener: TypeAlias = Callable[[Path], Iterator[tuple[Store, Callable[[], dict[str, Any]]]]]


def measure_recall(backends: Sequence[str], size: int, settle: float) -> list[dict[str, Any]]:
    """Fill one store for each index, and compare its hits with those of the exact store."""
    embeddings, queries = _alike(size)
    oracle = MemoryStore(dim=DIM)
    _fill(oracle, embeddings)
    profiles: list[tuple[str, str, Opener]] = []
    if "edge" in backends:
        profiles += [("edge", "exact", _edge(exact=True)), ("edge", "graph after optimize()", _edge(exact=False))]
    if "milvus-lite" in backends:
        profiles += [("milvus-lite", index, _milvus(index)) for index in _LITE_INDEXES]
    lines = []
    for backend, profile, opener in profiles:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            with contextmanager(opener)(Path(folder)) as (store, finish):
                _fill(store, embeddings)
                said = finish()
                time.sleep(settle)  # Lite builds indexes in the background
                found = {
                    "recall@10 dense": _recall(store, oracle, queries, Dense()),
                    "recall@10 hybrid": _recall(store, oracle, queries, RRF()),
                }
        lines.append({"backend": backend, "index": profile, "documents": size} | found | said)
    return lines


def _alike(size: int) -> tuple[M3Embeddings, M3Embeddings]:
    """Draw documents and queries around the same centres."""
    random = np.random.default_rng(7)
    drawn, _ = draw_embeddings(random, size + _QUERIES, 74)
    centres, _ = draw_embeddings(random, -(-size // _ALIKE), 1)
    dense = centres.dense[np.arange(size + _QUERIES) % len(centres)] + _SPREAD * drawn.dense
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    whole = M3Embeddings(dense, drawn.sparse)
    return whole[:size], whole[size:]


def _fill(store: Store, embeddings: M3Embeddings) -> None:
    for start in range(0, len(embeddings), BATCH):
        part = embeddings[start : start + BATCH]
        store.upsert([make_document(i) for i in range(start, start + len(part))], part)
    store.flush()


def _recall(store: Store, oracle: Store, queries: M3Embeddings, fusion: Fusion) -> float:
    found, wanted = (one.search(queries, top_k=TOP_K, fusion=fusion) for one in (store, oracle))
    return statistics.mean(
        len({hit.document.id for hit in hits} & {hit.document.id for hit in best}) / len(best)
        for hits, best in zip(found, wanted, strict=True)
    )


def _edge(*, exact: bool) -> Opener:
    def opener(folder: Path) -> Iterator[tuple[Store, Callable[[], dict[str, Any]]]]:
        from m3connect_edge import EdgeStore

        with EdgeStore(folder / "edge", dim=DIM, exact=exact) as store:

            def finish() -> dict[str, Any]:
                if not exact:
                    store.optimize()
                # Sparse vectors are always indexed, and counted; a graph is built from some 20 MB of vectors on.
                return {"vectors in a graph": int(store.info().details["indexed_vectors"]) - store.count()}

            yield store, finish

    return opener


def _milvus(index: str) -> Opener:
    def opener(folder: Path) -> Iterator[tuple[Store, Callable[[], dict[str, Any]]]]:
        from m3connect_milvus import MilvusSettings, MilvusStore
        from pymilvus import MilvusClient

        client = MilvusClient(f"{folder}/recall.db")
        settings = MilvusSettings(dense_index={"index_type": index})
        try:
            yield MilvusStore(client, "docs", dim=DIM, settings=settings), dict
        finally:
            client.close()

    return opener
