"""Score matrices of packed views, with gradients: dense, sparse and multi-vector, all [B, P] and in float32.

Nothing here is of the vocabulary's size, and the largest thing that is kept for the backward pass of the multi-vector
scores is one number for each pair of query token and passage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Views", "dense_scores", "multi_vector_scores", "sparse_scores"]

_SIMILARITIES_AT_ONCE = 1 << 22
"""Token similarities that are computed before their maximum is taken: 16 MB, which fit a processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What the three heads say about n texts, which lie in any order, their tokens one text after the other."""

    places: Tensor
    """[n] where each text of the batch lies among the rows below."""

    dense: Tensor
    """[n, d] unit rows."""

    token_ids: Tensor
    """[s] the ids that have a sparse weight; special tokens are left out."""

    token_weights: Tensor
    """[s] their weights, at least 0."""

    token_counts: Tensor
    """[n] how many of them each text has."""

    vectors: Tensor
    """[t, d] unit rows, that of `<s>` left out."""

    vector_counts: Tensor
    """[n] how many of them each text has, at least 1."""

    def __len__(self) -> int:
        return len(self.dense)


def dense_scores(queries: Views, passages: Views) -> Tensor:
    """Return [B, P] inner products."""
    return _in_order(queries.dense.float() @ passages.dense.float().T, queries, passages)


def sparse_scores(queries: Views, passages: Views) -> Tensor:
    """Return [B, P] sums over shared token ids of the product of both weights.

    A token that a text repeats counts once, with its largest weight. Only ids that a query has take part, so the work
    follows the batch's own vocabulary and not the model's.
    """
    vocabulary = torch.unique(queries.token_ids)
    if not len(vocabulary):
        return queries.token_weights.new_zeros(len(queries), len(passages), dtype=torch.float32)
    scores = _lexical_rows(queries, vocabulary) @ _lexical_rows(passages, vocabulary).T
    return _in_order(scores, queries, passages)


def _lexical_rows(views: Views, vocabulary: Tensor) -> Tensor:
    """Return [n, v] the largest weight of each id of the sorted `vocabulary` in each text, 0 where it has none.

    The gradient goes to the token that has the largest weight, the first of them where several have it.
    """
    size = len(vocabulary)
    columns = torch.searchsorted(vocabulary, views.token_ids).clamp(max=size - 1)
    known = (vocabulary[columns] == views.token_ids).nonzero().squeeze(-1)
    cells = (_owners(views.token_counts) * size + columns)[known]
    weights = views.token_weights.float()[known]
    order = torch.argsort(weights.detach(), descending=True, stable=True)
    order = order[torch.argsort(cells[order], stable=True)]
    cells = cells[order]
    first = torch.ones_like(cells, dtype=torch.bool)
    first[1:] = cells[1:] != cells[:-1]
    rows = weights.new_zeros(len(views) * size)
    return rows.index_put((cells[first],), weights[order[first]]).view(len(views), size)


def multi_vector_scores(queries: Views, passages: Views) -> Tensor:
    """Return [B, P] means over a query's tokens of the best similarity with a token of the passage."""
    best: Tensor = _BestSimilarity.apply(  # type: ignore[no-untyped-call]
        queries.vectors.float(), passages.vectors.float(), passages.vector_counts
    )
    sums = best.new_zeros(len(queries), len(passages)).index_add(0, _owners(queries.vector_counts), best)
    return _in_order(sums / queries.vector_counts[:, None], queries, passages)


def _in_order(scores: Tensor, queries: Views, passages: Views) -> Tensor:
    """Put rows and columns into the batch's order."""
    return scores[queries.places][:, passages.places]


def _owners(counts: Tensor) -> Tensor:
    """Return for each token the number of its text."""
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


class _BestSimilarity(torch.autograd.Function):
    """[s, P] the best similarity of each of s query tokens with each passage.

    For the backward pass only the winners are kept. The gradient of either side is a weighted sum of the other side's
    winning rows, which `embedding_bag` computes without a [s, t] matrix and without a copy of the gathered rows.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, passages: Tensor, counts: Tensor) -> Tensor:  # noqa: ANN401  # torch's context
        best = queries.new_empty(len(queries), len(counts))
        winners = torch.empty(best.shape, dtype=torch.int32, device=queries.device)
        for columns, rows in _padded_chunks(counts, len(queries)):
            similarities = (queries @ passages[rows.flatten()].T).view(len(queries), *rows.shape)
            largest, places = similarities.max(-1)
            best[:, columns] = largest
            winners[:, columns] = rows.T.gather(0, places).int()
        ctx.save_for_backward(queries, passages, winners)
        return best

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401  # torch's context
        queries, passages, winners = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_queries = to_passages = None
        if ctx.needs_input_grad[0]:
            to_queries = F.embedding_bag(winners, passages, per_sample_weights=gradient, mode="sum")
        if ctx.needs_input_grad[1]:
            flat = winners.flatten()
            order = torch.argsort(flat, stable=True)
            starts = torch.searchsorted(flat[order], torch.arange(len(passages), device=flat.device, dtype=torch.int32))
            to_passages = F.embedding_bag(
                order // winners.shape[1],
                queries,
                starts,
                per_sample_weights=gradient.flatten()[order],
                mode="sum",
            )
        return to_queries, to_passages, None


def _padded_chunks(counts: Tensor, queries: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut passages, shortest first, into chunks of few similarities.

    Yields:
        The columns of a chunk's passages and their token rows [p, longest]. A short passage repeats its last token,
        which changes no maximum: no mask is needed.
    """
    order = torch.argsort(counts)
    ends = counts.cumsum(0)
    lengths = counts[order].tolist()
    start = 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and lengths[stop] * (stop + 1 - start) * queries <= _SIMILARITIES_AT_ONCE:
            stop += 1
        columns = order[start:stop]
        first = (ends - counts)[columns, None]
        rows = first + torch.arange(lengths[stop - 1], device=counts.device)
        yield columns, torch.minimum(rows, ends[columns, None] - 1)
        start = stop
