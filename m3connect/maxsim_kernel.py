"""MaxSim's products as a compiled function: tokens are read where they lie, and only the largest products written.

A document's tokens are multiplied with all query tokens a few rows at a time, and what comes out is compared at once.
Nothing is copied but signs, a few rows of which become bytes that stay in the core's caches. float16 is left to
PyTorch, which decodes it faster.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from numba.core import types

from m3connect.compiling.functions import FREEDOMS, array_at, chosen_by_type, kernel, rows_of_tile
from m3connect.compiling.keeping import compile_and_keep, compiling
from m3connect.compiling.tiles import NARROW, ROWS, far_tile
from m3connect.maxsim_products import Block, Matrices, Maxima
from m3connect.token_rows import TokenRows

__all__ = ["compiled_maxima", "fits", "kernel_of"]

_Array: TypeAlias = npt.NDArray[Any]

_TYPES = {
    "float32": (np.float32, types.float32, types.float32),
    "int8": (np.int8, types.int8, types.int32),
    "1-bit": (np.uint8, types.int8, types.int32),
}
"""What rows are read as, what they are multiplied with, and what comes out."""

_ROWS_OF_BLOCK = 48
"""Rows that are multiplied with a group of query tokens before the next group's turn: both fit into a core's caches."""


@chosen_by_type
def _room_for(rows: Any) -> Any:
    """Return where a block of signs is decoded to, or the rows that need not be."""
    if rows.dtype == types.uint8:
        return lambda rows: np.empty((_ROWS_OF_BLOCK, 8 * rows.shape[1]), np.uint8)
    return lambda rows: rows


@chosen_by_type
def _decode(rows: Any, start: Any, stop: Any, room: Any) -> Any:
    """Decode rows, if they need it, and return which of `room` is their first."""
    return _decode_signs if rows.dtype == types.uint8 else (lambda rows, start, stop, room: start)


def _decode_signs(rows: Any, start: Any, stop: Any, room: Any) -> Any:
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
    """Whether rows come in words of 32 bits, and in a form that is compiled."""
    if not isinstance(documents, TokenRows):
        return True
    return documents.encoding == "1-bit" or (documents.encoding == "int8" and documents.dim % 4 == 0)


def compiled_maxima(queries: _Array, documents: Matrices) -> Maxima:
    """Multiply query tokens [m, d] with documents that fit: float32 with floats, codes of int8 with codes."""
    encoding = documents.encoding if isinstance(documents, TokenRows) else "float32"
    width = documents.codes.shape[1] if isinstance(documents, TokenRows) else queries.shape[1]
    run = kernel_of(encoding)
    weights = _tiled(queries, 8 * width if encoding == "1-bit" else width)
    dtype, least = (np.float32, -np.inf) if encoding == "float32" else (np.int32, np.iinfo(np.int32).min)
    # tiles take codes of int8 as 128 more
    raised_by = 128 * queries.sum(axis=1, dtype=np.int32) if encoding == "int8" else None

    def maxima(block: Block) -> _Array:
        _rows, addresses = _rows_of(block, documents)  # nobody else may have these rows
        best = np.full((len(addresses), len(queries)), least, dtype)
        run(addresses, block.lengths, width, weights, best)
        return best if raised_by is None else best - raised_by

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
    groups, steps = -(-len(queries) // NARROW), width // numbers
    padded = np.zeros((groups * NARROW, steps * numbers), queries.dtype)
    padded[: len(queries), : queries.shape[1]] = queries
    words = padded.view(np.uint32).reshape(groups, NARROW, steps).transpose(0, 2, 1)
    return np.ascontiguousarray(words).view(queries.dtype).reshape(groups, steps, NARROW, numbers)


def kernel_of(encoding: str) -> Callable[..., None]:
    """Compile the function for float32, int8 or 1-bit, or find it on disk."""
    with compiling:
        return _kernel_of(encoding)


@cache
def _kernel_of(encoding: str) -> Callable[..., None]:
    dtype, weights, best = _TYPES[encoding]

    def take_best(addresses: Any, lengths: Any, width: Any, weights: Any, best: Any) -> None:
        for i in range(len(addresses)):
            _raise_best(array_at(addresses[i], (lengths[i], width), dtype), weights, best[i])

    given = types.intp[::1], types.intp[::1], types.intp, weights[:, :, :, ::1], best[:, ::1]
    compile_it = partial(numba.njit, types.void(*given), nogil=True, fastmath=FREEDOMS, error_model="numpy")
    compiled: Callable[..., None] = compile_and_keep(take_best, compile_it)
    return compiled
