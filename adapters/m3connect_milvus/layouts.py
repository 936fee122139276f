"""Where collections in Milvus that others filled keep their parts, and whether one fits what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pymilvus import DataType

from m3connect.errors import CollectionMismatchError
from m3connect.foreign import ForeignLayout, Metric

__all__ = ["LAYOUTS", "ForeignSchema", "read_schema"]

_LANGCHAIN = ForeignLayout(dense="vector", text="text", metadata=None)
_LANGCHAIN_HYBRID = ForeignLayout(dense="dense", sparse="sparse", text="text", metadata=None)
_LLAMA_INDEX = ForeignLayout(dense="embedding", text="text", node="_node_content")
_LLAMA_INDEX_HYBRID = ForeignLayout(dense="embedding", sparse="sparse_embedding", text="text", node="_node_content")

LAYOUTS: Mapping[str, ForeignLayout] = MappingProxyType(
    {
        "langchain": _LANGCHAIN,
        "langchain-hybrid": _LANGCHAIN_HYBRID,
        "llama-index": _LLAMA_INDEX,
        "llama-index-hybrid": _LLAMA_INDEX_HYBRID,
    }
)
"""As langchain-milvus 0.4 and llama-index-vector-stores-milvus 1.2 name them by default, but that LangChain's manual
names two vectors with `vector_field=["dense", "sparse"]` (unnamed, they are `vector` and `vector_2`).

Other names go into a `ForeignLayout`, for instance `dataclasses.replace(LAYOUTS["langchain"], dense="my_vector")`."""

_METRICS: Mapping[str, Metric] = {"IP": "inner product", "COSINE": "cosine", "L2": "squared distance"}

_VECTORS = (
    DataType.FLOAT_VECTOR,
    DataType.FLOAT16_VECTOR,
    DataType.BFLOAT16_VECTOR,
    DataType.BINARY_VECTOR,
    DataType.INT8_VECTOR,
    DataType.SPARSE_FLOAT_VECTOR,
)


@dataclass(frozen=True, slots=True)
class ForeignSchema:
    """What a foreign collection turned out to be."""

    dim: int
    metric: Metric
    """What dense vectors are compared by."""

    half_precision: bool
    key: str
    """The name of the primary key."""

    whole_numbers: bool
    """Whether keys are numbers; they are strings otherwise."""

    fields: tuple[str, ...]
    """The declared fields that are neither vectors nor the key."""

    output_fields: tuple[str, ...]
    """What is read to make a document, the key included."""


def read_schema(
    name: str,
    description: Mapping[str, Any],
    indexes: Mapping[str, Mapping[str, Any]],
    layout: ForeignLayout,
    *,
    dim: int | None,
) -> ForeignSchema:
    """Check that the vectors and fields a layout names are there and mean what they must.

    Args:
        name: the collection's, for messages.
        description: the described collection.
        indexes: its described indexes, by field.
        layout: what the caller says.
        dim: the dimension expected; None takes what is there.

    Raises:
        ValueError: the layout has parts that Milvus has not.
        CollectionMismatchError: with what was expected and found.
    """
    fields = {field["name"]: field for field in description["fields"]}
    types = {key: DataType(field["type"]) for key, field in fields.items()}
    key = next(key for key, field in fields.items() if field.get("is_primary"))
    _check_parts(layout, key)
    dense = _vector(name, layout.dense, types, (DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR))
    metric = _metric(name, layout.dense, indexes)
    if metric not in _METRICS:
        raise CollectionMismatchError(
            f"collection {name!r}: expected metric IP, COSINE or L2 on {layout.dense!r}, found {metric}: index the "
            "documents into a new collection"
        )
    if layout.sparse is not None:
        _vector(name, layout.sparse, types, (DataType.SPARSE_FLOAT_VECTOR,))
        if (found := _metric(name, layout.sparse, indexes)) != "IP":
            raise CollectionMismatchError(
                f"collection {name!r}: expected metric IP on {layout.sparse!r}, found {found}, whose scores are not "
                "M3's: leave sparse= out of the layout and search with Dense()"
            )
    size = int(fields[layout.dense]["params"]["dim"])
    if dim is not None and dim != size:
        raise CollectionMismatchError(
            f"collection {name!r}: expected dimension {dim}, found {size} in {layout.dense!r}: open it with the "
            "encoder that filled it, or name another vector"
        )
    dynamic = bool(description.get("enable_dynamic_field"))
    plain = tuple(field for field, kind in types.items() if kind not in _VECTORS and field != key)
    _check_declared(name, layout, plain, dynamic=dynamic)
    everything = (*plain, "$meta") if dynamic else plain
    reads_all = layout.metadata is None and layout.node is None
    return ForeignSchema(
        dim=size,
        metric=_METRICS[metric],
        half_precision=dense == DataType.FLOAT16_VECTOR,
        key=key,
        whole_numbers=types[key] == DataType.INT64,
        fields=plain,
        output_fields=(key, *(everything if reads_all else _columns(layout, plain))),
    )


def _check_parts(layout: ForeignLayout, key: str) -> None:
    if layout.multi_vector is not None:
        raise ValueError("m3connect reads no token vectors from Milvus: leave multi_vector= out of the layout")
    if layout.id not in (None, key):
        raise ValueError(f"in Milvus the id is the primary key, here {key!r}: leave id={layout.id!r} out of the layout")


def _vector(name: str, wanted: str, types: Mapping[str, DataType], allowed: tuple[DataType, ...]) -> DataType:
    if types.get(wanted) not in allowed:
        vectors = ", ".join(f"{key!r} ({kind.name})" for key, kind in types.items() if kind in _VECTORS) or "none"
        raise CollectionMismatchError(
            f"collection {name!r} has no {' or '.join(kind.name for kind in allowed)} named {wanted!r}; its vectors "
            f"are {vectors}: name those in the layout"
        )
    return types[wanted]


def _metric(name: str, field: str, indexes: Mapping[str, Mapping[str, Any]]) -> str:
    if field not in indexes:
        raise CollectionMismatchError(
            f"collection {name!r} has no index on {field!r}, so it cannot be searched: make one with pymilvus' "
            "create_index first"
        )
    return str(indexes[field].get("metric_type"))


def _check_declared(name: str, layout: ForeignLayout, plain: tuple[str, ...], *, dynamic: bool) -> None:
    """Where the schema is all there is, it tells which names are wrong, even of an empty collection."""
    missing = [field for field in _columns(layout, plain) if field not in plain]
    if missing and not dynamic:
        raise CollectionMismatchError(
            f"collection {name!r} has no field {missing[0]!r}; it has {', '.join(map(repr, plain)) or 'none'}: name "
            "the right ones in the layout, or None for what it lacks"
        )


def _columns(layout: ForeignLayout, plain: tuple[str, ...]) -> list[str]:
    """Return the fields that a layout names; of `a.b` it is the first part, unless there is a field of that name."""
    named = [path for path in layout.fields if path != layout.id]
    return list(dict.fromkeys(path if path in plain else path.partition(".")[0] for path in named))
