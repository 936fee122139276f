"""The scores of M3-Embedding (arXiv 2402.03216, section 3.2) as pure functions over numpy arrays.

Token matrices are ragged, one array a text, so no score ever sees padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from m3connect.device_rows import DeviceRows
from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows
from m3connect.maxsim import mean_maxsims
from m3connect.token_rows import TokenRows

__all__ = ["HYBRID_WEIGHTS", "dense", "hybrid", "mean_maxsim", "multi_vector", "sparse"]

HYBRID_WEIGHTS = (1.0, 0.3, 1.0)
"""The weights of dense, sparse and multi-vector scores in the paper's section 4.1."""


def dense(queries: npt.ArrayLike, documents: npt.ArrayLike) -> FloatArray:
    """Inner products of dense vectors.

    Args:
        queries: [q, d] unit rows.
        documents: [n, d] unit rows.

    Returns:
        [q, n] scores, in [-1, 1] for unit rows.

    Example:
        >>> dense([[1.0, 0.0]], [[0.6, 0.8], [0.0, 1.0]]).round(2).tolist()
        [[0.6000000238418579, 0.0]]
    """
    left, right = np.asarray(queries, np.float32), np.asarray(documents, np.float32)
    return left @ right.T


def sparse(queries: SparseRows, documents: SparseRows) -> FloatArray:
    """Inner products of sparse rows: the products of weights, summed over the tokens that both texts have.

    Args:
        queries: q rows.
        documents: n rows.

    Returns:
        [q, n] scores, 0 where no token is shared, without an upper bound.

    Example:
        >>> rows = SparseRows.from_dicts([{7: 0.5, 9: 1.0}, {8: 2.0}])
        >>> sparse(rows[0], rows).tolist()
        [[1.25, 0.0]]
    """
    scores = np.zeros((len(queries), len(documents)), np.float32)
    owner = documents.row_of
    for i in range(len(queries)):
        tokens, weights = queries.row(i)
        if len(tokens) == 0:
            continue
        places = np.minimum(np.searchsorted(tokens, documents.indices), len(tokens) - 1)
        shared = tokens[places] == documents.indices
        products = weights[places[shared]].astype(np.float64) * documents.values[shared]
        scores[i] = np.bincount(owner[shared], products, minlength=len(documents))
    return scores


def mean_maxsim(query: npt.ArrayLike, document: npt.ArrayLike) -> float:
    """Late-interaction score: for each query token its best document token, averaged.

    Args:
        query: [q, d] unit rows, padding already removed.
        document: [t, d] unit rows, padding already removed.

    Returns:
        A score in [-1, 1]; 0 when either side has no tokens.

    Example:
        >>> mean_maxsim([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]])
        0.5
    """
    return float(multi_vector([np.asarray(query, np.float32)], [np.asarray(document, np.float32)])[0, 0])


def multi_vector(queries: Sequence[FloatArray], documents: Sequence[FloatArray] | TokenRows | DeviceRows) -> FloatArray:
    """`mean_maxsim` of every query with every document.

    Arrays, and rows in float16, are multiplied in float32. Rows in int8 and 1-bit are multiplied in integers with the
    query rounded to int8 too, where the processor has instructions for it (VNNI); elsewhere they are decoded first.

    Args:
        queries: q arrays [t_i, d] of unit rows.
        documents: n arrays [t_j, d] of unit rows, or n documents as a `TokenStore` keeps them, or `DeviceRows`, which
            lie on a GPU and are scored there.

    Returns:
        [q, n] scores in [-1, 1], or a little outside for rows in int8 and 1-bit; 0 where either side has no tokens.

    Raises:
        ValueError: the two have different dimensions.
    """
    return mean_maxsims(queries, documents)


def hybrid(
    queries: M3Embeddings, documents: M3Embeddings, *, weights: tuple[float, float, float] = HYBRID_WEIGHTS
) -> FloatArray:
    """The weighted sum of the three scores, `w1 dense + w2 sparse + w3 multi_vector`, of every pair.

    Args:
        queries: q texts, with token vectors unless the third weight is 0.
        documents: n texts, likewise.
        weights: of dense, sparse and multi-vector scores; they need not sum to 1.

    Returns:
        [q, n] scores.

    Raises:
        ValueError: token vectors are needed and missing.
    """
    total = weights[0] * dense(queries.dense, documents.dense) + weights[1] * sparse(queries.sparse, documents.sparse)
    if weights[2]:
        total += weights[2] * multi_vector(queries.require_multi_vector(), documents.require_multi_vector())
    return np.asarray(total, np.float32)
