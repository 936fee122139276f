"""What makes a document one that no database can store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from m3connect.store import Document, encodes

__all__ = ["document_problem"]

_DEEPEST_METADATA = 64


def document_problem(document: Document) -> str | None:
    """Say what is wrong with a document before it is encoded, or None."""
    if not isinstance(document, Document):
        return f"expected a Document, but got {type(document).__name__}"
    if not isinstance(document.id, str) or not document.id:
        return f"its id must be a non-empty string, but is {document.id!r}"
    if not isinstance(document.text, str):
        return f"its text must be a string, but is {type(document.text).__name__}"
    if document.parent_id is not None and not isinstance(document.parent_id, str):
        return f"its parent_id must be a string or None, but is {document.parent_id!r}"
    for part in (document.id, document.text, document.parent_id or ""):
        if not encodes(part):
            return "it holds half of a surrogate pair, which no database stores: clean the text first"
    if not isinstance(document.metadata, Mapping):
        return f"its metadata must be a mapping, but is {type(document.metadata).__name__}"
    problem = _metadata_problem(dict(document.metadata), 0)
    if problem is None:
        return None
    path, reason = problem
    return f"its metadata {reason}" if path is None else f"metadata{path} {reason}"


def _metadata_problem(value: object, depth: int) -> tuple[str | None, str] | None:
    """Say where metadata has something wrong, and what; the path is put together only where it is needed."""
    if isinstance(value, dict):
        wrong = next((key for key in value if not isinstance(key, str) or not encodes(key)), None)
        if wrong is not None:
            return "", f"has the key {wrong!r}: keys must be strings"
        members: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, list | tuple):
        members = enumerate(value)
    else:
        reason = _scalar_problem(value)
        return None if reason is None else ("", reason)
    if depth >= _DEEPEST_METADATA:
        return None, f"is nested more than {_DEEPEST_METADATA} deep"
    for name, member in members:
        problem = _metadata_problem(member, depth + 1)
        if problem is not None:
            path, reason = problem
            return (None if path is None else f"[{name!r}]{path}"), reason
    return None


def _scalar_problem(value: object) -> str | None:
    if isinstance(value, str):
        return None if encodes(value) else "holds half of a surrogate pair"
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else f"holds {value}, which does not fit 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"holds {value}, which JSON cannot"
    return f"holds a {type(value).__name__}, which JSON cannot: convert it to a string or a number"
