"""A hybrid collection in Milvus."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from pymilvus import MilvusClient

from m3connect.embeddings import M3Embeddings
from m3connect.errors import DocumentNotFoundError
from m3connect.filters import Filter
from m3connect.fusion import RRF, Fusion, Leg
from m3connect.narrowing import narrow
from m3connect.search import FetchDocuments, FindCandidates, ScoreIds, Step, drive, search_flow
from m3connect.store import (
    Document,
    Hit,
    check_delete,
    check_fingerprint,
    check_ids,
    check_queries,
    find_problems,
    raise_problems,
)
from m3connect_milvus import convert, reading
from m3connect_milvus.convert import DOCUMENT_FIELDS, Row
from m3connect_milvus.filters import one_of, to_expression
from m3connect_milvus.schema import open_collection, read_fingerprint, write_fingerprint

__all__ = ["MilvusStore"]

_MOST_HITS = 16_384
"""The most hits that a server gives one query."""


class MilvusStore:
    """Documents and embeddings in a Milvus collection, on a server (2.5 or newer) or in a Milvus Lite file.

    Searches are exact on Lite. Token vectors are not stored; reranking encodes the candidates again.

    Args:
        client: a built `pymilvus.MilvusClient`; the store does not close it.
        collection: its name: ASCII letters, digits and underscores.
        dim: the dimension of dense vectors; None means that the collection must exist.
        create: create the collection where there is none.
        multi_vector: not possible here; refused with what to do instead.
        adopt_fingerprint: take over a collection of m3connect's layout that lacks its marker, its vectors being made
            by the encoder of this fingerprint.

    Raises:
        CollectionMismatchError: there is no such collection and none may be created, or it has another dimension,
            layout, metric or maker.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = MilvusStore(MilvusClient("docs.db"), "docs", dim=encoder.dim)  # doctest: +SKIP
        >>> store.upsert([Document("a", "red apple")], encoder.encode(["red apple"]))  # doctest: +SKIP
    """

    def __init__(
        self,
        client: MilvusClient,
        collection: str,
        *,
        dim: int | None = None,
        create: bool = True,
        multi_vector: bool = False,
        adopt_fingerprint: str | None = None,
    ) -> None:
        if multi_vector:
            raise ValueError(
                "Milvus cannot store token vectors: leave multi_vector=True out; HybridRetriever(rerank=True) encodes "
                "the candidates again and scores them all the same"
            )
        self._client = client
        self._collection = collection
        self._opened = open_collection(client, collection, dim=dim, create=create, adopt_fingerprint=adopt_fingerprint)
        self._fingerprint = self._opened.fingerprint
        self._writing = threading.RLock()  # Lite asks for one writer at a time

    @property
    def dim(self) -> int:
        """The dimension of the collection's dense vectors."""
        return self._opened.dim

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the encoder that filled the collection; None until one has."""
        return self._fingerprint

    @property
    def multi_vector(self) -> bool:
        """False: Milvus stores no token vectors."""
        return False

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Say what `upsert` would refuse: reasons by position."""
        reasons = find_problems(documents, embeddings, dim=self.dim)
        for i, document in enumerate(documents):
            if i not in reasons and (reason := convert.limit_problem(document)):
                reasons[i] = reason
        return reasons

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents, replacing those whose id is taken; of several with one id the last stays."""
        self._check_fingerprint(embeddings.fingerprint)
        raise_problems(self.problems(documents, embeddings), documents)
        last = {document.id: i for i, document in enumerate(documents)}
        sparse = embeddings.sparse.to_dicts()
        rows = (convert.to_row(documents[i], embeddings.dense[i], sparse[i]) for i in last.values())
        with self._writing:
            self._keep_fingerprint(embeddings.fingerprint)
            for batch in convert.batches(rows):
                self._client.upsert(self._collection, batch)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return documents in the order asked, absent ones left out."""
        ids = check_ids(ids)
        rows = self._fetch(ids, DOCUMENT_FIELDS)
        return [convert.to_document(rows[name]) for name in ids if name in rows]

    def get_embeddings(self, ids: Sequence[str]) -> M3Embeddings:
        """Return stored embeddings, row i being id i.

        Raises:
            DocumentNotFoundError: an id is not in the store.
        """
        ids = check_ids(ids)
        rows = self._fetch(ids, ["id", "dense", "sparse"])
        missing = [name for name in ids if name not in rows]
        if missing:
            raise DocumentNotFoundError(f"no document with id {missing[0]!r} ({len(missing)} of {len(ids)} missing)")
        return convert.to_embeddings([rows[name] for name in ids], dim=self.dim, fingerprint=self._fingerprint)

    def fingerprints(self, ids: Sequence[str]) -> dict[str, str]:
        """Return `Document.fingerprint` of each stored id, absent ones left out."""
        ids = check_ids(ids)
        return {name: row["fingerprint"] for name, row in self._fetch(ids, ["id", "fingerprint"]).items()}

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete by ids or by filter, exactly one of them; absent ids are passed over."""
        check_delete(ids, filter)
        expressions = [self._narrowed(filter)] if ids is None else [one_of(group) for group in reading.groups(ids)]
        with self._writing:
            for expression in expressions:
                self._client.delete(self._collection, filter=expression)

    def count(self, filter: Filter | None = None) -> int:
        """Count documents, exactly."""
        return reading.count(self._client, self._collection, self._narrowed(filter))

    def scroll(self, filter: Filter | None = None) -> Iterator[Document]:
        """Walk through all documents in the order of their ids."""
        return map(convert.to_document, self._walk(self._narrowed(filter), DOCUMENT_FIELDS))

    def flush(self) -> None:
        """Make what was written fast to search.

        Lite searches what is not flushed row by row, 20 times slower. A server seals its segments by itself, and
        allows a client one flush in ten seconds.
        """
        if self._opened.lite:
            with self._writing:
                self._client.flush(self._collection)

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
        """Find the best documents for each query; at most 16,384 hits and candidates a leg."""
        check_queries(queries, dim=self.dim, top_k=top_k, candidates=candidates)
        self._check_fingerprint(queries.fingerprint)
        flow = search_flow(
            queries, top_k=top_k, fusion=fusion, candidates=candidates, with_scores=with_scores, multi_vector=False
        )
        expression = self._narrowed(filter)
        return drive(flow, lambda step: self._answer(step, queries, expression))

    def _answer(self, step: Step, queries: M3Embeddings, expression: str) -> Any:  # noqa: ANN401  # by step
        match step:
            case FindCandidates(legs, limit):
                if limit > _MOST_HITS:
                    raise ValueError(
                        f"Milvus gives a query at most {_MOST_HITS} hits, but this search needs {limit} candidates a "
                        f"leg: lower top_k, or pass candidates={_MOST_HITS}"
                    )
                return {
                    leg: reading.find(self._client, self._collection, leg, queries, limit=limit, expression=expression)
                    for leg in legs
                }
            case ScoreIds(leg, ids):
                return self._score(leg, queries, ids)
            case FetchDocuments(ids):
                return self.get(ids)
        raise ValueError(f"Milvus holds no token vectors, so it cannot answer {step!r}")

    def _score(self, leg: Leg, queries: M3Embeddings, ids: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """Score named documents from their stored vectors: a server's approximate index could miss some."""
        rows = self._fetch(list(dict.fromkeys(name for group in ids for name in group)), ["id", leg])
        groups = [[rows[name] for name in group if name in rows] for group in ids]
        return [convert.scores_from_rows(queries[i], group, leg) for i, group in enumerate(groups)]

    def _narrowed(self, filter: Filter | None) -> str:
        """Turn a filter into an expression, reading documents where Milvus alone cannot decide."""
        exact, ids = narrow(
            filter,
            count=lambda part: reading.count(self._client, self._collection, to_expression(part)),
            scroll=lambda part: (
                (row["id"], row["metadata"]) for row in self._walk(to_expression(part), ["id", "metadata"])
            ),
        )
        return to_expression(exact) if ids is None else one_of(ids)

    def _fetch(self, ids: Sequence[str], fields: list[str]) -> dict[str, Row]:
        return reading.fetch(self._client, self._collection, ids, fields)

    def _walk(self, expression: str, fields: list[str]) -> Iterator[Row]:
        return reading.walk(self._client, self._collection, expression, fields)

    def _check_fingerprint(self, given: str | None) -> None:
        """Refuse another encoder's numbers; while we know of no fingerprint, another process may have written one."""
        if given is not None and self._fingerprint is None:
            self._fingerprint = read_fingerprint(self._client, self._collection)
        check_fingerprint(self._fingerprint, given, name=self._collection)

    def _keep_fingerprint(self, given: str | None) -> None:
        """Write the fingerprint of the first batch that has one."""
        self._check_fingerprint(given)
        if given is not None and self._fingerprint is None:
            write_fingerprint(self._client, self._collection, given)
            self._fingerprint = given
