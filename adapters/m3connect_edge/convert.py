"""Documents and embeddings to Qdrant Edge's classes and back: pure functions.

Points look as in a server's collection (m3connect_qdrant): the same ids, payload fields and vector names.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_edge import Point, PointVectors, SparseVector

from m3connect import filters
from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows
from m3connect.errors import CollectionMismatchError
from m3connect.fusion import Leg
from m3connect.store import Document
from m3connect_edge.exact import exact_text, order_fields

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
    "to_vectors",
    "token_matrix",
]

FILTER_TOKENS = "filter_tokens"
FILTER_NUMBERS = "filter_numbers"

_EXACT = "metadata_exact"
"""Metadata as text, where it holds floats that a payload would change."""

_NAMESPACE = uuid.UUID("5b0f1a52-8c0e-5d6f-9a43-6d3363b6e3c1")
"""Never changes, and is m3connect_qdrant's too: point ids are derived from it."""


def point_id(document_id: str) -> str:
    """Return the UUID (version 5) under which a document is stored; Qdrant knows no string ids.

    Example:
        >>> point_id("a1") == point_id("a1"), point_id("a1") == point_id("a2")
        (True, False)
    """
    # What uuid.uuid5 does, but it raises on half a surrogate pair, and asking for such an id is no mistake.
    digest = hashlib.sha1(_NAMESPACE.bytes + document_id.encode("utf-8", "surrogatepass")).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def to_payload(document: Document, fingerprint: str) -> dict[str, Any]:
    """Return the payload of a prepared document's point: its metadata is plain, and the fingerprint its own."""
    metadata = document.metadata
    payload = {
        "id": document.id,
        "text": document.text,
        "metadata": metadata,
        "parent_id": document.parent_id,
        "fingerprint": fingerprint,
        FILTER_TOKENS: filters.tokens(metadata),
        FILTER_NUMBERS: order_fields(metadata),
    }
    exact = exact_text(metadata)
    return payload if exact is None else payload | {_EXACT: exact}


def from_payload(payload: Mapping[str, Any] | None) -> Document:
    """Return the document of a point.

    Raises:
        CollectionMismatchError: m3connect did not write the point.
    """
    document_id = payload_id(payload)
    stored = payload or {}
    exact = stored.get(_EXACT)
    metadata = stored.get("metadata") or {} if exact is None else json.loads(exact)
    return Document(document_id, stored.get("text", ""), metadata, stored.get("parent_id"))


def payload_id(payload: Mapping[str, Any] | None) -> str:
    """Return the document's own id.

    Raises:
        CollectionMismatchError: m3connect did not write the point.
    """
    if not payload or not isinstance(payload.get("id"), str):
        raise CollectionMismatchError(
            "a point of this collection has no document id in its payload, so something else than m3connect wrote it: "
            "delete such points, or index into a folder of your own"
        )
    document_id: str = payload["id"]
    return document_id


def to_point(payload: dict[str, Any], embeddings: M3Embeddings, i: int, *, multi_vector: bool) -> Point:
    """Return the point of the document whose payload (`to_payload`) and row i these are.

    A vector without entries is left out: Qdrant takes no empty multi-vector.
    """
    legs: list[Leg] = ["dense", "sparse", "multi_vector"] if multi_vector else ["dense", "sparse"]
    return Point(point_id(payload["id"]), _vectors(embeddings, i, legs), payload)


def to_vectors(name: str, embeddings: M3Embeddings, i: int, legs: Sequence[Leg]) -> PointVectors | None:
    """Return these legs of row i for the document of this id, or None where all of them are empty."""
    vectors = _vectors(embeddings, i, legs)
    return PointVectors(point_id(name), vectors) if vectors else None


def from_vectors(vectors: Mapping[str, Any], *, dim: int, multi_vector: bool) -> M3Embeddings:
    """Return the embeddings of a stored point, a batch of one."""
    sparse = vectors.get("sparse")
    indices = np.array(sparse.indices if sparse is not None else [], np.int64)
    values = np.array(sparse.values if sparse is not None else [], np.float32)
    order = np.argsort(indices)
    return M3Embeddings(
        dense=np.array(vectors["dense"], np.float32).reshape(1, dim),
        sparse=SparseRows(np.array([0, len(indices)]), indices[order], values[order]),
        multi_vector=(token_matrix(vectors, dim),) if multi_vector else None,
    )


def token_matrix(vectors: Mapping[str, Any], dim: int) -> FloatArray:
    """Return the token vectors [t, d] of a stored point; none are an empty matrix."""
    return np.array(vectors.get("multi_vector") or [], np.float32).reshape(-1, dim)


def sparse_vector(embeddings: M3Embeddings, i: int) -> SparseVector | None:
    """Return a sparse row as Qdrant takes it, or None where it has no entries."""
    indices, values = embeddings.sparse.row(i)
    return SparseVector(indices.tolist(), values.tolist()) if len(indices) else None


def _vectors(embeddings: M3Embeddings, i: int, legs: Sequence[Leg]) -> dict[str, Any]:
    vectors: dict[str, Any] = {}
    if "dense" in legs:
        vectors["dense"] = embeddings.dense[i]
    if "sparse" in legs and (sparse := sparse_vector(embeddings, i)) is not None:
        vectors["sparse"] = sparse
    if "multi_vector" in legs and len(matrix := embeddings.require_multi_vector()[i]):
        vectors["multi_vector"] = matrix
    return vectors
