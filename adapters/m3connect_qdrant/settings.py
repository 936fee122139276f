"""How a collection is kept: named profiles for small and large collections and for a cluster, all of it replaceable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from qdrant_client import models

__all__ = ["PROFILES", "RESCORED", "QdrantSettings", "VectorSettings", "changed", "choose_settings"]


RESCORED = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0))
"""How quantised vectors are searched: twice as many as asked for, ordered by the full vectors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorSettings:
    """How one vector of every point is kept, in the client library's own objects; None leaves it to the server."""

    datatype: models.Datatype | None = None
    hnsw: models.HnswConfigDiff | None = None
    quantization: models.QuantizationConfig | None = None
    on_disk: bool | None = None

    memory: models.Memory | None = None
    """Says more than `on_disk`, but only servers from 1.19 on know it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QdrantSettings:
    """What a collection is made with; it applies when the collection is made, `search` whenever it is searched.

    Example:
        >>> from dataclasses import replace
        >>> replace(PROFILES["cluster"], shard_number=4).replication_factor
        2
    """

    dense: VectorSettings = VectorSettings()

    multi_vector: VectorSettings = VectorSettings(hnsw=models.HnswConfigDiff(m=0))
    """Token vectors score candidates that other legs found, so by default they get no graph."""

    sparse: models.SparseIndexParams | None = None
    shard_number: int | None = None
    """Fixed for the life of a collection (outside Qdrant's cloud)."""

    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    on_disk_payload: bool | None = None
    optimizers: models.OptimizersConfigDiff | None = None
    wal: models.WalConfigDiff | None = None
    strict_mode: models.StrictModeConfig | None = None

    search: models.SearchParams | None = None
    """Of the dense leg when it looks for candidates; None rescores twice as many where dense vectors are quantised."""


_LARGE_DENSE = VectorSettings(
    datatype=models.Datatype.FLOAT16,
    hnsw=models.HnswConfigDiff(m=16, ef_construct=128),
    quantization=models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
    ),
    on_disk=True,
)
_LARGE_TOKENS = VectorSettings(
    datatype=models.Datatype.FLOAT16, hnsw=models.HnswConfigDiff(m=0, on_disk=True), on_disk=True
)
_LARGE_SPARSE = models.SparseIndexParams(datatype=models.Datatype.FLOAT16, on_disk=True)

PROFILES: Mapping[str, QdrantSettings] = MappingProxyType(
    {
        "small": QdrantSettings(),
        "large": QdrantSettings(
            dense=_LARGE_DENSE, multi_vector=_LARGE_TOKENS, sparse=_LARGE_SPARSE, on_disk_payload=True
        ),
        "cluster": QdrantSettings(
            dense=_LARGE_DENSE,
            multi_vector=_LARGE_TOKENS,
            sparse=_LARGE_SPARSE,
            on_disk_payload=True,
            shard_number=12,
            replication_factor=2,
            write_consistency_factor=1,
        ),
    }
)
"""`small`: float32, as the server's defaults have it, so scores are exact.

`large` (from about a million documents): float16 vectors on disk, int8 copies of the dense ones in memory to search in,
payload and sparse index on disk.

`cluster`: `large`, in 12 shards (they divide evenly among 2, 3, 4, 6 and 12 nodes), each kept twice."""


def choose_settings(profile: str, settings: QdrantSettings | None) -> QdrantSettings:
    """Return the settings given, or those of a profile.

    Raises:
        ValueError: there is no such profile, or both were chosen.
    """
    if profile not in PROFILES:
        raise ValueError(f"expected a profile among {sorted(PROFILES)}, but got {profile!r}")
    if settings is None:
        return PROFILES[profile]
    if profile != "small":
        raise ValueError(
            f"both settings= and profile={profile!r} say how the collection is kept: give one of them, for instance "
            f"settings=dataclasses.replace(PROFILES[{profile!r}], ...)"
        )
    return settings


def changed(settings: QdrantSettings) -> list[str]:
    """Name what differs from the defaults.

    Example:
        >>> changed(QdrantSettings(shard_number=2, dense=VectorSettings(on_disk=True)))
        ['dense.on_disk', 'shard_number']
    """
    return _differences(settings, QdrantSettings())


def _differences(one: Any, other: Any, prefix: str = "") -> list[str]:  # noqa: ANN401  # either dataclass here
    names: list[str] = []
    for field in fields(one):
        value, default = getattr(one, field.name), getattr(other, field.name)
        if isinstance(value, VectorSettings):
            names += _differences(value, default, f"{field.name}.")
        elif value != default:
            names.append(prefix + field.name)
    return names
