"""Documents and embeddings to Qdrant's models and back: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from m3connect import filters, points
from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows
from m3connect.fusion import Leg
from m3connect.points import DOCUMENT_FIELDS, FILTER_NUMBERS, FILTER_TOKENS, from_payload, payload_id, point_id
from m3connect.store import Document

__all__ = [
    "DOCUMENT_FIELDS",
    "FILTER_NUMBERS",
    "FILTER_TENANT",
    "FILTER_TOKENS",
    "from_payload",
    "from_vectors",
    "payload_id",
    "point_id",
    "to_payload",
    "to_point",
    "to_vector",
    "to_vectors",
    "token_matrix",
    "vectors_of",
]

FILTER_TENANT = "filter_tenant"


def to_payload(document: Document, fingerprint: str, *, tenant_field: str | None = None) -> dict[str, Any]:
    """Return the payload of a prepared document's point.

    The tenant, where it is a string, a bool or a number, stands once more in a field of its own, for its index.

    Args:
        document: with plain metadata (`m3connect.prepared.prepare`).
        fingerprint: its own.
        tenant_field: the metadata key of its tenant.
    """
    payload, metadata = points.to_payload(document, fingerprint), document.metadata
    if tenant_field is not None and tenant_field in metadata:
        tokens = filters.tokens({tenant_field: metadata[tenant_field]})
        payload.update((FILTER_TENANT, token) for token in tokens if token.startswith("="))
    return payload


def to_point(payload: dict[str, Any], embeddings: M3Embeddings, i: int, *, multi_vector: bool) -> models.PointStruct:
    """Return the point of the document whose payload (`to_payload`) and row i these are.

    A vector without entries is left out: Qdrant takes no empty multi-vector.
    """
    legs: tuple[Leg, ...] = ("dense", "sparse", "multi_vector") if multi_vector else ("dense", "sparse")
    return models.PointStruct(id=point_id(payload["id"]), vector=to_vectors(embeddings, i, legs), payload=payload)


def to_vectors(embeddings: M3Embeddings, i: int, legs: Sequence[Leg]) -> dict[str, Any]:
    """Return row i as named vectors, those without entries left out; Qdrant takes no empty multi-vector."""
    vectors = {leg: to_vector(embeddings, i, leg) for leg in legs}
    return {leg: vector for leg, vector in vectors.items() if vector is not None}


def to_vector(embeddings: M3Embeddings, i: int, leg: Leg) -> Any:  # noqa: ANN401  # by leg
    """Return one view of row i as Qdrant takes it, stored or as a query; None where it has no entries."""
    if leg == "dense":
        return embeddings.dense[i].tolist()
    if leg == "sparse":
        indices, values = embeddings.sparse.row(i)
        return models.SparseVector(indices=indices.tolist(), values=values.tolist()) if len(indices) else None
    matrix = embeddings.require_multi_vector()[i]
    return matrix.tolist() if len(matrix) else None


def from_vectors(vectors: Sequence[Mapping[str, Any]], *, dim: int, multi_vector: bool) -> M3Embeddings:
    """Return the embeddings of stored points, row i being point i."""
    sparse = [vector.get("sparse") for vector in vectors]
    return M3Embeddings(
        dense=np.array([vector["dense"] for vector in vectors], np.float32).reshape(-1, dim),
        sparse=SparseRows.from_pairs((row.indices, row.values) if row is not None else ([], []) for row in sparse),
        multi_vector=tuple(token_matrix(vector, dim) for vector in vectors) if multi_vector else None,
    )


def vectors_of(record: models.Record) -> Mapping[str, Any]:
    """Return the vectors of a record by name."""
    return record.vector if isinstance(record.vector, dict) else {}


def token_matrix(vectors: Mapping[str, Any], dim: int) -> FloatArray:
    """Return the token vectors [t, d] of a stored point; none are an empty matrix."""
    return np.asarray(vectors.get("multi_vector") or [], np.float32).reshape(-1, dim)
