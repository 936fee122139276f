"""What fits into Qdrant: sizes of points and requests, told before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import models

from m3connect.embeddings import M3Embeddings
from m3connect.store import Document

__all__ = ["in_batches", "point_sizes", "request_size", "size_problem", "too_many_numbers", "vectors_size"]

_FLOAT_SIZE = 23
"""Bytes of a float32 in JSON with its comma, at most (like -0.012345678918063641)."""

_ID_SIZE = 40
"""Bytes of a point id in JSON."""

_BATCH_SIZE = 16 * 2**20
"""Bytes sent in one request: half of what a server takes by default, since sizes are estimates."""

_LARGEST_REQUEST = 32 * 2**20
"""Bytes a server takes by default (`max_request_size_mb`)."""

_MULTI_VECTOR_LIMIT = 2**20
"""A server's multi-vector has fewer numbers than this (qdrant/qdrant#5925)."""

_LARGEST_TOKEN_ID = 2**32 - 1


def size_problem(
    document: Document, embeddings: M3Embeddings, i: int, *, multi_vector: bool, server: bool
) -> str | None:
    """Say what Qdrant would refuse in a document that is otherwise sound, or None.

    Args:
        document: already checked by `find_problems`.
        embeddings: row i is the document's.
        i: which row.
        multi_vector: whether token vectors are stored.
        server: whether the limits of a server apply; local mode has none.
    """
    token_ids, _ = embeddings.sparse.row(i)
    if len(token_ids) and token_ids[-1] > _LARGEST_TOKEN_ID:
        return f"its sparse row has the token id {token_ids[-1]}, but Qdrant's end at {_LARGEST_TOKEN_ID}"
    matrix = embeddings.multi_vector[i] if multi_vector and embeddings.multi_vector is not None else None
    dim = embeddings.dim
    if not server:
        return None
    numbers = 0 if matrix is None else matrix.size
    if matrix is not None and too_many_numbers(len(matrix), dim):
        return (
            f"it has {len(matrix)} token vectors, but a Qdrant server takes at most {(_MULTI_VECTOR_LIMIT - 1) // dim} "
            f"of dimension {dim} a document: split the text, or encode it with a lower max_length"
        )
    size = _json_size([document.text, dict(document.metadata)]) + _FLOAT_SIZE * (dim + 2 * len(token_ids) + numbers)
    if size > _LARGEST_REQUEST:
        return f"it takes {size / 2**20:.0f} MB, but a Qdrant server takes 32 MB a request: split the text"
    return None


def point_sizes(payloads: Sequence[Mapping[str, Any]], embeddings: M3Embeddings, *, multi_vector: bool) -> list[int]:
    """Estimate the bytes of points in a request, from above; payload i belongs to row i."""
    matrices = embeddings.require_multi_vector() if multi_vector else ()
    tokens = [matrix.size for matrix in matrices] or [0] * len(payloads)
    weights = embeddings.sparse.row_lengths.tolist()
    return [
        _json_size(payload) + _FLOAT_SIZE * (embeddings.dim + 2 * nnz + numbers) + 256
        for payload, nnz, numbers in zip(payloads, weights, tokens, strict=True)
    ]


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


def _json_size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())
