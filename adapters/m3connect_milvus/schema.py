"""The layout of a collection: how it is created, how it is checked, and the marker that says it is ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymilvus import CollectionSchema, DataType, MilvusClient

from m3connect.errors import CollectionMismatchError, CollectionNotFoundError
from m3connect.store import check_fingerprint

__all__ = [
    "MOST_ID_BYTES",
    "MOST_JSON_BYTES",
    "MOST_TEXT_BYTES",
    "MOST_TOKENS",
    "Opened",
    "open_collection",
    "read_fingerprint",
    "write_fingerprint",
]

MOST_ID_BYTES = 4096
"""Room for any path or URL; a limit costs nothing, only real ids do."""

MOST_TEXT_BYTES = 65_535
"""The longest VARCHAR of a server, in UTF-8 bytes; Lite counts characters and allows more."""

MOST_JSON_BYTES = 65_536
MOST_TOKENS = 4096
"""The largest array of a server."""

_FINGERPRINT_PROPERTY = "m3connect.fingerprint"
_SCHEMA_PROPERTY = "m3connect.schema"
_SCHEMA_VERSION = "1"
_LARGEST_DIM = 32_768
_VECTORS = ("dense", "sparse")


@dataclass(frozen=True, slots=True)
class Opened:
    """What an open collection is."""

    dim: int
    fingerprint: str | None
    lite: bool


def open_collection(
    client: MilvusClient, name: str, *, dim: int | None, create: bool, adopt_fingerprint: str | None
) -> Opened:
    """Create a collection or check the one that is there, and load it for searching.

    Raises:
        CollectionNotFoundError: there is none and none may be created.
        CollectionMismatchError: it does not fit.
    """
    _check_name(name)
    lite = str(client.get_server_version()).startswith("milvus_lite")
    if not client.has_collection(name):
        if dim is None or not create:
            raise CollectionNotFoundError(
                f"there is no collection {name!r}: "
                + ("open it with create=True to make it" if dim else "give its dim=, for instance the encoder's")
            )
        _create(client, name, dim)
    description = client.describe_collection(name)
    properties = _properties(description)
    found_dim = _check_fields(name, description, dim)
    _check_marker(name, properties, adopt_fingerprint)
    _check_indexes(client, name, lite)
    fingerprint = properties.get(_FINGERPRINT_PROPERTY)
    if adopt_fingerprint is not None:
        check_fingerprint(fingerprint, adopt_fingerprint, name=name)
        if fingerprint != adopt_fingerprint:
            write_fingerprint(client, name, adopt_fingerprint)
    client.load_collection(name)  # a reopened Lite database has released it, and then every read fails
    return Opened(found_dim, adopt_fingerprint or fingerprint, lite)


def read_fingerprint(client: MilvusClient, name: str) -> str | None:
    """Read the fingerprint that is kept with the collection."""
    fingerprint: str | None = _properties(client.describe_collection(name)).get(_FINGERPRINT_PROPERTY)
    return fingerprint


def write_fingerprint(client: MilvusClient, name: str, fingerprint: str) -> None:
    """Keep a fingerprint with the collection, and the marker that the collection is ours."""
    properties = {_SCHEMA_PROPERTY: _SCHEMA_VERSION, _FINGERPRINT_PROPERTY: fingerprint}
    client.alter_collection_properties(name, properties=properties)


def _properties(description: Mapping[str, Any]) -> Mapping[str, str]:
    return description.get("properties") or {}


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]{0,254}", name):
        raise ValueError(
            f"Milvus names a collection with up to 255 ASCII letters, digits and underscores, no digit first; "
            f"{name!r} is no such name"
        )


def _create(client: MilvusClient, name: str, dim: int) -> None:
    if not 1 <= dim <= _LARGEST_DIM:
        raise ValueError(f"dim must be from 1 to {_LARGEST_DIM}, but is {dim}")
    # Strong: the paged reads of `scroll` cannot ask for it themselves, pymilvus drops the argument there.
    properties = {_SCHEMA_PROPERTY: _SCHEMA_VERSION}
    client.create_collection(name, schema=_schema(dim), properties=properties, consistency_level="Strong")


def _schema(dim: int) -> CollectionSchema:
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
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    return schema


_LAYOUT = {
    "id": f"VARCHAR({MOST_ID_BYTES}) primary key",
    "text": f"VARCHAR({MOST_TEXT_BYTES})",
    "metadata": "JSON",
    "parent_id": f"VARCHAR({MOST_ID_BYTES}) nullable",
    "fingerprint": "VARCHAR(64)",
    "filter_tokens": f"ARRAY of VARCHAR({MOST_TOKENS})",
    "filter_numbers": "JSON",
    "dense": "FLOAT_VECTOR",
    "sparse": "SPARSE_FLOAT_VECTOR",
}
"""What `_say` must find; `dense` has any dimension here."""


def _say(field: Mapping[str, Any]) -> str:
    """Describe a field as `_LAYOUT` does."""
    params = field.get("params") or {}
    said: str = DataType(field["type"]).name
    if said == "ARRAY":
        said += f" of {DataType(field['element_type']).name}"
    size = params.get("max_capacity") or params.get("max_length")
    said += f"({size})" if size else ""
    said += " primary key" if field.get("is_primary") else ""
    said += " auto_id" if field.get("auto_id") else ""
    return said + (" nullable" if field.get("nullable") else "")


def _check_fields(name: str, description: Mapping[str, Any], dim: int | None) -> int:
    fields = {field["name"]: field for field in description["fields"]}
    found = {key: _say(field) for key, field in fields.items()}
    differences = [
        f"{key}: expected {_LAYOUT.get(key, 'no such field')}, found {found.get(key, 'no such field')}"
        for key in [*_LAYOUT, *(key for key in found if key not in _LAYOUT)]
        if _LAYOUT.get(key) != found.get(key)
    ]
    if differences:
        raise CollectionMismatchError(
            f"collection {name!r} has another layout than m3connect's ({'; '.join(differences)}): use another "
            "collection name, m3connect creates it"
        )
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
    return found_dim


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


def _check_indexes(client: MilvusClient, name: str, lite: bool) -> None:
    """Check the metrics, and create what is missing: in a new collection, or after a crash between two steps."""
    missing = MilvusClient.prepare_index_params()
    for field in _VECTORS:
        for index in client.list_indexes(name, field_name=field):
            metric = client.describe_index(name, index).get("metric_type")
            if metric != "IP":
                raise CollectionMismatchError(
                    f"collection {name!r}: expected metric IP on {field}, found {metric}: use another collection name"
                )
            break
        else:
            # FLAT is exact and enough for what Lite is good for; a server picks its own index.
            dense_type = "FLAT" if lite else "AUTOINDEX"
            missing.add_index(
                field, index_type=dense_type if field == "dense" else "SPARSE_INVERTED_INDEX", metric_type="IP"
            )
    if len(missing):
        # sync=False: waiting asks Lite for a time stamp, which it lacks and logs as an error; loading waits anyway.
        client.create_index(name, missing, sync=False)
