"""How a collection is opened: made or checked, indexed, marked and loaded; one flow for both clients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from m3connect.errors import CollectionMismatchError, CollectionNotFoundError
from m3connect.filters import FilterFields, declared_fields
from m3connect.flows import Call, Flow
from m3connect.foreign import ForeignLayout
from m3connect.store import check_fingerprint
from m3connect_milvus.columns import Columns
from m3connect_milvus.flows import MilvusFlows, Server, described_indexes
from m3connect_milvus.foreign import ForeignFlows, open_foreign
from m3connect_milvus.schema import Layout, check_name, index_params, marker, read_layout, to_schema
from m3connect_milvus.settings import PROFILES, MilvusSettings, say_once, settings_for_lite

__all__ = ["Wanted", "open_collection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a caller says about a collection that is to be opened.

    Raises:
        ValueError: token vectors are asked for, or a layout came with what only collections of our own have.
    """

    dim: int | None = None
    create: bool = True
    multi_vector: bool | None = None
    adopt_fingerprint: str | None = None
    settings: MilvusSettings | None = None
    filter_fields: FilterFields | None = None
    tenant_field: str | None = None
    layout: ForeignLayout | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and (self.filter_fields or self.tenant_field is not None):
            raise ValueError(
                "filter_fields= and tenant_field= are for collections that m3connect fills: leave them out where "
                "layout= is given"
            )
        if self.multi_vector:
            raise ValueError(
                "Milvus cannot store token vectors: leave multi_vector=True out; HybridRetriever(rerank=True) encodes "
                "the candidates again, or reads a TokenStore, and scores them all the same"
            )

    @property
    def columns(self) -> Columns:
        """The columns that a new collection gets."""
        return Columns(declared_fields(self.filter_fields or {}), self.tenant_field)


def open_collection(name: str, wanted: Wanted) -> Flow[MilvusFlows | ForeignFlows]:
    """Create a collection or check the one that is there, and load it for searching.

    One that a layout describes is only read.

    Raises:
        CollectionNotFoundError: there is none and none may be created.
        CollectionMismatchError: it does not fit.
    """
    check_name(name)
    if wanted.layout is not None:
        settings = wanted.settings or PROFILES["small"]
        return (
            yield from open_foreign(
                name, wanted.layout, dim=wanted.dim, fingerprint=wanted.adopt_fingerprint, settings=settings
            )
        )
    columns = wanted.columns
    server = Server(str((yield Call("get_server_version"))))
    settings = wanted.settings or PROFILES["small"]
    if server.lite:
        settings = settings_for_lite(settings)
    exists = yield Call("has_collection", {"collection_name": name})
    if not exists:
        if wanted.dim is None or not wanted.create:
            raise CollectionNotFoundError(
                f"there is no collection {name!r}: "
                + ("open it with create=True to make it" if wanted.dim else "give its dim=, for instance the encoder's")
            )
        yield _creation(name, Layout(wanted.dim, columns, settings.half_precision), settings)
    description = yield Call("describe_collection", {"collection_name": name})
    layout, remembered = read_layout(name, description, dim=wanted.dim, adopt_fingerprint=wanted.adopt_fingerprint)
    _check_columns(name, layout.columns, wanted)
    if exists and wanted.settings is not None:
        yield from _say_what_comes_too_late(name, layout, settings)
    yield from _make_indexes(name, layout, settings, server)
    searched = settings if wanted.settings is not None else remembered
    flows = MilvusFlows(name, layout, server=server, settings=replace(searched, half_precision=layout.half_precision))
    yield from _adopt(flows, wanted.adopt_fingerprint)
    # A reopened Lite database has released its collections, and then every read fails.
    replicas = {"replica_number": settings.replicas} if settings.replicas > 1 else {}
    yield Call("load_collection", {"collection_name": name, **replicas})
    return flows


def _creation(name: str, layout: Layout, settings: MilvusSettings) -> Call:
    """Strong consistency: the paged walk cannot ask for it itself, pymilvus drops the argument there."""
    properties = {**settings.properties, **marker(layout.columns, settings)}
    if settings.mmap is not None:
        properties["mmap.enabled"] = str(settings.mmap).lower()
    arguments: dict[str, Any] = {
        "collection_name": name,
        "schema": to_schema(layout),
        "properties": properties,
        "consistency_level": "Strong",
    }
    if settings.shards > 1:
        arguments["num_shards"] = settings.shards
    if settings.partitions is not None and layout.columns.tenant is not None:
        arguments["num_partitions"] = settings.partitions
    return Call("create_collection", arguments)


def _make_indexes(name: str, layout: Layout, settings: MilvusSettings, server: Server) -> Flow[None]:
    """Check the metrics, and create what is missing."""
    existing = yield from described_indexes(name)
    for field in ("dense", "sparse"):
        metric = existing.get(field, {}).get("metric_type", "IP")
        if metric != "IP":
            raise CollectionMismatchError(
                f"collection {name!r}: expected metric IP on {field}, found {metric}: use another collection name"
            )
    missing = index_params(layout, settings, lite=server.lite, existing=existing)
    if len(missing):
        # sync=False: waiting asks Lite for a time stamp, which it lacks and logs as an error; loading waits anyway.
        yield Call("create_index", {"collection_name": name, "index_params": missing, "sync": False})


def _say_what_comes_too_late(name: str, layout: Layout, wanted: MilvusSettings) -> Flow[None]:
    """Index and precision of a collection that is there stay as they are."""
    existing = yield from described_indexes(name)
    for field, index in (("dense", wanted.dense_index), ("sparse", wanted.sparse_index)):
        kept, asked = existing.get(field, {}).get("index_type"), index.get("index_type")
        if kept and kept != asked:
            say_once(f"collection {name!r} keeps its {field} index {kept}, although {asked} is asked for: make it anew")
    if wanted.half_precision != layout.half_precision:
        kept, asked = (16, 32) if layout.half_precision else (32, 16)
        say_once(f"collection {name!r} keeps its dense vectors of {kept} bits; make it anew for {asked}")


def _check_columns(name: str, found: Columns, wanted: Wanted) -> None:
    """Refuse declarations that differ from those the collection was made with."""
    declared: list[tuple[str, object, object]] = [("tenant_field", wanted.tenant_field, found.tenant)]
    if wanted.filter_fields is not None:
        declared.append(("filter_fields", declared_fields(wanted.filter_fields), dict(found.kinds)))
    for option, asked, has in declared:
        if asked is not None and asked != has:
            raise CollectionMismatchError(
                f"collection {name!r}: expected {option}={asked!r}, but it was made with {has!r}: leave {option} out "
                "to take it as it is, or use another collection name and fill it anew"
            )


def _adopt(flows: MilvusFlows, fingerprint: str | None) -> Flow[None]:
    flows.fingerprint = yield from flows.read_fingerprint()
    if fingerprint is not None:
        check_fingerprint(flows.fingerprint, fingerprint, name=flows.name)
        if flows.fingerprint != fingerprint:
            yield from flows.mark()
            yield from flows.write_fingerprint(fingerprint)
            flows.fingerprint = fingerprint
