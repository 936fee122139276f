"""Documents and embeddings to Qdrant's models and back: pure functions."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from m3connect import filters
from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows
from m3connect.errors import CollectionMismatchError
from m3connect.store import Document

__all__ = [
    "FILTER_NUMBERS",
    "FILTER_TOKENS",
    "from_payload",
    "from_vectors",
    "payload_id",
    "point_id",
    "sparse_vector",
    "to_payload",
    "to_point",
    "token_matrix",
    "vectors_of",
]

FILTER_TOKENS = "filter_tokens"
FILTER_NUMBERS = "filter_numbers"

_NAMESPACE = uuid.UUID("5b0f1a52-8c0e-5d6f-9a43-6d3363b6e3c1")
"""Never changes: point ids are derived from it."""


def point_id(document_id: str) -> str:
    """Return the UUID (version 5) under which a document is stored; Qdrant knows no string ids.

    Example:
        >>> point_id("a1") == point_id("a1"), point_id("a1") == point_id("a2")
        (True, False)
    """
    # What uuid.uuid5 does, but it raises on half a surrogate pair, and asking for such an id is no mistake.
    digest = hashlib.sha1(_NAMESPACE.bytes + document_id.encode("utf-8", "surrogatepass")).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def to_payload(document: Document) -> dict[str, Any]:
    """Return the payload of a document's point; what `Document.fingerprint` hashes is what is stored."""
    metadata = json.loads(json.dumps(dict(document.metadata)))
    return {
        "id": document.id,
        "text": document.text,
        "metadata": metadata,
        "parent_id": document.parent_id,
        "fingerprint": document.fingerprint,
        FILTER_TOKENS: filters.tokens(metadata),
        FILTER_NUMBERS: filters.numbers(metadata),
    }


def from_payload(payload: Mapping[str, Any] | None) -> Document:
    """Return the document of a point.

    Raises:
        CollectionMismatchError: m3connect did not write the point.
    """
    document_id = payload_id(payload)
    stored = payload or {}
    return Document(document_id, stored.get("text", ""), stored.get("metadata") or {}, stored.get("parent_id"))


def payload_id(payload: Mapping[str, Any] | None) -> str:
    """Return the document's own id.

    Raises:
        CollectionMismatchError: m3connect did not write the point.
    """
    if not payload or not isinstance(payload.get("id"), str):
        raise CollectionMismatchError(
            "a point of this collection has no document id in its payload, so something else than m3connect wrote it: "
            "delete such points, or index into a collection of your own"
        )
    document_id: str = payload["id"]
    return document_id


def to_point(payload: Mapping[str, Any], embeddings: M3Embeddings, i: int, *, multi_vector: bool) -> models.PointStruct:
    """Return the point of the document whose payload (`to_payload`) and row i these are.

    A vector without entries is left out: Qdrant takes no empty multi-vector.
    """
    vectors: dict[str, Any] = {"dense": embeddings.dense[i].tolist()}
    sparse = sparse_vector(embeddings, i)
    if sparse is not None:
        vectors["sparse"] = sparse
    if multi_vector and len(embeddings.require_multi_vector()[i]):
        vectors["multi_vector"] = embeddings.require_multi_vector()[i].tolist()
    return models.PointStruct(id=point_id(payload["id"]), vector=vectors, payload=dict(payload))


def from_vectors(vectors: Sequence[Mapping[str, Any]], *, dim: int, multi_vector: bool) -> M3Embeddings:
    """Return the embeddings of stored points, row i being point i."""
    sparse = [vector.get("sparse") for vector in vectors]
    pairs = [(row.indices, row.values) if row is not None else ([], []) for row in sparse]
    orders = [np.argsort(np.asarray(indices, np.int64)) for indices, _ in pairs]
    lengths = [len(indices) for indices, _ in pairs]
    columns = [np.asarray(indices, np.int64)[order] for (indices, _), order in zip(pairs, orders, strict=True)]
    weights = [np.asarray(values, np.float32)[order] for (_, values), order in zip(pairs, orders, strict=True)]
    return M3Embeddings(
        dense=np.array([vector["dense"] for vector in vectors], np.float32).reshape(-1, dim),
        sparse=SparseRows(
            indptr=np.cumsum([0, *lengths]),
            indices=np.concatenate([np.zeros(0, np.int64), *columns]),
            values=np.concatenate([np.zeros(0, np.float32), *weights]),
        ),
        multi_vector=tuple(token_matrix(vector, dim) for vector in vectors) if multi_vector else None,
    )


def vectors_of(record: models.Record) -> Mapping[str, Any]:
    """Return the vectors of a record by name."""
    return record.vector if isinstance(record.vector, dict) else {}


def token_matrix(vectors: Mapping[str, Any], dim: int) -> FloatArray:
    """Return the token vectors [t, d] of a stored point; none are an empty matrix."""
    return np.asarray(vectors.get("multi_vector") or [], np.float32).reshape(-1, dim)


def sparse_vector(embeddings: M3Embeddings, i: int) -> models.SparseVector | None:
    """Return a sparse row as Qdrant takes it, or None where it has no entries."""
    indices, values = embeddings.sparse.row(i)
    return models.SparseVector(indices=indices.tolist(), values=values.tolist()) if len(indices) else None
