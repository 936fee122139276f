"""MCLS, for long texts: a `<s>` before every m tokens, and their states averaged as the dense vector.

Source: arXiv 2402.03216v4, appendix B.2. No training is needed; the model must be one that has read long texts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m3connect.embeddings import IntArray

__all__ = ["insert_cls", "is_cls", "mean_cls", "text_limit"]


def text_limit(max_length: int, every: int) -> int:
    """Return how many tokens of a text, `<s>` and `</s>` included, fit with the `<s>` that join them.

    Example:
        >>> text_limit(8192, 256)  # 8,159 of the text, 32 <s>, one </s>
        8161
    """
    return (max_length - 1) * every // (every + 1) + 2


def insert_cls(token_ids: IntArray, every: int) -> IntArray:
    """Put a `<s>` before every `every` tokens of a text.

    Args:
        token_ids: [t] ids, `<s>` first and `</s>` last.
        every: how many tokens each `<s>` stands for.

    Returns:
        The longer ids; a text of at most `every` tokens stays as it is.

    Example:
        >>> insert_cls(np.array([0, 5, 6, 7, 2]), 2).tolist()
        [0, 5, 6, 0, 7, 2]
    """
    places = np.arange(1 + every, len(token_ids) - 1, every)
    longer: IntArray = np.insert(token_ids, places, token_ids[0])
    return longer


def is_cls(lengths: tuple[int, ...], every: int) -> Tensor:
    """Say where the `<s>` of texts made by `insert_cls` stand, the texts laid one after the other.

    Args:
        lengths: how many tokens each text has, the inserted ones included.
        every: as in `insert_cls`.

    Returns:
        [T] bools; a `<s>` that a text itself spells out is none of them.

    Example:
        >>> is_cls((6, 2), 2).tolist()
        [True, False, False, True, False, False, True, False]
    """
    places = [torch.arange(length) for length in lengths]
    return torch.cat([(place % (every + 1) == 0) & (place < len(place) - 1) for place in places])


def mean_cls(hidden: Tensor, lengths: tuple[int, ...], every: int) -> Tensor:
    """Average the states of each text's `<s>`.

    Args:
        hidden: [T, d] states of texts made by `insert_cls`.
        lengths: how many tokens each text has, the inserted ones included.
        every: as in `insert_cls`.

    Returns:
        [n, d] means.
    """
    kept = is_cls(lengths, every)
    counts = [int(part.sum()) for part in torch.split(kept, list(lengths))]
    return torch.stack([states.mean(dim=0) for states in torch.split(hidden[kept], counts)])
