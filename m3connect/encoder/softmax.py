"""Softmax of a row of scores, as LLVM's instructions.

Rows are short, and what a compiler makes of a plain loop spends most of its time before and after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from m3connect.compiling.tiles import NARROW
from m3connect.compiling.vectors import FLOATS, INT32, INTEGERS, LANES, SIZE, Array, load, plus, repeat, store

__all__ = ["softmax"]

_POWERS = {
    types.float32: (1.0, 0.69314694, 0.2402212, 0.055507131, 0.009675541, 0.001327647),
    types.uint16: (0.99992806, 0.69326097, 0.24261113, 0.055171657),
}
"""2**x from -0.5 to 0.5 as polynomials, within 3e-7 and 8e-5 of it: bfloat16 has no more digits."""

_LEAST = -100.0
"""What is smaller counts as that: 2**-100 is as good as 0, and no denormal number."""

_MASK = ir.IntType(16)
"""A bit for each lane."""

_ROUND_AS_USUAL = 4


@intrinsic
def softmax(context: Any, scores: Any, weights: Any, row: Any, length: Any, padded: Any, factor: Any) -> Any:
    """Turn a row of scores into weights, and return what they have to be divided by.

    Args:
        context: numba's own; compiled functions do not give it.
        scores: [n, t] float32.
        weights: [n, t] float32, or bfloat16 as uint16; `padded` numbers of the row are filled.
        row: which row of both.
        length: how many scores there are.
        padded: at most t, and a multiple of 32; the weights after the first `length` become as good as 0.
        factor: weights are 2**(factor * score), over the largest.
    """
    given = scores, weights, types.intp, types.intp, types.intp, types.float32
    return types.float32(*given), _write


def _write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
    scores, weights = (Array(context, builder, signature.args[i], given[i]) for i in range(2))
    return _Row(builder, scores, weights, *given[2:]).write()


class _Row:
    """Writes the instructions for one row."""

    def __init__(
        self, builder: Any, scores: Array, weights: Array, row: Any, length: Any, padded: Any, factor: Any
    ) -> None:
        self._builder, self._scores, self._weights, self._row = builder, scores, weights, row
        self._length, self._last = length, plus(builder, padded, -NARROW)
        self._factor = repeat(builder, factor)

    def write(self) -> Any:
        """Find the largest score, then weigh; each in two registers, so that they need not wait for each other."""
        builder = self._builder
        largest, total = [self._two(value) for value in (-np.inf, 0.0)]

        def compare(kept: Any, _: Any, score: Any) -> None:
            builder.store(self._larger(score, builder.load(kept)), kept)

        self._go_along(largest, compare)
        largest_of_all = self._over_lanes(largest, self._larger)

        def weigh(kept: Any, at: Any, score: Any) -> None:
            weight = self._power_of_two(builder.fmul(builder.fsub(score, largest_of_all), self._factor))
            builder.store(builder.fadd(builder.load(kept), weight), kept)
            store(builder, weight, self._weights.dtype, self._weights.address(self._row, at))

        self._go_along(total, weigh)
        return builder.extract_element(self._over_lanes(total, builder.fadd), INT32(0))

    def _two(self, number: float) -> list[Any]:
        return [cgutils.alloca_once_value(self._builder, _constant(number)) for _ in range(2)]

    def _go_along(self, kept: list[Any], use: Callable[[Any, Any, Any], None]) -> None:
        """Use all scores, by turns with one of what is kept and the other; those after the end are minus infinity."""
        builder = self._builder
        with cgutils.for_range_slice(builder, SIZE(0), self._last, SIZE(NARROW)) as (start, _):
            for i, one in enumerate(kept):
                at = plus(builder, start, LANES * i)
                use(one, at, self._score(at))
        lanes = ir.Constant(INTEGERS, list(range(LANES)))
        for i, one in enumerate(kept):
            at = plus(builder, self._last, LANES * i)
            left = repeat(builder, builder.trunc(builder.sub(self._length, at), INT32))
            score = builder.select(builder.icmp_signed("<", lanes, left), self._score(at), _constant(-np.inf))
            use(one, at, score)

    def _score(self, at: Any) -> Any:
        return load(self._builder, self._scores.address(self._row, at), FLOATS)

    def _larger(self, one: Any, other: Any) -> Any:
        """Return the larger numbers, or the others where one is no number: its weight will be none either."""
        return self._builder.select(self._builder.fcmp_ordered(">", one, other), one, other)

    def _power_of_two(self, x: Any) -> Any:
        """Return 2**x, of x at most 0."""
        builder, (*coefficients, power) = self._builder, map(_constant, _POWERS[self._weights.dtype])
        x = builder.select(builder.fcmp_ordered("<", x, _constant(_LEAST)), _constant(_LEAST), x)
        whole = self._call("llvm.rint.v16f32", x)
        rest = builder.fsub(x, whole)
        for coefficient in reversed(coefficients):
            power = self._call("llvm.fma.v16f32", power, rest, coefficient)
        return self._call(
            "llvm.x86.avx512.mask.scalef.ps.512", power, whole, power, ir.Constant(_MASK, -1), INT32(_ROUND_AS_USUAL)
        )

    def _over_lanes(self, kept: list[Any], join: Callable[[Any, Any], Any]) -> Any:
        """Join the numbers of all lanes; every lane has the result."""
        builder = self._builder
        joined = join(*map(builder.load, kept))
        for distance in (8, 4, 2, 1):
            turned = ir.Constant(INTEGERS, [(i + distance) % LANES for i in range(LANES)])
            joined = join(joined, builder.shuffle_vector(joined, joined, turned))
        return joined

    def _call(self, name: str, *values: Any) -> Any:
        signature = ir.FunctionType(FLOATS, [value.type for value in values])
        return self._builder.call(cgutils.get_or_insert_function(self._builder.module, signature, name), values)


def _constant(number: float) -> Any:
    return ir.Constant(FLOATS, [number] * LANES)
