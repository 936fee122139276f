"""A layer whose products are oneDNN's, and whose other steps are kernels that numba compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder import kernels
from m3connect.encoder.linear import Int8Linear
from m3connect.encoder.model import Layer
from m3connect.encoder.pack import Pack

__all__ = ["CompiledLayer"]

_FEW_THREADS, _FEW_TOKENS = 4, 128
"""With more of both PyTorch should be faster, as kernels run on one thread: estimated from figures of two threads."""

_SCORES_AT_ONCE = 1 << 20
"""Attention weights that are held in memory, two bytes each in bfloat16."""

_NEARLY_EQUAL = 0.85
"""A text is computed with a longer one, and padded, if it has at least so much of its length."""

_LANES = 16
"""Other texts are padded to a multiple of this: as many numbers as a processor computes at once."""

_SHORT = 16
"""Texts of so many tokens at most are computed one by one, without PyTorch: to call it takes longer."""

_Product: TypeAlias = tuple[npt.NDArray[Any], FloatArray, FloatArray | None]
"""A product's values, the scales of its rows, and a bias that is still to be added: what kernels take."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows for a product: what PyTorch multiplies, the same as an array, and each row's scale."""

    tensor: Tensor
    values: npt.NDArray[Any]
    scales: FloatArray

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: torch.dtype) -> _Rows:
        tensor = torch.empty(shape, dtype=dtype)
        return cls(tensor, _array(tensor), np.empty(shape[0], np.float32))

    def __getitem__(self, some: slice) -> _Rows:
        return _Rows(self.tensor[some], self.values[some], self.scales[some])


class _Linear:
    """A linear, and its result as kernels take it."""

    def __init__(self, linear: nn.Module) -> None:
        self.multiply: Callable[[Tensor], Tensor] = linear
        self._bias: FloatArray | None = None
        if isinstance(linear, Int8Linear):
            self.multiply, self._bias = linear.multiply, linear.bias.numpy()

    def __call__(self, rows: _Rows) -> _Product:
        return _array(self.multiply(rows.tensor)), rows.scales, self._bias


class _Norm:
    """Adds a product to the states before it, and normalises the sum."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._weights = norm.weight.numpy(), norm.bias.numpy(), np.float32(norm.eps)

    def __call__(self, product: _Product, states: FloatArray) -> FloatArray:
        out = np.empty_like(states)
        kernels.normalize(*product, states, *self._weights, out)
        return out


class CompiledLayer(nn.Module):
    """Computes what a layer does, for inference on a processor; many tokens on many threads it leaves to it.

    Args:
        layer: its linears are those of a precision already; where they can apply GELU, its activation is empty.
        rows: what its linears take: torch.float32, torch.bfloat16, or torch.uint8 for `Int8Linear.multiply`.
        attention: what attention computes in: torch.float32 or torch.bfloat16.
    """

    def __init__(self, layer: Layer, *, rows: torch.dtype, attention: torch.dtype) -> None:
        super().__init__()
        self._layer = layer
        self._rows, self._attention, self._heads = rows, attention, layer.num_heads
        self._step = layer.rows_at_once
        self._activates = not isinstance(layer.activation, nn.Identity)
        self._qkv, self._attention_output = _Linear(layer.qkv), _Linear(layer.attention_output)
        self._intermediate, self._output = _Linear(layer.intermediate), _Linear(layer.output)
        self._attention_norm, self._output_norm = _Norm(layer.attention_norm), _Norm(layer.output_norm)

    def forward(self, hidden: Tensor, pack: Pack) -> Tensor:
        """Transform [T, d] hidden states."""
        if torch.get_num_threads() > _FEW_THREADS and len(hidden) > _FEW_TOKENS:
            result: Tensor = self._layer(hidden, pack)
            return result
        states = hidden.numpy()
        attended = self._attend(self._qkv(self._fill(states)), pack)
        states = self._attention_norm(self._attention_output(attended), states)
        filled, step = self._fill(states), self._step or len(states)
        parts = [slice(start, start + step) for start in range(0, len(states), step)]
        out = [self._output_norm(self._feed_forward(filled[part]), states[part]) for part in parts]
        return torch.from_numpy(np.concatenate(out) if len(out) > 1 else out[0])

    def _fill(self, states: FloatArray) -> _Rows:
        rows = _Rows.empty(states.shape, self._rows)
        kernels.fill(states, rows.values, rows.scales)
        return rows

    def _attend(self, product: _Product, pack: Pack) -> _Rows:
        heads, width = self._heads, product[0].shape[1] // (3 * self._heads)
        attended = _Rows.empty((len(product[0]), heads * width), self._rows)
        for start, lengths, padded in _groups(pack.lengths, heads):
            if padded <= _SHORT:
                kernels.attend(*product, start, lengths, heads, attended.values, attended.scales)
                continue
            parts = torch.empty(3, len(lengths) * heads, padded, width, dtype=self._attention)
            kernels.gather(*product, start, lengths, _array(parts))
            kernels.scatter(_array(_combine(parts, lengths)), start, lengths, attended.values, attended.scales)
        return attended

    def _feed_forward(self, rows: _Rows) -> _Product:
        if not self._activates:
            return _array(self._output.multiply(self._intermediate.multiply(rows.tensor))), rows.scales, None
        product = self._intermediate(rows)
        active = _Rows.empty(product[0].shape, self._rows)
        kernels.activate(*product, active.values, active.scales)
        return self._output(active)


def _combine(parts: Tensor, lengths: IntArray) -> Tensor:
    """Attend within n texts, given [3, n * heads, t, w] as `kernels.gather` fills it; returns [n * heads, t, w]."""
    queries, keys, values = parts[0], parts[1].transpose(1, 2), parts[2]
    padded = len(queries[0])
    heads, rows = max(1, _SCORES_AT_ONCE // padded**2), min(padded, max(_LANES, _SCORES_AT_ONCE // padded))
    if len(lengths) > 1 or heads >= len(queries):
        scores = torch.bmm(queries, keys)
        kernels.softmax(_array(scores), lengths)
        return torch.bmm(scores, values)
    attended = torch.empty_like(queries)
    scores = torch.empty(heads, rows, padded, dtype=parts.dtype)
    for head in range(0, len(queries), heads):
        some = slice(head, head + heads)
        for row in range(0, padded, rows):
            asking = queries[some, row : row + rows]
            found = scores[: len(asking), : asking.shape[1]]
            torch.bmm(asking, keys[some], out=found)
            kernels.softmax(_array(found), lengths)
            torch.bmm(found, values[some], out=attended[some, row : row + rows])
    return attended


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """Return a tensor as an array, its bfloat16 as uint16."""
    array: npt.NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


@lru_cache(maxsize=64)
def _groups(lengths: tuple[int, ...], heads: int) -> list[tuple[int, IntArray, int]]:
    """Divide texts, longest first, into those whose attention is computed together.

    Returns:
        Of each group: the row where it begins, its texts' lengths, and the length to which they are padded.
    """
    groups = []
    row = first = 0
    while first < len(lengths):
        longest = lengths[first]
        padded = -(-longest // _LANES) * _LANES
        most = max(1, _SCORES_AT_ONCE // (heads * padded**2))
        shortest = 1 if longest <= _SHORT else _NEARLY_EQUAL * longest
        stop = first + 1
        while stop < min(len(lengths), first + most) and shortest <= lengths[stop] <= longest:
            stop += 1
        groups.append((row, np.array(lengths[first:stop]), padded))
        row, first = row + sum(lengths[first:stop]), stop
    return groups
