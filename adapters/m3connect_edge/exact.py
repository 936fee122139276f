"""Numbers that are ordered to the last bit.

Qdrant reads about a tenth of all floats with 16 or 17 digits as their neighbour (m3connect/points.py). Such numbers are
ordered by two whole numbers, which survive.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from m3connect.points import survives

__all__ = ["HIGH", "LOW", "halves", "order_fields"]

HIGH, LOW = "hi_", "lo_"
"""Before a number's name, the fields of its halves; the names themselves begin otherwise."""


def order_fields(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return what each number (`m3connect.filters.numbers`) is ordered by: itself, or its halves if it is not exact."""
    fields: dict[str, float] = {}
    for name, value in numbers.items():
        if value.is_integer() and abs(value) < 2**53:
            fields[name] = int(value)
        elif survives(value):
            fields[name] = value
        else:
            fields[HIGH + name], fields[LOW + name] = halves(value)
    return fields


def halves(value: float) -> tuple[int, int]:
    """Return two whole numbers below 2**32 in size that, compared one after the other, order as the floats do.

    They are the halves of the float's 64 bits, which order like whole numbers but for the sign.

    Example:
        >>> halves(-1.5) < halves(-1e-300) < halves(0.0) == halves(-0.0) < halves(1e300)
        True
    """
    (bits,) = struct.unpack(">q", struct.pack(">d", value))
    key = bits if bits >= 0 else -(bits & (2**63 - 1))
    return key >> 32, key & (2**32 - 1)
