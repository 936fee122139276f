"""What the peers that bring only a forward pass have in common: batches of similar lengths, padded up to a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np

from encode_bench.contenders import Views
from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.lexical import lexical_rows
from m3connect.encoder.tokenizer import M3Tokenizer

BUDGETS = (256, 512, 1024, 2048)
"""How many tokens, padding included, a batch may have; a longer text is a batch of its own."""

MAX_LENGTH = 8192
_PADDING = 1

Compute: TypeAlias = Callable[[IntArray, IntArray], tuple[FloatArray, FloatArray]]
"""From ids and mask, both [n, t], to unit vectors [n, d] and token weights [n, t]."""


class PaddedEncoder:
    """From texts to dense rows and sparse dicts, longest texts first.

    Tokenising and the way from token weights to dicts are m3connect's own, so that only the forward pass differs.

    Args:
        tokenizer: the checkpoint's.
        compute: a forward pass, called from `workers` threads at a time.
        budget: the most tokens of a batch.
        workers: how many batches are computed side by side.
    """

    def __init__(self, tokenizer: M3Tokenizer, compute: Compute, budget: int, *, workers: int = 1) -> None:
        self._tokenizer, self._compute, self._budget = tokenizer, compute, budget
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def __call__(self, texts: Sequence[str]) -> Views:
        """Encode texts, row i being text i."""
        token_ids = self._tokenizer.tokenize(texts, MAX_LENGTH).token_ids
        batches = length_sorted([len(ids) for ids in token_ids], self._budget)
        groups = [[token_ids[i] for i in batch] for batch in batches]
        results = list((self._pool.map if self._pool else map)(self._encode, groups))
        places = np.argsort(np.concatenate(batches))
        sparse = [row for _, rows in results for row in rows]
        return np.concatenate([dense for dense, _ in results])[places], [sparse[place] for place in places]

    def _encode(self, token_ids: Sequence[IntArray]) -> Views:
        ids, mask = pad(token_ids)
        dense, weights = self._compute(ids, mask)
        real = mask.astype(bool)
        lengths = [len(one) for one in token_ids]
        rows = lexical_rows(ids[real], np.ascontiguousarray(weights[real]), lengths, self._tokenizer.unweighted)
        return dense, rows.to_dicts()


def length_sorted(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut texts, the longest first, into batches whose padded size fits the budget; return their places."""
    batches: list[list[int]] = []
    for i in np.argsort([-length for length in lengths], kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def pad(token_ids: Sequence[IntArray]) -> tuple[IntArray, IntArray]:
    """Return ids and mask, both [n, t]."""
    longest = max(map(len, token_ids))
    ids = np.full((len(token_ids), longest), _PADDING, np.int64)
    mask = np.zeros_like(ids)
    for i, one in enumerate(token_ids):
        ids[i, : len(one)], mask[i, : len(one)] = one, 1
    return ids, mask
