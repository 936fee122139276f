"""The layout of a collection: what is asked for at creation, and what is checked at opening."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from m3connect.errors import CollectionMismatchError, CollectionNotFoundError
from m3connect_qdrant.settings import QdrantSettings, VectorSettings

__all__ = [
    "VERSION",
    "Marker",
    "check_layout",
    "check_points",
    "creatable_dim",
    "creation",
    "describe",
    "foreign_points",
    "has_token_vectors",
    "is_quantized",
    "marker",
    "named_vectors",
    "read_marker",
    "require_marker",
]

VERSION = 1
"""Counts up when payload or vectors change in a way that older code cannot read."""

_KEY = "m3connect"


@dataclass(frozen=True, slots=True)
class Marker:
    """What we keep in the collection's metadata, and what makes it one of ours."""

    fingerprint: str | None
    tenant_field: str | None


def marker(fingerprint: str | None, tenant_field: str | None = None) -> dict[str, Any]:
    """Return the collection metadata by which a collection of ours is known."""
    tenant = {} if tenant_field is None else {"tenant_field": tenant_field}
    return {_KEY: {"schema": VERSION, "fingerprint": fingerprint} | tenant}


def creation(
    dim: int,
    *,
    multi_vector: bool,
    fingerprint: str | None = None,
    settings: QdrantSettings | None = None,
    tenant_field: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of `create_collection`.

    Dense and token vectors are compared by inner product. Qdrant would normalise them once more for a cosine, and
    they would not come back as they went in.
    """
    settings = settings or QdrantSettings()
    vectors = {"dense": _vector_params(dim, settings.dense)}
    if tenant_field is not None:
        hnsw = settings.dense.hnsw or models.HnswConfigDiff()
        vectors["dense"].hnsw_config = models.HnswConfigDiff(**{"payload_m": 16} | hnsw.model_dump(exclude_none=True))
    if multi_vector:
        comparator = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        vectors["multi_vector"] = _vector_params(dim, settings.multi_vector, multivector_config=comparator)
    others = {
        "shard_number": settings.shard_number,
        "replication_factor": settings.replication_factor,
        "write_consistency_factor": settings.write_consistency_factor,
        "on_disk_payload": settings.on_disk_payload,
        "optimizers_config": settings.optimizers,
        "wal_config": settings.wal,
        "strict_mode_config": settings.strict_mode,
    }
    return {
        "vectors_config": vectors,
        "sparse_vectors_config": {"sparse": models.SparseVectorParams(index=settings.sparse)},
        "metadata": marker(fingerprint, tenant_field),
    } | {name: value for name, value in others.items() if value is not None}


def _vector_params(
    dim: int, settings: VectorSettings, *, multivector_config: models.MultiVectorConfig | None = None
) -> models.VectorParams:
    chosen = {
        "datatype": settings.datatype,
        "hnsw_config": settings.hnsw,
        "quantization_config": settings.quantization,
        "on_disk": settings.on_disk,
        "memory": settings.memory,
        "multivector_config": multivector_config,
    }
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    return models.VectorParams(size=dim, distance=models.Distance.DOT, **given)


def describe(info: models.CollectionInfo) -> dict[str, Any]:
    """Return the collection's settings and state as plain values."""
    params = info.config.params
    plain = info.config.model_dump(mode="json", exclude_none=True, exclude={"metadata"})
    return {
        "status": info.status.value,
        "vectors": {name: one.model_dump(mode="json", exclude_none=True) for name, one in named_vectors(info).items()},
        "sparse_vectors": plain["params"].get("sparse_vectors", {}),
        "shards": params.shard_number,
        "replicas": params.replication_factor,
        "segments": info.segments_count,
        "indexed_vectors": info.indexed_vectors_count,
        "payload_indexes": {name: index.data_type.value for name, index in info.payload_schema.items()},
        "config": {name: value for name, value in plain.items() if name != "params"},
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


def has_token_vectors(info: models.CollectionInfo) -> bool:
    """Say whether the collection keeps several vectors a point under our name."""
    return "multi_vector" in named_vectors(info)


def is_quantized(info: models.CollectionInfo, name: str = "dense") -> bool:
    """Say whether the vectors of this name are searched in quantised copies."""
    own = named_vectors(info)[name].quantization_config
    return own is not None or info.config.quantization_config is not None


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
    named = named_vectors(info)
    dense = named.get("dense")
    size = dim or (dense.size if dense is not None else 0)
    expected = _summary(creation(size, multi_vector=multi_vector)["vectors_config"])
    found = _summary(named)
    differences = [
        f"vector {key!r}: expected {expected.get(key, 'none')}, found {found.get(key, 'none')}"
        for key in sorted({*expected, *found})
        if expected.get(key) != found.get(key)
    ]
    differences += _sparse_differences(info.config.params.sparse_vectors or {})
    if differences:
        raise CollectionMismatchError(
            f"collection {name!r} has another layout than asked for. {'; '.join(differences)}. Open it with the dim= "
            "and multi_vector= that it was made with, or give another collection name and a new one is made"
        )
    return size


def read_marker(name: str, info: models.CollectionInfo) -> Marker | None:
    """Read our marker; None where there is none.

    Raises:
        CollectionMismatchError: another version of m3connect wrote it.
    """
    found = (info.config.metadata or {}).get(_KEY)
    if found is None:
        return None
    version = found.get("schema")
    if version != VERSION:
        raise CollectionMismatchError(
            f"collection {name!r} has m3connect schema {version!r}, but this version reads schema {VERSION}: use the "
            "version of m3connect that made it, or index into another collection"
        )
    return Marker(found.get("fingerprint"), found.get("tenant_field"))


def require_marker(name: str, marker: Marker | None) -> Marker:
    """Return the marker.

    Raises:
        CollectionMismatchError: there is none.
    """
    if marker is None:
        raise CollectionMismatchError(
            f"collection {name!r} has no m3connect marker in its metadata: it was not made by m3connect, or the server "
            "keeps no collection metadata (Qdrant does from 1.16 on). If another m3connect filled it, pass "
            "adopt_fingerprint= with the fingerprint of the encoder that did; if not, give another collection name"
        )
    return marker


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


def named_vectors(info: models.CollectionInfo) -> Mapping[str, models.VectorParams]:
    """Return the dense and multi-vectors of a collection by name, that of an unnamed one being empty."""
    vectors = info.config.params.vectors
    if isinstance(vectors, Mapping):
        return vectors
    return {"": vectors} if vectors is not None else {}


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
