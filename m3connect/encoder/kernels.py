"""A transformer layer over packed texts, compiled by numba: one call a layer, whose threads share every step.

Rows that a product takes come in three forms, and every kernel knows them by their type: float32; bfloat16 as uint16,
since numpy has no such type; or 8-bit integers as uint8, 128 standing for 0, and a scale for each row. Attention
computes in float32 or bfloat16; what is added up, and what flows between layers, is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.tiles import BFLOAT16, NARROW, ROWS, WIDE, narrow_tile, wide_tile

__all__ = ["QUERIES", "activate", "attend", "fill", "lay_out", "multiply", "normalize", "share"]

Rows: TypeAlias = npt.NDArray[Any]
"""float32, uint16 or uint8: see above."""

Words: TypeAlias = npt.NDArray[np.uint32]
"""One float32 each, or two bfloat16."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

FREEDOMS = {"reassoc", "contract", "arcp", "nsz"}
"""Sums may be added in any order, but what is no number must not be taken for one."""

_INFINITY = np.int32(0x7F800000)
"""As bits; those of what is no number are larger."""

_LEVELS = np.float32(127)
"""Int8 numbers used on each side of 0."""

_ROWS_OF_PART = 48
"""Rows of which a product is computed by one thread: few, so that there are shares for all."""

_STEPS_OF_PART = 1024
"""Steps of a group of weights that are taken at a time, so that a core's second cache holds them: 256 KB."""

QUERIES = 24
"""Queries that attend together: a text's keys and values are read once for so many."""


def _kernel(function: Kernel) -> Kernel:
    """Compile a function when it is first called."""
    return cast(Kernel, numba.njit(nogil=True, fastmath=FREEDOMS, error_model="numpy")(function))


def _inlined(function: Kernel) -> Kernel:
    return cast(Kernel, numba.njit(inline="always")(function))


def _chosen_by_type(choose: Kernel) -> Kernel:
    """Make a function for kernels whose body is what `choose` returns, given the types of its arguments."""

    def compiled_alone(*_: object) -> Any:
        raise NotImplementedError(f"{choose.__name__} exists inside kernels alone, where numba puts its body")

    overload(compiled_alone, inline="always", strict=False)(choose)
    return cast(Kernel, compiled_alone)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _float_of(context: object, bits: object) -> object:
    """Read 32 bits as a float."""
    return types.float32(types.uint32), lambda _, builder, __, given: builder.bitcast(given[0], ir.FloatType())


@intrinsic  # type: ignore[untyped-decorator]  # as above
def _bits_of(context: object, number: object) -> object:
    return types.uint32(types.float32), lambda _, builder, __, given: builder.bitcast(given[0], ir.IntType(32))


@_inlined
def _widen(bits: Any) -> Any:
    """Return the float32 of a bfloat16: these are its upper 16 bits."""
    return _float_of(np.uint32(bits) << np.uint32(16))


@intrinsic  # type: ignore[untyped-decorator]  # as above
def _narrow(context: object, number: object) -> object:
    """Round a float32 to the nearest bfloat16, ties to even."""

    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return builder.bitcast(builder.fptrunc(given[0], BFLOAT16), ir.IntType(16))

    return types.uint16(types.float32), generate


@_chosen_by_type
def _number(array: Any, value: Any) -> Any:
    """Return the float32 of an array's value."""
    if array.dtype == types.uint16:
        return lambda array, value: _widen(value)
    return lambda array, value: value


@_chosen_by_type
def _cast(array: Any, number: Any) -> Any:
    """Return what stands for a float32 in an array."""
    return (lambda array, number: _narrow(number)) if array.dtype == types.uint16 else (lambda array, number: number)


@_chosen_by_type
def _store(row: Any, out: Any) -> Any:
    """Write a float32 row in the form of `out`, and return its scale."""
    return _store_integers if out.dtype == types.uint8 else _store_floats


def _store_floats(row: Any, out: Any) -> Any:
    for j in range(len(row)):
        out[j] = _cast(out, row[j])
    return np.float32(1)


def _store_integers(row: Any, out: Any) -> Any:
    largest = np.int32(0)  # of positive floats, the larger has the larger bits; and integers are compared in parallel
    for j in range(len(row)):
        largest = max(largest, np.int32(_bits_of(row[j]) & np.uint32(0x7FFFFFFF)))
    scale = max(_float_of(np.uint32(largest)), np.float32(1e-12)) / _LEVELS
    inverse = np.float32(1) / scale
    for j in range(len(row)):
        # 1.5 * 2**23 leaves the rounded integer in the lowest bits of the sum
        out[j] = np.uint8((_bits_of(row[j] * inverse + np.float32(12582912)) + np.uint32(128)) & np.uint32(255))
    return scale if largest < _INFINITY else np.float32(np.nan)


@_inlined
def _exp2(x: Any) -> Any:
    """Return 2**x of x at most 0, within 3e-7 of it; of less than -100 as of that."""
    x = max(x, np.float32(-100))
    whole = np.int32(x - np.float32(0.5))
    rest = x - np.float32(whole)
    power = np.float32(1.3333558e-3)
    power = power * rest + np.float32(9.618129e-3)
    power = power * rest + np.float32(5.5504109e-2)
    power = power * rest + np.float32(2.4022651e-1)
    power = power * rest + np.float32(6.9314718e-1)
    power = power * rest + np.float32(1)
    return power * _float_of(np.uint32(whole + np.int32(127)) << np.uint32(23))


@_inlined
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


@_inlined
def share(count: Any, thread: Any, threads: Any) -> Any:
    """Return the first of a thread's things, and the one after its last."""
    return count * thread // threads, count * (thread + 1) // threads


@_inlined
def _rows_of_tile(left: Any) -> Any:
    """Return how many of the rows that are left come next, so that the last tile is about as large as the others."""
    tiles = (left + ROWS - 1) // ROWS
    return (left + tiles - 1) // tiles


@_kernel
def fill(states: Rows, out: Rows, scales: FloatArray) -> None:
    """Bring [T, d] states into the form of `out` [T, d]; `scales` is [T]."""
    row = np.empty(states.shape[1], np.float32)
    for i in range(len(states)):
        for j in range(len(row)):
            row[j] = _number(states, states[i, j])
        scales[i] = _store(row, out[i])


@_kernel
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
                count = _rows_of_tile(stop - i)
                until = min(steps, step + at_once)
                wide_tile(rows, i, 0, count, blocks, group, step, until, finish, out, i, group * WIDE)
                i += count
        first = min(last, (group + 1) * parts)


@_kernel
def activate(product: FloatArray, out: Rows, scales: FloatArray) -> None:
    """Apply GELU to a product [T, d], and write it as rows for the next one."""
    row = np.empty(product.shape[1], np.float32)
    for i in range(len(product)):
        for j in range(len(row)):
            row[j] = _gelu(product[i, j])
        scales[i] = _store(row, out[i])


@_kernel
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


@_kernel
def lay_out(qkv: Rows, lengths: IntArray, heads: int, keys: Words, values: Words, thread: int, threads: int) -> None:
    """Lay out keys and values of n texts by head, as tiles take weights; a thread does some heads of every text.

    Args:
        qkv: [T, 3 * d] queries, keys and values of each token, one after the other.
        lengths: [n] tokens of the texts, which follow each other.
        heads: how many; each has d / heads numbers, or w words of 32 bits.
        keys: [sum(t), heads, w] words are filled, t being a text's length, brought up to a multiple of 32: each head
            of each text as [t / 32, w, 32]. What comes after a text's end is arbitrary.
        values: [sum(t), heads, v] words are filled, v being w brought up to a multiple of those in 32 numbers: each
            head of each text as [d / heads / 32, t / step, 32], a word holding the numbers of `step` tokens. After a
            text's end come zeros.
        thread: which share.
        threads: how many shares there are.
    """
    first, last = share(heads, thread, threads)
    words = qkv.view(np.uint32)
    width = words.shape[1] // 3 // heads
    row = place = 0
    for length in lengths:
        padded = _padded(length)
        for head in range(first, last):
            at = head * width
            _lay_out_keys(words, row, length, heads * width + at, _keys_of(keys, place, padded, head))
            at = 2 * qkv.shape[1] // 3 + at * _step(qkv)
            _lay_out_values(qkv, row, length, at, width * _step(qkv), _values_of(values, place, padded, head, qkv))
        row, place = row + length, place + padded


@_inlined
def _padded(length: Any) -> Any:
    return (length + NARROW - 1) // NARROW * NARROW


@_inlined
def _step(numbers: Any) -> Any:
    """Return how many numbers are in a word, which a tile reads at once."""
    return 4 // numbers.itemsize


@_inlined
def _part(words: Any, place: Any, padded: Any, head: Any) -> Any:
    """Return a head's keys or values of a text."""
    size = padded * words.shape[2]
    start = place * words.shape[1] * words.shape[2] + head * size
    return words.reshape(words.size)[start : start + size]


@_inlined
def _keys_of(keys: Any, place: Any, padded: Any, head: Any) -> Any:
    """Return a head's keys of a text: [t / 32, w, 32] words."""
    return _part(keys, place, padded, head).reshape(padded // NARROW, keys.shape[2], NARROW)


@_inlined
def _values_of(values: Any, place: Any, padded: Any, head: Any, numbers: Any) -> Any:
    """Return a head's values of a text: [v / 32, t / step, 32] words."""
    steps = padded // _step(numbers)
    return _part(values, place, padded, head).reshape(values.shape[2] * _step(numbers) // NARROW, steps, NARROW)


@_inlined
def _lay_out_keys(words: Any, row: Any, length: Any, at: Any, keys: Any) -> None:
    for i in range(length):
        group, lane = i // NARROW, i % NARROW
        for j in range(keys.shape[1]):
            keys[group, j, lane] = words[row + i, at + j]


@_inlined
def _lay_out_values(qkv: Any, row: Any, length: Any, at: Any, width: Any, values: Any) -> None:
    step = _step(qkv)
    for group in range(len(values)):
        start, count = at + group * NARROW, min(NARROW, width - group * NARROW)
        for i in range(values.shape[1]):
            first = row + i * step
            for lane in range(count):
                values[group, i, lane] = _word(qkv, first, start + lane, row + length)


@_chosen_by_type
def _word(qkv: Any, row: Any, column: Any, stop: Any) -> Any:
    """Return the numbers of a word: those of a column, from a row on."""
    if qkv.dtype == types.uint16:
        return _two_numbers
    return lambda qkv, row, column, stop: _bits_of(qkv[row, column]) if row < stop else np.uint32(0)


def _two_numbers(qkv: Any, row: Any, column: Any, stop: Any) -> Any:
    first = np.uint32(qkv[row, column]) if row < stop else np.uint32(0)
    second = np.uint32(qkv[row + 1, column]) if row + 1 < stop else np.uint32(0)
    return first | second << np.uint32(16)


@_kernel
def attend(
    qkv: Rows,
    lengths: IntArray,
    keys: Words,
    values: Words,
    scores: FloatArray,
    weights: Rows,
    sums: FloatArray,
    out: Rows,
    thread: int,
    threads: int,
) -> None:
    """Attend within n texts, given what `lay_out` filled; a thread does every so manieth block of queries.

    Args:
        qkv: [T, 3 * d].
        lengths: [n].
        keys: [.., heads, w].
        values: [.., heads, v].
        scores: [24, t] is overwritten, t being the longest text's length, brought up to a multiple of 32.
        weights: [24, t] as well.
        sums: [24, v * step] as well.
        out: [T, d] is filled.
        thread: which share.
        threads: how many shares there are.
    """
    heads, width = keys.shape[1], keys.shape[2] * _step(qkv)
    totals = np.empty(QUERIES, np.float32)
    factor = np.float32(1.44269504) / np.sqrt(np.float32(width))  # exp(x) is 2**(1.44 * x)
    row = place = unit = 0
    for length in lengths:
        padded = _padded(length)
        for head in range(heads):
            for first in range(0, length, QUERIES):
                unit += 1
                if unit % threads == thread:
                    count = min(QUERIES, length - first)
                    _score(
                        qkv,
                        row + first,
                        head * width,
                        count,
                        _numbers(_keys_of(keys, place, padded, head), qkv),
                        scores,
                    )
                    for i in range(count):
                        totals[i] = _softmax(scores[i], weights[i], length, padded, factor)
                    _weigh(weights, count, _numbers(_values_of(values, place, padded, head, qkv), qkv), sums)
                    for i in range(count):
                        inverse = np.float32(1) / totals[i]
                        for j in range(width):
                            out[row + first + i, head * width + j] = _cast(out, sums[i, j] * inverse)
        row, place = row + length, place + padded


@_inlined
def _numbers(words: Any, like: Any) -> Any:
    """Return [groups, steps, 32] words as a tile takes them: [groups, steps, 32, step]."""
    groups, steps, columns = words.shape
    return words.view(like.dtype).reshape(groups, steps, columns, _step(like))


@_inlined
def _score(qkv: Any, row: Any, at: Any, count: Any, keys: Any, scores: Any) -> None:
    """Fill the first rows of scores with products of queries with all keys."""
    for group in range(len(keys)):
        i = 0
        while i < count:
            rows = _rows_of_tile(count - i)
            narrow_tile(qkv, row + i, at, rows, keys, group, 0, keys.shape[1], None, scores, i, group * NARROW)
            i += rows


@_inlined
def _weigh(weights: Any, count: Any, values: Any, sums: Any) -> None:
    """Fill the first rows of sums with those of a text's values by weights."""
    for group in range(len(values)):
        i = 0
        while i < count:
            rows = _rows_of_tile(count - i)
            narrow_tile(weights, i, 0, rows, values, group, 0, values.shape[1], None, sums, i, group * NARROW)
            i += rows


@_inlined
def _softmax(scores: Any, weights: Any, length: Any, padded: Any, factor: Any) -> Any:
    """Turn a row of scores into weights, and return what they have to be divided by; those after the end become 0."""
    for j in range(length, padded):
        scores[j] = -np.inf
    largest = np.int32(-0x7FFFFFFF)  # floats as integers in the same order: they are compared in parallel
    for j in range(padded):
        bits = np.int32(_bits_of(scores[j]))
        largest = max(largest, bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    largest ^= (largest >> np.int32(31)) & np.int32(0x7FFFFFFF)
    offset = _float_of(np.uint32(largest))
    total = np.float32(0)
    for j in range(padded):
        weight = _exp2((scores[j] - offset) * factor)
        weights[j] = _cast(weights, weight)
        total += weight
    return total
