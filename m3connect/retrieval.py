"""The read path: encode a question once, search, and rerank with token vectors."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from m3connect import scoring
from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.errors import CollectionMismatchError, DocumentNotFoundError
from m3connect.filters import Filter
from m3connect.flows import Call, Flow, compute, run
from m3connect.fusion import RRF, Fusion, rank
from m3connect.store import Document, Encoder, Hit, HybridStore
from m3connect.token_rows import NamedRows, TokenRows

__all__ = [
    "Candidates",
    "HybridRetriever",
    "TokenSource",
    "candidates_flow",
    "check_weights",
    "rerank_hits",
    "stored_flow",
]

logger = logging.getLogger(__name__)

_CANDIDATES_HELD = 256
"""Candidates whose token vectors are in memory at a time: at BGE-M3's size about 1 MB each for 256 tokens."""


@runtime_checkable
class TokenSource(Protocol):
    """Where the token vectors of documents are kept; `TokenStore` is one, and says what each method does."""

    @property
    def readonly(self) -> bool: ...  # noqa: D102
    def get(self, documents: Sequence[Document], *, fingerprint: str | None = None) -> NamedRows: ...  # noqa: D102
    def encode(self, matrices: Sequence[FloatArray]) -> TokenRows: ...  # noqa: D102
    def put_rows(  # noqa: D102
        self, documents: Sequence[Document], rows: TokenRows, *, fingerprint: str | None
    ) -> None: ...


class HybridRetriever:
    """Questions in, hits out; each question costs one forward pass, whatever it is used for.

    Args:
        encoder: what encodes the questions (and, for reranking, the candidates' texts).
        store: where the documents are.
        rerank: order the candidates by the hybrid score of M3-Embedding, token vectors included.
        fusion: how the store fuses its legs, unless a search says otherwise.
        depth: how many hits of the store are reranked.
        weights: of dense, sparse and multi-vector scores in the reranked score.
        token_store: where the candidates' token vectors are, a `TokenStore` or `QdrantTokenStore`; those that it lacks
            are encoded again and, unless it is read-only, stored, or a warning is logged where they cannot be. None
            means the store itself where it keeps them, or else encoding again.

    Example:
        >>> from m3connect import Document, MemoryStore, ingest
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = MemoryStore(dim=encoder.dim)
        >>> report = ingest(encoder, store, [Document("a", "red apple"), Document("b", "blue sea")])
        >>> [hit.document.id for hit in HybridRetriever(encoder, store, rerank=True).search("deep blue sea", top_k=1)]
        ['b']
    """

    def __init__(
        self,
        encoder: Encoder,
        store: HybridStore,
        *,
        rerank: bool = False,
        fusion: Fusion = RRF(),  # noqa: B008  # frozen
        depth: int = 50,
        weights: tuple[float, float, float] = scoring.HYBRID_WEIGHTS,
        token_store: TokenSource | None = None,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, but is {depth}")
        self.encoder = encoder
        self.store = store
        self.rerank = rerank
        self.fusion = fusion
        self.depth = depth
        self.weights = check_weights(weights)
        self.token_store = token_store

    def search(
        self,
        question: str,
        *,
        top_k: int = 5,
        filter: Filter | None = None,
        fusion: Fusion | None = None,
        rerank: bool | None = None,
        with_scores: bool = False,
        group_by_parent: bool = False,
    ) -> list[Hit]:
        """Find the best documents for one question; see `search_batch`."""
        if not isinstance(question, str):
            raise ValueError(f"search takes one string, but got {type(question).__name__}; search_batch takes several")
        return self.search_batch(
            [question],
            top_k=top_k,
            filter=filter,
            fusion=fusion,
            rerank=rerank,
            with_scores=with_scores,
            group_by_parent=group_by_parent,
        )[0]

    def search_batch(
        self,
        questions: Sequence[str],
        *,
        top_k: int = 5,
        filter: Filter | None = None,
        fusion: Fusion | None = None,
        rerank: bool | None = None,
        with_scores: bool = False,
        group_by_parent: bool = False,
    ) -> list[list[Hit]]:
        """Find the best documents for each question.

        Args:
            questions: the texts to search for.
            top_k: the most hits a question gets.
            filter: only documents that pass are searched.
            fusion: how the store fuses its legs; None means the retriever's.
            rerank: None means the retriever's.
            with_scores: fill `Hit.scores`; a reranked hit always has them.
            group_by_parent: only one hit a parent document, the one that the store ranks best; a document without
                parent is its own.

        Returns:
            One list a question, best first. A reranked hit's score is the hybrid score.
        """
        if isinstance(questions, str):
            raise ValueError("search_batch takes a list of strings, but got one string; search takes one")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, but is {top_k}")
        rerank = self.rerank if rerank is None else rerank
        fusion = self.fusion if fusion is None else fusion
        needs_tokens = rerank or getattr(fusion, "multi_vector", 0) > 0 or (with_scores and self.store.multi_vector)
        queries = self.encoder.encode(questions, multi_vector=needs_tokens)
        found = self.store.search(
            queries,
            top_k=max(top_k, self.depth) if rerank else top_k,
            filter=filter,
            fusion=fusion,
            with_scores=with_scores and not rerank,
            group_by_parent=group_by_parent,
        )
        if not rerank:
            return found
        hits: list[list[Hit]] = []
        for group in _groups(found):
            part, of = queries[group], found[group]
            flow = candidates_flow(part, of, stored=self.store.multi_vector, token_store=self.token_store)
            candidates: Candidates = run(flow, self._perform)
            hits += rerank_hits(part, of, candidates, top_k=top_k, weights=self.weights)
        return hits

    def _perform(self, call: Call) -> Any:  # noqa: ANN401  # by method
        if call.method == "compute":
            return call.arguments["work"]()
        target = self.encoder if call.method == "encode" else self.store
        return getattr(target, call.method)(**call.arguments)


def check_weights(weights: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the weights of dense, sparse and multi-vector scores, where they are three finite numbers of at least 0.

    Raises:
        ValueError: they are not.
    """
    if len(weights) != 3 or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"weights must be three numbers of at least 0 (dense, sparse, multi-vector), not {weights}")
    return weights


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """What `rerank_hits` needs of documents."""

    places: Mapping[str, int]
    """The row of each id."""

    rows: M3Embeddings
    """[n] embeddings, with token vectors unless `tokens` has them."""

    tokens: NamedRows | None = None
    """Token vectors from a token store."""

    @classmethod
    def of(cls, names: Iterable[str], rows: M3Embeddings, tokens: NamedRows | None = None) -> Candidates:
        """Name rows in their order."""
        return cls({name: i for i, name in enumerate(names)}, rows, tokens)

    def take(self, names: Sequence[str]) -> tuple[M3Embeddings, Sequence[FloatArray] | TokenRows]:
        """Return the embeddings of documents, and their token vectors.

        Raises:
            KeyError: one is not there.
            ValueError: there are no token vectors.
        """
        rows = self.rows.take([self.places[name] for name in names])
        return rows, rows.require_multi_vector() if self.tokens is None else self.tokens.of(names)


_NONE = Candidates({}, M3Embeddings.concatenate([]))


def candidates_flow(
    queries: M3Embeddings, found: Sequence[Sequence[Hit]], *, stored: bool, token_store: TokenSource | None
) -> Flow[Candidates]:
    """Bring together what `rerank_hits` needs of all candidates: from the stores, or their texts encoded, once each.

    Besides methods of the document store it yields the calls `encode` and `compute` (`m3connect.flows`).

    Args:
        queries: the questions, for the encoder's fingerprint.
        found: one list of hits a question.
        stored: whether the document store has token vectors.
        token_store: where they are instead.

    Returns:
        All that are still there: a document that was deleted since it was found is left out.
    """
    documents = {hit.document.id: hit.document for hits in found for hit in hits}
    if not documents:
        return _NONE
    if token_store is not None:
        return (yield from _with_token_store(token_store, documents, queries.fingerprint))
    if stored:
        return (yield from stored_flow(list(documents)))
    texts = [document.text for document in documents.values()]
    rows: M3Embeddings = yield Call("encode", {"texts": texts, "multi_vector": True})
    return Candidates.of(documents, rows)


def stored_flow(ids: Sequence[str]) -> Flow[Candidates]:
    """Read the embeddings of documents that a search has found; one that was deleted since then is left out."""
    while ids:
        try:
            rows: M3Embeddings = yield Call("get_embeddings", {"ids": ids})
        except DocumentNotFoundError:
            found: list[Document] = yield Call("get", {"ids": ids})
            left = [document.id for document in found]
            if len(left) == len(ids):  # all are there, so it was not about them
                raise
            ids = left
        else:
            return Candidates.of(ids, rows)
    return _NONE


def _with_token_store(
    token_store: TokenSource, documents: Mapping[str, Document], fingerprint: str | None
) -> Flow[Candidates]:
    """Read token vectors, the other views from the document store, and encode what has no token vectors."""
    tokens: NamedRows = yield compute(partial(token_store.get, list(documents.values()), fingerprint=fingerprint))
    stored = yield from stored_flow(list(tokens.places))
    names, parts = list(stored.places), [stored.rows] if stored.places else []
    if absent := [document for name, document in documents.items() if name not in tokens.places]:
        rows: M3Embeddings = yield Call(
            "encode", {"texts": [document.text for document in absent], "multi_vector": True}
        )
        encoded: TokenRows = yield compute(partial(token_store.encode, rows.require_multi_vector()))
        if not token_store.readonly:
            yield compute(partial(_keep, token_store, absent, encoded, fingerprint=rows.fingerprint))
        parts.append(rows)
        added = [document.id for document in absent]
        names, tokens = names + added, tokens.joined(added, encoded)
    rest = [replace(part, fingerprint=None, multi_vector=None) for part in parts]
    return Candidates.of(names, M3Embeddings.concatenate(rest), tokens)


def _keep(token_store: TokenSource, documents: Sequence[Document], rows: TokenRows, *, fingerprint: str | None) -> None:
    """Store token vectors for later searches; this one has them, and does not fail where they cannot be stored.

    Raises:
        CollectionMismatchError: the token store has those of another model.
    """
    try:
        token_store.put_rows(documents, rows, fingerprint=fingerprint)
    except CollectionMismatchError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, the search has its answer
        logger.warning(
            "token vectors of %d documents were encoded for a search and could not be stored; open a token store that "
            "cannot be written to with readonly=True: %s: %s",
            len(documents),
            type(error).__name__,
            error,
        )


def _groups(found: Sequence[Sequence[Hit]]) -> Iterator[slice]:
    """Cut questions into groups whose candidates' token vectors are held together, at least one question each."""
    start = total = 0
    for i, hits in enumerate(found):
        if i > start and total + len(hits) > _CANDIDATES_HELD:
            yield slice(start, i)
            start, total = i, 0
        total += len(hits)
    if start < len(found):
        yield slice(start, len(found))


def rerank_hits(
    queries: M3Embeddings,
    found: Sequence[Sequence[Hit]],
    candidates: Candidates,
    *,
    top_k: int,
    weights: tuple[float, float, float] = scoring.HYBRID_WEIGHTS,
) -> list[list[Hit]]:
    """Order hits by the hybrid score of M3-Embedding.

    Args:
        queries: q rows with token vectors.
        found: one list of hits a query.
        candidates: their embeddings. A hit that is not among them, deleted since it was found, is left out.
        top_k: the most hits a query keeps.
        weights: of dense, sparse and multi-vector scores.

    Returns:
        One list a query, best first, ties by id; every hit has the score of each leg.
    """
    return [_rerank_one(queries[i], hits, candidates, top_k=top_k, weights=weights) for i, hits in enumerate(found)]


def _rerank_one(
    query: M3Embeddings,
    hits: Sequence[Hit],
    candidates: Candidates,
    *,
    top_k: int,
    weights: tuple[float, float, float],
) -> list[Hit]:
    by_id: dict[str, Hit] = {hit.document.id: hit for hit in hits if hit.document.id in candidates.places}
    if not by_id:
        return []
    rows, matrices = candidates.take(list(by_id))
    legs = {
        "dense": scoring.dense(query.dense, rows.dense)[0],
        "sparse": scoring.sparse(query.sparse, rows.sparse)[0],
        "multi_vector": scoring.multi_vector(query.require_multi_vector(), matrices)[0],
    }
    scores = {name: {leg: float(values[j]) for leg, values in legs.items()} for j, name in enumerate(by_id)}
    totals = {
        name: sum(weight * score for weight, score in zip(weights, legs_of.values(), strict=True))
        for name, legs_of in scores.items()
    }
    return [replace(by_id[name], score=totals[name], scores=scores[name]) for name in rank(totals)[:top_k]]
