"""What compiled functions share: how they are made, numbers as bits, and who of a team does what.

`kernel`, `inlined` and `chosen_by_type` make functions; all other functions exist inside compiled ones alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import types
from numba.extending import intrinsic, overload

from m3connect.compiling.tiles import ROWS
from m3connect.compiling.vectors import BFLOAT16

__all__ = [
    "FREEDOMS",
    "array_at",
    "bits_of",
    "cast_to",
    "chosen_by_type",
    "float_of",
    "inlined",
    "kernel",
    "number_of",
    "rows_of_tile",
    "share",
]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

FREEDOMS = {"reassoc", "contract", "arcp", "nsz"}
"""Sums may be added in any order, but what is no number must not be taken for one."""


def kernel(function: Kernel) -> Kernel:
    """Compile a function when it is first called."""
    return cast(Kernel, numba.njit(nogil=True, fastmath=FREEDOMS, error_model="numpy")(function))


def inlined(function: Kernel) -> Kernel:
    """Put a function's body wherever a compiled function calls it."""
    return cast(Kernel, numba.njit(inline="always")(function))


def chosen_by_type(choose: Kernel) -> Kernel:
    """Make a function for kernels whose body is what `choose` returns, given the types of its arguments."""

    def compiled_alone(*_: object) -> Any:
        # numba wants something that can be called, and never calls it: compiled functions get the chosen body
        raise TypeError(f"{choose.__name__} can be called in compiled functions alone")

    overload(compiled_alone, inline="always", strict=False)(choose)
    return cast(Kernel, compiled_alone)


@intrinsic
def _pointer(context: object, address: object) -> object:
    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), generate


@inlined
def array_at(address: Any, shape: Any, dtype: Any) -> Any:
    """Return the array that lies at an address, row after row."""
    return carray(_pointer(address), shape, dtype)


@intrinsic
def float_of(context: object, bits: object) -> object:
    """Read 32 bits as a float."""
    return types.float32(types.uint32), lambda _, builder, __, given: builder.bitcast(given[0], ir.FloatType())


@intrinsic
def bits_of(context: object, number: object) -> object:
    """Read a float as 32 bits."""
    return types.uint32(types.float32), lambda _, builder, __, given: builder.bitcast(given[0], ir.IntType(32))


@inlined
def _widen(bits: Any) -> Any:
    """Return the float32 of a bfloat16: these are its upper 16 bits."""
    return float_of(np.uint32(bits) << np.uint32(16))


@intrinsic
def _narrow(context: object, number: object) -> object:
    """Round a float32 to the nearest bfloat16, ties to even."""

    def generate(_: Any, builder: Any, __: Any, given: Any) -> Any:
        return builder.bitcast(builder.fptrunc(given[0], BFLOAT16), ir.IntType(16))

    return types.uint16(types.float32), generate


@chosen_by_type
def number_of(array: Any, value: Any) -> Any:
    """Return the float32 of an array's value: of bfloat16, which is kept as uint16, or of float32."""
    if array.dtype == types.uint16:
        return lambda array, value: _widen(value)
    return lambda array, value: value


@chosen_by_type
def cast_to(array: Any, number: Any) -> Any:
    """Return what stands for a float32 in an array."""
    return (lambda array, number: _narrow(number)) if array.dtype == types.uint16 else (lambda array, number: number)


@inlined
def share(count: Any, thread: Any, threads: Any) -> Any:
    """Return the first of a thread's things, and the one after its last."""
    return count * thread // threads, count * (thread + 1) // threads


@inlined
def rows_of_tile(left: Any) -> Any:
    """Return how many of the rows that are left come next, so that the last tile is about as large as the others."""
    tiles = (left + ROWS - 1) // ROWS
    return (left + tiles - 1) // tiles
