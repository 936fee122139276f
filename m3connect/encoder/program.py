"""All steps of a layer over packed texts as one compiled function, which the threads of a team run side by side.

It takes the address of a `LAYER`, where it finds the addresses of all arrays: a C function is all that OpenMP can
call. Each step is shared among the threads, and they wait for each other between those that need what others computed.
What is added up, and what flows between layers, is float32.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
from numba import carray, cfunc
from numba.core import types

from m3connect.compiling.functions import FREEDOMS, array_at, inlined, share
from m3connect.compiling.keeping import compile_and_keep, compiling
from m3connect.compiling.tiles import WIDE
from m3connect.encoder import attention_kernels, kernels, linear, softmax
from m3connect.encoder.attention_kernels import QUERIES, attend, lay_out, padded_length, texts_that_fit
from m3connect.encoder.kernels import activate, fill, multiply, normalize
from m3connect.encoder.linear import ROWS_AT_ONCE
from m3connect.encoder.teams import place_in_team, size_of_team, wait_for_team

__all__ = ["LAYER", "LINEARS", "NORMS", "ROOM", "ROOM_AFTER", "ROOM_OF_ATTENTION", "TEXTS", "program"]

_LINEAR = np.dtype([(name, np.intp) for name in ("inputs", "outputs", "blocks", "offsets", "scales", "bias")])
"""A linear: its shape, and where its arrays are; see `kernels.multiply`."""

_NORM = np.dtype([("weight", np.intp), ("shift", np.intp), ("eps", np.float32)], align=True)

LINEARS, NORMS = ("qkv", "attention_output", "intermediate", "output"), ("attention_norm", "output_norm")

TEXTS = ("texts", "tokens", "padded", "longest", "in_team", "lengths", "states", "out")
"""How many texts and tokens, the room for keys and the longest text, both in tokens and multiples of 32; whether a team
runs it; and where arrays are."""

ROOM = ("rows", "row_scales")
ROOM_OF_ATTENTION = ("parts", "keys", "values", "attended", "scores", "weights", "sums")
ROOM_AFTER = ("product", "middle", "inner", "active", "active_scales")
"""Arrays for what is computed on the way: throughout, before, and after; the last two may take each other's place."""

LAYER = np.dtype(
    [
        *((name, _LINEAR) for name in LINEARS),
        *((name, _NORM) for name in NORMS),
        ("heads", np.intp),
        *((name, np.intp) for name in (*TEXTS, *ROOM, *ROOM_OF_ATTENTION, *ROOM_AFTER)),
    ],
    align=True,
)
"""A layer, the texts, and the room, in words of 64 bits."""


@inlined
def _multiply(rows: Any, row_scales: Any, linear: Any, weights: Any, out: Any, thread: Any, threads: Any) -> None:
    groups, step = (linear.outputs + WIDE - 1) // WIDE, 4 // rows.itemsize
    blocks = array_at(linear.blocks, (groups, linear.inputs // step, WIDE, step), weights)
    offsets = array_at(linear.offsets, (groups * WIDE,), np.int32)
    scales = array_at(linear.scales, (groups * WIDE,), np.float32)
    bias = array_at(linear.bias, (groups * WIDE,), np.float32)
    multiply(rows, row_scales, blocks, offsets, scales, bias, out, thread, threads)


@inlined
def _normalize(product: Any, states: Any, norm: Any, out: Any, first: Any, last: Any) -> None:
    weight, shift = (
        array_at(norm.weight, (out.shape[1],), np.float32),
        array_at(norm.shift, (out.shape[1],), np.float32),
    )
    normalize(product[first:last], states[first:last], weight, shift, norm.eps, out[first:last])


@inlined
def _meet(threads: Any) -> None:
    """Wait for the others."""
    if threads > 1:
        wait_for_team()


@inlined
def _attend(layer: Any, qkv: Any, attended: Any, thread: Any, threads: Any) -> None:
    """Attend within all texts: as many at once as there is room for their keys and values."""
    lengths, heads = array_at(layer.lengths, (layer.texts,), np.int64), layer.heads
    width, numbers = qkv.shape[1] // 3 // heads, 4 // qkv.itemsize
    padded_width = padded_length(width)
    keys = array_at(layer.keys, (layer.padded, heads, width // numbers), np.uint32)
    values = array_at(layer.values, (layer.padded, heads, padded_width // numbers), np.uint32)
    scores = array_at(layer.scores, (threads, QUERIES, layer.longest), np.float32)[thread]
    weights = array_at(layer.weights, (threads, QUERIES, layer.longest), qkv.dtype)[thread]
    sums = array_at(layer.sums, (threads, QUERIES, padded_width), np.float32)[thread]
    text = row = 0
    while text < len(lengths):
        count, tokens = texts_that_fit(lengths[text:], layer.padded)
        some, given, out = lengths[text : text + count], qkv[row : row + tokens], attended[row : row + tokens]
        lay_out(given, some, heads, keys, values, thread, threads)
        _meet(threads)
        attend(given, some, keys, values, scores, weights, sums, out, thread, threads)
        _meet(threads)
        text, row = text + count, row + tokens


@inlined
def _feed_forward(layer: Any, rows: Any, scales: Any, weights: Any, out: Any, thread: Any, threads: Any) -> None:
    """Fill [T, d] with what the feed-forward network makes of rows, some of them at a time."""
    width = layer.intermediate.outputs
    inner = array_at(layer.inner, (ROWS_AT_ONCE, width), np.float32)
    active = array_at(layer.active, (ROWS_AT_ONCE, width), rows.dtype)
    active_scales = array_at(layer.active_scales, (ROWS_AT_ONCE,), np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(rows))
        count = stop - start
        some, others = share(count, thread, threads)
        some_rows, some_scales = rows[start:stop], scales[start:stop]
        _multiply(some_rows, some_scales, layer.intermediate, weights, inner[:count], thread, threads)
        _meet(threads)
        activate(inner[some:others], active[some:others], active_scales[some:others])
        _meet(threads)
        _multiply(active[:count], active_scales[:count], layer.output, weights, out[start:stop], thread, threads)


def program(rows: np.dtype[Any], weights: np.dtype[Any], attention: np.dtype[Any]) -> int:
    """Compile a layer, or find it on disk, and return the function's address.

    Args:
        rows: what linears take: float32, uint16 for bfloat16, or uint8 for integers.
        weights: what they multiply it with: the same, but int8 for integers.
        attention: what attention computes in: float32, or uint16 for bfloat16.
    """
    with compiling:
        return _program(rows, weights, attention)


@cache
def _program(rows: np.dtype[Any], weights: np.dtype[Any], attention: np.dtype[Any]) -> int:
    def run(address: Any) -> None:
        layer = carray(address, 1, LAYER)[0]
        thread, threads = 0, 1
        if layer.in_team:
            thread, threads = place_in_team(), size_of_team()
        d, tokens = layer.qkv.inputs, layer.tokens
        first, last = share(tokens, thread, threads)
        states, out = array_at(layer.states, (tokens, d), np.float32), array_at(layer.out, (tokens, d), np.float32)
        filled, scales = array_at(layer.rows, (tokens, d), rows), array_at(layer.row_scales, (tokens,), np.float32)
        qkv, attended = (
            array_at(layer.parts, (tokens, 3 * d), attention),
            array_at(layer.attended, (tokens, d), attention),
        )
        product, middle = (
            array_at(layer.product, (tokens, d), np.float32),
            array_at(layer.middle, (tokens, d), np.float32),
        )

        fill(states[first:last], filled[first:last], scales[first:last])
        _meet(threads)
        _multiply(filled, scales, layer.qkv, weights, qkv, thread, threads)
        _meet(threads)
        _attend(layer, qkv, attended, thread, threads)
        fill(attended[first:last], filled[first:last], scales[first:last])
        _meet(threads)
        _multiply(filled, scales, layer.attention_output, weights, product, thread, threads)
        _meet(threads)
        _normalize(product, states, layer.attention_norm, middle, first, last)
        fill(middle[first:last], filled[first:last], scales[first:last])
        _meet(threads)
        _feed_forward(layer, filled, scales, weights, product, thread, threads)
        _meet(threads)
        _normalize(product, middle, layer.output_norm, out, first, last)

    compile_to_c = partial(cfunc, types.void(types.voidptr), fastmath=FREEDOMS, error_model="numpy")
    address: int = compile_and_keep(run, compile_to_c, attention_kernels, kernels, linear, softmax).address
    return address
