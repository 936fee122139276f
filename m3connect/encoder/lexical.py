"""Sparse rows from token weights, without a Python object a token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3connect.embeddings import FloatArray, IntArray, SparseRows

__all__ = ["lexical_rows"]


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
