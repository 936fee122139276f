"""Layers whose steps, products included, numba compiled for this processor."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NoReturn, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from m3connect.compiling.tiles import NARROW, WIDE
from m3connect.compiling.vectors import LANES
from m3connect.embeddings import IntArray
from m3connect.encoder.attention_kernels import QUERIES
from m3connect.encoder.linear import ROWS_AT_ONCE, to_integers
from m3connect.encoder.model import Layer
from m3connect.encoder.pack import Pack
from m3connect.encoder.program import (
    LAYER,
    LINEARS,
    NORMS,
    ROOM,
    ROOM_AFTER,
    ROOM_OF_ATTENTION,
    TEXTS,
    program,
)
from m3connect.encoder.teams import has_teams, run_in_team

__all__ = ["CompiledLayer", "tiled"]

_LINE = 64
"""Bytes of a line of a cache, where arrays begin."""

_MOST_KEPT = 3 << 24
"""Bytes that a thread keeps: enough for a pack of 1,024 tokens at BGE-M3's width, in whatever texts."""

_LAID_OUT = 1024
"""Tokens whose keys and values are laid out together, unless a text alone has more: one of 4 needs room for 32."""

_ROOM = slice(-len((*ROOM, *ROOM_OF_ATTENTION, *ROOM_AFTER)), None)
_TEXTS = slice(_ROOM.start - len(TEXTS), _ROOM.start)
"""Where these are among the words of a `LAYER`."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the room of a layer depends on, beside its texts."""

    d: int
    heads: int
    inner: int
    row_bytes: int
    """Of a number in rows that linears take."""

    attention_bytes: int
    """Of a number in attention."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the room for some texts is divided."""

    lengths: IntArray
    padded: int
    longest: int
    starts: IntArray
    """The first byte of each array, in the order of `LAYER`."""
    size: int


class _Rooms(threading.local):
    """Memory for what a layer computes on the way; a thread's is kept for its next layer, unless it is large.

    To get fresh memory from the system for every layer took up to a third of the time.
    """

    def __init__(self) -> None:
        self._kept = torch.empty(0, dtype=torch.uint8, device="cpu")

    def take(self, size: int) -> Tensor:
        """Return at least so many bytes."""
        if len(self._kept) >= size:
            return self._kept
        room = torch.empty(size, dtype=torch.uint8, device="cpu")
        if size <= _MOST_KEPT:
            self._kept = room
        return room


_rooms = _Rooms()


class CompiledLayer(nn.Module):
    """Computes what a layer does, for inference on a processor with AVX-512.

    A text's states are the same to the last bit, whatever texts are beside it and however many threads there are.

    Args:
        layer: what to compute; it is not kept.
        products: what linears compute in: torch.float32, torch.bfloat16, or torch.int8 with one scale for each output's
            weights, and one for each row.
        attention: what attention computes in: torch.float32 or torch.bfloat16.
    """

    def __init__(self, layer: Layer, *, products: torch.dtype, attention: torch.dtype) -> None:
        super().__init__()
        rows = torch.uint8 if products == torch.int8 else products
        inner = layer.intermediate.out_features
        self._shape = _Shape(layer.qkv.in_features, layer.num_heads, inner, rows.itemsize, attention.itemsize)
        self._run = program(_as_numpy(rows), _as_numpy(products), _as_numpy(attention))
        self._kept: list[Tensor] = []
        record = np.zeros(1, LAYER)
        self._words: IntArray = record.view(np.int64)
        record["heads"] = layer.num_heads
        for name in LINEARS:
            linear: nn.Linear = getattr(layer, name)
            into = record[0][name]
            into["outputs"], into["inputs"] = linear.weight.shape
            self._keep(into, tiled(linear, products))
        for name in NORMS:
            norm: nn.LayerNorm = getattr(layer, name)
            into = record[0][name]
            into["eps"] = norm.eps
            self._keep(into, {"weight": norm.weight.detach().clone(), "shift": norm.bias.detach().clone()})

    @classmethod
    def fits(cls, layer: Layer) -> bool:
        """Whether a layer's sizes are multiples of what is computed at once; BGE-M3's are."""
        d, inner = layer.qkv.in_features, layer.intermediate.out_features
        return d % LANES == 0 and inner % LANES == 0 and d % (2 * layer.num_heads) == 0

    def forward(self, hidden: Tensor, pack: Pack) -> Tensor:
        """Transform [T, d] hidden states.

        Raises:
            ValueError: they are not float32, or not as many as the pack has tokens.
        """
        if hidden.dtype != torch.float32 or hidden.shape != (len(pack.token_ids), self._shape.d):
            raise ValueError(
                f"a layer takes states of float32 and shape ({len(pack.token_ids)}, {self._shape.d}), but got "
                f"{hidden.dtype} and {tuple(hidden.shape)}"
            )
        hidden = hidden.contiguous()
        threads = torch.get_num_threads() if has_teams() else 1
        plan = _plan(pack.lengths, self._shape, threads)
        out, room = torch.empty_like(hidden), _rooms.take(plan.size)
        words = self._words.copy()
        arrays = plan.lengths.ctypes.data, hidden.data_ptr(), out.data_ptr()
        words[_TEXTS] = len(pack.lengths), len(hidden), plan.padded, plan.longest, threads > 1, *arrays
        words[_ROOM] = plan.starts + room.data_ptr()
        run_in_team(self._run, words.ctypes.data, threads)
        return out

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a compiled layer holds addresses and cannot be copied or pickled: load the model again")

    def _keep(self, record: np.void, tensors: dict[str, Tensor]) -> None:
        """Keep tensors alive, and write down where they are."""
        for name, tensor in tensors.items():
            self._kept.append(tensor)
            record[name] = tensor.data_ptr()


def _as_numpy(dtype: torch.dtype) -> np.dtype[Any]:
    """Return numpy's type, of bfloat16 that of its bits."""
    names = {torch.float32: "f4", torch.bfloat16: "u2", torch.int8: "i1", torch.uint8: "u1"}
    return np.dtype(names[dtype])


def tiled(linear: nn.Linear, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a linear as `kernels.multiply` takes it: its blocks, offsets, scales and bias.

    It goes group by group, so that hardly more memory is touched than what is returned.

    Args:
        linear: in float32.
        dtype: of its blocks: torch.float32, torch.bfloat16, or torch.int8, of which offsets and scales are.
    """
    weight, step = linear.weight.detach(), 4 // dtype.itemsize
    groups = -(-len(weight) // WIDE)
    blocks = torch.zeros(groups, weight.shape[1] // step, WIDE, step, dtype=dtype, device="cpu")
    offsets = torch.zeros(groups * WIDE, dtype=torch.int32, device="cpu")
    scales, bias = torch.ones(groups * WIDE, device="cpu"), torch.zeros(groups * WIDE, device="cpu")
    bias[: len(weight)] = linear.bias.detach()
    by_group = (torch.split(tensor, WIDE) for tensor in (weight, offsets, scales))
    for block, rows, offset, scale in zip(blocks, *by_group, strict=True):
        count, numbers = len(rows), rows
        if dtype == torch.int8:
            numbers, scale[:count] = to_integers(rows)
            offset[:count] = -128 * numbers.sum(1, dtype=torch.int32)
        block[:, :count] = numbers.view(count, -1, step).transpose(0, 1)
    return {"blocks": blocks, "offsets": offsets, "scales": scales, "bias": bias}


@lru_cache(maxsize=64)
def _plan(lengths: tuple[int, ...], shape: _Shape, threads: int) -> _Plan:
    """Divide the room that a layer needs for texts."""
    whole = [-(-length // NARROW) * NARROW for length in lengths]
    tokens, queries = sum(lengths), threads * QUERIES
    longest = max(whole)
    padded = min(sum(whole), max(longest, _LAID_OUT))
    d, inner, block = shape.d, shape.inner, min(tokens, ROWS_AT_ONCE)
    width = -(-d // shape.heads // NARROW) * NARROW
    sizes = {
        "rows": tokens * d * shape.row_bytes,
        "row_scales": tokens * 4,
        "parts": tokens * 3 * d * shape.attention_bytes,
        "keys": padded * d * shape.attention_bytes,
        "values": padded * shape.heads * width * shape.attention_bytes,
        "attended": tokens * d * shape.attention_bytes,
        "scores": queries * longest * 4,
        "weights": queries * longest * shape.attention_bytes,
        "sums": queries * width * 4,
        "product": tokens * d * 4,
        "middle": tokens * d * 4,
        "inner": block * inner * 4,
        "active": block * inner * shape.row_bytes,
        "active_scales": block * 4,
    }
    throughout, before, after = (
        _starts([sizes[name] for name in names]) for names in (ROOM, ROOM_OF_ATTENTION, ROOM_AFTER)
    )
    starts = [*throughout[:-1], *(throughout[-1] + start for start in (*before[:-1], *after[:-1]))]
    size = throughout[-1] + max(before[-1], after[-1])
    return _Plan(np.array(lengths), padded, longest, np.array(starts), size)


def _starts(sizes: list[int]) -> list[int]:
    """Return where each of some arrays begins if one follows the other, and where the last one ends."""
    return list(accumulate((-(-size // _LINE) * _LINE for size in sizes), initial=0))
