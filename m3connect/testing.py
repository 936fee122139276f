"""Doubles for tests of code that uses m3connect: a small encoder that needs no model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows

__all__ = ["FakeEncoder"]


class FakeEncoder:
    """An encoder whose vectors come from hashed words: texts that share words are near.

    The same text always gives the same numbers, on every machine.

    Args:
        dim: the dimension of dense and token vectors.
        fingerprint: what the batches carry.

    Example:
        >>> encoder = FakeEncoder()
        >>> float(encoder.encode(["red apple"]).dense[0] @ encoder.encode(["apple red"]).dense[0]) > 0.99
        True
    """

    def __init__(self, dim: int = 16, *, fingerprint: str | None = "fake-encoder") -> None:
        self.dim = dim
        self.fingerprint = fingerprint
        self.calls: list[list[str]] = []
        """The texts of every call, in order: what it was asked to encode, and how often."""

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode texts; `max_length` counts words, and an empty text gets a vector but no tokens."""
        self.calls.append(list(texts))
        split = [re.findall(r"\w+", text.lower()) for text in texts]
        words = [tokens[:max_length] for tokens in split]
        tokens = [np.array([self._vector(word) for word in row], np.float32).reshape(-1, self.dim) for row in words]
        summed = [rows.sum(axis=0) if len(rows) else self._vector("") for rows in tokens]
        dense = np.array(summed, np.float32).reshape(-1, self.dim)
        return M3Embeddings(
            dense=dense / np.linalg.norm(dense, axis=1, keepdims=True) if len(dense) else dense,
            sparse=SparseRows.from_dicts([_weights(row) for row in words]),
            multi_vector=tuple(tokens) if multi_vector else None,
            truncated=np.array([len(full) - len(kept) for full, kept in zip(split, words, strict=True)], np.int64),
            fingerprint=self.fingerprint,
        )

    def _vector(self, word: str) -> FloatArray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(self.dim).astype(np.float32)
        return np.asarray(vector / np.linalg.norm(vector), np.float32)


def _weights(words: Sequence[str]) -> dict[int, float]:
    """Give each word an id from its hash and a weight that grows with its length."""
    ids = {int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "little") + 4: len(word) for word in words}
    return {token: length / (4.0 + length) for token, length in ids.items()}
