"""What lies between the matrix products of a layer, compiled by numba: one pass over the rows where PyTorch takes ten.

Rows that a product takes come in three forms, and every kernel knows them by their type: float32; bfloat16 as uint16,
since numpy has no such type; or 8-bit integers as uint8, 128 standing for 0, and a scale for each row. A product of
the first two has its bias already, that of integers still lacks its row's scale and the bias; `bias` is None or an
array accordingly. Kernels take arrays one by one, since numba unpacks anything else slowly, and release the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from m3connect.embeddings import FloatArray, IntArray

__all__ = ["activate", "attend", "fill", "gather", "normalize", "scatter", "softmax"]

Rows: TypeAlias = npt.NDArray[Any]
"""float32, uint16 or uint8: see above."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_FREEDOMS = {"reassoc", "contract", "arcp", "nsz"}
"""Sums may be added in any order, but what is no number must not be taken for one."""

_INFINITY = np.int32(0x7F800000)
"""As bits; those of what is no number are larger."""

_LEVELS = np.float32(127)
"""Int8 numbers used on each side of 0."""


def _kernel(function: Kernel) -> Kernel:
    """Compile a function when it is first called, and keep the result on disk where there is a place for it."""
    compile_with = partial(numba.njit, nogil=True, fastmath=_FREEDOMS, error_model="numpy")
    try:
        compiled = compile_with(cache=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache can be written
        compiled = compile_with()(function)
    return cast(Kernel, compiled)


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


@_inlined
def _narrow(number: Any) -> Any:
    """Round a float32 to the nearest bfloat16, ties to even."""
    bits = _bits_of(number)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


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
def _result(product: Any, value: Any, scale: Any, bias: Any, column: Any) -> Any:
    """Return what a product's value stands for."""
    if isinstance(bias, types.Array):
        return lambda product, value, scale, bias, column: value * scale + bias[column]
    return lambda product, value, scale, bias, column: _number(product, value)


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


@_kernel
def fill(states: FloatArray, out: Rows, scales: FloatArray) -> None:
    """Bring [T, d] states into the form of `out` [T, d]; `scales` is [T]."""
    for i in range(len(states)):
        scales[i] = _store(states[i], out[i])


@_kernel
def activate(product: Rows, scales: FloatArray, bias: FloatArray | None, out: Rows, out_scales: FloatArray) -> None:
    """Apply GELU to a product [T, d], and write it as rows for the next one."""
    row = np.empty(product.shape[1], np.float32)
    for i in range(len(product)):
        scale = scales[i]
        for j in range(len(row)):
            row[j] = _gelu(_result(product, product[i, j], scale, bias, j))
        out_scales[i] = _store(row, out[i])


@_kernel
def normalize(
    product: Rows,
    scales: FloatArray,
    bias: FloatArray | None,
    states: FloatArray,
    weight: FloatArray,
    shift: FloatArray,
    eps: np.float32,
    out: FloatArray,
) -> None:
    """Add a product [T, d] to the states [T, d] before it, and normalise each row (LayerNorm)."""
    d = product.shape[1]
    for i in range(len(product)):
        scale, row = scales[i], out[i]
        total = np.float32(0)
        for j in range(d):
            row[j] = _result(product, product[i, j], scale, bias, j) + states[i, j]
            total += row[j]
        mean = total / np.float32(d)
        squares = np.float32(0)
        for j in range(d):
            squares += (row[j] - mean) * (row[j] - mean)
        inverse = np.float32(1) / np.sqrt(squares / np.float32(d) + eps)
        for j in range(d):
            row[j] = (row[j] - mean) * inverse * weight[j] + shift[j]


@_kernel
def gather(
    product: Rows, scales: FloatArray, bias: FloatArray | None, start: int, lengths: IntArray, parts: Rows
) -> None:
    """Lay out queries, keys and values of n texts by head, so that products within each head can be formed.

    Args:
        product: [T, 3 * d] queries, keys and values of each token, one after the other.
        scales: [T] of its rows.
        bias: of the product.
        start: the row where the first text begins.
        lengths: [n] tokens of the texts, which follow each other.
        parts: [3, n * heads, t, w] is filled: t is at least the longest text, heads * w is d. After a text's
            end come its first key again, and values of 0. Queries are divided by the square root of w.
    """
    queries, keys, values = parts[0], parts[1], parts[2]
    padded, width = queries.shape[1:]
    heads = len(queries) // len(lengths)
    d = heads * width
    factor = np.float32(1) / np.sqrt(np.float32(width))
    row = start
    for text in range(len(lengths)):
        for i in range(lengths[text]):
            scale = scales[row]
            for head in range(heads):
                to, at = text * heads + head, head * width
                for j in range(width):
                    query = _result(product, product[row, at + j], scale, bias, at + j)
                    queries[to, i, j] = _cast(parts, query * factor)
                at += d
                for j in range(width):
                    keys[to, i, j] = _cast(parts, _result(product, product[row, at + j], scale, bias, at + j))
                at += d
                for j in range(width):
                    values[to, i, j] = _cast(parts, _result(product, product[row, at + j], scale, bias, at + j))
            row += 1
        for to in range(text * heads, (text + 1) * heads):
            for i in range(lengths[text], padded):
                for j in range(width):
                    keys[to, i, j] = keys[to, 0, j]
                    values[to, i, j] = 0


@_kernel
def softmax(scores: Rows, lengths: IntArray) -> None:
    """Turn scores [n * heads, r, t] of r of t queries into weights, in place; those after a text's end become 0.

    A score after a text's end must not be above all those before it; that of the first token again will do.
    """
    padded, heads = scores.shape[2], len(scores) // len(lengths)
    row = np.empty(padded, np.float32)
    for text in range(len(lengths)):
        for head in range(text * heads, (text + 1) * heads):
            for i in range(min(scores.shape[1], lengths[text])):
                given = scores[head, i]
                largest = np.int32(-0x7FFFFFFF)  # floats as integers in the same order: they are compared in parallel
                for j in range(padded):
                    row[j] = _number(scores, given[j])
                    bits = np.int32(_bits_of(row[j]))
                    largest = max(largest, bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
                largest ^= (largest >> np.int32(31)) & np.int32(0x7FFFFFFF)
                offset = _float_of(np.uint32(largest))
                for j in range(padded):
                    row[j] = _exp2((row[j] - offset) * np.float32(1.44269504))
                for j in range(lengths[text], padded):
                    row[j] = 0
                total = np.float32(0)
                for j in range(padded):
                    total += row[j]
                inverse = np.float32(1) / total
                for j in range(padded):
                    given[j] = _cast(scores, row[j] * inverse)


@_kernel
def scatter(attended: Rows, start: int, lengths: IntArray, out: Rows, scales: FloatArray) -> None:
    """Write attended values [n * heads, t, w] as rows [T, d] for the next product; the first text's go to `start`."""
    heads, width = len(attended) // len(lengths), attended.shape[2]
    row = np.empty(heads * width, np.float32)
    at = start
    for text in range(len(lengths)):
        for i in range(lengths[text]):
            for head in range(heads):
                for j in range(width):
                    row[head * width + j] = _number(attended, attended[text * heads + head, i, j])
            scales[at] = _store(row, out[at])
            at += 1


@_kernel
def attend(
    product: Rows,
    scales: FloatArray,
    bias: FloatArray | None,
    start: int,
    lengths: IntArray,
    heads: int,
    out: Rows,
    out_scales: FloatArray,
) -> None:
    """Attend within n short texts in one call, in float32: as `gather`, `softmax`, `scatter` and two products do."""
    longest, width = lengths.max(), product.shape[1]
    parts, attended = np.empty((longest, width), np.float32), np.empty((longest, width // 3), np.float32)
    row = start
    for text in range(len(lengths)):
        length = lengths[text]
        for i in range(length):
            scale = scales[row + i]
            for j in range(width):
                parts[i, j] = _result(product, product[row + i, j], scale, bias, j)
        scores = np.empty((heads, length, length), np.float32)
        _score(parts, scores)
        softmax(scores, lengths[text : text + 1])
        _weigh(parts, scores, attended)
        for i in range(length):
            out_scales[row + i] = _store(attended[i], out[row + i])
        row += length


@_inlined
def _score(parts: FloatArray, scores: FloatArray) -> None:
    """Fill the scores [heads, t, t] of a text's queries with its keys, in the first two thirds of [t, 3 * d]."""
    heads, length, _ = scores.shape
    d = parts.shape[1] // 3
    width = d // heads
    factor = np.float32(1) / np.sqrt(np.float32(width))
    for head in range(heads):
        query, key = head * width, d + head * width
        for i in range(length):
            for other in range(length):
                score = np.float32(0)
                for j in range(width):
                    score += parts[i, query + j] * parts[other, key + j]
                scores[head, i, other] = score * factor


@_inlined
def _weigh(parts: FloatArray, weights: FloatArray, attended: FloatArray) -> None:
    """Fill [t, d] with sums of a text's values, the last third of [t, 3 * d], by weights [heads, t, t]."""
    heads, length, _ = weights.shape
    d = parts.shape[1] // 3
    width = d // heads
    attended[:length] = 0
    for head in range(heads):
        value, to = 2 * d + head * width, head * width
        for i in range(length):
            for other in range(length):
                weight = weights[head, i, other]
                for j in range(width):
                    attended[i, to + j] += weight * parts[other, value + j]
