"""Documents on their way into a store: checked, copied and hashed once, whoever asks on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from m3connect.document_checks import document_problem
from m3connect.embeddings import M3Embeddings
from m3connect.store import LARGEST_TOKEN_ID, Document, check_batch, content_of, fingerprint_of

__all__ = ["PreparedDocuments", "find_problems", "prepare"]

_PLAIN = frozenset({str, int, float, bool, type(None)})


class PreparedDocuments(Sequence[Document]):
    """Documents as they will be written, each a copy that nobody else can change; made by `prepare`.

    What is derived here stays true, since callers have no hold on the copies' metadata.
    """

    __slots__ = ("_documents", "fingerprints", "problems", "sizes")

    def __init__(
        self,
        documents: Sequence[Document],
        fingerprints: Sequence[str],
        sizes: Sequence[int],
        problems: Mapping[int, str] | None = None,
    ) -> None:
        self._documents = list(documents)
        self.fingerprints = list(fingerprints)
        """`Document.fingerprint` of each; empty for one with a problem."""

        self.sizes = list(sizes)
        """Bytes of text, metadata and parent as JSON, counted from above."""

        self.problems = dict(problems or {})
        """What is wrong with documents, by position; these stand as they came."""

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    @overload
    def __getitem__(self, key: int) -> Document: ...
    @overload
    def __getitem__(self, key: slice) -> PreparedDocuments: ...
    def __getitem__(self, key: int | slice) -> Document | PreparedDocuments:
        return self.take(range(len(self))[key]) if isinstance(key, slice) else self._documents[key]

    def take(self, positions: Iterable[int]) -> PreparedDocuments:
        """Return the documents at these positions, in this order."""
        rows = list(positions)
        return PreparedDocuments(
            [self._documents[i] for i in rows],
            [self.fingerprints[i] for i in rows],
            [self.sizes[i] for i in rows],
            {place: self.problems[i] for place, i in enumerate(rows) if i in self.problems},
        )


def prepare(documents: Sequence[Document]) -> PreparedDocuments:
    """Check and copy documents; those that are prepared already come back as they are.

    Example:
        >>> prepared = prepare([Document("a", "red apple", {"pair": (1, 2)}), Document("", "no id")])
        >>> prepared[0].metadata, prepared.problems
        ({'pair': [1, 2]}, {1: "its id must be a non-empty string, but is ''"})
    """
    if isinstance(documents, PreparedDocuments):
        return documents
    copies: list[Document] = []
    fingerprints: list[str] = []
    sizes: list[int] = []
    problems: dict[int, str] = {}
    for i, document in enumerate(documents):
        problem = document_problem(document)
        if problem is not None:
            problems[i] = problem
        content = "" if problem is not None else content_of(document)
        copies.append(document if problem is not None else _copied(document))
        fingerprints.append(fingerprint_of(content) if content else "")
        sizes.append(len(content))  # ASCII: what stands beyond it is escaped, and longer than its UTF-8
    return PreparedDocuments(copies, fingerprints, sizes, problems)


def find_problems(documents: Sequence[Document], embeddings: M3Embeddings, *, dim: int) -> dict[int, str]:
    """Say what is wrong with documents and their rows, before any database sees them.

    Args:
        documents: n documents.
        embeddings: n rows.
        dim: the collection's dimension.

    Returns:
        Reasons by position; empty where all is well.

    Raises:
        ValueError: the counts or the dimension differ, which no single document is to blame for.
    """
    check_batch(documents, embeddings, dim=dim)
    return _row_problems(embeddings) | prepare(documents).problems


def _row_problems(embeddings: M3Embeddings) -> dict[int, str]:
    """Look at all numbers at once, and for rows to blame only where something is wrong."""
    sparse, tokens = embeddings.sparse, embeddings.multi_vector or ()
    reasons: dict[int, str] = {}
    if not all(np.isfinite(matrix).all() for matrix in tokens):
        bad = (i for i, matrix in enumerate(tokens) if not np.isfinite(matrix).all())
        reasons |= dict.fromkeys(bad, "its token vectors have a value that is not finite")
    if sparse.indices.max(initial=0) > LARGEST_TOKEN_ID:
        bad_tokens = sparse.row_of[sparse.indices > LARGEST_TOKEN_ID].tolist()
        reasons |= dict.fromkeys(bad_tokens, f"its sparse row has a token id above {LARGEST_TOKEN_ID}")
    if not np.isfinite(sparse.values).all():
        bad_weights = sparse.row_of[~np.isfinite(sparse.values)].tolist()
        reasons |= dict.fromkeys(bad_weights, "its sparse row has a weight that is not finite")
    finite = np.isfinite(embeddings.dense)
    if not finite.all():
        bad_rows = np.flatnonzero(~finite.all(axis=1)).tolist()
        reasons |= dict.fromkeys(bad_rows, "its dense vector has a value that is not finite")
    return reasons


def _copied(document: Document) -> Document:
    """Copy a document with its metadata as JSON gives it back: lists for tuples, plain numbers, nothing shared."""
    metadata: dict[str, Any] = {}
    for key, value in document.metadata.items():
        if type(key) is not str:
            key = str.__str__(key)  # a member of an enumeration, for instance
        if type(value) in _PLAIN:
            metadata[key] = value
        elif type(value) is list and all(type(member) in _PLAIN for member in value):
            metadata[key] = value.copy()
        else:
            metadata[key] = json.loads(json.dumps(value))
    return Document(document.id, document.text, metadata, document.parent_id)
