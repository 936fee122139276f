"""Long documents as overlapping windows of tokens, each a document of its own that knows its parent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from m3connect.embeddings import IntArray
from m3connect.store import Document, document_problem

__all__ = ["chunk", "windows"]

_SPECIAL_TOKENS = 2
"""`<s>` and `</s>` count too."""


def chunk(
    documents: Iterable[Document],
    token_spans: Callable[[str], IntArray],
    *,
    max_tokens: int = 512,
    overlap: int = 64,
) -> Iterator[Document]:
    """Cut long documents into windows that an encoder reads whole; shorter ones pass as they are.

    A window of document `a` has the id `a#0`, `a#1` and so on, the document's metadata, and `a` as its parent, so that
    `store.search(..., group_by_parent=True)` gives each document once. When a document changes, the ids that its new
    version no longer has stay in the store with their old text: delete `a` and the old windows before it goes in again.

    Args:
        documents: any iterable, read as the result is.
        token_spans: gives the [t, 2] places of a text's tokens, for instance `M3Encoder.token_spans`.
        max_tokens: the most tokens of a window, `<s>` and `</s>` included.
        overlap: how many tokens a window shares with the one before it, fewer than `max_tokens` - 2.

    Raises:
        ValueError: the overlap leaves no room for anything new.

    Example:
        >>> import numpy as np
        >>> letters = lambda text: np.array([[i, i + 1] for i in range(len(text))]).reshape(-1, 2)
        >>> [(part.id, part.text) for part in chunk([Document("a", "abcdef")], letters, max_tokens=5, overlap=1)]
        [('a#0', 'abc'), ('a#1', 'cde'), ('a#2', 'ef')]
    """
    if not 0 <= overlap < max_tokens - _SPECIAL_TOKENS:
        raise ValueError(f"overlap must be from 0 to {max_tokens - _SPECIAL_TOKENS - 1}, but is {overlap}")
    for document in documents:
        if document_problem(document):  # whoever stores it will say what is wrong
            yield document
            continue
        parts = windows(document.text, token_spans, max_tokens=max_tokens, overlap=overlap)
        if len(parts) == 1:
            yield document
            continue
        for i, text in enumerate(parts):
            yield replace(document, id=f"{document.id}#{i}", text=text, parent_id=document.id)


def windows(text: str, token_spans: Callable[[str], IntArray], *, max_tokens: int, overlap: int) -> list[str]:
    """Cut one text into windows; one that fits is returned as it is."""
    size = max_tokens - _SPECIAL_TOKENS
    spans = token_spans(text)
    if len(spans) <= size:
        return [text]
    parts, start = [], 0
    while True:
        stop = _fitting_stop(text, spans, start, token_spans, size)
        parts.append(text[spans[start, 0] : spans[stop - 1, 1]])
        if stop == len(spans):
            return parts
        start = max(start + 1, stop - overlap)


def _fitting_stop(text: str, spans: IntArray, start: int, token_spans: Callable[[str], IntArray], size: int) -> int:
    """Find where a window ends; cut out of its text, a window may have a few tokens more than inside it."""
    stop = min(start + size, len(spans))
    while stop > start + 1 and len(token_spans(text[spans[start, 0] : spans[stop - 1, 1]])) > size:
        stop -= 1
    return stop
