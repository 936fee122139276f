"""Documents and embeddings as rows of a Milvus collection, and back: pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from m3connect import filters, scoring
from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows
from m3connect.fusion import Leg
from m3connect.store import Document
from m3connect_milvus.columns import Columns
from m3connect_milvus.schema import MOST_ID_BYTES, MOST_JSON_BYTES, MOST_TEXT_BYTES, MOST_TOKENS

__all__ = [
    "DOCUMENT_FIELDS",
    "EMPTY_SPARSE",
    "Row",
    "batches",
    "dense_rows",
    "limit_problem",
    "rewritten",
    "scores_from_hits",
    "scores_from_rows",
    "sparse_from_rows",
    "to_document",
    "to_embeddings",
    "to_row",
    "vector_rows",
]

Row: TypeAlias = dict[str, Any]

DOCUMENT_FIELDS = ["id", "text", "metadata", "parent_id"]

EMPTY_SPARSE = {1: 1e-6}
"""What stands for a row without weights, which Lite refuses: token 1 is `<pad>`, which M3 never weighs."""

_EMPTY_LIMIT = 1.001e-6
"""The sentinel's weight after a turn through float32, and no real weight."""

_FEW_FACTS = 1000
"""So many facts are within every limit: a number takes at most 80 bytes."""

_BATCH_ROWS = 512
_BATCH_BYTES = 16 * 2**20
"""A quarter of the 64 MB that a server takes in one request."""


def limit_problem(document: Document, *, bound: int) -> str | None:
    """Say which limit of Milvus a document breaks, or None; limits count UTF-8 bytes.

    Args:
        document: otherwise sound.
        bound: bytes of text, metadata and parent, counted from above: most documents are too small for any limit.
    """
    longest_name = max(len(document.id), len(document.parent_id or ""))
    if bound <= MOST_TEXT_BYTES and 4 * longest_name <= MOST_ID_BYTES:
        return _filter_problem(document.metadata)
    sizes = [
        ("id", _bytes(document.id), MOST_ID_BYTES, "shorten it, or use a hash of it"),
        ("parent_id", _bytes(document.parent_id or ""), MOST_ID_BYTES, "shorten it, or use a hash of it"),
        ("text", _bytes(document.text), MOST_TEXT_BYTES, "split the text into smaller documents"),
        ("metadata", _bytes(_json(document.metadata)), MOST_JSON_BYTES, "move long values into the text or elsewhere"),
    ]
    for name, size, most, remedy in sizes:
        if size > most:
            return f"its {name} has {size} bytes, but Milvus holds at most {most}: {remedy}"
    return _filter_problem(document.metadata)


def _filter_problem(metadata: Mapping[str, Any]) -> str | None:
    values = metadata.values()
    if 2 * len(values) + sum(len(value) for value in values if isinstance(value, list | tuple)) <= _FEW_FACTS:
        return None
    facts = len(filters.tokens(metadata))
    if facts > MOST_TOKENS:
        return f"its metadata has {facts} keys and list members, but Milvus holds at most {MOST_TOKENS}: keep fewer"
    if _bytes(_json(filters.numbers(metadata))) > MOST_JSON_BYTES:
        return "its metadata has more numbers than Milvus can order: keep fewer, or nest those that no filter needs"
    return None


def to_row(document: Document, fingerprint: str, vectors: Mapping[str, Any], *, columns: Columns | None = None) -> Row:
    """Turn a document, its fingerprint and its vectors (`vector_rows`) into the row that is written."""
    return {
        "id": document.id,
        "text": document.text,
        "metadata": _json(document.metadata),
        "parent_id": document.parent_id,
        "fingerprint": fingerprint,
        "filter_tokens": filters.tokens(document.metadata),
        "filter_numbers": _json(filters.numbers(document.metadata)),
        **(columns.values(document.metadata) if columns else {}),
        **vectors,
    }


def vector_rows(
    embeddings: M3Embeddings, *, half: bool = False, legs: Sequence[Leg] = ("dense", "sparse")
) -> list[dict[str, Any]]:
    """Turn embeddings into the vector fields of rows; the legs that Milvus cannot keep are left out."""
    rows: list[dict[str, Any]] = [{} for _ in range(len(embeddings))]
    if "dense" in legs:
        dense = embeddings.dense.astype(np.float16 if half else np.float32, copy=False)
        for row, vector in zip(rows, dense, strict=True):
            row["dense"] = vector
    if "sparse" in legs:
        for row, weights in zip(rows, embeddings.sparse.to_dicts(), strict=True):
            row["sparse"] = weights or EMPTY_SPARSE
    return rows


def rewritten(row: Mapping[str, Any], vectors: Mapping[str, Any], *, half: bool) -> Row:
    """Turn a row that was read whole into one that can be written, with some vectors replaced."""
    dense = dense_rows([row["dense"]]).astype(np.float16 if half else np.float32)[0]
    texts = {name: _json(row[name]) for name in ("metadata", "filter_numbers")}
    return {**row, **texts, "filter_tokens": list(row["filter_tokens"]), "dense": dense, **vectors}


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Cut rows into requests of at most 512 rows and 16 MB."""
    batch: list[Row] = []
    total = 0
    for row in rows:
        size = _size(row)
        if batch and (len(batch) == _BATCH_ROWS or total + size > _BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += size
    if batch:
        yield batch


def to_document(row: Mapping[str, Any]) -> Document:
    """Read a document back from a row."""
    return Document(row["id"], row["text"], row["metadata"], row["parent_id"])


def to_embeddings(rows: Sequence[Mapping[str, Any]], *, dim: int, fingerprint: str | None) -> M3Embeddings:
    """Read embeddings back from rows, row i being row i."""
    dense = dense_rows([row["dense"] for row in rows]).reshape(len(rows), dim)
    return M3Embeddings(dense, sparse_from_rows(rows), fingerprint=fingerprint)


def sparse_from_rows(rows: Iterable[Mapping[str, Any]]) -> SparseRows:
    """Read sparse rows back; the sentinel becomes the empty row that it stands for."""
    return SparseRows.from_dicts([{} if _is_empty(row["sparse"]) else row["sparse"] for row in rows])


def scores_from_hits(hits: Iterable[Mapping[str, Any]], sparse_query: Mapping[int, float] | None) -> dict[str, float]:
    """Read scores by id from one query's hits.

    Args:
        hits: what Milvus found, best first.
        sparse_query: the query's weights in the sparse leg, None in the dense leg. In the sparse leg a document whose
            score is 0, or comes from the sentinel, is no hit.
    """
    scores = {str(hit["id"]): float(hit["distance"]) for hit in hits}
    if sparse_query is None:
        return scores
    floor = sparse_query.get(1, 0.0) * _EMPTY_LIMIT
    return {name: score for name, score in scores.items() if score > floor}


def scores_from_rows(query: M3Embeddings, rows: Sequence[Mapping[str, Any]], leg: str) -> dict[str, float]:
    """Score stored rows exactly for one query."""
    names = [row["id"] for row in rows]
    if leg == "dense":
        scores = scoring.dense(query.dense, dense_rows([row["dense"] for row in rows]).reshape(len(rows), query.dim))
    else:
        scores = scoring.sparse(query.sparse, sparse_from_rows(rows))
    return dict(zip(names, scores[0].tolist(), strict=True))


def dense_rows(vectors: Iterable[Any]) -> FloatArray:
    """Stack dense vectors; pymilvus gives those of 16 bits as bytes, alone or in a list."""
    return np.array([_dense(vector) for vector in vectors], np.float32)


def _dense(vector: Any) -> Any:  # noqa: ANN401  # pymilvus' forms
    if isinstance(vector, list) and len(vector) == 1 and isinstance(vector[0], bytes):
        vector = vector[0]
    return np.frombuffer(vector, np.float16) if isinstance(vector, bytes) else vector


def _is_empty(sparse: Mapping[int, float]) -> bool:
    return len(sparse) == 1 and 0 < sparse.get(1, 0.0) <= _EMPTY_LIMIT


def _json(value: Mapping[str, Any]) -> str:
    """Write JSON ourselves: pymilvus' own writer refuses subclasses of float and mappings that are no dict."""
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"), default=dict)


def _bytes(text: str) -> int:
    return len(text.encode())


def _size(row: Row) -> int:
    """Estimate the bytes of a row in a request, from above; a row of vectors alone has no text."""
    texts = sum(len(row.get(name) or "") for name in ("id", "text", "metadata", "parent_id", "filter_numbers"))
    vectors = 4 * len(row.get("dense", ())) + 12 * len(row.get("sparse", ()))
    return 4 * texts + 100 * len(row.get("filter_tokens", ())) + vectors + 2048
