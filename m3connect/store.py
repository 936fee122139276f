"""What a store is: documents that go in, hits that come out, and the checks that stand before every database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import numpy as np

from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.errors import CollectionMismatchError
from m3connect.filters import Filter
from m3connect.fusion import ALL_LEGS, RRF, Fusion, Leg
from m3connect.token_rows import TokenRows

__all__ = [
    "LARGEST_COUNT",
    "LARGEST_TOKEN_ID",
    "AsyncHybridStore",
    "Document",
    "Encoder",
    "Hit",
    "HybridStore",
    "TokenSink",
    "check_batch",
    "check_count",
    "check_delete",
    "check_filter",
    "check_fingerprint",
    "check_ids",
    "check_queries",
    "content_of",
    "delete_documents",
    "encodes",
    "fingerprint_of",
    "raise_problems",
]

LARGEST_TOKEN_ID = 2**32 - 2
"""Databases keep token ids in 32 bits, and Milvus not the last of them."""

LARGEST_COUNT = 1_000_000
"""What `check_count` lets through: more hits, candidates or documents a batch than any store gives back at once."""


_canonical = json.JSONEncoder(sort_keys=True, default=dict).encode


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its name and what is known about it."""

    id: str
    """Any non-empty string; storing a document under an id that is taken replaces the old one."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What JSON can hold; filters see strings, bools, numbers, and lists of these at the top level."""

    parent_id: str | None = None
    """The document that this one is a part of."""

    @property
    def fingerprint(self) -> str:
        """A hash of text, metadata and parent that tells whether a stored document is still the same."""
        return fingerprint_of(content_of(self))


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found, with its score."""

    document: Document
    score: float
    """What the hits are ordered by: the fused score, or the score of the one leg that was searched."""

    scores: Mapping[str, float] | None = None
    """Raw scores by leg (dense, sparse, multi_vector), where they were asked for."""


@runtime_checkable
class Encoder(Protocol):
    """What turns texts into embeddings; `M3Encoder` is one. Several threads may call it at the same time."""

    @property
    def dim(self) -> int:
        """The dimension of dense and token vectors."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """Model, revision and settings that change vectors; equal fingerprints mean comparable numbers."""
        ...

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode texts, row i being text i."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which documents an operation is about: those that pass an exact filter, or those with these ids."""

    exact: Filter | None = None
    """What tokens and numbers decide (filters.py); None lets every document pass."""

    ids: tuple[str, ...] | None = None
    """Where given, these ids alone, and `exact` need not be asked again; an empty tuple selects nothing."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What can be said about a collection."""

    name: str
    count: int
    dim: int
    multi_vector: bool
    fingerprint: str | None
    details: Mapping[str, Any]
    """The backend's own settings: its kind and version, indexes, precision, shards."""


@runtime_checkable
class HybridStore(Protocol):
    """A collection of documents with their embeddings. `Store` (base.py) says what each method does."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def multi_vector(self) -> bool: ...  # noqa: D102
    @property
    def fingerprint(self) -> str | None: ...  # noqa: D102

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]: ...  # noqa: D102
    def is_transient(self, error: BaseException) -> bool: ...  # noqa: D102
    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None: ...  # noqa: D102
    def insert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None: ...  # noqa: D102
    def update_embeddings(  # noqa: D102
        self, ids: Sequence[str], embeddings: M3Embeddings, *, legs: Sequence[Leg] = ALL_LEGS
    ) -> None: ...
    def get(self, ids: Sequence[str]) -> list[Document]: ...  # noqa: D102
    def get_embeddings(self, ids: Sequence[str]) -> M3Embeddings: ...  # noqa: D102
    def fingerprints(self, ids: Sequence[str]) -> dict[str, str]: ...  # noqa: D102
    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None: ...  # noqa: D102
    def count(self, filter: Filter | None = None) -> int: ...  # noqa: D102
    def scroll(self, filter: Filter | None = None) -> Iterator[Document]: ...  # noqa: D102
    def search(  # noqa: D102
        self,
        queries: M3Embeddings,
        *,
        top_k: int = 10,
        filter: Filter | None = None,
        fusion: Fusion = RRF(),  # noqa: B008  # frozen
        candidates: int | None = None,
        with_scores: bool = False,
        offset: int | None = None,
        group_by_parent: bool = False,
        min_scores: Mapping[Leg, float] | None = None,
    ) -> list[list[Hit]]: ...
    def info(self) -> StoreInfo: ...  # noqa: D102
    def flush(self) -> None: ...  # noqa: D102
    def drop(self) -> None: ...  # noqa: D102


@runtime_checkable
class AsyncHybridStore(Protocol):
    """`HybridStore`, awaited; `AsyncStore` (base.py) is one. `isinstance` sees names alone, alike in both."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def multi_vector(self) -> bool: ...  # noqa: D102
    @property
    def fingerprint(self) -> str | None: ...  # noqa: D102

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]: ...  # noqa: D102
    def is_transient(self, error: BaseException) -> bool: ...  # noqa: D102
    async def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None: ...  # noqa: D102
    async def insert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None: ...  # noqa: D102
    async def update_embeddings(  # noqa: D102
        self, ids: Sequence[str], embeddings: M3Embeddings, *, legs: Sequence[Leg] = ALL_LEGS
    ) -> None: ...
    async def get(self, ids: Sequence[str]) -> list[Document]: ...  # noqa: D102
    async def get_embeddings(self, ids: Sequence[str]) -> M3Embeddings: ...  # noqa: D102
    async def fingerprints(self, ids: Sequence[str]) -> dict[str, str]: ...  # noqa: D102
    async def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None: ...  # noqa: D102
    async def count(self, filter: Filter | None = None) -> int: ...  # noqa: D102
    def scroll(self, filter: Filter | None = None) -> AsyncIterator[Document]: ...  # noqa: D102
    async def search(  # noqa: D102
        self,
        queries: M3Embeddings,
        *,
        top_k: int = 10,
        filter: Filter | None = None,
        fusion: Fusion = RRF(),  # noqa: B008  # frozen
        candidates: int | None = None,
        with_scores: bool = False,
        offset: int | None = None,
        group_by_parent: bool = False,
        min_scores: Mapping[Leg, float] | None = None,
    ) -> list[list[Hit]]: ...
    async def info(self) -> StoreInfo: ...  # noqa: D102
    async def flush(self) -> None: ...  # noqa: D102
    async def drop(self) -> None: ...  # noqa: D102


@runtime_checkable
class TokenSink(Protocol):
    """Where token vectors are put beside a store; `TokenStoreBase` (token_base.py) says what each method does."""

    def check_writable(self, fingerprint: str | None) -> None: ...  # noqa: D102
    def missing(self, documents: Sequence[Document], *, fingerprint: str | None = None) -> list[Document]: ...  # noqa: D102
    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]: ...  # noqa: D102
    def encode(self, matrices: Sequence[FloatArray]) -> TokenRows: ...  # noqa: D102
    def put_rows(  # noqa: D102
        self, documents: Sequence[Document], rows: TokenRows, *, fingerprint: str | None
    ) -> None: ...
    def delete(self, ids: Iterable[str]) -> None: ...  # noqa: D102
    def is_transient(self, error: BaseException) -> bool: ...  # noqa: D102


def delete_documents(store: HybridStore, ids: Sequence[str], *, token_store: TokenSink | None = None) -> None:
    """Delete documents and their token vectors.

    The token vectors go first: what an interruption leaves is found in the store, and deleted the next time.

    Args:
        store: where the documents are.
        ids: theirs.
        token_store: where their token vectors are.
    """
    if token_store is not None:
        token_store.delete(ids)
    store.delete(ids)


def check_batch(documents: Sequence[Document], embeddings: M3Embeddings, *, dim: int) -> None:
    """Refuse a batch whose documents and rows do not fit together, or do not fit the collection."""
    if len(documents) != len(embeddings):
        raise ValueError(f"{len(documents)} documents came with {len(embeddings)} rows of embeddings: give one each")
    _check_dim(embeddings, dim)


def check_queries(queries: M3Embeddings, *, dim: int) -> None:
    """Refuse queries that no store of this dimension can answer."""
    _check_dim(queries, dim)
    views = [queries.dense, queries.sparse.values, *(queries.multi_vector or ())]
    if not all(np.isfinite(view).all() for view in views):
        raise ValueError("a query has a value that is not finite")
    if queries.sparse.indices.max(initial=0) > LARGEST_TOKEN_ID:
        raise ValueError(f"a query has a token id above {LARGEST_TOKEN_ID}, the largest that databases keep")


def check_count(name: str, value: int) -> None:
    """Refuse what is no whole number from 1 to `LARGEST_COUNT`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be at least 1, but is {value!r}")
    if value > LARGEST_COUNT:
        raise ValueError(f"{name} must be at most {LARGEST_COUNT:,}, but is {value!r}")


def check_ids(ids: Iterable[str]) -> list[str]:
    """Return ids as a list.

    Raises:
        ValueError: one string was given, or something that is no string is among them.
    """
    if isinstance(ids, str | bytes):
        raise ValueError(f"expected a list of ids, but got {ids!r}")
    listed = list(ids)
    for name in listed:
        if not isinstance(name, str) or not encodes(name):
            raise ValueError(f"an id must be a string without half surrogate pairs, but one is {name!r}")
    return listed


def check_fingerprint(stored: str | None, given: str | None, *, name: str) -> None:
    """Refuse embeddings of another encoder than the collection's; None on either side passes."""
    if stored is not None and given is not None and stored != given:
        raise CollectionMismatchError(
            f"collection {name!r} was filled by {stored}, but these embeddings come from {given}: their numbers cannot "
            "be compared. Use the encoder that filled it, or another collection"
        )


def raise_problems(problems: Mapping[int, str], documents: Sequence[Document]) -> None:
    """Turn the result of `problems` into one error, where there is something to say."""
    if not problems:
        return
    position, reason = next(iter(sorted(problems.items())))
    more = f" ({len(problems) - 1} more documents have problems)" if len(problems) > 1 else ""
    name = getattr(documents[position], "id", None)
    raise ValueError(f"document {position} (id {name!r}): {reason}{more}; nothing was written")


def check_delete(ids: Iterable[str] | None, filter: Filter | None) -> None:
    """Refuse a delete that names nothing, or both ids and a filter."""
    if (ids is None) == (filter is None):
        raise ValueError("delete takes either ids= or filter=, exactly one of them")
    if isinstance(ids, str):
        raise ValueError(f"delete takes a list of ids, but got the string {ids!r}")
    check_filter(filter)


def check_filter(filter: object) -> None:
    """Refuse what is no filter; None is one that lets everything pass."""
    if filter is not None and not isinstance(filter, Filter):
        raise ValueError(f"expected a filter built with m3connect.filters.field(...), but got {filter!r}")


def _check_dim(embeddings: M3Embeddings, dim: int) -> None:
    if len(embeddings) and embeddings.dim != dim:
        raise ValueError(f"the collection has dimension {dim}, but the embeddings have {embeddings.dim}")
    if embeddings.multi_vector and embeddings.multi_vector[0].shape[1] != dim:
        raise ValueError(
            f"the collection has dimension {dim}, but the token vectors have {embeddings.multi_vector[0].shape[1]}"
        )


def content_of(document: Document) -> str:
    """Return what tells whether a document has changed, as JSON: text, metadata and parent."""
    return _canonical([document.text, document.metadata, document.parent_id])


def fingerprint_of(content: str) -> str:
    """Return the hash of `content_of` that is stored beside a document."""
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def encodes(text: str) -> bool:
    """Say whether a string is valid Unicode, without half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
