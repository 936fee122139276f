"""BM25 over the model's own pieces, to compare with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .lsa import encode

K1, B = 0.9, 0.4
"""As in Lucene's and Anserini's baselines."""


def bm25_scores(tokenizer: Tokenizer, queries: Sequence[str], documents: Sequence[str]) -> Tensor:
    """[q, n] scores; a piece that a query repeats counts as often."""
    rows = [Counter(ids.tolist()) for ids in encode(tokenizer, documents)]
    lengths = torch.tensor([float(row.total()) for row in rows])
    norms = K1 * (1 - B + B * lengths / lengths.mean())
    postings: dict[int, list[tuple[int, int]]] = {}
    for number, row in enumerate(rows):
        for piece, count in row.items():
            postings.setdefault(piece, []).append((number, count))
    scores = torch.zeros(len(queries), len(documents))
    for query, ids in zip(scores, encode(tokenizer, queries), strict=True):
        for piece, times in Counter(ids.tolist()).items():
            if piece in postings:
                numbers, counts = torch.tensor(postings[piece]).T
                rarity = math.log1p((len(rows) - len(numbers) + 0.5) / (len(numbers) + 0.5))
                query[numbers] += times * rarity * counts / (counts + norms[numbers])
    return scores
