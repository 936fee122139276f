"""What a layer does with rows of states, compiled: products, and the steps between them.

Rows that a product takes come in three forms, and every kernel knows them by their type: float32; bfloat16 as uint16,
since numpy has no such type; or 8-bit integers as uint8, 128 standing for 0, and a scale for each row. Kernels take
arrays one by one, since numba takes no keywords where they are called most, and unpacks anything else slowly.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from m3connect.compiling.functions import (
    bits_of,
    cast_to,
    chosen_by_type,
    float_of,
    inlined,
    kernel,
    number_of,
    rows_of_tile,
    share,
)
from m3connect.compiling.tiles import WIDE, wide_tile
from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.linear import LEVELS

__all__ = ["Rows", "activate", "fill", "multiply", "normalize"]

Rows: TypeAlias = npt.NDArray[Any]
"""float32, uint16 or uint8: see above."""

_INFINITY = np.int32(0x7F800000)
"""As bits; those of what is no number are larger."""

_LEVELS = np.float32(LEVELS)

_ROWS_OF_PART = 48
"""Rows of which a product is computed by one thread: few, so that there are shares for all."""

_STEPS_OF_PART = 1024
"""Steps of a group of weights that are taken at a time, so that a core's second cache holds them: 256 KB."""


@chosen_by_type
def _store(row: Any, out: Any) -> Any:
    """Write a row of floats in the form of `out`, and return its scale."""
    return _store_integers if out.dtype == types.uint8 else _store_floats


def _store_floats(row: Any, out: Any) -> Any:
    for j in range(len(row)):
        out[j] = cast_to(out, number_of(row, row[j]))
    return np.float32(1)


def _store_integers(row: Any, out: Any) -> Any:
    largest = np.int32(0)  # of positive floats, the larger has the larger bits; and integers are compared in parallel
    for j in range(len(row)):
        largest = max(largest, np.int32(bits_of(number_of(row, row[j])) & np.uint32(0x7FFFFFFF)))
    scale = max(float_of(np.uint32(largest)), np.float32(1e-12)) / _LEVELS
    inverse = np.float32(1) / scale
    for j in range(len(row)):
        # 1.5 * 2**23 leaves the rounded integer in the lowest bits of the sum
        out[j] = np.uint8(
            (bits_of(number_of(row, row[j]) * inverse + np.float32(12582912)) + np.uint32(128)) & np.uint32(255)
        )
    return scale if largest < _INFINITY else np.float32(np.nan)


@inlined
def _exp2(x: Any) -> Any:
    """Return 2**x of x at most 0, within 3e-7 of it; of less than -100 as of that."""
    x = max(x, np.float32(-100))
    whole = np.int32(x - np.float32(0.5))
    rest = x - np.float32(whole)
    power = np.float32(1.327647e-3)
    power = power * rest + np.float32(9.675541e-3)
    power = power * rest + np.float32(5.5507131e-2)
    power = power * rest + np.float32(2.402212e-1)
    power = power * rest + np.float32(6.9314694e-1)
    power = power * rest + np.float32(1)
    return power * float_of(np.uint32(whole + np.int32(127)) << np.uint32(23))


@inlined
def _gelu(x: Any) -> Any:
    """Return GELU by the error function, which Abramowitz and Stegun's formula 7.1.26 gives to 1.5e-7."""
    z = abs(x) * np.float32(0.70710678)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    tail = np.float32(1.061405429)
    tail = tail * t + np.float32(-1.453152027)
    tail = tail * t + np.float32(1.421413741)
    tail = tail * t + np.float32(-0.284496736)
    tail = tail * t + np.float32(0.254829592)
    below = np.float32(0.5) * x * tail * t * _exp2(-z * z * np.float32(1.44269504))
    return below if x < 0 else x - below


@kernel
def fill(states: Rows, out: Rows, scales: FloatArray) -> None:
    """Bring [T, d] states into the form of `out` [T, d]; `scales` is [T]."""
    for i in range(len(states)):
        scales[i] = _store(states[i], out[i])


@kernel
def multiply(
    rows: Rows,
    row_scales: FloatArray,
    blocks: npt.NDArray[Any],
    offsets: IntArray,
    scales: FloatArray,
    bias: FloatArray,
    out: Rows,
    thread: int,
    threads: int,
) -> None:
    """Fill a thread's share of a linear's [T, outputs]: some columns of some rows.

    Args:
        rows: [T, inputs].
        row_scales: [T] of integers.
        blocks: [groups, steps, 64, numbers of a step] weights, as `tiles` has them.
        offsets: [groups * 64] what sums of integers begin with.
        scales: [groups * 64] of weights that are integers.
        bias: [groups * 64].
        out: is filled.
        thread: which share.
        threads: how many shares there are.
    """
    parts, steps = (len(rows) + _ROWS_OF_PART - 1) // _ROWS_OF_PART, blocks.shape[1]
    in_parts = blocks.itemsize > 1 and out.itemsize == 4 and out.shape[1] % WIDE == 0
    at_once = min(steps, _STEPS_OF_PART) if in_parts else steps
    finish = (offsets, scales, row_scales, bias)
    first, last = share(len(blocks) * parts, thread, threads)
    while first < last:
        group = first // parts
        row, stop = first % parts * _ROWS_OF_PART, min(len(rows), (first % parts + last - first) * _ROWS_OF_PART)
        for step in range(0, steps, at_once):
            i = row
            while i < stop:
                count = rows_of_tile(stop - i)
                until = min(steps, step + at_once)
                wide_tile(rows, i, 0, count, blocks, group, step, until, finish, out, i, group * WIDE)
                i += count
        first = min(last, (group + 1) * parts)


@kernel
def activate(product: FloatArray, out: Rows, scales: FloatArray) -> None:
    """Apply GELU to a product [T, d] in place, and write it as rows for the next one."""
    for i in range(len(product)):
        row = product[i]
        for j in range(len(row)):
            row[j] = _gelu(row[j])
        scales[i] = _store(row, out[i])


@kernel
def normalize(
    product: FloatArray, states: FloatArray, weight: FloatArray, shift: FloatArray, eps: np.float32, out: FloatArray
) -> None:
    """Add a product [T, d] to the states [T, d] before it, and normalise each row (LayerNorm)."""
    d = product.shape[1]
    for i in range(len(product)):
        row = out[i]
        total = np.float32(0)
        for j in range(d):
            row[j] = product[i, j] + states[i, j]
            total += row[j]
        mean = total / np.float32(d)
        squares = np.float32(0)
        for j in range(d):
            squares += (row[j] - mean) * (row[j] - mean)
        inverse = np.float32(1) / np.sqrt(squares / np.float32(d) + eps)
        for j in range(d):
            row[j] = (row[j] - mean) * inverse * weight[j] + shift[j]
