"""Long documents as overlapping windows of tokens, each a document of its own that knows its parent."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import takewhile

from m3connect.document_checks import document_problem
from m3connect.embeddings import IntArray
from m3connect.store import Document, HybridStore, TokenSink, delete_documents

__all__ = ["WindowCounter", "chunk", "remove_old_windows", "window_id", "windows"]

_SPECIAL_TOKENS = 2
"""`<s>` and `</s>` count too."""

_IDS = 512
"""Old windows looked up, or deleted, in one call."""


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
    version no longer has stay in the store with their old text, unless it goes in by `ingest(..., chunked=True)`.

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
            yield replace(document, id=window_id(document.id, i), text=text, parent_id=document.id)


class WindowCounter:
    """Counts the windows of each document in a stream that `chunk` made.

    Example:
        >>> counter = WindowCounter()
        >>> [counter.add(Document(*one)) for one in (("a#0", "", {}, "a"), ("a#1", "", {}, "a"), ("b", ""))]
        [None, None, ('a', 2)]
        >>> counter.end()
        ('b', 0)
    """

    def __init__(self) -> None:
        self._open: tuple[str, int] | None = None

    def add(self, document: Document) -> tuple[str, int] | None:
        """Take the next document; return the one before it, once all its windows have come, with their number.

        Returns:
            The document's id, and 0 where it is whole; None while its windows are still coming.
        """
        name, count = self._open or ("", 0)
        parent = document.parent_id
        if count and parent == name and document.id == window_id(name, count):
            self._open = name, count + 1
            return None
        before = self._open
        begins = parent is not None and document.id == window_id(parent, 0)
        self._open = (parent, 1) if parent is not None and begins else (document.id, 0)
        return before

    def end(self) -> tuple[str, int] | None:
        """Return the last document of the stream, as `add` does."""
        last, self._open = self._open, None
        return last


def remove_old_windows(
    store: HybridStore,
    counts: Mapping[str, int],
    *,
    token_store: TokenSink | None = None,
    keep: Container[str] = (),
) -> int:
    """Delete what documents left behind that had more windows before, or were whole.

    Windows are numbered without a gap, and the last ones are deleted first. So whatever interrupts this, the next call
    finds the rest.

    Args:
        store: where the windows are.
        counts: by id, how many windows a document has now; 0 where it is whole.
        token_store: where their token vectors are.
        keep: ids that stay, since they are documents of their own.

    Returns:
        How many were deleted.
    """
    following = {name: window_id(name, count) for name, count in counts.items()}
    there = {one.id: one for one in store.get([*following.values(), *(name for name in counts if counts[name])])}
    stale = [name for name, count in counts.items() if count and name in there]
    for name, window in following.items():
        if window in there and there[window].parent_id == name:
            stale += _windows_from(store, name, counts[name])
    stale = [name for name in stale if name not in keep]
    for stop in range(len(stale), 0, -_IDS):
        delete_documents(store, stale[max(0, stop - _IDS) : stop], token_store=token_store)
    return len(stale)


def _windows_from(store: HybridStore, name: str, start: int) -> list[str]:
    """List the stored windows of a document from this one on."""
    listed: list[str] = []
    while True:
        asked = [window_id(name, i) for i in range(start, start + _IDS)]
        found = {one.id for one in store.get(asked) if one.parent_id == name}
        listed += takewhile(found.__contains__, asked)
        if not found.issuperset(asked):
            return listed
        start += _IDS


def window_id(name: str, i: int) -> str:
    """Return the id of the i-th window of a document, counted from 0."""
    return f"{name}#{i}"


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
