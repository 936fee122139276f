"""MaxSim's products as a compiled function: tokens are read where they lie, and only the largest products written.

A document's tokens are multiplied with all query tokens a few rows at a time, and what comes out is compared at once;
nothing is copied but rows that have to be decoded, and those stay in the processor's first cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from m3connect.compiling.functions import FREEDOMS, array_at, chosen_by_type, kernel, rows_of_tile
from m3connect.compiling.keeping import compile_and_keep
from m3connect.compiling.tiles import NARROW, ROWS, far_tile
from m3connect.maxsim_products import Block, Matrices, Maxima
from m3connect.token_rows import TokenRows

__all__ = ["compiled_maxima", "fits"]

_Array: TypeAlias = npt.NDArray[Any]

_DTYPES = {"float32": np.float32, "float16": np.uint16, "int8": np.int8, "1-bit": np.uint8}
"""What rows are read as: numpy's halves are not known to numba."""

_ROWS_OF_BLOCK = 48
"""Rows that are multiplied with a group of query tokens before the next group's turn: both fit into a core's caches."""


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _float_of_half(context: object, bits: object) -> object:
    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return builder.fpext(builder.bitcast(given[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@chosen_by_type
def _room_for(rows: Any) -> Any:
    """Return where a block of rows is decoded to, or the rows if they need not be."""
    if rows.dtype == types.uint16:
        return lambda rows: np.empty((_ROWS_OF_BLOCK, rows.shape[1]), np.float32)
    if rows.dtype == types.uint8:
        return lambda rows: np.empty((_ROWS_OF_BLOCK, 8 * rows.shape[1]), np.uint8)
    return lambda rows: rows


@chosen_by_type
def _decode(rows: Any, start: Any, stop: Any, room: Any) -> Any:
    """Decode rows, if they need it, and return which of `room` is their first."""
    if rows.dtype == types.uint16:
        return _decode_halves
    if rows.dtype == types.uint8:
        return _decode_bits
    return lambda rows, start, stop, room: start


def _decode_halves(rows: Any, start: Any, stop: Any, room: Any) -> Any:
    for i in range(start, stop):
        for j in range(rows.shape[1]):
            room[i - start, j] = _float_of_half(rows[i, j])
    return 0


def _decode_bits(rows: Any, start: Any, stop: Any, room: Any) -> Any:
    words = room.view(np.uint64)
    for i in range(start, stop):
        for j in range(rows.shape[1]):
            # a byte eight times, of each another bit, from the highest on; what is not 0 becomes 1
            bits = np.uint64(rows[i, j]) * np.uint64(0x0101010101010101) & np.uint64(0x0102040810204080)
            words[i - start, j] = (bits + np.uint64(0x7F7F7F7F7F7F7F7F)) >> np.uint64(7) & np.uint64(0x0101010101010101)
    return 0


@kernel
def _raise_best(rows: _Array, weights: _Array, best: _Array) -> None:
    """Raise [m] to the largest products of rows."""
    room, products = _room_for(rows), np.empty((ROWS, NARROW), best.dtype)
    for start in range(0, len(rows), _ROWS_OF_BLOCK):
        stop = min(start + _ROWS_OF_BLOCK, len(rows))
        first = _decode(rows, start, stop, room)
        for group in range(len(weights)):
            some = best[group * NARROW : (group + 1) * NARROW]
            done = 0
            while done < stop - start:
                count = rows_of_tile(stop - start - done)
                far_tile(room, first + done, 0, count, weights, group, 0, weights.shape[1], None, products, 0, 0)
                for i in range(count):
                    for j in range(len(some)):
                        some[j] = np.maximum(some[j], products[i, j])
                done += count


def fits(documents: Matrices) -> bool:
    """Whether rows can be read in words of 32 bits."""
    return not (isinstance(documents, TokenRows) and documents.encoding == "int8" and documents.dim % 4)


def compiled_maxima(queries: _Array, documents: Matrices) -> Maxima:
    """Multiply query tokens [m, d] with documents that all have tokens: float32 with floats, int8 with other codes."""
    stored = documents if isinstance(documents, TokenRows) else None
    width = stored.codes.shape[1] if stored else queries.shape[1]
    run = _kernel_of(stored.encoding if stored else "float32")
    weights = _tiled(queries, 8 * width if stored and stored.encoding == "1-bit" else width)
    least = np.iinfo(np.int32).min if queries.dtype == np.int8 else -np.inf
    more = 128 * queries.sum(axis=1, dtype=np.int32) if stored and stored.encoding == "int8" else 0

    def maxima(block: Block) -> _Array:
        rows, addresses = _rows_of(block, documents)
        best = np.full((len(addresses), len(queries)), least, np.int32 if queries.dtype == np.int8 else np.float32)
        run(addresses, block.lengths, width, weights, best)
        del rows  # not before: nobody else may have them
        return best - more

    return maxima


def _rows_of(block: Block, documents: Matrices) -> tuple[object, _Array]:
    """Return the arrays with a block's rows, and the address of each document's; what lies row after row is no copy."""
    if isinstance(documents, TokenRows):
        codes = np.ascontiguousarray(documents.codes[block.start : block.stop])
        return codes, codes.ctypes.data + block.cuts * codes.strides[0]
    some = documents[block.documents]
    starts = [block.before] + [0] * (len(some) - 1)
    rows = [
        np.ascontiguousarray(matrix[start : start + length], np.float32)
        for matrix, start, length in zip(some, starts, block.lengths, strict=True)
    ]
    return rows, np.array([part.__array_interface__["data"][0] for part in rows])


def _tiled(queries: _Array, width: int) -> _Array:
    """Lay out [m, d] query tokens as tiles take weights, with zeros for what documents' rows have more."""
    numbers = 4 // queries.itemsize
    groups, steps = -(-len(queries) // NARROW), -(-width // numbers)
    padded = np.zeros((groups * NARROW, steps * numbers), queries.dtype)
    padded[: len(queries), : queries.shape[1]] = queries
    words = padded.view(np.uint32).reshape(groups, NARROW, steps).transpose(0, 2, 1)
    return np.ascontiguousarray(words).view(queries.dtype).reshape(groups, steps, NARROW, numbers)


@cache
def _kernel_of(encoding: str) -> Callable[..., None]:
    """Compile the function for float32 or an encoding of `TokenRows`, or find it on disk."""
    dtype, is_float = _DTYPES[encoding], encoding in ("float32", "float16")
    weights, best = (types.float32, types.float32) if is_float else (types.int8, types.int32)

    def take_best(addresses: Any, lengths: Any, width: Any, weights: Any, best: Any) -> None:
        for i in range(len(addresses)):
            _raise_best(array_at(addresses[i], (lengths[i], width), dtype), weights, best[i])

    given = types.intp[::1], types.intp[::1], types.intp, weights[:, :, :, ::1], best[:, ::1]
    compile_it = partial(numba.njit, types.void(*given), nogil=True, fastmath=FREEDOMS, error_model="numpy")
    compiled: Callable[..., None] = compile_and_keep(take_best, compile_it)
    return compiled
