"""How documents are points of Qdrant's, on a server or in an Edge folder: their ids, payloads and filters.

Qdrant keeps payloads as JSON, and its parser is one rounding short of exact: about a tenth of all floats with 16 or 17
digits come back as their neighbour (measured on qdrant-edge-py 0.9; the server shares the code). Metadata with such
floats is kept a second time as text.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

from m3connect import filters
from m3connect.errors import CollectionMismatchError
from m3connect.filters import And, Filter, HasToken, Native, Not, NumberRange, Or
from m3connect.store import Document

__all__ = [
    "DOCUMENT_FIELDS",
    "FILTER_NUMBERS",
    "FILTER_TOKENS",
    "Clause",
    "Leaf",
    "from_payload",
    "payload_id",
    "point_id",
    "render",
    "survives",
    "to_payload",
]

FILTER_TOKENS = "filter_tokens"
FILTER_NUMBERS = "filter_numbers"

_EXACT = "metadata_exact"
"""Metadata as text, where it holds floats that a payload would change."""

DOCUMENT_FIELDS = ("id", "text", "metadata", "parent_id", _EXACT)
"""The payload that makes a document; the rest is there for filters and for `fingerprints`."""

_NAMESPACE = uuid.UUID("5b0f1a52-8c0e-5d6f-9a43-6d3363b6e3c1")
"""Never changes: point ids are derived from it."""

_F = TypeVar("_F")

Leaf: TypeAlias = HasToken | NumberRange | Native
"""What a condition is built of."""

Clause: TypeAlias = Literal["must", "should", "must_not"]
"""The parts of one of Qdrant's filters."""

_EXACT_DIGITS = 2**53 // 10
_EXACT_POWER = 21


def point_id(document_id: str) -> str:
    """Return the UUID (version 5) under which a document is stored; Qdrant knows no string ids.

    Example:
        >>> point_id("a1") == point_id("a1"), point_id("a1") == point_id("a2")
        (True, False)
    """
    # What uuid.uuid5 does, but it raises on half a surrogate pair, and asking for such an id is no mistake.
    digest = hashlib.sha1(_NAMESPACE.bytes + document_id.encode("utf-8", "surrogatepass")).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def to_payload(document: Document, fingerprint: str) -> dict[str, Any]:
    """Return the payload of a prepared document's point.

    Args:
        document: with plain metadata (`m3connect.prepared.prepare`).
        fingerprint: its own.
    """
    metadata = document.metadata
    payload = {
        "id": document.id,
        "text": document.text,
        "metadata": metadata,
        "parent_id": document.parent_id,
        "fingerprint": fingerprint,
        FILTER_TOKENS: filters.tokens(metadata),
        FILTER_NUMBERS: filters.numbers(metadata),
    }
    return payload if _survives(metadata) else payload | {_EXACT: json.dumps(metadata)}


def from_payload(payload: Mapping[str, Any] | None) -> Document:
    """Return the document of a point.

    Raises:
        CollectionMismatchError: m3connect did not write the point.
    """
    document_id = payload_id(payload)
    stored = payload or {}
    exact = stored.get(_EXACT)
    metadata = stored.get("metadata") or {} if exact is None else json.loads(exact)
    return Document(document_id, stored.get("text", ""), metadata, stored.get("parent_id"))


def payload_id(payload: Mapping[str, Any] | None) -> str:
    """Return the document's own id.

    Raises:
        CollectionMismatchError: m3connect did not write the point.
    """
    if not payload or not isinstance(payload.get("id"), str):
        raise CollectionMismatchError(
            "a point of this collection has no document id in its payload, so something else than m3connect wrote it: "
            "delete such points, or index into a collection of your own"
        )
    document_id: str = payload["id"]
    return document_id


def survives(value: float) -> bool:
    """Say whether a float is read back as it was: few enough digits, and a power of ten that is exact itself.

    Example:
        >>> survives(0.5), survives(0.9452706955539223)
        (True, False)
    """
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    return int(whole + fraction) < _EXACT_DIGITS and abs(int(power or 0) - len(fraction)) <= _EXACT_POWER


def render(
    condition: Filter,
    *,
    leaf: Callable[[Leaf], _F],
    join: Callable[[Clause, list[_F]], _F],
    nothing: Callable[[], _F],
) -> _F:
    """Render an exact condition (`m3connect.splitting.is_exact`) in the classes of one of Qdrant's libraries.

    Args:
        condition: a filter.
        leaf: renders what has no parts, and is asked for no empty list of tokens.
        join: writes a filter that has a list of others as one of its clauses.
        nothing: writes a filter that no point passes.

    Raises:
        ValueError: it is no filter, or one that only the metadata itself can decide.
    """

    def each(parts: tuple[Filter, ...]) -> list[_F]:
        return [render(part, leaf=leaf, join=join, nothing=nothing) for part in parts]

    match condition:
        case HasToken(()) | Or(()):  # Qdrant reads an empty `should` as no condition, an empty list as one of numbers
            return nothing()
        case HasToken() | NumberRange() | Native():
            return leaf(condition)
        case And(parts):
            return join("must", each(parts))
        case Or(parts):
            return join("should", each(parts))
        case Not(part):
            return join("must_not", each((part,)))
    raise ValueError(f"expected a filter built with field(...) that tokens and numbers decide, but got {condition!r}")


def _survives(value: object) -> bool:
    if isinstance(value, float):
        return survives(value)
    if isinstance(value, Mapping):
        return all(map(_survives, value.values()))
    return not isinstance(value, list) or all(map(_survives, value))
