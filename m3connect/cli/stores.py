"""Stores as the commands open them: what does not fit is said in terms of options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from m3connect.base import Store
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError
from m3connect.filters import FieldKind
from m3connect.opening import check_spec, open_store, open_token_store
from m3connect.store import Encoder
from m3connect.token_base import TokenStoreBase

__all__ = ["check_model", "open_for_index", "open_tokens"]


def open_tokens(
    spec: str | None, collection: str, *, readonly: bool = False
) -> AbstractContextManager[TokenStoreBase | None]:
    """Open the token store that was named, if one was."""
    return nullcontext() if spec is None else open_token_store(spec, collection, readonly=readonly)


@contextmanager
def open_for_index(
    spec: str,
    collection: str,
    encoder: Encoder,
    *,
    multi_vector: bool | None,
    filter_fields: Mapping[str, FieldKind],
) -> Iterator[Store]:
    """Open a collection, or make it where there is none, and check that it is as the options say.

    Raises:
        CollectionMismatchError: it is not; the message names the options.
    """
    later = {} if _is_milvus(spec) else filter_fields  # Milvus has the columns that a collection was made with
    with ExitStack() as stack:
        try:
            store = stack.enter_context(
                open_store(spec, collection, create=False, multi_vector=None, filter_fields=later)
            )
        except (CollectionNotFoundError, FileNotFoundError):
            store = stack.enter_context(
                open_store(spec, collection, dim=encoder.dim, multi_vector=multi_vector, filter_fields=filter_fields)
            )
        check_model(store, encoder, collection=collection)
        _check_options(store, collection, multi_vector, filter_fields)
        yield store


def check_model(store: Store, encoder: Encoder, *, collection: str) -> None:
    """Refuse a model whose vectors have another length than those of a collection.

    Raises:
        CollectionMismatchError: they have.
    """
    if store.dim != encoder.dim:
        raise CollectionMismatchError(
            f"collection {collection!r} holds vectors of dimension {store.dim}, but the model makes {encoder.dim}: "
            "name the --model that filled it, or another --collection"
        )


def _check_options(
    store: Store, collection: str, multi_vector: bool | None, filter_fields: Mapping[str, FieldKind]
) -> None:
    if multi_vector is not None and multi_vector != store.multi_vector:
        made, option = ("with", "--no-multi-vector") if store.multi_vector else ("without", "--multi-vector")
        raise CollectionMismatchError(
            f"collection {collection!r} was made {made} token vectors: leave {option} out, or name another --collection"
        )
    declared = store.info().details.get("filter_fields") if filter_fields else None
    if declared is not None and declared != filter_fields:
        options = " ".join(f"--filter-field {key}:{kind}" for key, kind in declared.items()) or "no --filter-field"
        raise CollectionMismatchError(
            f"collection {collection!r} was made with {options}, and that stays: leave --filter-field out, or name "
            "another --collection"
        )


def _is_milvus(spec: str) -> bool:
    return check_spec(spec)[0] == "milvus"
