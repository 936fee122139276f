"""Token vectors for reranking a corpus within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from m3connect.embeddings import FloatArray, IntArray, M3Embeddings
from m3connect.store import Document, Encoder, HybridStore

__all__ = ["KeepingEncoder", "TokenVectors", "score_pairs"]

_KEPT_BYTES = 2 * 2**30
_CHUNK_CHARACTERS = 100_000
"""Of documents whose token vectors are in memory together: some 25,000 tokens, 100 MB at BGE-M3's size."""

_PRODUCT_FLOATS = 2**23
"""The largest product of document tokens and query tokens at a time: 32 MB."""


class KeepingEncoder:
    """An encoder that keeps the token vectors of what it has encoded, for as long as they fit into memory.

    A corpus that fits is read by the model once, though first its dense and sparse and then its token vectors are
    needed; the rest is encoded again when its token vectors are asked for.

    Args:
        encoder: what does the work.
        max_length: read at most this many tokens of a text. The fingerprint says it, since it changes vectors.
        keeps: whether token vectors are kept at all.
        kept_bytes: how much is kept at most.
    """

    def __init__(
        self, encoder: Encoder, *, max_length: int | None = None, keeps: bool = True, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        self._encoder = encoder
        self._max_length = max_length
        self._room = kept_bytes if keeps else 0
        self._kept: dict[str, FloatArray] = {}
        suffix = "" if max_length is None else f"-length{max_length}"
        self.fingerprint = None if encoder.fingerprint is None else encoder.fingerprint + suffix

    @property
    def dim(self) -> int:
        """The dimension of dense and token vectors."""
        return self._encoder.dim

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode texts as the encoder does."""
        limit = max_length or self._max_length
        if multi_vector or self._room <= 0 or not len(texts):
            batch = self._encoder.encode(texts, multi_vector=multi_vector, max_length=limit)
        else:
            parts = [self._encode_part(texts[span], limit) for span in _spans([len(text) for text in texts])]
            batch = M3Embeddings.concatenate(parts)
        return replace(batch, fingerprint=self.fingerprint)

    def _encode_part(self, texts: Sequence[str], limit: int | None) -> M3Embeddings:
        """Encode texts that are few enough for their token vectors to be in memory together."""
        batch = self._encoder.encode(texts, multi_vector=self._room > 0, max_length=limit)
        if batch.multi_vector is not None:
            self._keep(texts, batch)
        return replace(batch, multi_vector=None)

    def token_vectors(self, texts: Sequence[str]) -> list[FloatArray]:
        """Return the token vectors of texts, kept ones without work."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._kept))
        made: dict[str, FloatArray] = {}
        if missing:
            batch = self._encoder.encode(missing, multi_vector=True, max_length=self._max_length)
            made = dict(zip(missing, batch.require_multi_vector(), strict=True))
        return [self._kept[text] if text in self._kept else made[text] for text in texts]

    def _keep(self, texts: Sequence[str], batch: M3Embeddings) -> None:
        for text, vectors in zip(texts, batch.require_multi_vector(), strict=True):
            if text in self._kept:
                continue
            if vectors.nbytes > self._room:
                self._room = 0
                return
            self._kept[text] = vectors
            self._room -= vectors.nbytes


class TokenVectors:
    """Where the token vectors of documents come from: the store if it has them, else the encoder.

    Args:
        store: where the documents are.
        encoder: what encodes a text again where the store has no token vectors.
    """

    def __init__(self, store: HybridStore, encoder: KeepingEncoder) -> None:
        self._store = store
        self._encoder = encoder

    def of(self, documents: Sequence[Document]) -> Iterator[tuple[str, FloatArray]]:
        """Walk over documents with their token vectors [t, d]; one chunk of them is in memory at a time."""
        for span in _spans([len(document.text) for document in documents]):
            chunk = documents[span]
            if self._store.multi_vector:
                ids = [document.id for document in chunk]
                vectors: Sequence[FloatArray] = self._store.get_embeddings(ids).require_multi_vector()
            else:
                vectors = self._encoder.token_vectors([document.text for document in chunk])
            yield from zip([document.id for document in chunk], vectors, strict=True)


def score_pairs(
    queries: Sequence[FloatArray], wanted: Mapping[str, IntArray], documents: Iterator[tuple[str, FloatArray]]
) -> list[dict[str, float]]:
    """Mean MaxSim of each query with the documents wanted for it, every document being read once.

    Args:
        queries: q arrays [t_i, d] of unit rows.
        wanted: by document, the queries it is scored for.
        documents: ids and token vectors [t, d].

    Returns:
        One dict a query; 0 where either side has no tokens.
    """
    scores: list[dict[str, float]] = [{} for _ in queries]
    for name, vectors in documents:
        for group in _groups(wanted[name], queries, len(vectors)):
            values = _mean_maxsims([queries[i] for i in group], vectors)
            for i, value in zip(group, values, strict=True):
                scores[i][name] = value
    return scores


def _mean_maxsims(queries: Sequence[FloatArray], document: FloatArray) -> list[float]:
    lengths = np.array([len(query) for query in queries])
    if len(document) == 0 or not lengths.any():
        return [0.0] * len(queries)
    best = (np.concatenate(queries) @ document.T).max(axis=1)
    ends = np.cumsum(lengths)
    means = [best[end - length : end].mean() if length else 0.0 for end, length in zip(ends, lengths, strict=True)]
    return [float(value) for value in means]


def _groups(wanted: IntArray, queries: Sequence[FloatArray], tokens: int) -> Iterator[list[int]]:
    """Cut queries into groups whose product with a document of so many tokens stays small."""
    group: list[int] = []
    total = 0
    for i in wanted.tolist():
        if group and (total + len(queries[i])) * tokens > _PRODUCT_FLOATS:
            yield group
            group, total = [], 0
        group.append(i)
        total += len(queries[i])
    if group:
        yield group


def _spans(characters: Sequence[int]) -> Iterator[slice]:
    """Cut texts of these lengths into chunks; a longer text is one of its own."""
    start = total = 0
    for i, count in enumerate(characters):
        if i > start and total + count > _CHUNK_CHARACTERS:
            yield slice(start, i)
            start, total = i, 0
        total += count
    if start < len(characters):
        yield slice(start, len(characters))
