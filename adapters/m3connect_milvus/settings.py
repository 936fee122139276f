"""How a collection is made and searched: profiles for three sizes, and every knob that pymilvus has."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from m3connect.fusion import Leg

__all__ = ["PROFILES", "Consistency", "MilvusSettings", "Profile", "choose_settings", "say_once", "settings_for_lite"]

logger = logging.getLogger(__name__)

Consistency: TypeAlias = Literal["Strong", "Session", "Bounded", "Eventually"]
Profile: TypeAlias = Literal["small", "large", "cluster"]

_LITE_INDEXES = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8")
"""Index types that Lite builds; it accepts others, says that they are finished, and searches without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MilvusSettings:
    """What a collection is made with, and how it is searched.

    Index, precision, shards, partitions, memory and properties count when the collection is made; the rest each time it
    is opened.

    Raises:
        ValueError: a number is out of range, or a metric is not IP.
    """

    dense_index: Mapping[str, Any] = field(default_factory=lambda: {"index_type": "AUTOINDEX"})
    """The arguments of pymilvus' `IndexParams.add_index`, as `{"index_type": "HNSW", "params": {"M": 24}}`."""

    sparse_index: Mapping[str, Any] = field(default_factory=lambda: {"index_type": "SPARSE_INVERTED_INDEX"})
    dense_search: Mapping[str, Any] = field(default_factory=dict)
    """The `params` of pymilvus' `search_params`, as `{"ef": 200}`; `ef` grows with the number of candidates."""

    sparse_search: Mapping[str, Any] = field(default_factory=dict)
    half_precision: bool = False
    """Dense vectors in 16 bits: half the memory and disk, on servers."""

    shards: int = 1
    """How many nodes can write at once."""

    partitions: int | None = None
    """Into how many partitions tenants are hashed, where there is a tenant field; None leaves it to Milvus."""

    replicas: int = 1
    """How many times query nodes hold the collection; a cluster needs as many of them."""

    mmap: bool | None = None
    """Raw data and indexes on disk, mapped into memory; None leaves it to the server."""

    consistency: Consistency = "Strong"
    """What searches see: everything, what this process wrote, or what was written some time ago.

    Reads by id, counts and walks always see everything.
    """

    properties: Mapping[str, str] = field(default_factory=dict)
    """Any further collection properties, as `{"partitionkey.isolation": "true"}`."""

    def __post_init__(self) -> None:
        for name in ("shards", "replicas", "partitions"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, but is {number}")
        if self.consistency not in ("Strong", "Session", "Bounded", "Eventually"):
            raise ValueError(f"consistency must be Strong, Session, Bounded or Eventually, but is {self.consistency!r}")
        for index in (self.dense_index, self.sparse_index):
            if index.get("metric_type", "IP") != "IP":
                raise ValueError(f"m3connect compares by inner product: expected metric_type IP, got {dict(index)}")

    def search_params(self, leg: Leg, limit: int) -> dict[str, Any]:
        """Return what pymilvus' `search` takes as `search_params`."""
        params = dict(self.dense_search if leg == "dense" else self.sparse_search)
        if "ef" in params:
            params["ef"] = max(params["ef"], limit)  # a server refuses less
        return {"params": params} if params else {}

    def remembered(self) -> dict[str, Any]:
        """Return what is kept with the collection, for those who open it again without settings."""
        return {"dense": dict(self.dense_search), "sparse": dict(self.sparse_search), "consistency": self.consistency}

    @classmethod
    def recall(cls, remembered: Mapping[str, Any]) -> MilvusSettings:
        """Read back what `remembered` returned."""
        return cls(
            dense_search=remembered.get("dense", {}),
            sparse_search=remembered.get("sparse", {}),
            consistency=remembered.get("consistency", "Strong"),
        )


PROFILES: Mapping[Profile, MilvusSettings] = {
    "small": MilvusSettings(),
    "large": MilvusSettings(
        dense_index={"index_type": "HNSW", "params": {"M": 24, "efConstruction": 200}},
        sparse_index={"index_type": "SPARSE_INVERTED_INDEX", "params": {"inverted_index_algo": "DAAT_MAXSCORE"}},
        dense_search={"ef": 200},
        shards=2,
    ),
    "cluster": MilvusSettings(
        dense_index={
            "index_type": "IVF_RABITQ",
            "params": {"nlist": 1024, "refine": True, "refine_type": "SQ8"},
        },
        sparse_index={"index_type": "SPARSE_INVERTED_INDEX", "params": {"inverted_index_algo": "DAAT_MAXSCORE"}},
        dense_search={"nprobe": 64, "refine_k": 4},
        half_precision=True,
        shards=8,
        mmap=True,
        consistency="Session",
    ),
}
"""`small`: exact on Lite, the server's choice elsewhere. `large`: up to some ten million documents on one server.
`cluster`: beyond, on Milvus 2.6 or newer: one bit a dimension in memory, refined from disk."""


def choose_settings(profile: Profile | None, settings: MilvusSettings | None) -> MilvusSettings | None:
    """Return the settings that a caller named, or None where none were.

    Raises:
        ValueError: both were given, or there is no such profile.
    """
    if profile is None:
        return settings
    if settings is not None:
        raise ValueError("give profile= or settings=, not both: MilvusSettings can start from PROFILES[profile]")
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, but is {profile!r}")
    return PROFILES[profile]


def settings_for_lite(settings: MilvusSettings) -> MilvusSettings:
    """Return what Lite does of some settings, and log the rest once."""
    lite = replace(
        settings,
        dense_index={"index_type": _lite_index(settings.dense_index)},
        sparse_index={"index_type": "SPARSE_INVERTED_INDEX"},
        dense_search={},
        sparse_search={},
        half_precision=False,
        shards=1,
        partitions=None,
        replicas=1,
        mmap=None,
        consistency="Strong",
    )
    ignored = {
        name: wanted
        for name in MilvusSettings.__dataclass_fields__
        if (wanted := getattr(settings, name)) != getattr(lite, name) and wanted != {"index_type": "AUTOINDEX"}
    }
    if ignored:
        say_once(
            f"Milvus Lite ignores settings that a server heeds: {json.dumps(ignored, default=str)}. Its dense index is "
            f"{lite.dense_index['index_type']}"
        )
    return lite


def _lite_index(index: Mapping[str, Any]) -> str:
    """FLAT is exact, and fast enough for what Lite is good for."""
    kind = str(index.get("index_type", "AUTOINDEX"))
    return kind if kind in _LITE_INDEXES else "FLAT"


@functools.lru_cache(maxsize=64)
def say_once(message: str) -> None:
    """Log a warning that this process has not heard yet."""
    logger.warning(message)
