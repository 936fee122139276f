"""Opening a collection as a flow: found and checked, or made."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import models

from m3connect.errors import CollectionMismatchError
from m3connect.filters import number_name
from m3connect.flows import Call, Flow
from m3connect.foreign import ForeignLayout
from m3connect.store import check_fingerprint
from m3connect_qdrant import schema
from m3connect_qdrant.convert import FILTER_NUMBERS, FILTER_TENANT, FILTER_TOKENS
from m3connect_qdrant.flows import QdrantFlows
from m3connect_qdrant.foreign import ForeignFlows, open_foreign
from m3connect_qdrant.settings import RESCORED, QdrantSettings, changed

__all__ = ["Opening", "open_collection", "say_once"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What a collection is asked to be; `QdrantStore` says what each part means.

    Raises:
        ValueError: a layout came with what only collections of our own have.
    """

    collection: str
    dim: int | None = None
    create: bool = True
    multi_vector: bool | None = False
    adopt_fingerprint: str | None = None
    settings: QdrantSettings = field(default_factory=QdrantSettings)
    number_fields: tuple[str, ...] = ()
    """Metadata keys that get an index to order by."""

    tenant_field: str | None = None
    layout: ForeignLayout | None = None

    def __post_init__(self) -> None:
        if self.layout is None:
            return
        if self.number_fields or self.tenant_field is not None:
            raise ValueError(
                "filter_fields= and tenant_field= are for collections that m3connect fills: leave them out where "
                "layout= is given"
            )
        if self.multi_vector and self.layout.multi_vector is None:
            raise ValueError(
                "multi_vector=True needs the name of the token vectors: layout=ForeignLayout(multi_vector=)"
            )

    def call(self, method: str, arguments: Mapping[str, Any] | None = None) -> Call:
        """Return a call about this collection."""
        return Call(method, {"collection_name": self.collection, **(arguments or {})})

    def indexes(self) -> dict[str, models.PayloadSchemaType | models.KeywordIndexParams]:
        """Return the payload indexes that filters need, by payload field."""
        indexes: dict[str, models.PayloadSchemaType | models.KeywordIndexParams]
        indexes = {FILTER_TOKENS: models.PayloadSchemaType.KEYWORD}
        if self.tenant_field is not None:
            indexes[FILTER_TENANT] = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        numbers = [f"{FILTER_NUMBERS}.{number_name(key)}" for key in self.number_fields]
        return indexes | dict.fromkeys(numbers, models.PayloadSchemaType.FLOAT)

    def ignored_locally(self) -> list[str]:
        """Name what only a server does."""
        fields = [f"an index on {key!r}" for key in self.number_fields]
        return changed(self.settings) + fields + (["tenant_field"] if self.tenant_field is not None else [])


def open_collection(wanted: Opening, *, server: bool) -> Flow[QdrantFlows | ForeignFlows]:
    """Find the collection, or make it where that is allowed, and check that it is what was asked for.

    One that a layout describes is only read.

    Raises:
        CollectionMismatchError: it has another layout, or was not made by m3connect.
        CollectionNotFoundError: there is none, and none may be made.
    """
    if wanted.layout is not None:
        return (
            yield from open_foreign(
                wanted.collection,
                wanted.layout,
                dim=wanted.dim,
                fingerprint=wanted.adopt_fingerprint,
                server=server,
                search=wanted.settings.search,
            )
        )
    if not server and wanted.ignored_locally():
        say_once(f"Qdrant's local mode ignores {', '.join(wanted.ignored_locally())}: a server does not")
    if not (yield wanted.call("collection_exists")):
        yield from _create(wanted, server=server)
    info = yield wanted.call("get_collection")
    multi_vector = schema.has_token_vectors(info) if wanted.multi_vector is None else wanted.multi_vector
    dim = schema.check_layout(wanted.collection, info, dim=wanted.dim, multi_vector=multi_vector)
    marker = yield from _read_marker(wanted, info)
    if server:
        yield from _index(wanted, info)
    flows = QdrantFlows(
        wanted.collection,
        dim=dim,
        multi_vector=multi_vector,
        server=server,
        tenant_field=marker.tenant_field,
        dense_params=_dense_params(wanted, info) if server else None,
    )
    flows.fingerprint = marker.fingerprint
    return flows


@functools.lru_cache(maxsize=64)
def say_once(message: str) -> None:
    """Log a warning that this process has not heard yet."""
    logger.warning(message)


def _create(wanted: Opening, *, server: bool) -> Flow[None]:
    arguments = schema.creation(
        schema.creatable_dim(wanted.collection, wanted.dim, create=wanted.create),
        multi_vector=bool(wanted.multi_vector),
        fingerprint=wanted.adopt_fingerprint,
        settings=wanted.settings if server else QdrantSettings(),  # local mode would say that it does what it ignores
        tenant_field=wanted.tenant_field,
    )
    try:
        yield wanted.call("create_collection", arguments)
    except Exception:
        if not (yield wanted.call("collection_exists")):
            raise
        # Someone else made it at the same moment; what they made is checked like any other.


def _read_marker(wanted: Opening, info: models.CollectionInfo) -> Flow[schema.Marker]:
    """Read the marker, and write it where the collection is adopted."""
    name, adopted = wanted.collection, wanted.adopt_fingerprint
    marker = schema.read_marker(name, info)
    if marker is None and adopted is not None:
        foreign = yield wanted.call("count", {"count_filter": schema.foreign_points(), "exact": True})
        schema.check_points(name, foreign=foreign.count)
    if adopted is not None and (marker is None or marker.fingerprint is None):
        tenant_field = marker.tenant_field if marker is not None else None
        yield wanted.call("update_collection", {"metadata": schema.marker(adopted, tenant_field)})
        marker = schema.read_marker(name, (yield wanted.call("get_collection")))
    marker = schema.require_marker(name, marker)
    check_fingerprint(marker.fingerprint, adopted, name=name)
    if wanted.tenant_field not in (None, marker.tenant_field):
        raise CollectionMismatchError(
            f"collection {name!r} was made with tenant_field={marker.tenant_field!r}, not {wanted.tenant_field!r}: "
            "what is stored cannot change its tenants. Open it without tenant_field=, or index into a new collection"
        )
    return marker


def _index(wanted: Opening, info: models.CollectionInfo) -> Flow[None]:
    """Make the payload indexes that are not there; local mode has none, and warns when asked for one."""
    for name, kind in wanted.indexes().items():
        if name not in (info.payload_schema or {}):
            yield wanted.call("create_payload_index", {"field_name": name, "field_schema": kind, "wait": True})


def _dense_params(wanted: Opening, info: models.CollectionInfo) -> models.SearchParams | None:
    return wanted.settings.search or (RESCORED if schema.is_quantized(info) else None)
