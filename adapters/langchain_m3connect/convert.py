"""LangChain's documents, ids and filters to ours and back: pure functions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document as LangChainDocument

from m3connect import Document, Hit
from m3connect.filters import Filter, Native

__all__ = ["from_document", "from_hit", "relevance", "to_documents", "to_filter"]


def to_documents(
    texts: Iterable[str], metadatas: Sequence[dict[str, Any] | None] | None, ids: Sequence[str | None] | None
) -> list[Document]:
    """Return documents to store; one without id gets a random one.

    Raises:
        ValueError: there are not as many metadatas or ids as texts, or one string was given for a list.

    Example:
        >>> to_documents(["red"], [{"lang": "en"}], ["a"])
        [Document(id='a', text='red', metadata={'lang': 'en'}, parent_id=None)]
    """
    for what, strings in (("texts", texts), ("ids", ids)):
        if isinstance(strings, str):
            raise ValueError(f"{what} must be a list of strings, but is one string")
    listed = list(texts)
    names = [None] * len(listed) if ids is None else list(ids)
    known = [None] * len(listed) if metadatas is None else list(metadatas)
    for what, values in (("metadatas", known), ("ids", names)):
        if len(values) != len(listed):
            raise ValueError(f"there are {len(listed)} texts, but {len(values)} {what}: give one each")
    return [
        Document(str(uuid.uuid4()) if name is None else name, text, dict(metadata or {}))
        for text, metadata, name in zip(listed, known, names, strict=True)
    ]


def from_document(document: Document) -> LangChainDocument:
    """Return a stored document under its own id, with its own metadata and nothing added."""
    return LangChainDocument(id=document.id, page_content=document.text, metadata=dict(document.metadata))


def from_hit(hit: Hit, scores_key: str | None = None) -> LangChainDocument:
    """Return the document of a hit, with its scores in the metadata under `scores_key`, where one is given."""
    document = from_document(hit.document)
    if scores_key is not None:
        document.metadata[scores_key] = {"score": hit.score, **(hit.scores or {})}
    return document


def relevance(dense_score: float) -> float:
    """Return a cosine as a relevance from 0 (opposite) over 0.5 (unrelated) to 1 (the same).

    Example:
        >>> relevance(0.5), relevance(1.0000001)
        (0.75, 1.0)
    """
    return min(1.0, max(0.0, (dense_score + 1) / 2))


def to_filter(condition: object) -> Filter | None:
    """Return a filter of ours as it is, and anything else as the database's own, which its store checks.

    Raises:
        ValueError: it is a dict or a function, which other vector stores take and no database of ours does.
    """
    if condition is None or isinstance(condition, Filter):
        return condition
    if isinstance(condition, Mapping) or callable(condition):
        raise ValueError(
            f"filters of dicts and functions are not taken, but one is {condition!r:.200}: write "
            'field("lang") == "de" (from m3connect.filters), or the database\'s own filter'
        )
    return Native(condition)
