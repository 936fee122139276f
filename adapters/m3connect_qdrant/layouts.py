"""Where collections in Qdrant that others filled keep their parts, and whether one fits what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qdrant_client import models

from m3connect.errors import CollectionMismatchError
from m3connect.foreign import ForeignLayout, Metric
from m3connect_qdrant.schema import named_vectors

__all__ = ["LAYOUTS", "check_vectors"]

_LANGCHAIN = ForeignLayout(dense="", text="page_content")
_LLAMA_INDEX = ForeignLayout(dense="", text=None, node="_node_content")

LAYOUTS: Mapping[str, ForeignLayout] = MappingProxyType(
    {
        "langchain": _LANGCHAIN,
        "langchain-hybrid": ForeignLayout(dense="", sparse="langchain-sparse", text="page_content"),
        "llama-index": _LLAMA_INDEX,
        "llama-index-hybrid": ForeignLayout(
            dense="text-dense", sparse="text-sparse-new", text=None, node="_node_content"
        ),
    }
)
"""As langchain-qdrant 1.1 and llama-index-vector-stores-qdrant 0.10 name them by default; other names go into a
`ForeignLayout`, for instance `dataclasses.replace(LAYOUTS["langchain"], dense="my-vector")`."""

_METRICS: Mapping[models.Distance, Metric] = {
    models.Distance.DOT: "inner product",
    models.Distance.COSINE: "cosine",
    models.Distance.EUCLID: "squared distance",
}


def check_vectors(
    name: str, info: models.CollectionInfo, layout: ForeignLayout, *, dim: int | None
) -> tuple[int, Metric]:
    """Check that the vectors a layout names are there and mean what they must.

    Args:
        name: the collection's, for messages.
        info: what the database says about it.
        layout: what the caller says.
        dim: the dimension expected; None takes what is there.

    Returns:
        The dimension of dense vectors, and what they are compared by.

    Raises:
        CollectionMismatchError: with what was expected and found.
    """
    named, sparse = named_vectors(info), info.config.params.sparse_vectors or {}
    dense = _named(name, layout.dense, named, sparse)
    if dense.multivector_config is not None:
        raise CollectionMismatchError(
            f"collection {name!r}: expected one vector a point under {layout.dense!r}, found several: name them as "
            "multi_vector= in the layout, and the dense vector as dense="
        )
    if dense.distance not in _METRICS:
        raise CollectionMismatchError(
            f"collection {name!r} compares {layout.dense!r} by {dense.distance.value}, which does not tell inner "
            "products: index the documents into a new collection"
        )
    if dim is not None and dim != dense.size:
        raise CollectionMismatchError(
            f"collection {name!r}: expected dimension {dim}, found {dense.size} in {layout.dense!r}: open it with the "
            "encoder that filled it, or name another vector"
        )
    _check_sparse(name, layout, named, sparse)
    _check_tokens(name, layout, named, sparse, dim=dense.size)
    return dense.size, _METRICS[dense.distance]


def _named(
    name: str,
    wanted: str,
    named: Mapping[str, models.VectorParams],
    sparse: Mapping[str, models.SparseVectorParams],
) -> models.VectorParams:
    if wanted not in named:
        raise CollectionMismatchError(f"collection {name!r} has no vector {wanted!r}; {_what_is_there(named, sparse)}")
    return named[wanted]


def _check_sparse(
    name: str,
    layout: ForeignLayout,
    named: Mapping[str, models.VectorParams],
    sparse: Mapping[str, models.SparseVectorParams],
) -> None:
    if layout.sparse is None:
        return
    if layout.sparse not in sparse:
        raise CollectionMismatchError(
            f"collection {name!r} has no sparse vector {layout.sparse!r}; {_what_is_there(named, sparse)}"
        )
    modifier = sparse[layout.sparse].modifier
    if modifier not in (None, models.Modifier.NONE):
        raise CollectionMismatchError(
            f"collection {name!r} changes the sparse weights under {layout.sparse!r} by {modifier.value}, so their "
            "scores are not M3's: leave sparse= out of the layout and search with Dense()"
        )


def _check_tokens(
    name: str,
    layout: ForeignLayout,
    named: Mapping[str, models.VectorParams],
    sparse: Mapping[str, models.SparseVectorParams],
    *,
    dim: int,
) -> None:
    if layout.multi_vector is None:
        return
    tokens = _named(name, layout.multi_vector, named, sparse)
    by_inner_product = tokens.distance in (models.Distance.DOT, models.Distance.COSINE)
    if tokens.multivector_config is None or tokens.size != dim or not by_inner_product:
        several = "several" if tokens.multivector_config is not None else "one"
        raise CollectionMismatchError(
            f"collection {name!r}: expected several vectors a point of {dim} dimensions, compared by Dot or Cosine, "
            f"under {layout.multi_vector!r}, found {several} of {tokens.size}, compared by {tokens.distance.value}: "
            "leave multi_vector= out of the layout"
        )


def _what_is_there(named: Mapping[str, models.VectorParams], sparse: Mapping[str, models.SparseVectorParams]) -> str:
    dense = ", ".join(repr(key) if key else "'' (unnamed)" for key in named) or "none"
    weights = ", ".join(map(repr, sparse)) or "none"
    return f"its dense vectors are {dense}, its sparse vectors {weights}: name those in the layout"
