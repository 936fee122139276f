"""An exact store in memory: the oracle that every other store is tested against."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from m3connect import scoring
from m3connect.base import Store
from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.errors import DocumentNotFoundError
from m3connect.filters import matches
from m3connect.flows import Call, Flow, StoreFlows
from m3connect.fusion import Leg
from m3connect.prepared import PreparedDocuments, find_problems
from m3connect.store import Document, Selection, check_count

__all__ = ["MemoryStore"]


class MemoryStore(Store):
    """Documents and embeddings in memory, searched exactly; safe to use from several threads.

    Args:
        dim: the dimension of dense vectors.
        multi_vector: keep token vectors too; every batch must then bring them.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = MemoryStore(dim=encoder.dim)
        >>> documents = [Document("a", "red apple"), Document("b", "blue sea")]
        >>> store.upsert(documents, encoder.encode([document.text for document in documents]))
        >>> [[hit.document.id for hit in hits] for hits in store.search(encoder.encode(["apple"]), top_k=1)]
        [['a']]
    """

    def __init__(self, *, dim: int, multi_vector: bool = False) -> None:
        check_count("dim", dim)
        super().__init__(_MemoryFlows(dim, multi_vector))
        self._table = _Table(dim)

    def _perform(self, call: Call) -> Any:  # noqa: ANN401  # the table's answer
        return self._table.perform(call)


class _Table:
    """Rows by id, and the calls that flows make of them, one at a time."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.fingerprint: str | None = None
        self._rows: dict[str, tuple[Document, M3Embeddings]] = {}
        self._stacked: tuple[list[Document], M3Embeddings] | None = None
        self._lock = threading.RLock()

    def perform(self, call: Call) -> Any:  # noqa: ANN401  # by method
        with self._lock:
            return getattr(self, call.method)(**call.arguments)

    def write(self, documents: Sequence[Document], embeddings: M3Embeddings, only_new: bool) -> None:
        for i, document in enumerate(documents):
            if not (only_new and document.id in self._rows):
                self._rows[document.id] = document, embeddings[i]
        self._stacked = None

    def write_vectors(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> None:
        changed = {}
        for i, name in enumerate(ids):
            if name not in self._rows:  # deleted since it was looked up
                raise DocumentNotFoundError(f"no document with id {name!r}; nothing was written")
            document, old = self._rows[name]
            changed[name] = document, replace(old, **{leg: getattr(embeddings[i], leg) for leg in legs})
        self._rows |= changed
        self._stacked = None

    def rows(self, ids: Sequence[str]) -> dict[str, tuple[Document, M3Embeddings]]:
        return {name: self._rows[name] for name in ids if name in self._rows}

    def names(self, selection: Selection) -> list[str]:
        """Return the selected ids, sorted."""
        if selection.ids is not None:
            return sorted(set(selection.ids) & self._rows.keys())
        return sorted(name for name, (document, _) in self._rows.items() if _passes(document, selection))

    def remove(self, selection: Selection) -> None:
        for name in self.names(selection):
            del self._rows[name]
        self._stacked = None

    def select(self, selection: Selection) -> tuple[list[str], M3Embeddings]:
        """Return the selected ids, sorted, and their embeddings."""
        if self._stacked is None:
            order = sorted(self._rows)
            parts = [self._rows[name][1] for name in order]
            self._stacked = [self._rows[name][0] for name in order], M3Embeddings.concatenate(parts, dim=self.dim)
        documents, stored = self._stacked
        if selection == Selection():
            return [document.id for document in documents], stored
        names = set(self.names(selection))
        passing = [i for i, document in enumerate(documents) if document.id in names]
        return [documents[i].id for i in passing], stored.take(passing)

    def clear(self) -> None:
        self._rows.clear()
        self._stacked, self.fingerprint = None, None

    def read_fingerprint(self) -> str | None:
        return self.fingerprint

    def write_fingerprint(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint


class _MemoryFlows(StoreFlows):
    def __init__(self, dim: int, multi_vector: bool) -> None:
        self.name = "memory"
        self.dim = dim
        self.multi_vector = multi_vector

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        return find_problems(documents, embeddings, dim=self.dim)

    def read_fingerprint(self) -> Flow[str | None]:
        fingerprint: str | None = yield Call("read_fingerprint")
        return fingerprint

    def write_fingerprint(self, fingerprint: str) -> Flow[None]:
        yield Call("write_fingerprint", {"fingerprint": fingerprint})

    def write(self, documents: PreparedDocuments, embeddings: M3Embeddings, *, only_new: bool) -> Flow[None]:
        tokens = embeddings.multi_vector if self.multi_vector else None
        kept = replace(embeddings, fingerprint=None, multi_vector=tokens)
        yield Call("write", {"documents": documents, "embeddings": kept, "only_new": only_new})

    def write_vectors(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> Flow[None]:
        yield Call("write_vectors", {"ids": ids, "embeddings": embeddings, "legs": legs})

    def _rows(self, ids: Sequence[str]) -> Flow[dict[str, tuple[Document, M3Embeddings]]]:
        rows: dict[str, tuple[Document, M3Embeddings]] = yield Call("rows", {"ids": ids})
        return rows

    def fetch_documents(self, ids: Sequence[str]) -> Flow[dict[str, Document]]:
        rows = yield from self._rows(ids)
        return {name: _copy(document) for name, (document, _) in rows.items()}

    def fetch_fingerprints(self, ids: Sequence[str]) -> Flow[dict[str, str]]:
        rows = yield from self._rows(ids)
        return {name: document.fingerprint for name, (document, _) in rows.items()}

    def fetch_embeddings(self, ids: Sequence[str]) -> Flow[tuple[list[str], M3Embeddings]]:
        rows = yield from self._rows(ids)
        return list(rows), M3Embeddings.concatenate([row for _, row in rows.values()], dim=self.dim)

    def fetch_token_vectors(self, ids: Sequence[str]) -> Flow[dict[str, FloatArray]]:
        rows = yield from self._rows(ids)
        return {name: row.require_multi_vector()[0] for name, (_, row) in rows.items()}

    def remove(self, selection: Selection) -> Flow[None]:
        yield Call("remove", {"selection": selection})

    def number_of(self, selection: Selection) -> Flow[int]:
        return len((yield Call("names", {"selection": selection})))

    def page(self, selection: Selection, cursor: Any) -> Flow[tuple[list[Document], Any]]:  # noqa: ANN401  # unused
        names = yield Call("names", {"selection": selection})
        documents = yield from self.fetch_documents(names)
        return list(documents.values()), None

    def find(
        self, queries: M3Embeddings, legs: Sequence[Leg], limit: int, selection: Selection
    ) -> Flow[dict[Leg, list[dict[str, float]]]]:
        names, stored = yield Call("select", {"selection": selection})
        return {leg: [_best(row, names, leg, limit) for row in _score(leg, queries, stored)] for leg in legs}

    def score(self, queries: M3Embeddings, leg: Leg, ids: Sequence[Sequence[str]]) -> Flow[list[dict[str, float]]]:
        scores = []
        for i, group in enumerate(ids):
            rows = yield from self._rows(group)
            stored = M3Embeddings.concatenate([row for _, row in rows.values()], dim=self.dim)
            scores.append(dict(zip(rows, _score(leg, queries[i], stored)[0].tolist(), strict=True)))
        return scores

    def describe(self) -> Flow[Mapping[str, Any]]:
        yield from ()
        return {"backend": "memory"}

    def drop(self) -> Flow[None]:
        yield Call("clear")
        self.fingerprint = None

    def flush(self) -> Flow[None]:
        yield from ()


def _copy(document: Document) -> Document:
    """Copy a document with its metadata as a database would give it back: lists for tuples, nothing shared."""
    return replace(document, metadata=json.loads(json.dumps(document.metadata)))


def _passes(document: Document, selection: Selection) -> bool:
    return selection.exact is None or matches(selection.exact, document.metadata)


def _score(leg: Leg, queries: M3Embeddings, stored: M3Embeddings) -> FloatArray:
    if leg == "dense":
        return scoring.dense(queries.dense, stored.dense)
    return scoring.sparse(queries.sparse, stored.sparse)


def _best(scores: FloatArray, names: list[str], leg: Leg, limit: int) -> dict[str, float]:
    """Keep the best; names come sorted, so a stable sort orders ties by id."""
    order = np.argsort(-scores, kind="stable")[:limit]
    return {names[j]: float(scores[j]) for j in order.tolist() if leg == "dense" or scores[j] > 0}
