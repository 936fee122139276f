"""An exact store in memory: the oracle that every other store is tested against."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from m3connect import scoring
from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.errors import DocumentNotFoundError
from m3connect.filters import Filter, matches
from m3connect.fusion import RRF, Fusion, Leg
from m3connect.search import FetchDocuments, FetchTokenVectors, FindCandidates, ScoreIds, Step, drive, search_flow
from m3connect.store import (
    Document,
    Hit,
    check_count,
    check_delete,
    check_filter,
    check_fingerprint,
    check_ids,
    check_queries,
    find_problems,
    raise_problems,
)

__all__ = ["MemoryStore"]


class MemoryStore:
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
        self.dim = dim
        self.multi_vector = multi_vector
        self.fingerprint: str | None = None
        self._rows: dict[str, tuple[Document, M3Embeddings]] = {}
        self._stacked: tuple[list[Document], M3Embeddings] | None = None
        self._lock = threading.RLock()

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Say what `upsert` would refuse: reasons by position."""
        return find_problems(documents, embeddings, dim=self.dim)

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents, replacing those whose id is taken."""
        raise_problems(self.problems(documents, embeddings), documents)
        if self.multi_vector:
            embeddings.require_multi_vector()
        kept = replace(
            embeddings, fingerprint=None, multi_vector=embeddings.multi_vector if self.multi_vector else None
        )
        with self._lock:
            check_fingerprint(self.fingerprint, embeddings.fingerprint, name="memory")
            self.fingerprint = self.fingerprint or embeddings.fingerprint
            self._rows |= {document.id: (_copy(document), kept[i]) for i, document in enumerate(documents)}
            self._stacked = None

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return documents in the order asked, absent ones left out."""
        with self._lock:
            return [_copy(self._rows[name][0]) for name in check_ids(ids) if name in self._rows]

    def get_embeddings(self, ids: Sequence[str]) -> M3Embeddings:
        """Return stored embeddings, row i being id i."""
        ids = check_ids(ids)
        with self._lock:
            missing = [name for name in ids if name not in self._rows]
            if missing:
                raise DocumentNotFoundError(
                    f"no document with id {missing[0]!r} ({len(missing)} of {len(ids)} missing)"
                )
            rows = M3Embeddings.concatenate([self._rows[name][1] for name in ids], dim=self.dim)
            return replace(rows, fingerprint=self.fingerprint)

    def fingerprints(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the fingerprint of each stored document, absent ones left out."""
        return {document.id: document.fingerprint for document in self.get(ids)}

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete by ids or by filter, exactly one of them."""
        check_delete(ids, filter)
        with self._lock:
            for name in [document.id for document in self.scroll(filter)] if ids is None else ids:
                self._rows.pop(name, None)
            self._stacked = None

    def count(self, filter: Filter | None = None) -> int:
        """Count documents."""
        return sum(1 for _ in self.scroll(filter))

    def scroll(self, filter: Filter | None = None) -> Iterator[Document]:
        """Walk through all documents in the order of their ids, as they are at the call."""
        check_filter(filter)
        with self._lock:
            documents = [document for _, (document, _) in sorted(self._rows.items())]
        return (_copy(document) for document in documents if filter is None or matches(filter, document.metadata))

    def flush(self) -> None:
        """Do nothing: everything is searchable at once."""

    def search(
        self,
        queries: M3Embeddings,
        *,
        top_k: int = 10,
        filter: Filter | None = None,
        fusion: Fusion = RRF(),  # noqa: B008  # frozen
        candidates: int | None = None,
        with_scores: bool = False,
    ) -> list[list[Hit]]:
        """Find the best documents for each query, exactly."""
        check_queries(queries, dim=self.dim, top_k=top_k, candidates=candidates)
        check_filter(filter)
        check_fingerprint(self.fingerprint, queries.fingerprint, name="memory")
        flow = search_flow(
            queries,
            top_k=top_k,
            fusion=fusion,
            candidates=candidates,
            with_scores=with_scores,
            multi_vector=self.multi_vector,
        )
        with self._lock:
            return drive(flow, lambda step: self._answer(step, queries, filter))

    def _answer(self, step: Step, queries: M3Embeddings, filter: Filter | None) -> Any:  # noqa: ANN401  # by step
        match step:
            case FindCandidates(legs, limit):
                names, stored = self._select(filter)
                return {leg: [_best(row, names, leg, limit) for row in _score(leg, queries, stored)] for leg in legs}
            case ScoreIds(leg, ids):
                scored = [(group, _score(leg, queries[i], self.get_embeddings(group))) for i, group in enumerate(ids)]
                return [dict(zip(group, scores[0].tolist(), strict=True)) for group, scores in scored]
            case FetchTokenVectors(ids):
                return dict(zip(ids, self.get_embeddings(ids).require_multi_vector(), strict=True)) if ids else {}
            case FetchDocuments(ids):
                return self.get(ids)

    def _select(self, filter: Filter | None) -> tuple[list[str], M3Embeddings]:
        """Return the ids that pass, sorted, and their embeddings."""
        if self._stacked is None:
            documents = list(self.scroll())
            self._stacked = documents, self.get_embeddings([document.id for document in documents])
        documents, stored = self._stacked
        if filter is None:
            return [document.id for document in documents], stored
        passing = [i for i, document in enumerate(documents) if matches(filter, document.metadata)]
        return [documents[i].id for i in passing], stored.take(passing)


def _copy(document: Document) -> Document:
    """Return what a database would give back: metadata of its own, with lists for tuples."""
    return replace(document, metadata=json.loads(json.dumps(dict(document.metadata))))


def _score(leg: Leg, queries: M3Embeddings, stored: M3Embeddings) -> FloatArray:
    if leg == "dense":
        return scoring.dense(queries.dense, stored.dense)
    return scoring.sparse(queries.sparse, stored.sparse)


def _best(scores: FloatArray, names: list[str], leg: Leg, limit: int) -> dict[str, float]:
    """Keep the best; names come sorted, so a stable sort orders ties by id."""
    order = np.argsort(-scores, kind="stable")[:limit]
    return {names[j]: float(scores[j]) for j in order.tolist() if leg == "dense" or scores[j] > 0}
