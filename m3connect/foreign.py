"""Collections that somebody else filled: under which names their parts lie, and what every store does with them.

They are read and never written. A backend gives `ReadOnlyFlows` its reading; filters are judged here, by reading, since
such a collection lacks the fields that m3connect derives for them, unless they are in the database's own words.
"""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np

from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.errors import CollectionMismatchError
from m3connect.filters import Filter
from m3connect.flows import Flow, StoreFlows
from m3connect.fusion import Leg
from m3connect.splitting import is_native, split_exact
from m3connect.store import Document, Selection, check_fingerprint

__all__ = [
    "ForeignLayout",
    "Metric",
    "ReadOnlyFlows",
    "check_fields",
    "check_unit",
    "choose_layout",
    "inner_product",
    "lookup",
    "to_document",
]

Metric: TypeAlias = Literal["inner product", "cosine", "squared distance"]

_FAR_FROM_UNIT = 0.01
"""Vectors that a model made in 16 bits are as long as 1 within a thousandth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignLayout:
    """Under which names a collection that m3connect did not fill keeps what a store reads.

    Each is a vector or a field of the database's own; in Qdrant `a.b` is the field b inside the field a.

    Example:
        >>> layout = ForeignLayout(dense="vector", text="body", metadata=None)
        >>> to_document(layout, "7", {"body": "red apple", "lang": "en"})
        Document(id='7', text='red apple', metadata={'lang': 'en'}, parent_id=None)
    """

    dense: str
    """The vector that holds dense rows; Qdrant's unnamed vector is `""`."""

    sparse: str | None = None
    """The sparse vector; None where there is none, and then only dense searches work."""

    multi_vector: str | None = None
    """The token vectors, in Qdrant."""

    text: str | None = "text"
    """None where the text stands in the node. A document without it has an empty text."""

    metadata: str | None = "metadata"
    """The field that holds an object; None takes all fields that have no other part here."""

    parent_id: str | None = None
    """The document that this one is a part of."""

    id: str | None = None
    """In Qdrant, a payload field of unique strings or whole numbers; None takes the database's own ids, as strings."""

    node: str | None = None
    """The field in which LlamaIndex keeps a node as JSON; metadata and parent come from there."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that are no vectors."""
        metadata = None if self.node is not None else self.metadata
        return tuple(name for name in (self.id, self.text, metadata, self.parent_id, self.node) if name is not None)

    @property
    def vectors(self) -> dict[Leg, str]:
        """The names of vectors, by leg."""
        named: dict[Leg, str | None] = {
            "dense": self.dense,
            "sparse": self.sparse,
            "multi_vector": self.multi_vector,
        }
        return {leg: name for leg, name in named.items() if name is not None}


def choose_layout(layout: ForeignLayout | str | None, known: Mapping[str, ForeignLayout]) -> ForeignLayout | None:
    """Return a layout, or a known one by its name.

    Raises:
        ValueError: there is no such layout.
    """
    if isinstance(layout, str) and layout in known:
        return known[layout]
    if layout is None or isinstance(layout, ForeignLayout):
        return layout
    raise ValueError(f"layout must be a ForeignLayout or one of {sorted(known)}, but is {layout!r}")


def lookup(fields: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401  # whatever lies there
    """Return the field of this name, or what lies inside others at this path; None where nothing does."""
    if path in fields:
        return fields[path]
    first, _, rest = path.partition(".")
    inner = fields.get(first)
    return lookup(inner, rest) if rest and isinstance(inner, Mapping) else None


def to_document(layout: ForeignLayout, document_id: str, fields: Mapping[str, Any]) -> Document:
    """Read a document from the fields of its row or point.

    Raises:
        CollectionMismatchError: a field holds something else than its name in the layout says.
    """
    node = _read_node(lookup(fields, layout.node), document_id) if layout.node is not None else None
    text = lookup(fields, layout.text) if layout.text is not None else None
    parent = lookup(fields, layout.parent_id) if layout.parent_id is not None else None
    if node is not None:
        metadata: Any = node.metadata
        text, parent = node.text if text is None else text, node.parent_id if parent is None else parent
    elif layout.metadata is not None:
        metadata = lookup(fields, layout.metadata)
    else:
        metadata = {name: value for name, value in fields.items() if name not in layout.fields}
    for name, value, kind in ((layout.text, text, str), (layout.metadata, metadata, Mapping)):
        if value is not None and not isinstance(value, kind):
            raise CollectionMismatchError(
                f"document {document_id!r}: expected {'a string' if kind is str else 'an object'} in the field "
                f"{name!r}, but it holds {value!r}: name another field in the layout"
            )
    return Document(document_id, text or "", dict(metadata or {}), None if parent is None else str(parent))


def _read_node(content: object, document_id: str) -> Document:
    """Read a node as LlamaIndex writes it: its text may be in one of two places, its source is its parent."""
    try:
        node: Any = json.loads(content) if isinstance(content, str) else content
        text = node.get("text") or (node.get("text_resource") or {}).get("text") or ""
        source = (node.get("relationships") or {}).get("1") or {}
        return Document(document_id, text, node.get("metadata") or {}, source.get("node_id"))
    except (ValueError, AttributeError) as error:
        raise CollectionMismatchError(
            f"document {document_id!r}: expected a node of LlamaIndex as JSON, found {str(content)[:80]!r}: open the "
            "collection with a layout that names its text and metadata instead of node="
        ) from error


def check_fields(name: str, layout: ForeignLayout, rows: Sequence[Mapping[str, Any]], *, known: Iterable[str]) -> None:
    """Refuse a layout with a name that neither the schema nor any of the first rows knows.

    Args:
        name: the collection's, for the message.
        layout: what the caller says.
        rows: the fields of some rows; none prove nothing.
        known: the fields that the schema declares.
    """
    declared = set(known)
    missing = [
        path
        for path in layout.fields
        if path not in declared and rows and all(lookup(row, path) is None and path not in row for row in rows)
    ]
    if missing:
        found = sorted(declared | {field for row in rows for field in row})
        raise CollectionMismatchError(
            f"collection {name!r} has no field {missing[0]!r} in its first {len(rows)} documents; it has "
            f"{', '.join(map(repr, found)) or 'none'}: name the right ones in the layout, or None for what it lacks"
        )


def check_unit(name: str, rows: Sequence[Sequence[float]]) -> None:
    """Refuse vectors whose distances do not tell their inner products."""
    lengths = np.array([np.linalg.norm(row) for row in rows])
    if len(lengths) and np.abs(lengths - 1).max() > _FAR_FROM_UNIT:
        raise CollectionMismatchError(
            f"collection {name!r} compares dense vectors by distance, and they are not of length 1 but up to "
            f"{lengths.max():.3g}: m3connect scores by inner product, whose order is another. Index the documents "
            "into a new collection"
        )


def inner_product(metric: Metric, score: float, *, length: float) -> float:
    """Turn what a database calls a score into the inner product with a stored row of length 1.

    Args:
        metric: what the database compares by.
        score: what it says.
        length: of the query's vector.

    Example:
        >>> inner_product("squared distance", 0.5, length=1.0)
        0.75
    """
    if metric == "cosine":
        return score * length
    return (length**2 + 1 - score) / 2 if metric == "squared distance" else score


class ReadOnlyFlows(StoreFlows, ABC):
    """The part of a backend's flows over a foreign collection that is the same everywhere."""

    layout: ForeignLayout

    narrower = (
        "filters of field(...) on collections that others filled are judged by reading every document; write the "
        "filter in the database's own words (m3connect.filters.Native), which it judges itself, combine the two by &, "
        "or index the documents into a collection of m3connect's own"
    )

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"collection {self.name!r} was opened with layout=, and such collections are only read: write with the "
            "library that filled it, or index into a collection of m3connect's own"
        )

    def _refuse_later(self) -> Flow[None]:
        yield from ()
        self._refuse()

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Refuse to write."""
        self._refuse()

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings, *, only_new: bool = False) -> Flow[None]:
        """Refuse to write."""
        return self._refuse_later()

    def update_embeddings(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> Flow[None]:
        """Refuse to write."""
        return self._refuse_later()

    def delete(self, ids: Sequence[str] | None, filter: Filter | None) -> Flow[None]:
        """Refuse to write."""
        return self._refuse_later()

    def drop(self) -> Flow[None]:
        """Refuse to write."""
        return self._refuse_later()

    def write(self, documents: Sequence[Document], embeddings: M3Embeddings, *, only_new: bool) -> Flow[None]:
        """Refuse to write."""
        return self._refuse_later()

    def write_vectors(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> Flow[None]:
        """Refuse to write."""
        return self._refuse_later()

    def write_fingerprint(self, fingerprint: str) -> Flow[None]:
        """Refuse to write."""
        return self._refuse_later()

    def remove(self, selection: Selection) -> Flow[None]:
        """Refuse to write."""
        return self._refuse_later()

    def flush(self) -> Flow[None]:
        """Do nothing: nothing was written."""
        yield from ()

    def read_fingerprint(self) -> Flow[str | None]:
        """Return the fingerprint that the caller named; the collection has none."""
        yield from ()
        return self.fingerprint

    def check_fingerprint(self, embeddings: M3Embeddings) -> Flow[None]:
        """Refuse another encoder's numbers, and any encoder's as long as nobody said whose the stored ones are."""
        yield from ()
        if embeddings.fingerprint is not None and self.fingerprint is None:
            raise CollectionMismatchError(
                f"collection {self.name!r} does not tell which encoder filled it: if it was {embeddings.fingerprint}, "
                "open it with adopt_fingerprint=encoder.fingerprint; numbers of different encoders cannot be compared"
            )
        check_fingerprint(self.fingerprint, embeddings.fingerprint, name=self.name)

    def split(self, condition: Filter) -> tuple[Filter | None, Filter | None]:
        """Let the database judge what is in its own words, and leave the rest to be judged by reading."""
        return split_exact(condition, is_native)

    def fetch_fingerprints(self, ids: Sequence[str]) -> Flow[dict[str, str]]:
        """Compute them from the documents."""
        documents = yield from self.fetch_documents(ids)
        return {name: document.fingerprint for name, document in documents.items()}

    def fetch_token_vectors(self, ids: Sequence[str]) -> Flow[dict[str, FloatArray]]:
        """Read them with the other embeddings."""
        names, found = yield from self.fetch_embeddings(ids)
        return dict(zip(names, found.require_multi_vector(), strict=True))
