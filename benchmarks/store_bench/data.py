"""Documents, vectors and queries, drawn alike in every run."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from m3connect import filters
from m3connect.embeddings import FloatArray, IntArray, M3Embeddings, SparseRows
from m3connect.store import Document

DIM, VOCABULARY, BATCH, TOP_K, CANDIDATES = 1024, 250_002, 256, 10, 100
CONDITION = filters.field("lang") == "de"
TOKEN = '="lang":"de"'
"""What the condition asks of `filter_tokens`."""

NAMESPACE = uuid.UUID("5b0f1a52-8c0e-5d6f-9a43-6d3363b6e3c1")

Kind: TypeAlias = Literal["hybrid", "dense", "sparse", "filtered"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Found: TypeAlias = list[tuple[str, float]]
Row: TypeAlias = tuple[IntArray, FloatArray]


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents with their vectors, made before any clock starts."""

    documents: list[Document]
    embeddings: M3Embeddings
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Data:
    """Batches of documents, and queries."""

    batches: list[Batch]
    queries: list[M3Embeddings]
    """One row each."""

    query_rows: list[Row]


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
        batches.append(Batch(documents, embeddings, rows))
    asked, query_rows = draw_embeddings(random, queries, 13)
    return Data(batches, [asked[i] for i in range(queries)], query_rows)


def make_document(i: int) -> Document:
    """Return document i: 400 characters, a quarter of them in German."""
    metadata = {"lang": ("de", "en", "fr", "zh")[i % 4], "year": 1950 + i % 75}
    return Document(f"doc-{i}", f"document {i} ".ljust(400, "x"), metadata)


def make_payload(document: Document) -> dict[str, Any]:
    """Return the payload that m3connect stores, with the fields that it derives."""
    return {
        "id": document.id,
        "text": document.text,
        "metadata": dict(document.metadata),
        "parent_id": None,
        "fingerprint": document.fingerprint,
        "filter_tokens": filters.tokens(document.metadata),
        "filter_numbers": filters.numbers(document.metadata),
    }


def few(document: Document) -> dict[str, Any]:
    """Return what somebody without our filters and fingerprints would store."""
    return {"id": document.id, "text": document.text, "metadata": dict(document.metadata)}


def point_id(name: str) -> str:
    """Return a UUID; Qdrant knows no string ids."""
    return str(uuid.uuid5(NAMESPACE, name))
