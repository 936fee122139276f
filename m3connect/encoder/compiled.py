"""Layers whose steps, products included, numba compiled for this processor."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from m3connect.encoder.kernels import QUERIES
from m3connect.encoder.linear import scales_of_rows
from m3connect.encoder.model import Layer
from m3connect.encoder.pack import Pack
from m3connect.encoder.program import LAYER, LINEARS, NORMS, ROWS_AT_ONCE, program
from m3connect.encoder.teams import has_teams, run_in_team
from m3connect.encoder.tiles import LANES, NARROW, WIDE

__all__ = ["CompiledLayer"]

_LINE = 64
"""Bytes of a line of a cache, where arrays begin."""

_MOST_KEPT = 3 << 24
"""Bytes that a thread keeps: enough for a pack of 1,024 tokens at BGE-M3's width."""


class _Rooms(threading.local):
    """Memory for what a layer computes on the way; a thread's is kept for its next layer, unless it is large.

    To get fresh memory from the system for every layer took up to a third of the time.
    """

    def __init__(self) -> None:
        self._kept = torch.empty(0, dtype=torch.uint8)

    def take(self, phases: Sequence[dict[str, int]], record: np.void) -> Tensor:
        """Return memory for arrays of so many bytes, and write down where each of them begins.

        The first phase's arrays are there all the time; those of the others take each other's place.
        """
        common, *others = [list(accumulate(map(_whole_lines, phase.values()), initial=0)) for phase in phases]
        needed = common[-1] + max(starts[-1] for starts in others)
        room = self._kept
        if len(room) < needed:
            room = torch.empty(needed, dtype=torch.uint8)
            if needed <= _MOST_KEPT:
                self._kept = room
        first = room.data_ptr()
        for phase, starts in zip(phases, (common, *others), strict=True):
            for name, start in zip(phase, starts, strict=False):
                record[name] = first + start + (0 if starts is common else common[-1])
        return room


def _whole_lines(size: int) -> int:
    return -(-size // _LINE) * _LINE


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
        integers = products == torch.int8
        self._rows, self._attention = torch.uint8 if integers else products, attention
        self._d, self._heads, self._inner = layer.qkv.in_features, layer.num_heads, layer.intermediate.out_features
        self._run = program(_as_numpy(self._rows), _as_numpy(products), _as_numpy(attention))
        self._kept: list[Tensor] = []
        self._record = np.zeros(1, LAYER)
        self._record["heads"] = layer.num_heads
        for name in LINEARS:
            linear: nn.Linear = getattr(layer, name)
            into = self._record[0][name]
            into["outputs"], into["inputs"] = linear.weight.shape
            self._keep(into, _integer_blocks(linear) if integers else _blocks(linear, products))
        for name in NORMS:
            norm: nn.LayerNorm = getattr(layer, name)
            into = self._record[0][name]
            into["eps"] = norm.eps
            self._keep(into, {"weight": norm.weight.detach().clone(), "shift": norm.bias.detach().clone()})

    @classmethod
    def fits(cls, layer: Layer) -> bool:
        """Whether a layer's sizes are multiples of what is computed at once: not so of tiny ones, perhaps."""
        sizes = [layer.qkv.in_features, layer.intermediate.out_features]
        return all(size % LANES == 0 for size in sizes) and layer.qkv.in_features // layer.num_heads % 2 == 0

    def forward(self, hidden: Tensor, pack: Pack) -> Tensor:
        """Transform [T, d] hidden states in float32."""
        hidden = hidden.contiguous()
        threads = torch.get_num_threads() if has_teams() else 1
        lengths, padded, longest = _measures(pack.lengths)
        out = torch.empty_like(hidden)
        record = self._record.copy()
        written = record[0]
        written["tokens"], written["texts"], written["in_team"] = len(hidden), len(lengths), threads > 1
        written["padded"], written["longest"] = padded, longest
        for name, tensor in (("lengths", lengths), ("states", hidden), ("out", out)):
            written[name] = tensor.data_ptr()
        room = _rooms.take(self._sizes(len(hidden), padded, longest, threads), written)
        run_in_team(self._run, record.ctypes.data, threads)
        del room
        return out

    def _sizes(self, tokens: int, padded: int, longest: int, threads: int) -> tuple[dict[str, int], ...]:
        """Return how many bytes each array needs for what is computed on the way: throughout, before, and after."""
        d, inner, rows, numbers = self._d, self._inner, self._rows.itemsize, self._attention.itemsize
        block, queries = min(tokens, ROWS_AT_ONCE), threads * QUERIES
        width = -(-d // self._heads // NARROW) * NARROW
        throughout = {"rows": tokens * d * rows, "row_scales": tokens * 4}
        attention = {
            "parts": tokens * 3 * d * numbers,
            "keys": padded * d * numbers,
            "values": padded * self._heads * width * numbers,
            "attended": tokens * d * numbers,
            "scores": queries * longest * 4,
            "weights": queries * longest * numbers,
            "sums": queries * width * 4,
        }
        after = {
            "product": tokens * d * 4,
            "middle": tokens * d * 4,
            "inner": block * inner * 4,
            "active": block * inner * rows,
            "active_scales": block * 4,
        }
        return throughout, attention, after

    def _keep(self, record: np.void, tensors: dict[str, Tensor]) -> None:
        """Keep tensors alive, and write down where they are."""
        for name, tensor in tensors.items():
            self._kept.append(tensor)
            record[name] = tensor.data_ptr()


def _as_numpy(dtype: torch.dtype) -> np.dtype[Any]:
    """Return numpy's type, of bfloat16 that of its bits."""
    return np.dtype({torch.bfloat16: "u2"}.get(dtype) or torch.empty(0, dtype=dtype).numpy().dtype)


def _blocks(linear: nn.Linear, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a linear's weights as tiles take them."""
    return {"blocks": _lay_out(linear.weight.detach().to(dtype)), "bias": _fill_up(linear.bias.detach().float())}


def _integer_blocks(linear: nn.Linear) -> dict[str, Tensor]:
    weight = linear.weight.detach()
    scales = scales_of_rows(weight)
    integers = torch.round(weight / scales).to(torch.int8)
    return {
        "blocks": _lay_out(integers),
        "offsets": _fill_up(-128 * integers.sum(1, dtype=torch.int32)),
        "scales": _fill_up(scales.squeeze(1)),
        "bias": _fill_up(linear.bias.detach().float()),
    }


def _lay_out(weight: Tensor) -> Tensor:
    """Turn weights [outputs, inputs] into [groups, steps, 64, numbers of a step]."""
    step = 4 // weight.element_size()
    groups = _fill_up(weight).view(-1, WIDE, weight.shape[1] // step, step)
    return groups.transpose(1, 2).contiguous()


def _fill_up(tensor: Tensor) -> Tensor:
    """Copy a tensor, with zeros after it, so that its length is a multiple of 64."""
    filled = tensor.new_zeros(-(-len(tensor) // WIDE) * WIDE, *tensor.shape[1:])
    filled[: len(tensor)] = tensor
    return filled


@lru_cache(maxsize=64)
def _measures(lengths: tuple[int, ...]) -> tuple[Tensor, int, int]:
    """Return lengths as a tensor, their sum and the longest, each brought up to a multiple of 32."""
    padded = [-(-length // NARROW) * NARROW for length in lengths]
    return torch.tensor(lengths), sum(padded), max(padded)
