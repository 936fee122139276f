"""Sparse rows from token weights, without a Python object a token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m3connect.embeddings import FloatArray, IntArray, SparseRows
from m3connect.encoder.pack import Pack

__all__ = ["largest_weights", "lexical_rows", "rows_at"]

_NOWHERE = -1
"""The place of what belongs to no row."""


def lexical_rows(token_ids: IntArray, weights: FloatArray, lengths: Sequence[int], unweighted: IntArray) -> SparseRows:
    """Keep the largest weight of each token id in each text.

    Text, token id and weight go into one 64-bit number each, so that a single sort puts the largest weight of a token
    last among its own: positive floats are ordered as their bits are.

    Args:
        token_ids: [T] of all texts, one after the other.
        weights: [T] float32; what is not above 0 is left out.
        lengths: how many tokens each text has.
        unweighted: ids of special tokens, which are left out; only few.
    """
    bits = int(token_ids.max(initial=0)).bit_length()
    if bits + len(lengths).bit_length() > 32:
        raise ValueError(f"{len(lengths)} texts are too many at once: encode fewer")
    kept = weights > 0
    for special in unweighted.tolist():
        kept &= token_ids != special
    rows = np.repeat(np.arange(len(lengths), dtype=np.uint64) << np.uint64(bits), lengths)
    keys = ((rows | token_ids.view(np.uint64)) << np.uint64(32) | weights.view(np.uint32))[kept]
    keys.sort()
    places = (keys >> np.uint64(32)).view(np.int64)
    last = np.flatnonzero(np.diff(places, append=-1))
    places = places[last]
    return SparseRows(
        indptr=np.searchsorted(places, np.arange(len(lengths) + 1) << bits),
        indices=places & ((1 << bits) - 1),
        values=keys[last].astype(np.uint32).view(np.float32),
    )


def largest_weights(pack: Pack, weights: Tensor, unweighted: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Keep the largest weight of each token id in each text, as `lexical_rows` does, on the device of the weights.

    Nothing here has a size that depends on the numbers, so nobody waits for the device: what is left out keeps its
    room, and is marked.

    Args:
        pack: n texts with T tokens in all.
        weights: [T] float32; what is not above 0 is left out.
        unweighted: ids of special tokens, which are left out; only few.
        vocabulary: how many ids there are.

    Returns:
        [T] places and [T] weights, for `rows_at`: a place is text * vocabulary + id, or -1; those that count ascend.
    """
    kept = (weights > 0) & (pack.token_ids[:, None] != unweighted).all(1)
    texts = pack.repeat(torch.arange(len(pack.lengths), device=weights.device))
    places = torch.where(kept, texts * vocabulary + pack.token_ids, _NOWHERE)
    order = torch.argsort(weights)
    order = order[torch.argsort(places[order], stable=True)]  # by place, and within it by weight
    places, weights = places[order], weights[order]
    last = torch.ones_like(kept)
    last[:-1] = places[:-1] != places[1:]
    return torch.where(last, places, _NOWHERE), weights


def rows_at(places: IntArray, weights: FloatArray, count: int, vocabulary: int) -> SparseRows:
    """Return the rows of `count` texts from what `largest_weights` gives."""
    counted = places != _NOWHERE
    places = places[counted]
    return SparseRows(
        indptr=np.searchsorted(places, np.arange(count + 1) * vocabulary),
        indices=places % vocabulary,
        values=weights[counted],
    )
