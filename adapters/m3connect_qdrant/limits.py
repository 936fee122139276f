"""What fits into Qdrant: sizes of points and requests, told before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import models

from m3connect.embeddings import M3Embeddings
from m3connect.prepared import PreparedDocuments
from m3connect.store import Document
from m3connect_qdrant.convert import to_payload

__all__ = [
    "LARGEST_REQUEST",
    "in_batches",
    "point_sizes",
    "request_size",
    "size_problems",
    "too_many_numbers",
    "vectors_size",
]

_FLOAT_SIZE = 23
"""Bytes of a float32 in JSON with its comma, at most (like -0.012345678918063641)."""

_ID_SIZE = 40
"""Bytes of a point id in JSON."""

_BATCH_SIZE = 16 * 2**20
"""Bytes sent in one request: half of what a server takes by default, since sizes are estimates."""

LARGEST_REQUEST = 32 * 2**20
"""Bytes a server takes by default (`max_request_size_mb`)."""

_MULTI_VECTOR_LIMIT = 2**20
"""A server's multi-vector has fewer numbers than this (qdrant/qdrant#5925)."""

_FACT_SIZE = 220
"""Bytes of what filters need of one metadata key or list member, at most: a token of 96 characters, each escaped."""


def size_problems(documents: PreparedDocuments, embeddings: M3Embeddings, *, multi_vector: bool) -> dict[int, str]:
    """Say which documents a server with its default limits would refuse, by position.

    Args:
        documents: n documents; those with problems are passed over.
        embeddings: n rows.
        multi_vector: whether token vectors are stored.
    """
    dim, matrices = embeddings.dim, (embeddings.multi_vector or ()) if multi_vector else ()
    reasons: dict[int, str] = {}
    for i, matrix in enumerate(matrices):
        if too_many_numbers(len(matrix), dim):
            reasons[i] = (
                f"it has {len(matrix)} token vectors, but a Qdrant server takes at most "
                f"{(_MULTI_VECTOR_LIMIT - 1) // dim} of dimension {dim} a document: split the text, encode it with a "
                "lower max_length, or keep token vectors in a TokenStore"
            )
    sizes = point_sizes(documents, embeddings, multi_vector=bool(matrices))
    for i in (i for i, size in enumerate(sizes) if size > LARGEST_REQUEST):
        if i in reasons or i in documents.problems:
            continue
        size = sizes[i] - _payload_bound(documents, i) + _payload_size(documents[i])
        if size > LARGEST_REQUEST:
            reasons[i] = f"it takes {size / 2**20:.0f} MB, but a Qdrant server takes 32 MB a request: split the text"
    return reasons


def point_sizes(documents: PreparedDocuments, embeddings: M3Embeddings, *, multi_vector: bool) -> list[int]:
    """Estimate the bytes of points in a request, from above; document i has row i."""
    tokens = [matrix.size for matrix in embeddings.require_multi_vector()] if multi_vector else [0] * len(documents)
    weights = embeddings.sparse.row_lengths.tolist()
    return [
        _payload_bound(documents, i) + _FLOAT_SIZE * (embeddings.dim + 2 * nnz + numbers) + 256
        for i, (nnz, numbers) in enumerate(zip(weights, tokens, strict=True))
    ]


def _payload_bound(documents: PreparedDocuments, i: int) -> int:
    """Estimate the bytes of a payload without writing it down, from above; 0 for a document with a problem."""
    if i in documents.problems:
        return 0
    document = documents[i]
    facts = sum(2 + len(value) if isinstance(value, list) else 2 for value in document.metadata.values())
    # Metadata with long floats is there as text too, where a quotation mark takes two bytes.
    floats = any(isinstance(value, float | list | dict) for value in document.metadata.values())
    twice = 2 * (documents.sizes[i] - len(document.text)) if floats else 0
    return documents.sizes[i] + twice + 6 * len(document.id) + _FACT_SIZE * facts + 256


def _payload_size(document: Document) -> int:
    """Return the bytes of a payload."""
    return len(json.dumps(to_payload(document, ""), ensure_ascii=False).encode())


def vectors_size(vectors: Mapping[str, Any]) -> int:
    """Estimate the bytes of named vectors (`convert.to_vectors`) in a request, from above."""
    return 256 + _FLOAT_SIZE * sum(_numbers(vector) for vector in vectors.values())


def request_size(request: models.QueryRequest | models.Prefetch, *, ids: int) -> int:
    """Estimate the bytes of a search whose filters name so many ids, from above."""
    prefetches = request.prefetch if isinstance(request.prefetch, list) else []
    own = 512 + _FLOAT_SIZE * _numbers(request.query) + (_ID_SIZE * ids if request.filter is not None else 0)
    return own + sum(request_size(prefetch, ids=ids) for prefetch in prefetches)


def too_many_numbers(rows: int, dim: int) -> bool:
    """Say whether a server refuses so many token vectors in one multi-vector, stored or as a query."""
    return rows * dim >= _MULTI_VECTOR_LIMIT


def _numbers(vector: Any) -> int:  # noqa: ANN401  # a vector of any kind, or another query
    if isinstance(vector, models.SparseVector):
        return 2 * len(vector.indices)
    if not isinstance(vector, list) or not vector:
        return 0
    return len(vector) * (len(vector[0]) if isinstance(vector[0], list) else 1)


def in_batches(sizes: Sequence[int], *, most: int = 256) -> Iterator[slice]:
    """Cut a list into runs that fit one request, each as long as it can be.

    Args:
        sizes: bytes of each item; an item larger than a request goes alone.
        most: the most items in a run.

    Example:
        >>> list(in_batches([1, 1, 1], most=2))
        [slice(0, 2, None), slice(2, 3, None)]
    """
    start, total = 0, 0
    for i, size in enumerate(sizes):
        if i > start and (total + size > _BATCH_SIZE or i - start == most):
            yield slice(start, i)
            start, total = i, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
