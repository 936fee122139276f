"""All steps of a layer as one compiled function, which the threads of a team run side by side.

It takes the address of a `LAYER`, where it finds the addresses of all arrays: a C function is all that OpenMP can
call. Each step is shared among the threads, and they wait for each other between those that need what others computed.
"""

from __future__ import annotations

from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, cfunc, njit
from numba.core import types
from numba.extending import intrinsic

from m3connect.encoder import kernels, tiles
from m3connect.encoder.kernels import QUERIES, activate, attend, fill, lay_out, multiply, normalize, share
from m3connect.encoder.teams import place_in_team, size_of_team, wait_for_team
from m3connect.encoder.tiles import NARROW, WIDE

__all__ = ["LAYER", "LINEARS", "NORMS", "ROOM", "ROOM_AFTER", "ROOM_OF_ATTENTION", "ROWS_AT_ONCE", "TEXTS", "program"]

ROWS_AT_ONCE = 256
"""Rows of the feed-forward part whose inner states stay in a core's caches."""

_LINEAR = np.dtype([(name, np.intp) for name in ("inputs", "outputs", "blocks", "offsets", "scales", "bias")])
"""A linear: its shape, and where its arrays are; see `kernels.multiply`."""

_NORM = np.dtype([("weight", np.intp), ("shift", np.intp), ("eps", np.float32)], align=True)

LINEARS, NORMS = ("qkv", "attention_output", "intermediate", "output"), ("attention_norm", "output_norm")

TEXTS = ("texts", "tokens", "padded", "longest", "in_team", "lengths", "states", "out")
"""How many texts and tokens, the sum of lengths and the longest, both of multiples of 32; and where arrays are."""

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


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _pointer(context: object, address: object) -> object:
    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), generate


@njit(inline="always")  # type: ignore[untyped-decorator]  # as above
def _array(address: Any, shape: Any, dtype: Any) -> Any:
    return carray(_pointer(address), shape, dtype)


@njit(inline="always")  # type: ignore[untyped-decorator]  # as above
def _multiply(rows: Any, row_scales: Any, linear: Any, weights: Any, out: Any, thread: Any, threads: Any) -> None:
    groups, step = (linear.outputs + WIDE - 1) // WIDE, 4 // rows.itemsize
    blocks = _array(linear.blocks, (groups, linear.inputs // step, WIDE, step), weights)
    offsets = _array(linear.offsets, (groups * WIDE,), np.int32)
    scales = _array(linear.scales, (groups * WIDE,), np.float32)
    bias = _array(linear.bias, (groups * WIDE,), np.float32)
    multiply(rows, row_scales, blocks, offsets, scales, bias, out, thread, threads)


@njit(inline="always")  # type: ignore[untyped-decorator]  # as above
def _normalize(product: Any, states: Any, norm: Any, out: Any, first: Any, last: Any) -> None:
    weight, shift = _array(norm.weight, (out.shape[1],), np.float32), _array(norm.shift, (out.shape[1],), np.float32)
    normalize(product[first:last], states[first:last], weight, shift, norm.eps, out[first:last])


@njit(inline="always")  # type: ignore[untyped-decorator]  # as above
def _meet(threads: Any) -> None:
    """Wait for the others."""
    if threads > 1:
        wait_for_team()


@cache
def program(rows: np.dtype[Any], weights: np.dtype[Any], attention: np.dtype[Any]) -> int:
    """Compile a layer, or find it on disk, and return the function's address.

    Args:
        rows: what linears take: float32, uint16 for bfloat16, or uint8 for integers.
        weights: what they multiply it with: the same, but int8 for integers.
        attention: what attention computes in: float32, or uint16 for bfloat16.
    """

    def run(address: Any) -> None:
        layer = carray(address, 1, LAYER)[0]
        thread, threads = 0, 1
        if layer.in_team:
            thread, threads = place_in_team(), size_of_team()
        d, inner_d, tokens, heads = layer.qkv.inputs, layer.intermediate.outputs, layer.tokens, layer.heads
        first, last = share(tokens, thread, threads)

        states = _array(layer.states, (tokens, d), np.float32)
        filled, scales = _array(layer.rows, (tokens, d), rows), _array(layer.row_scales, (tokens,), np.float32)
        fill(states[first:last], filled[first:last], scales[first:last])
        _meet(threads)
        qkv = _array(layer.parts, (tokens, 3 * d), attention)
        _multiply(filled, scales, layer.qkv, weights, qkv, thread, threads)
        _meet(threads)

        lengths = _array(layer.lengths, (layer.texts,), np.int64)
        words = d // heads * qkv.itemsize // 4
        value_words = (d // heads + NARROW - 1) // NARROW * NARROW * qkv.itemsize // 4
        keys = _array(layer.keys, (layer.padded, heads, words), np.uint32)
        values = _array(layer.values, (layer.padded, heads, value_words), np.uint32)
        lay_out(qkv, lengths, heads, keys, values, thread, threads)
        _meet(threads)
        scores = _array(layer.scores, (threads, QUERIES, layer.longest), np.float32)[thread]
        chances = _array(layer.weights, (threads, QUERIES, layer.longest), attention)[thread]
        sums = _array(layer.sums, (threads, QUERIES, value_words * 4 // qkv.itemsize), np.float32)[thread]
        attended = _array(layer.attended, (tokens, d), attention)
        attend(qkv, lengths, keys, values, scores, chances, sums, attended, thread, threads)
        _meet(threads)
        fill(attended[first:last], filled[first:last], scales[first:last])
        _meet(threads)
        product = _array(layer.product, (tokens, d), np.float32)
        _multiply(filled, scales, layer.attention_output, weights, product, thread, threads)
        _meet(threads)

        middle = _array(layer.middle, (tokens, d), np.float32)
        _normalize(product, states, layer.attention_norm, middle, first, last)
        fill(middle[first:last], filled[first:last], scales[first:last])
        inner = _array(layer.inner, (ROWS_AT_ONCE, inner_d), np.float32)
        active = _array(layer.active, (ROWS_AT_ONCE, inner_d), rows)
        active_scales = _array(layer.active_scales, (ROWS_AT_ONCE,), np.float32)
        for start in range(0, tokens, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, tokens)
            count = stop - start
            _meet(threads)
            _multiply(
                filled[start:stop], scales[start:stop], layer.intermediate, weights, inner[:count], thread, threads
            )
            _meet(threads)
            some, others = share(count, thread, threads)
            activate(inner[some:others], active[some:others], active_scales[some:others])
            _meet(threads)
            _multiply(
                active[:count], active_scales[:count], layer.output, weights, product[start:stop], thread, threads
            )
        _meet(threads)
        out = _array(layer.out, (tokens, d), np.float32)
        _normalize(product, middle, layer.output_norm, out, first, last)

    run.__qualname__ = f"run_{_fingerprint()}"
    compile_to_c = partial(cfunc, types.void(types.voidptr), fastmath=kernels.FREEDOMS, error_model="numpy")
    try:
        compiled = compile_to_c(cache=True)(run)
    except RuntimeError:  # neither this folder nor the user's cache can be written
        compiled = compile_to_c()(run)
    address: int = compiled.address
    return address


def _fingerprint() -> str:
    """Name the kernels' sources: numba keeps what it compiled under this name, and looks at this file alone."""
    files = [module.__file__ for module in (kernels, tiles)]
    return sha256(b"".join(Path(file).read_bytes() for file in files if file)).hexdigest()[:12]
