"""The layout of a collection: how it looks, how it is checked, and the marker that says it is ours. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymilvus import CollectionSchema, DataType, MilvusClient

from m3connect.errors import CollectionMismatchError
from m3connect_milvus.columns import TENANT, Columns
from m3connect_milvus.settings import MilvusSettings

__all__ = [
    "FINGERPRINT_PROPERTY",
    "MOST_ID_BYTES",
    "MOST_JSON_BYTES",
    "MOST_TEXT_BYTES",
    "MOST_TOKENS",
    "Layout",
    "check_name",
    "index_params",
    "is_ours",
    "marker",
    "properties_of",
    "read_layout",
    "to_schema",
]

MOST_ID_BYTES = 4096
"""Room for any path or URL; a limit costs nothing, only real ids do."""

MOST_TEXT_BYTES = 65_535
"""The longest VARCHAR of a server, in UTF-8 bytes; Lite counts characters and allows more."""

MOST_JSON_BYTES = 65_536
MOST_TOKENS = 4096
"""The largest array of a server."""

FINGERPRINT_PROPERTY = "m3connect.fingerprint"
_SCHEMA_PROPERTY = "m3connect.schema"
_SETTINGS_PROPERTY = "m3connect.settings"
_SCHEMA_VERSION = "1"
_LARGEST_DIM = 32_768
_COLUMN_BYTES = 96


@dataclass(frozen=True, slots=True)
class Layout:
    """What makes one of our collections differ from another."""

    dim: int
    columns: Columns
    half_precision: bool


def check_name(name: str) -> None:
    """Refuse a name that Milvus would."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]{0,254}", name):
        raise ValueError(
            f"Milvus names a collection with up to 255 ASCII letters, digits and underscores, no digit first; "
            f"{name!r} is no such name"
        )


def to_schema(layout: Layout) -> CollectionSchema:
    """Write a layout as pymilvus takes it."""
    if not 1 <= layout.dim <= _LARGEST_DIM:
        raise ValueError(f"dim must be from 1 to {_LARGEST_DIM}, but is {layout.dim}")
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MOST_ID_BYTES)
    schema.add_field("text", DataType.VARCHAR, max_length=MOST_TEXT_BYTES)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("parent_id", DataType.VARCHAR, max_length=MOST_ID_BYTES, nullable=True)
    schema.add_field("fingerprint", DataType.VARCHAR, max_length=64)
    schema.add_field(
        "filter_tokens", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=MOST_TOKENS, max_length=96
    )
    schema.add_field("filter_numbers", DataType.JSON)
    for key, kind in layout.columns.kinds.items():
        if kind == "number":
            schema.add_field(layout.columns.name(key), DataType.DOUBLE, nullable=True)
        else:
            schema.add_field(layout.columns.name(key), DataType.VARCHAR, max_length=_COLUMN_BYTES, nullable=True)
    if layout.columns.tenant is not None:
        schema.add_field(TENANT, DataType.VARCHAR, max_length=_COLUMN_BYTES, is_partition_key=True)
    dense = DataType.FLOAT16_VECTOR if layout.half_precision else DataType.FLOAT_VECTOR
    schema.add_field("dense", dense, dim=layout.dim)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    return schema


def index_params(layout: Layout, settings: MilvusSettings, *, lite: bool, existing: Mapping[str, Any]) -> Any:  # noqa: ANN401  # pymilvus' IndexParams
    """Return the indexes that a collection lacks: all in a new one, some after a crash between two steps."""
    missing = MilvusClient.prepare_index_params()
    for name, index in (("dense", settings.dense_index), ("sparse", settings.sparse_index)):
        if name not in existing:
            missing.add_index(name, **{**index, "metric_type": "IP"})
    scalars = [layout.columns.name(key) for key in layout.columns.keys]
    for name in scalars if lite else ["filter_tokens", *scalars]:  # Lite has no index on arrays
        if name not in existing:
            missing.add_index(name, index_type="INVERTED")
    return missing


def marker(columns: Columns, settings: MilvusSettings) -> dict[str, str]:
    """Return the properties that say that a collection is ours, and how."""
    said = {"filter_fields": dict(columns.kinds), "tenant_field": columns.tenant, "search": settings.remembered()}
    return {_SCHEMA_PROPERTY: _SCHEMA_VERSION, _SETTINGS_PROPERTY: json.dumps(said, sort_keys=True)}


def properties_of(description: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the properties of a described collection."""
    return description.get("properties") or {}


def is_ours(description: Mapping[str, Any]) -> bool:
    """Say whether a described collection has m3connect's marker."""
    return _SCHEMA_PROPERTY in properties_of(description)


def read_layout(
    name: str, description: Mapping[str, Any], *, dim: int | None, adopt_fingerprint: str | None
) -> tuple[Layout, MilvusSettings]:
    """Check that a collection has our layout.

    Returns:
        The layout, and settings that hold what is remembered about searching.

    Raises:
        CollectionMismatchError: it has another one, another dimension or no marker.
    """
    properties = properties_of(description)
    said = json.loads(properties.get(_SETTINGS_PROPERTY, "{}"))
    columns = Columns(said.get("filter_fields", {}), said.get("tenant_field"))
    fields = {field["name"]: field for field in description["fields"]}
    _check_fields(name, fields, columns)
    _check_marker(name, properties, adopt_fingerprint)
    level = description.get("consistency_level_name", "Strong")
    if level != "Strong":
        raise CollectionMismatchError(
            f"collection {name!r}: expected consistency level Strong, found {level}: use another collection name"
        )
    found_dim = int(fields["dense"]["params"]["dim"])
    if dim is not None and dim != found_dim:
        raise CollectionMismatchError(
            f"collection {name!r}: expected dimension {dim}, found {found_dim}: open it with the encoder that filled "
            "it, or use another collection name"
        )
    half = fields["dense"]["type"] == DataType.FLOAT16_VECTOR
    return Layout(found_dim, columns, half), MilvusSettings.recall(said.get("search", {}))


def _say(field: Mapping[str, Any]) -> str:
    """Describe a field in words."""
    params = field.get("params") or {}
    said: str = DataType(field["type"]).name
    if said == "ARRAY":
        said += f" of {DataType(field['element_type']).name}"
    size = params.get("max_capacity") or params.get("max_length")
    said += f"({size})" if size else ""
    for flag, word in (("is_primary", "primary key"), ("is_partition_key", "partition key"), ("auto_id", "auto_id")):
        said += f" {word}" if field.get(flag) else ""
    return said + (" nullable" if field.get("nullable") else "")


def _check_fields(name: str, fields: Mapping[str, Mapping[str, Any]], columns: Columns) -> None:
    expected = {field["name"]: _say(field) for field in to_schema(Layout(1, columns, False)).to_dict()["fields"]}
    found = {key: _say(field) for key, field in fields.items()}
    if found.get("dense") == "FLOAT16_VECTOR":
        expected["dense"] = "FLOAT16_VECTOR"
    differences = [
        f"{key}: expected {expected.get(key, 'no such field')}, found {found.get(key, 'no such field')}"
        for key in [*expected, *(key for key in found if key not in expected)]
        if expected.get(key) != found.get(key)
    ]
    if differences:
        raise CollectionMismatchError(
            f"collection {name!r} has another layout than m3connect's ({'; '.join(differences)}): use another "
            "collection name, m3connect creates it"
        )


def _check_marker(name: str, properties: Mapping[str, str], adopt_fingerprint: str | None) -> None:
    version = properties.get(_SCHEMA_PROPERTY)
    if version is None and adopt_fingerprint is None:
        raise CollectionMismatchError(
            f"collection {name!r} was not made by m3connect: expected the property {_SCHEMA_PROPERTY}, found none. Use "
            "another collection name; or, if its rows follow m3connect's layout, say which encoder made its vectors "
            "with adopt_fingerprint=encoder.fingerprint"
        )
    if version not in (None, _SCHEMA_VERSION):
        raise CollectionMismatchError(
            f"collection {name!r}: expected layout version {_SCHEMA_VERSION}, found {version}: it was made by a newer "
            "m3connect, so upgrade this one"
        )
