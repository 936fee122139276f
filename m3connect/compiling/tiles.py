"""Small matrix products in a processor's registers, as LLVM's instructions: numba has no word for them.

A tile is up to 6 rows times 64 or 32 columns. Its sums stay in registers while it goes along the rows; each step reads
32 bits of every row, and of every column the 32 bits that they are multiplied with: one float32, two bfloat16 or four
8-bit integers. So `weights` are laid out as [groups of columns, steps, columns of a group, numbers of a step].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from m3connect.compiling.vectors import (
    BFLOAT16,
    BYTE,
    FLOAT,
    FLOATS,
    INT32,
    INTEGERS,
    LANES,
    SIZE,
    Array,
    load,
    plus,
    repeat,
    store,
)

__all__ = ["NARROW", "ROWS", "WIDE", "can_multiply", "far_tile", "narrow_tile", "wide_tile"]

ROWS = 6
"""A tile's rows at most: with 4 vectors of columns their sums fill 24 of 32 registers."""

WIDE, NARROW = 64, 32
"""Columns of a group of weights."""


@dataclass(frozen=True)
class _Kind:
    """How numbers of one type are multiplied."""

    instruction: str
    sums: ir.VectorType
    numbers: ir.VectorType
    """A register of what is multiplied."""
    sums_first: bool = True

    def dot(self, builder: Any, sums: Any, row: Any, columns: Any) -> Any:
        """Add 16 products of a step to 16 sums."""
        values = (sums, row, columns) if self.sums_first else (row, columns, sums)
        kinds = [value.type for value in values]
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(self.sums, kinds), self.instruction)
        return builder.call(function, values)


_KINDS = {
    types.int8: _Kind("llvm.x86.avx512.vpdpbusd.512", INTEGERS, ir.VectorType(ir.IntType(8), 4 * LANES)),
    types.uint16: _Kind("llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, ir.VectorType(BFLOAT16, 2 * LANES)),
    types.float32: _Kind("llvm.fma.v16f32", FLOATS, FLOATS, sums_first=False),
}


_FEATURES = {"float32": {"avx512f"}, "bfloat16": {"avx512f", "avx512bf16"}, "int8": {"avx512f", "avx512vnni"}}
"""What the instructions need, by LLVM's names."""


def can_multiply(precision: str) -> bool:
    """Whether numba compiles for a processor with a precision's instructions; LLVM ends the process at others."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return _FEATURES[precision] <= {feature.removeprefix("+") for feature in features.split(",")}


class _Tile:
    """Writes one tile's instructions."""

    def __init__(self, builder: Any, kinds: dict[str, Any], arrays: dict[str, Array], places: dict[str, Any]) -> None:
        self._builder, self._arrays, self._places = builder, arrays, places
        self._kind = _KINDS[kinds["weights"].dtype]
        self._is_signed = kinds["rows"].dtype == types.int8
        self._out = kinds["out"].dtype

    def write(self, rows: int, panels: int, far: bool) -> None:
        """Multiply `rows` rows with `panels` vectors of columns, finish the sums, and store them."""
        builder, columns = self._builder, range(panels)
        row, to, first, stop = (self._places[name] for name in ("row", "to", "first", "stop"))
        given = [self._arrays["rows"].address(plus(builder, row, i), self._places["column"]) for i in range(rows)]
        starts = [[self._start(plus(builder, to, i), panel) for panel in columns] for i in range(rows)]
        before, loop, after = builder.block, builder.append_basic_block("steps"), builder.append_basic_block("sums")
        builder.branch(loop)

        builder.position_at_end(loop)
        step = builder.phi(SIZE)
        step.add_incoming(first, before)
        sums = [[builder.phi(self._kind.sums) for _ in columns] for _ in range(rows)]
        at = self._arrays["weights"].address(self._places["group"], step)
        factors = [load(builder, plus(builder, at, 4 * LANES * panel), self._kind.numbers) for panel in columns]
        for i in range(rows):
            number = load(builder, builder.add(given[i], builder.mul(step, SIZE(4))), INT32)
            if self._is_signed:
                number = builder.xor(number, INT32(0x80808080))
            repeated = builder.bitcast(repeat(builder, number), self._kind.numbers)
            for panel in columns:
                sums[i][panel].add_incoming(starts[i][panel], before)
                sums[i][panel].add_incoming(self._kind.dot(builder, sums[i][panel], repeated, factors[panel]), loop)
        if far:
            self._fetch(
                builder.add(self._arrays["rows"].address(plus(builder, row, rows)), builder.mul(step, SIZE(4 * rows)))
            )
        following = builder.add(step, SIZE(1))
        step.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, stop), loop, after)

        builder.position_at_end(after)
        results = [[sums[i][panel].incomings[1][0] for panel in columns] for i in range(rows)]
        for panel in columns:
            column = plus(builder, self._places["at"], LANES * panel)
            with builder.if_then(builder.icmp_signed("<", column, self._arrays["out"].shape[1])):
                for i in range(rows):
                    value = self._finish(results[i][panel], plus(builder, row, i), column)
                    store(builder, value, self._out, self._arrays["out"].address(plus(builder, to, i), column))

    def _start(self, to: Any, panel: int) -> Any:
        """Return what sums begin with: offsets or a bias, or what the steps before left in a row of `out`."""
        integers = self._kind.sums is INTEGERS
        name = "offsets" if integers else "bias"
        if name not in self._arrays:
            return ir.Constant(self._kind.sums, None)
        column = plus(self._builder, self._places["at"], LANES * panel)
        address = self._arrays[name].address(column)
        if not integers and self._out == types.float32:
            is_first = self._builder.icmp_signed("==", self._places["first"], SIZE(0))
            address = self._builder.select(is_first, address, self._arrays["out"].address(to, column))
        return load(self._builder, address, self._kind.sums)

    def _finish(self, sums: Any, row: Any, column: Any) -> Any:
        """Turn sums of integers into what they stand for."""
        if self._kind.sums is not INTEGERS or self._out == types.int32:
            return sums
        builder, contract = self._builder, {"flags": ["contract"]}
        scale = repeat(builder, load(builder, self._arrays["row_scales"].address(row), FLOAT))
        values = builder.sitofp(sums, FLOATS)
        values = builder.fmul(values, load(builder, self._arrays["scales"].address(column), FLOATS), **contract)
        bias = load(builder, self._arrays["bias"].address(column), FLOATS)
        return builder.fadd(builder.fmul(values, scale, **contract), bias, **contract)

    def _fetch(self, address: Any) -> None:
        """Have the processor bring what lies there into its first cache; it may be anywhere, even nowhere."""
        kinds, to_read, to_keep, data = [BYTE.as_pointer(), INT32, INT32, INT32], INT32(0), INT32(3), INT32(1)
        signature = ir.FunctionType(ir.VoidType(), kinds)
        function = cgutils.get_or_insert_function(self._builder.module, signature, "llvm.prefetch.p0")
        self._builder.call(function, [self._builder.inttoptr(address, kinds[0]), to_read, to_keep, data])


def _write(panels: int, far: bool, context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Write a tile for each number of rows, and the choice among them."""
    kinds, given = dict(zip(_NAMES, signature.args, strict=True)), dict(zip(_NAMES, values, strict=True))
    if isinstance(kinds["finish"], types.BaseTuple):  # type: ignore[attr-defined]  # numba has no types
        for i, name in enumerate(("offsets", "scales", "row_scales", "bias")):
            kinds[name], given[name] = kinds["finish"][i], builder.extract_value(given["finish"], i)
    arrays = {
        name: Array(context, builder, kind, given[name])
        for name, kind in kinds.items()
        if isinstance(kind, types.Array)
    }
    tile = _Tile(builder, kinds, arrays, given)
    done = builder.append_basic_block("done")
    choice = builder.switch(given["count"], done)
    for rows in range(1, ROWS + 1):
        block = builder.append_basic_block(f"rows{rows}")
        choice.add_case(SIZE(rows), block)
        builder.position_at_end(block)
        tile.write(rows, panels, far)
        builder.branch(done)
    builder.position_at_end(done)
    return context.get_dummy_value()


_NAMES = ("rows", "row", "column", "count", "weights", "group", "first", "stop", "finish", "out", "to", "at")


def _tile_of(columns: int, *, far: bool = False) -> Any:
    @intrinsic
    def tile(
        context: Any,
        rows: Any,
        row: Any,
        column: Any,
        count: Any,
        weights: Any,
        group: Any,
        first: Any,
        stop: Any,
        finish: Any,
        out: Any,
        to: Any,
        at: Any,
    ) -> Any:
        size = types.intp
        given = (rows, size, size, size, weights, size, size, size, finish, out, size, size)
        return types.void(*given), partial(_write, columns // LANES, far)

    return tile


wide_tile, narrow_tile, far_tile = _tile_of(WIDE), _tile_of(NARROW), _tile_of(NARROW, far=True)
"""Multiply `count` rows with a group of columns, in kernels alone: 64, 32, or 32 of rows that may lie in no cache yet.

While `far_tile` works, the processor fetches as many rows that follow. There has to be a step at least.

Args:
    rows: [T, inputs] of which `count`, 1 to 6, from `row` are read, each from `column` on. bfloat16 as uint16, or
        float32, or for weights of int8 uint8; 8-bit integers with a sign are taken as 128 more.
    weights: [groups, steps, columns, numbers of a step], of which `group` is taken, and its steps `first` to `stop`.
        Where `first` is not 0, `out` is float32 and holds the sums of the steps before, and none are of integers.
    finish: None, or four arrays: [columns] int32 that sums of integers begin with, [columns] and [T] float32 that they
        are multiplied with in the end, and [columns] float32, a bias. Other sums need the bias alone.
    out: [n, columns] float32, or bfloat16 as uint16, or int32 for sums of integers as they are; filled from row `to`
        and column `at`. Of a last group that is wider than it, whole vectors of 16 columns are left out.
"""
