"""The layout of a folder: what is asked for at creation, the marker beside the shard, what is checked at opening."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qdrant_edge import (
    Distance,
    EdgeConfig,
    EdgeSparseVectorParams,
    EdgeVectorParams,
    HnswIndexConfig,
    MultiVectorComparator,
    MultiVectorConfig,
)

from m3connect.errors import CollectionMismatchError, CollectionNotFoundError, M3ConnectError

__all__ = [
    "VERSION",
    "Marker",
    "check_marker",
    "config",
    "creatable_dim",
    "layout_of",
    "read_marker",
    "sync_names",
    "write_marker",
]

VERSION = 1
"""Counts up when payload or vectors change in a way that older code cannot read."""

_KEY = "m3connect"
_NO_GRAPH = HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10)


@dataclass(frozen=True, slots=True)
class Marker:
    """What is known of a collection before its shard is opened."""

    dim: int
    multi_vector: bool
    fingerprint: str | None = None
    schema: int = VERSION


def config(marker: Marker) -> EdgeConfig:
    """Return what a shard is made with.

    Dense and token vectors are compared by inner product and kept in float32. Qdrant would normalise them once more for
    a cosine, and they would not come back as they went in. Token vectors are only for scoring, so they get no graph.
    """
    vectors = {"dense": EdgeVectorParams(size=marker.dim, distance=Distance.Dot)}
    if marker.multi_vector:
        vectors["multi_vector"] = EdgeVectorParams(
            size=marker.dim,
            distance=Distance.Dot,
            multivector_config=MultiVectorConfig(MultiVectorComparator.MaxSim),
            hnsw_config=_NO_GRAPH,
        )
    return EdgeConfig(vectors=vectors, sparse_vectors={"sparse": EdgeSparseVectorParams()})


def creatable_dim(path: Path, dim: int | None, *, create: bool) -> int:
    """Return the dimension of a collection to be made, where it may be and the dimension is known."""
    if not create:
        raise CollectionNotFoundError(f"there is no collection in {str(path)!r}: open it with create=True to make it")
    if dim is None:
        raise CollectionNotFoundError(
            f"there is no collection in {str(path)!r}: give its dim=, for instance the encoder's, to make it"
        )
    if dim < 1:
        raise ValueError(f"dim must be at least 1, but is {dim}")
    return dim


def read_marker(file: Path) -> Marker | None:
    """Read the marker; None where there is none.

    Raises:
        CollectionMismatchError: it is of another version.
        M3ConnectError: the file cannot be understood.
    """
    try:
        stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))[_KEY]
        version = stored["schema"]
        if version == VERSION:
            return Marker(stored["dim"], stored["multi_vector"], stored["fingerprint"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise M3ConnectError(
            f"{str(file)!r} is damaged ({error}): restore it, or remove it and open the folder with adopt_fingerprint="
        ) from error
    raise CollectionMismatchError(
        f"{str(file)!r} has m3connect schema {version!r}, but this version reads schema {VERSION}: use the version of "
        "m3connect that made it, or index into another folder"
    )


def write_marker(file: Path, marker: Marker) -> None:
    """Replace the marker, wholly or not at all, and wait until the disk has it."""
    new = file.with_suffix(".new")
    with new.open("w", encoding="utf-8") as out:
        json.dump({_KEY: asdict(marker)}, out)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    sync_names(file.parent)


def sync_names(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_marker(path: Path, found: Marker, *, dim: int | None, multi_vector: bool | None) -> None:
    """Refuse a collection of another dimension, or with token vectors where none are expected, or without.

    Args:
        path: the folder, for the message.
        found: what it holds.
        dim: the dimension expected; None takes what is there.
        multi_vector: whether token vectors are expected; None takes what is there.
    """
    differences = []
    if dim is not None and dim != found.dim:
        differences.append(f"expected dimension {dim}, found {found.dim}")
    if multi_vector is not None and multi_vector != found.multi_vector:
        differences.append(f"expected multi_vector={multi_vector}, found {found.multi_vector}")
    if differences:
        raise CollectionMismatchError(
            f"the collection in {str(path)!r} has another layout than asked for: {'; '.join(differences)}. Open it "
            "with what it was made with, or give another folder and a new one is made"
        )


def layout_of(path: Path, shard: Path) -> Marker:
    """Return the marker that a shard without one would have, from the library's own description of it.

    Raises:
        CollectionMismatchError: its vectors are not as `config` makes them.
    """
    try:
        stored = json.loads((shard / "edge_config.json").read_text(encoding="utf-8"))
        vectors, sparse = stored["vectors"], stored["sparse_vectors"]
        token_vectors = "multi_vector" in vectors
        ours = (
            set(vectors) == ({"dense", "multi_vector"} if token_vectors else {"dense"})
            and all(vector["distance"] == "Dot" for vector in vectors.values())
            and len({vector["size"] for vector in vectors.values()}) == 1
            and "multivector_config" not in vectors["dense"]
            and (not token_vectors or vectors["multi_vector"]["multivector_config"] == {"comparator": "max_sim"})
            and set(sparse) == {"sparse"}
            and sparse["sparse"].get("modifier") in (None, "none")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CollectionMismatchError(f"the shard in {str(path)!r} cannot be adopted: {error!r}") from error
    if not ours:
        raise CollectionMismatchError(
            f"the shard in {str(path)!r} cannot be adopted. Expected 'dense' (and 'multi_vector' as MaxSim) of one "
            f"size compared by Dot, and 'sparse' without modifier; found {vectors} and {sparse}"
        )
    return Marker(vectors["dense"]["size"], token_vectors)
