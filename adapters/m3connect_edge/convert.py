"""Documents and embeddings to Qdrant Edge's classes and back: pure functions.

Points look as in a server's collection (m3connect_qdrant): the same ids, payload fields and vector names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_edge import Point, PointVectors, SparseVector

from m3connect import points
from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows
from m3connect.fusion import Leg
from m3connect.points import FILTER_NUMBERS, FILTER_TOKENS, from_payload, payload_id, point_id
from m3connect.store import Document
from m3connect_edge.exact import order_fields

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


def to_payload(document: Document, fingerprint: str) -> dict[str, Any]:
    """Return the payload of a prepared document's point: its metadata is plain, and the fingerprint its own."""
    payload = points.to_payload(document, fingerprint)
    return payload | {FILTER_NUMBERS: order_fields(payload[FILTER_NUMBERS])}


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


def from_vectors(vectors: Sequence[Mapping[str, Any]], *, dim: int, multi_vector: bool) -> M3Embeddings:
    """Return the embeddings of stored points, row i being point i."""
    sparse = [vector.get("sparse") for vector in vectors]
    return M3Embeddings(
        dense=np.array([vector["dense"] for vector in vectors], np.float32).reshape(-1, dim),
        sparse=SparseRows.from_pairs((row.indices, row.values) if row is not None else ([], []) for row in sparse),
        multi_vector=tuple(token_matrix(vector, dim) for vector in vectors) if multi_vector else None,
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
