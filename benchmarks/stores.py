"""Stores of the databases here: m3connect against the client library by hand and against LangChain.

All contenders get the same vectors in one process and take turns, batch by batch and query by query.

    python benchmarks/stores.py --sizes 1000 --sizes 10000 --json stores.json
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import m3connect
from m3connect import filters
from m3connect.embeddings import FloatArray, IntArray, M3Embeddings, SparseRows
from m3connect.fusion import RRF, Dense, Fusion, Sparse
from m3connect.memory import MemoryStore
from m3connect.opening import open_store
from m3connect.store import Document, HybridStore

DIM, VOCABULARY, BATCH, TOP_K, CANDIDATES = 1024, 250_002, 256, 10, 100
CONDITION = filters.field("lang") == "de"
TOKEN = '="lang":"de"'
"""What the condition asks of `filter_tokens`."""

OURS, DECLARED = "m3connect", "m3connect, filter_fields"
HAND, PLAIN, LANGCHAIN = "by hand", "by hand, little payload", "LangChain"
NAMESPACE = uuid.UUID("5b0f1a52-8c0e-5d6f-9a43-6d3363b6e3c1")

Kind: TypeAlias = Literal["hybrid", "dense", "sparse", "filtered"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Found: TypeAlias = list[tuple[str, float]]
Row: TypeAlias = tuple[IntArray, FloatArray]

console = Console()


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents with all that a client needs, made before any clock starts."""

    documents: list[Document]
    embeddings: M3Embeddings
    rows: list[Row]
    payloads: list[dict[str, Any]]
    """With the fields that m3connect derives; `PLAIN` takes three of them."""


@dataclass(frozen=True, slots=True)
class Data:
    """Batches of documents, and queries."""

    batches: list[Batch]
    queries: list[M3Embeddings]
    """One row each."""

    query_rows: list[Row]


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


# Data.


def draw_sparse(random: np.random.Generator, n: int, draws: int) -> list[Row]:
    """Draw rows of distinct token ids by Zipf's law, with weights as M3 gives them: up to some 0.4."""
    chances = np.cumsum(1 / np.arange(1, VOCABULARY))
    ids = np.random.default_rng(1).permutation(np.arange(1, VOCABULARY))  # not 0 and not only small ones
    rows = []
    for _ in range(n):
        tokens = np.unique(ids[np.searchsorted(chances, random.random(draws) * chances[-1])])
        rows.append((tokens.astype(np.int64), random.uniform(0.02, 0.4, len(tokens)).astype(np.float32)))
    return rows


def draw_embeddings(random: np.random.Generator, n: int, draws: int) -> tuple[M3Embeddings, list[Row]]:
    """Draw unit rows and sparse rows."""
    dense = random.standard_normal((n, DIM)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    rows = draw_sparse(random, n, draws)
    indptr = np.cumsum([0, *(len(tokens) for tokens, _ in rows)])
    sparse = SparseRows(indptr, np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]))
    return M3Embeddings(dense, sparse), rows


def make_data(size: int, queries: int, *, seed: int = 0) -> Data:
    """Draw documents, about 60 weights each, and queries of about 12."""
    random = np.random.default_rng(seed)
    batches = []
    for start in range(0, size, BATCH):
        n = min(BATCH, size - start)
        documents = [make_document(i) for i in range(start, start + n)]
        embeddings, rows = draw_embeddings(random, n, 74)
        batches.append(Batch(documents, embeddings, rows, [make_payload(one) for one in documents]))
    asked, query_rows = draw_embeddings(random, queries, 13)
    return Data(batches, [asked[i] for i in range(queries)], query_rows)


def make_document(i: int) -> Document:
    """Return document i: 400 characters, a quarter of them in German."""
    metadata = {"lang": ("de", "en", "fr", "zh")[i % 4], "year": 1950 + i % 75}
    return Document(f"doc-{i}", f"document {i} ".ljust(400, "x"), metadata)


def make_payload(document: Document) -> dict[str, Any]:
    """Return the payload that m3connect stores."""
    return {
        "id": document.id,
        "text": document.text,
        "metadata": dict(document.metadata),
        "parent_id": None,
        "fingerprint": document.fingerprint,
        "filter_tokens": filters.tokens(document.metadata),
        "filter_numbers": filters.numbers(document.metadata),
    }


def few(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what somebody without our filters and fingerprints would store."""
    return {name: payload[name] for name in ("id", "text", "metadata")}


def point_id(name: str) -> str:
    """Return a UUID; Qdrant knows no string ids."""
    return str(uuid.uuid5(NAMESPACE, name))


# m3connect.


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


# By hand.


class QdrantByHand(Contender):
    """qdrant-client in local mode."""

    def __init__(self, data: Data, *, plain: bool) -> None:
        from qdrant_client import QdrantClient, models

        self._rows, self._plain, self._models = data.query_rows, plain, models
        self._dense = [query.dense[0] for query in data.queries]
        self._client = QdrantClient(":memory:")
        self._client.create_collection(
            "docs",
            vectors_config={"dense": models.VectorParams(size=DIM, distance=models.Distance.DOT)},
            sparse_vectors_config={"sparse": models.SparseVectorParams()},
        )
        key, value = ("metadata.lang", "de") if plain else ("filter_tokens", TOKEN)
        match = models.MatchAny(any=[value])
        self._condition = models.Filter(must=[models.FieldCondition(key=key, match=match)])

    def ingest(self, batch: Batch) -> None:
        """Upsert points."""
        models = self._models
        points = [
            models.PointStruct(
                id=point_id(payload["id"]),
                vector={
                    "dense": dense.tolist(),
                    "sparse": models.SparseVector(indices=tokens.tolist(), values=weights.tolist()),
                },
                payload=few(payload) if self._plain else payload,
            )
            for payload, dense, (tokens, weights) in zip(
                batch.payloads, batch.embeddings.dense, batch.rows, strict=True
            )
        ]
        self._client.upsert("docs", points, wait=True)

    def search(self, kind: Kind, i: int) -> Found:
        """Query points."""
        models = self._models
        tokens, weights = self._rows[i]
        sparse = models.SparseVector(indices=tokens.tolist(), values=weights.tolist())
        dense, fields = self._dense[i].tolist(), ["id", "text", "metadata", *([] if self._plain else ["parent_id"])]
        if kind == "dense" or kind == "sparse":
            query = dense if kind == "dense" else sparse
            answer = self._client.query_points("docs", query=query, using=kind, limit=TOP_K, with_payload=fields)
        else:
            condition = self._condition if kind == "filtered" else None
            answer = self._client.query_points(
                "docs",
                prefetch=[
                    models.Prefetch(query=dense, using="dense", limit=CANDIDATES, filter=condition),
                    models.Prefetch(query=sparse, using="sparse", limit=CANDIDATES, filter=condition),
                ],
                query=models.RrfQuery(rrf=models.Rrf(k=61)),  # its ranks count from 0
                limit=TOP_K,
                with_payload=fields,
            )
        return [((point.payload or {})["id"], point.score) for point in answer.points]


class EdgeByHand(Contender):
    """qdrant-edge-py."""

    def __init__(self, data: Data, folder: Path, *, plain: bool) -> None:
        self._edge: Any = importlib.import_module("qdrant_edge")
        edge = self._edge
        self._rows, self._plain = data.query_rows, plain
        self._dense = [query.dense[0] for query in data.queries]
        folder.mkdir()
        config = edge.EdgeConfig(
            vectors={"dense": edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Dot)},
            sparse_vectors={"sparse": edge.EdgeSparseVectorParams()},
        )
        self._shard = edge.EdgeShard.create(str(folder), config)
        key, value = ("metadata.lang", "de") if plain else ("filter_tokens", TOKEN)
        self._shard.update(edge.UpdateOperation.create_field_index(key, edge.PayloadSchemaType.Keyword))
        self._condition = edge.Filter(must=[edge.FieldCondition(key, match=edge.MatchAny([value]))])

    def ingest(self, batch: Batch) -> None:
        """Upsert points."""
        edge = self._edge
        points = [
            edge.Point(
                point_id(payload["id"]),
                {"dense": dense, "sparse": edge.SparseVector(tokens.tolist(), weights.tolist())},
                few(payload) if self._plain else payload,
            )
            for payload, dense, (tokens, weights) in zip(
                batch.payloads, batch.embeddings.dense, batch.rows, strict=True
            )
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(points))

    def finish(self) -> None:
        """Flush."""
        self._shard.flush()

    def search(self, kind: Kind, i: int) -> Found:
        """Query the shard, exactly."""
        edge = self._edge
        tokens, weights = self._rows[i]
        exact = edge.SearchParams(exact=True)
        legs = {
            "dense": edge.Query.Nearest(self._dense[i], using="dense"),
            "sparse": edge.Query.Nearest(edge.SparseVector(tokens.tolist(), weights.tolist()), using="sparse"),
        }
        if kind in legs:
            request = edge.QueryRequest(limit=TOP_K, query=legs[kind], params=exact, with_payload=True)
        else:
            condition = self._condition if kind == "filtered" else None
            prefetches = [
                edge.Prefetch(limit=CANDIDATES, query=leg, filter=condition, params=exact) for leg in legs.values()
            ]
            fused = edge.Fusion.Rrf(61)  # its ranks count from 0
            request = edge.QueryRequest(limit=TOP_K, query=fused, prefetches=prefetches, with_payload=True)
        return [(point.payload["id"], point.score) for point in self._shard.query(request)]


class MilvusByHand(Contender):
    """pymilvus on a Milvus Lite file."""

    def __init__(self, data: Data, folder: Path, *, plain: bool) -> None:
        self._milvus: Any = importlib.import_module("pymilvus")
        types = self._milvus.DataType
        self._rows, self._plain = data.query_rows, plain
        self._dense = [query.dense[0] for query in data.queries]
        self._client = self._milvus.MilvusClient(f"{folder}/{'plain' if plain else 'hand'}.db")
        schema = self._milvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.VARCHAR, is_primary=True, max_length=4096)
        schema.add_field("text", types.VARCHAR, max_length=65_535)
        schema.add_field("metadata", types.JSON)
        if not plain:
            schema.add_field("parent_id", types.VARCHAR, max_length=4096, nullable=True)
            schema.add_field("fingerprint", types.VARCHAR, max_length=64)
            schema.add_field("filter_tokens", types.ARRAY, element_type=types.VARCHAR, max_capacity=4096, max_length=96)
            schema.add_field("filter_numbers", types.JSON)
        schema.add_field("dense", types.FLOAT_VECTOR, dim=DIM)
        schema.add_field("sparse", types.SPARSE_FLOAT_VECTOR)
        indexes = self._milvus.MilvusClient.prepare_index_params()
        indexes.add_index("dense", index_type="FLAT", metric_type="IP")
        indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self._client.create_collection("docs", schema=schema, index_params=indexes)
        self._condition = 'metadata["lang"] == "de"' if plain else f"array_contains(filter_tokens, {json.dumps(TOKEN)})"

    def ingest(self, batch: Batch) -> None:
        """Upsert rows."""
        rows = [
            {
                **(few(payload) if self._plain else payload),
                "dense": dense,
                "sparse": dict(zip(tokens.tolist(), weights.tolist(), strict=True)),
            }
            for payload, dense, (tokens, weights) in zip(
                batch.payloads, batch.embeddings.dense, batch.rows, strict=True
            )
        ]
        self._client.upsert("docs", rows)

    def finish(self) -> None:
        """Flush, without which Lite compares row by row."""
        self._client.flush("docs")

    def search(self, kind: Kind, i: int) -> Found:
        """Search, or search hybrid."""
        tokens, weights = self._rows[i]
        queries: dict[str, Any] = {
            "dense": self._dense[i],
            "sparse": dict(zip(tokens.tolist(), weights.tolist(), strict=True)),
        }
        fields = ["id", "text", "metadata", *([] if self._plain else ["parent_id"])]
        if kind in queries:
            answer = self._client.search(
                "docs", data=[queries[kind]], anns_field=kind, limit=TOP_K, output_fields=fields
            )
        else:
            expression = self._condition if kind == "filtered" else ""
            legs = [
                self._milvus.AnnSearchRequest(
                    data=[query], anns_field=leg, param={"metric_type": "IP"}, limit=CANDIDATES, expr=expression
                )
                for leg, query in queries.items()
            ]
            ranker = self._milvus.RRFRanker(60)
            answer = self._client.hybrid_search("docs", legs, ranker, limit=TOP_K, output_fields=fields)
        return [(hit["id"], hit["distance"]) for hit in answer[0]]


# LangChain: "encoders" look vectors up; texts of queries are their numbers.


class _Lookup:
    """Finds vectors by text, as lists, which is what LangChain's encoders return."""

    def __init__(self, data: Data, *, sparse: Callable[[Row], Any] | None) -> None:
        self._queries: dict[str, Any] = {}
        for i, (query, row) in enumerate(zip(data.queries, data.query_rows, strict=True)):
            self._queries[str(i)] = sparse(row) if sparse else query.dense[0].tolist()
        self._documents: dict[str, Any] = {}
        for batch in data.batches:
            for document, dense, row in zip(batch.documents, batch.embeddings.dense, batch.rows, strict=True):
                self._documents[document.text] = row if sparse else dense
        self._sparse = sparse

    def embed_documents(self, texts: Sequence[str]) -> list[Any]:
        """Return vectors of documents."""
        rows = [self._documents[text] for text in texts]
        return [self._sparse(row) for row in rows] if self._sparse else [row.tolist() for row in rows]

    def embed_query(self, text: str) -> Any:  # noqa: ANN401  # by leg
        """Return the vector of a query."""
        return self._queries[text]


class LangChainQdrant(Contender):
    """langchain-qdrant; each leg brings as many candidates as hits are asked for, which cannot be changed."""

    def __init__(self, data: Data) -> None:
        from qdrant_client import QdrantClient, models

        library: Any = importlib.import_module("langchain_qdrant")
        client = QdrantClient(":memory:")
        client.create_collection(
            "docs",
            vectors_config={"dense": models.VectorParams(size=DIM, distance=models.Distance.DOT)},
            sparse_vectors_config={"sparse": models.SparseVectorParams()},
        )

        def to_sparse(row: Row) -> Any:  # noqa: ANN401  # the library's SparseVector
            return library.SparseVector(indices=row[0].tolist(), values=row[1].tolist())

        modes = library.RetrievalMode
        dense, sparse = _Lookup(data, sparse=None), _Lookup(data, sparse=to_sparse)
        self._stores = {
            kind: library.QdrantVectorStore(
                client,
                "docs",
                embedding=dense,
                sparse_embedding=sparse,
                retrieval_mode={"dense": modes.DENSE, "sparse": modes.SPARSE}.get(kind, modes.HYBRID),
                vector_name="dense",
                sparse_vector_name="sparse",
                validate_embeddings=False,
                validate_collection_config=False,
            )
            for kind in KINDS
        }
        self._fusion = {"hybrid_fusion": models.RrfQuery(rrf=models.Rrf(k=61))}
        match = models.MatchValue(value="de")
        self._condition = models.Filter(must=[models.FieldCondition(key="metadata.lang", match=match)])

    def ingest(self, batch: Batch) -> None:
        """Add texts."""
        metadatas = [{**document.metadata, "id": document.id} for document in batch.documents]
        ids = [point_id(document.id) for document in batch.documents]
        texts = [document.text for document in batch.documents]
        self._stores["hybrid"].add_texts(texts, metadatas, ids=ids, batch_size=BATCH)

    def search(self, kind: Kind, i: int) -> Found:
        """Search with scores."""
        options: dict[str, Any] = self._fusion if kind in ("hybrid", "filtered") else {}
        condition = self._condition if kind == "filtered" else None
        found = self._stores[kind].similarity_search_with_score(str(i), k=TOP_K, filter=condition, **options)
        return [(document.metadata["id"], score) for document, score in found]


class LangChainMilvus(Contender):
    """langchain-milvus, with candidates and index parameters as here, since Lite refuses its defaults."""

    def __init__(self, data: Data, folder: Path) -> None:
        library: Any = importlib.import_module("langchain_milvus")
        sparse_base: Any = importlib.import_module("langchain_milvus.utils.sparse").BaseSparseEmbedding

        def to_sparse(row: Row) -> dict[int, float]:
            return dict(zip(row[0].tolist(), row[1].tolist(), strict=True))

        encoders = _Lookup(data, sparse=None), _Lookup(data, sparse=to_sparse)
        members = {name: getattr(encoders[1], name) for name in ("embed_documents", "embed_query")}
        wrapped = type("Sparse", (sparse_base,), {name: staticmethod(one) for name, one in members.items()})()
        self._store = library.Milvus(
            [encoders[0], wrapped],
            collection_name="docs",
            connection_args={"uri": f"{folder}/langchain.db"},
            index_params=[
                {"index_type": "FLAT", "metric_type": "IP"},
                {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"},
            ],
            search_params=[{"metric_type": "IP", "params": {}}] * 2,
            vector_field=["dense", "sparse"],
            consistency_level="Strong",
            auto_id=False,
        )

    def ingest(self, batch: Batch) -> None:
        """Add texts."""
        texts = [document.text for document in batch.documents]
        ids = [document.id for document in batch.documents]
        self._store.add_texts(texts, [dict(document.metadata) for document in batch.documents], ids=ids)

    def finish(self) -> None:
        """Flush, which it leaves to its user."""
        self._store.client.flush("docs")

    def search(self, kind: Kind, i: int) -> Found:
        """Search hybrid; a store of two vectors has no other search."""
        expression = 'lang == "de"' if kind == "filtered" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = self._store.similarity_search_with_score(
                str(i), k=TOP_K, fetch_k=CANDIDATES, expr=expression, ranker_type="rrf", ranker_params={"k": 60}
            )
        return [(document.metadata["pk"], score) for document, score in found]


# Measuring.

BACKENDS = {
    "memory": ("numpy",),
    "qdrant-local": ("qdrant_client",),
    "edge": ("qdrant_edge", "filelock"),
    "milvus-lite": ("pymilvus", "milvus_lite"),
}
PEERS = {"qdrant-local": "langchain_qdrant", "milvus-lite": "langchain_milvus"}


def names_of(backend: str) -> list[str]:
    """Name the contenders of a backend that are installed."""
    names = [OURS] if backend == "memory" else [OURS, HAND, PLAIN]
    names += [DECLARED] if backend == "milvus-lite" else []
    peer = PEERS.get(backend)
    return [*names, LANGCHAIN] if peer is not None and is_installed(peer) else names


def is_installed(module: str) -> bool:
    """Say whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


def kinds_of(backend: str, name: str) -> tuple[Kind, ...]:
    """Name the searches of a contender."""
    return ("hybrid", "filtered") if (backend, name) == ("milvus-lite", LANGCHAIN) else KINDS


def open_contender(backend: str, name: str, data: Data, folder: Path, resources: ExitStack) -> Contender:
    """Open a new collection."""
    if name == OURS:
        return open_ours(backend, data, folder / "ours", resources)
    if name == DECLARED:
        return open_declared(data, folder / "ours", resources)
    plain = name == PLAIN
    if backend == "edge":
        return EdgeByHand(data, folder / f"edge-{plain}", plain=plain)
    if backend == "qdrant-local":
        return LangChainQdrant(data) if name == LANGCHAIN else QdrantByHand(data, plain=plain)
    files = folder / "milvus"
    files.mkdir(exist_ok=True)
    return LangChainMilvus(data, files) if name == LANGCHAIN else MilvusByHand(data, files, plain=plain)


def measure(backends: Sequence[str], size: int, rounds: int, settle: float) -> list[Measured]:
    """Fill all collections, check that they agree, and search them in turn."""
    data = make_data(size, rounds)
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        (folder / "ours").mkdir()
        pairs = [
            (Measured(backend, name, size), open_contender(backend, name, data, folder, resources))
            for backend in backends
            for name in names_of(backend)
        ]
        console.print(f"[dim]{size:,} documents: filling[/]")
        _fill(pairs, data)
        time.sleep(settle)  # Lite builds indexes in the background
        _check(pairs)
        console.print(f"[dim]{size:,} documents: searching, {rounds} rounds[/]")
        for turn in range(rounds):
            for kind in KINDS:
                for result, contender in _rotated(pairs, turn):
                    if kind in kinds_of(result.backend, result.name):
                        result.search[kind].append(_time_search(contender, kind, turn))
        return [result for result, _ in pairs]


def _rotated(pairs: list[tuple[Measured, Contender]], turn: int) -> list[tuple[Measured, Contender]]:
    """Let another one begin each time."""
    first = turn % len(pairs)
    return pairs[first:] + pairs[:first]


def _fill(pairs: list[tuple[Measured, Contender]], data: Data) -> None:
    for turn, batch in enumerate(data.batches):
        gc.collect()
        for result, contender in _rotated(pairs, turn):
            result.ingest.append(_timed(partial(contender.ingest, batch)))
    for result, contender in pairs:
        result.finish = _timed(contender.finish)


def _check(pairs: list[tuple[Measured, Contender]]) -> None:
    """Search everything once, so that lazy indexes are built, and compare with m3connect's hits.

    Raises:
        ValueError: the client library by hand scores otherwise than m3connect, so the two do not do the same.
    """
    by_backend = {result.backend: contender for result, contender in pairs if result.name == OURS}
    for result, contender in pairs:
        for kind in kinds_of(result.backend, result.name):
            shared = []
            for i in range(3):
                wanted, found = by_backend[result.backend].search(kind, i), contender.search(kind, i)
                if result.name != LANGCHAIN:  # its candidates are others
                    _check_scores(result, kind, wanted, found)
                shared.append(len({name for name, _ in wanted} & {name for name, _ in found}) / len(wanted))
            result.overlap[kind] = statistics.mean(shared)


def _check_scores(result: Measured, kind: Kind, wanted: Found, found: Found) -> None:
    ours, theirs = [score for _, score in wanted], [score for _, score in found]
    if len(ours) != len(theirs) or not np.allclose(ours, theirs, atol=1e-5):
        raise ValueError(f"{result.backend}, {kind}: m3connect scores {ours}, {result.name} {theirs}")


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _time_search(contender: Contender, kind: Kind, i: int, *, least: float = 0.01) -> float:
    """Time a search; a short one several times over, so that one interruption does not count for much."""
    start, calls = time.perf_counter(), 0
    while True:
        contender.search(kind, i)
        calls += 1
        passed = time.perf_counter() - start
        if passed > least:
            return passed / calls


def memory_of(backend: str, name: str, size: int) -> float | None:
    """Return the MB by which a process of its own grows: libraries, the collection, and what searching leaves behind.

    Returns:
        None where the system does not tell.
    """
    if not Path("/proc/self/statm").exists():
        return None
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=_grow, args=(backend, name, size, answers))
    process.start()
    process.join()
    return answers.get(timeout=1) if process.exitcode == 0 else None


def _grow(backend: str, name: str, size: int, answers: multiprocessing.Queue[float]) -> None:
    data = make_data(size, 3)
    gc.collect()
    before = _resident()
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        (folder / "ours").mkdir()
        contender = open_contender(backend, name, data, folder, resources)
        for batch in data.batches:
            contender.ingest(batch)
        contender.finish()
        for kind in KINDS:
            for i in range(3):
                contender.search(kind, i)
        gc.collect()
        answers.put((_resident() - before) / 2**20)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# Reporting.


def show(size: int, results: Sequence[Measured]) -> None:
    """Print what was measured at one size."""
    table = Table(title=f"{size:,} documents: documents/s; milliseconds a search, median (min .. max)", min_width=100)
    for column in ("backend", "contender"):
        table.add_column(column)
    for column in ("ingest", *KINDS, "MB"):
        table.add_column(column, justify="right")
    for result in results:
        cells = [_spread(result.search[kind]) for kind in KINDS]
        memory = f"{result.memory:,.0f}" if result.memory is not None else ""
        table.add_row(result.backend, result.name, f"{result.rate:,.0f}", *cells, memory)
    console.print(table)


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:.2f} ({low:.2f} .. {high:.2f})"


def ratios(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Compare m3connect's times with those of every other contender of the same backend and size.

    Of searches, the median over rounds of what one round gave: a change in the machine's load hits both sides of it.
    """
    lines: list[dict[str, Any]] = []
    for ours in (result for result in results if result.name == OURS):
        for other in results:
            if other.name == OURS or (other.backend, other.size) != (ours.backend, ours.size):
                continue
            line: dict[str, Any] = {"size": ours.size, "backend": ours.backend, "against": other.name}
            line["ingest"] = other.rate / ours.rate
            batches = len(ours.ingest)
            line["ingest_ms_more_a_batch"] = 1000 * ours.size * (1 / ours.rate - 1 / other.rate) / batches
            for kind in (kind for kind in KINDS if other.search[kind]):
                pairs = list(zip(ours.search[kind], other.search[kind], strict=True))
                line[kind] = _paired(ours, other, kind)
                line[f"{kind}_ms_more"] = 1000 * statistics.median(own - theirs for own, theirs in pairs)
            lines.append(line)
    return lines


def edge_against_local(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Say how many times the time of Edge Qdrant's local mode takes, both through m3connect."""
    found = {(result.backend, result.size): result for result in results if result.name == OURS}
    return [
        {"size": size, "ingest": edge.rate / local.rate} | {kind: _paired(local, edge, kind) for kind in KINDS}
        for (backend, size), edge in found.items()
        if backend == "edge" and (local := found.get(("qdrant-local", size))) is not None
    ]


def _paired(one: Measured, other: Measured, kind: Kind) -> float:
    return statistics.median(a / b for a, b in zip(one.search[kind], other.search[kind], strict=True))


def growth(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Say how m3connect's times grow from the smallest size."""
    ours = [result for result in results if result.name == OURS]
    first = {result.backend: result for result in sorted(ours, key=lambda one: -one.size)}
    return [
        {"backend": result.backend, "documents": result.size / first[result.backend].size}
        | {"ingest": first[result.backend].rate / result.rate}
        | {kind: result.median(kind) / first[result.backend].median(kind) for kind in KINDS}
        for result in ours
        if result.size > first[result.backend].size
    ]


def show_lines(title: str, lines: Sequence[dict[str, Any]]) -> None:
    """Print lines of ratios; in brackets the milliseconds more, where they are known."""
    if not lines:
        return
    table = Table(title=title, min_width=100)
    names = [name for name in lines[0] if "_ms_more" not in name]
    for name in names:
        table.add_column(name, justify="left" if isinstance(lines[0][name], str) else "right")
    for line in lines:
        table.add_row(*(_cell(line, name) for name in names))
    console.print(table)


def _cell(line: dict[str, Any], name: str) -> str:
    value = line.get(name, "-")
    if isinstance(value, float):
        more = line.get(f"{name}_ms_more", line.get(f"{name}_ms_more_a_batch"))
        return f"{value:.2f}" + (f" ({more:+.2f} ms)" if more is not None else "")
    return f"{value:,}" if isinstance(value, int) else value


def about_machine(rounds: int) -> dict[str, Any]:
    """Versions, processor and settings."""
    libraries = ["m3connect", "qdrant-client", "qdrant-edge-py", "pymilvus", "milvus-lite"]
    libraries += ["langchain-qdrant", "langchain-milvus", "numpy"]
    return {
        "processor": _processor(),
        "rounds": rounds,
        "load_average_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in libraries},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def _version(name: str) -> str | None:
    if name == "m3connect":
        return m3connect.__version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def choose(wanted: Sequence[str]) -> list[str]:
    """Return the backends that are installed, saying what is not.

    Raises:
        typer.BadParameter: there is no such backend.
    """
    unknown = sorted(set(wanted) - set(BACKENDS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(BACKENDS)}")
    chosen = []
    for backend in dict.fromkeys(wanted or BACKENDS):
        missing = [module for module in BACKENDS[backend] if not is_installed(module)]
        if missing:
            console.print(f"[yellow]{backend} is left out: {', '.join(missing)} is not installed.[/]")
            continue
        chosen.append(backend)
        peer = PEERS.get(backend)
        if peer is not None and not is_installed(peer):
            package = peer.replace("_", "-")
            console.print(f"[yellow]{package} is not installed: {backend} is compared with its client alone.[/]")
    return chosen


def main(
    sizes: Annotated[list[int], typer.Option(min=10, help="How many documents; give it once for each size.")] = [  # noqa: B006  # typer copies it
        1000,
        10000,
    ],
    backends: Annotated[list[str], typer.Option(help="Give it once for each; all by default.")] = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=3, help="How often each searches; the median counts.")] = 21,
    settle: Annotated[float, typer.Option(help="Seconds between filling and searching.")] = 5.0,
    memory: Annotated[bool, typer.Option(help="Fill each once more, in a process of its own.")] = True,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few documents and rounds: shows that it runs.")] = False,
) -> None:
    """Measure stores: m3connect against client libraries by hand and LangChain, taking turns in one process."""
    logging.getLogger("milvus_lite").setLevel(logging.ERROR)
    chosen = choose(backends)
    sizes, rounds, settle = ([200, 400], 3, 0.0) if quick else (sorted(set(sizes)), rounds, settle)
    about = about_machine(rounds)
    results: list[Measured] = []
    for size in sizes:
        measured = measure(chosen, size, rounds, settle)
        for result in measured:
            if memory and result.name in (OURS, HAND):
                result.memory = memory_of(result.backend, result.name, size)
        show(size, measured)
        results += measured
    summary = {"ratios": ratios(results), "edge_against_local": edge_against_local(results), "growth": growth(results)}
    show_lines("m3connect's time over the other's; in brackets what is more, ingest by batch", summary["ratios"])
    show_lines("Qdrant's local mode over Edge, both through m3connect", summary["edge_against_local"])
    show_lines("growth: m3connect's time over its time at the smallest size", summary["growth"])
    console.print(_footer(about))
    if json_path is not None:
        figures = [
            {
                "backend": result.backend,
                "contender": result.name,
                "size": result.size,
                "documents_per_second": result.rate,
                "ingest_seconds": result.ingest,
                "finish_seconds": result.finish,
                "search_seconds": result.search,
                "overlap": result.overlap,
                "memory_mb": result.memory,
            }
            for result in results
        ]
        json_path.write_text(json.dumps({**about, **summary, "figures": figures}, indent=1) + "\n", encoding="utf-8")


def _footer(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    return (
        f"'{HAND}' gets its payloads ready-made, with the fields that m3connect derives while the clock runs; "
        f"'{PLAIN}' stores id, text and metadata.\nlangchain-qdrant takes {TOP_K} candidates a leg, the others "
        f"{CANDIDATES}.\n{about['processor']}, {about['rounds']} rounds, load average "
        f"{about['load_average_before']:.1f} before; {versions}"
    )


if __name__ == "__main__":
    typer.run(main)
