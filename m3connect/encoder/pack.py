"""Texts laid one after the other, without padding, and where each of them begins; on the device that computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from m3connect.embeddings import IntArray
from m3connect.encoder.transfer import to_device

__all__ = ["Pack"]


@dataclass(frozen=True, slots=True)
class Pack:
    """Texts laid one after the other, those of equal length side by side. Made by `Pack.of`."""

    token_ids: Tensor
    """[T] the tokens of all texts."""

    lengths: tuple[int, ...]
    """How many tokens each text has."""

    bounds: Tensor
    """[n + 1] int32: where each text begins, and where the last one ends; on the device of the tokens."""

    runs: tuple[tuple[int, int], ...]
    """Texts of equal length: how many, and how long."""

    longest: int
    """How many tokens the longest text has."""

    @classmethod
    def of(cls, token_ids: Sequence[IntArray], device: torch.device | str = "cpu") -> Pack:
        """Lay texts, n arrays [t_i] of at least one token each, one after the other."""
        lengths = tuple(map(len, token_ids))
        bounds = np.cumsum([0, *lengths], dtype=np.int32)
        return cls(
            token_ids=to_device(np.concatenate(token_ids), device),
            lengths=lengths,
            bounds=to_device(bounds, device),
            runs=tuple((len(list(group)), length) for length, group in groupby(lengths)),
            longest=max(lengths),
        )

    @property
    def starts(self) -> Tensor:
        """[n] where each text begins."""
        return self.bounds[:-1].long()

    def repeat(self, values: Tensor) -> Tensor:
        """Return [T]: for each token the one of n values that belongs to its text."""
        # with its size given, the result needs no waiting for the device
        return torch.repeat_interleave(values, self.bounds.diff(), output_size=len(self.token_ids))
