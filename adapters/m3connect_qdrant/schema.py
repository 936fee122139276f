"""The layout of a collection: what is asked for at creation, and what is checked at opening."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from m3connect.errors import CollectionMismatchError, CollectionNotFoundError

__all__ = [
    "VERSION",
    "check_layout",
    "check_points",
    "creatable_dim",
    "creation",
    "foreign_points",
    "marker",
    "read_fingerprint",
]

VERSION = 1
"""Counts up when payload or vectors change in a way that older code cannot read."""

_KEY = "m3connect"


def marker(fingerprint: str | None) -> dict[str, Any]:
    """Return the collection metadata by which a collection of ours is known."""
    return {_KEY: {"schema": VERSION, "fingerprint": fingerprint}}


def creation(dim: int, *, multi_vector: bool, fingerprint: str | None) -> dict[str, Any]:
    """Return the arguments of `create_collection`.

    Dense and token vectors are compared by inner product. Qdrant would normalise them once more for a cosine, and
    they would not come back as they went in. Token vectors are only for scoring, so they get no graph.
    """
    vectors = {"dense": models.VectorParams(size=dim, distance=models.Distance.DOT)}
    if multi_vector:
        vectors["multi_vector"] = models.VectorParams(
            size=dim,
            distance=models.Distance.DOT,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
        )
    return {
        "vectors_config": vectors,
        "sparse_vectors_config": {"sparse": models.SparseVectorParams()},
        "metadata": marker(fingerprint),
    }


def creatable_dim(name: str, dim: int | None, *, create: bool) -> int:
    """Return the dimension of a collection to be made, where it may be and the dimension is known."""
    if not create:
        raise CollectionNotFoundError(f"there is no collection {name!r}: open it with create=True to make it")
    if dim is None:
        raise CollectionNotFoundError(
            f"there is no collection {name!r}: give its dim=, for instance the encoder's, to make it"
        )
    if dim < 1:
        raise ValueError(f"dim must be at least 1, but is {dim}")
    return dim


def check_layout(name: str, info: models.CollectionInfo, *, dim: int | None, multi_vector: bool) -> int:
    """Refuse a collection whose vectors are not as `creation` makes them.

    Args:
        name: of the collection, for the message.
        info: what the database says about it.
        dim: the dimension expected; None takes what is there.
        multi_vector: whether token vectors are expected.

    Returns:
        The dimension.

    Raises:
        CollectionMismatchError: with all that differs, expected and found.
    """
    vectors = info.config.params.vectors
    named = vectors if isinstance(vectors, Mapping) else {"": vectors} if vectors is not None else {}
    dense = named.get("dense")
    size = dim or (dense.size if dense is not None else 0)
    expected = _summary(creation(size, multi_vector=multi_vector, fingerprint=None)["vectors_config"])
    found = _summary(named)
    differences = [
        f"vector {key!r}: expected {expected.get(key, 'none')}, found {found.get(key, 'none')}"
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key) != found.get(key)
    ]
    differences += _sparse_differences(info.config.params.sparse_vectors or {})
    if differences:
        raise CollectionMismatchError(
            f"collection {name!r} has another layout than asked for. {'; '.join(differences)}. Open it with the dim= "
            "and multi_vector= that it was made with, or give another collection name and a new one is made"
        )
    return size


def read_fingerprint(name: str, info: models.CollectionInfo, *, adopt: str | None) -> tuple[bool, str | None]:
    """Read our marker.

    Args:
        name: of the collection, for the message.
        info: what the database says about it.
        adopt: the fingerprint that a collection without one shall get.

    Returns:
        Whether the marker is there, and the fingerprint in it.

    Raises:
        CollectionMismatchError: there is no marker and nothing to adopt it with, or one of another version.
    """
    found = (info.config.metadata or {}).get(_KEY)
    if found is None and adopt is None:
        raise CollectionMismatchError(
            f"collection {name!r} has no m3connect marker in its metadata: it was not made by m3connect, or the server "
            "keeps no collection metadata (Qdrant does from 1.16 on). If another m3connect filled it, pass "
            "adopt_fingerprint= with the fingerprint of the encoder that did; if not, give another collection name"
        )
    if found is None:
        return False, None
    version = found.get("schema")
    if version != VERSION:
        raise CollectionMismatchError(
            f"collection {name!r} has m3connect schema {version!r}, but this version reads schema {VERSION}: use the "
            "version of m3connect that made it, or index into another collection"
        )
    return True, found.get("fingerprint")


def foreign_points() -> models.Filter:
    """Pass the points that lack what every point of ours has."""
    keys = ("id", "text", "fingerprint")
    return models.Filter(
        should=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in keys],
    )


def check_points(name: str, *, foreign: int) -> None:
    """Refuse to adopt a collection with points that `foreign_points` counts."""
    if foreign:
        raise CollectionMismatchError(
            f"collection {name!r} cannot be adopted: {foreign} of its points lack the id, text or fingerprint that "
            "m3connect keeps in the payload. Index the documents into a new collection"
        )


def _summary(vectors: Mapping[str, models.VectorParams]) -> dict[str, str]:
    return {
        key: f"{params.size} dimensions compared by {params.distance.value}"
        + (", several a point" if params.multivector_config is not None else "")
        for key, params in vectors.items()
    }


def _sparse_differences(sparse: Mapping[str, models.SparseVectorParams]) -> list[str]:
    if set(sparse) != {"sparse"}:
        return [f"sparse vectors: expected one named 'sparse', found {sorted(sparse) or 'none'}"]
    modifier = sparse["sparse"].modifier
    if modifier not in (None, models.Modifier.NONE):
        return [f"sparse vectors: expected weights as they are, found the modifier {modifier.value}"]
    return []
