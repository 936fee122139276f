"""Vectors of 16 numbers in a processor's registers, as LLVM's instructions: numba has no word for them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

__all__ = [
    "BFLOAT16",
    "BYTE",
    "FLOAT",
    "FLOATS",
    "INT32",
    "INTEGERS",
    "LANES",
    "SIZE",
    "Array",
    "load",
    "plus",
    "repeat",
    "store",
]

LANES = 16
"""Numbers of 32 bits in a register."""


class _BFloat16(ir.Type):
    """LLVM's type, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


BFLOAT16 = _BFloat16()

BYTE, INT32, FLOAT, SIZE = ir.IntType(8), ir.IntType(32), ir.FloatType(), ir.IntType(64)
INTEGERS, FLOATS = ir.VectorType(INT32, LANES), ir.VectorType(FLOAT, LANES)


class Array:
    """An array of a kernel."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        self._builder = builder
        self.dtype = kind.dtype
        array = context.make_array(kind)(context, builder, value)
        self.shape = cgutils.unpack_tuple(builder, array.shape)
        self._strides = cgutils.unpack_tuple(builder, array.strides)
        self._data = builder.ptrtoint(array.data, SIZE)

    def address(self, *indices: Any) -> Any:
        """Return where an element lies, as a number; missing indices are 0."""
        address = self._data
        for index, stride in zip(indices, self._strides, strict=False):
            address = self._builder.add(address, self._builder.mul(index, stride))
        return address


def load(builder: Any, address: Any, kind: Any) -> Any:
    """Read a value of any alignment."""
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = 1
    return loaded


def store(builder: Any, values: Any, dtype: Any, address: Any) -> None:
    """Write a vector to an array of this type: floats to uint16 as bfloat16."""
    if dtype == types.uint16:
        values = builder.fptrunc(values, ir.VectorType(BFLOAT16, LANES))
    builder.store(values, builder.inttoptr(address, values.type.as_pointer())).align = 2


def plus(builder: Any, value: Any, number: int) -> Any:
    """Add a constant to an index or an address."""
    return builder.add(value, SIZE(number))


def repeat(builder: Any, number: Any) -> Any:
    """Return a vector that holds one number 16 times."""
    vector = ir.VectorType(number.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, INT32(0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(INTEGERS, None))
