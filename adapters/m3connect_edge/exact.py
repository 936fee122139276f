"""Numbers that come back as they went in.

Qdrant keeps payloads as JSON, and its parser is one rounding short of exact: about a tenth of all floats with 16 or 17
digits come back as their neighbour (qdrant-edge-py 0.9; the server shares the code). Such metadata is kept a second
time as text, and such numbers are ordered by two whole numbers, which survive.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from m3connect import filters

__all__ = ["HIGH", "LOW", "exact_text", "halves", "order_fields", "survives"]

HIGH, LOW = "hi_", "lo_"
"""Before a number's name, the fields of its halves; the names themselves begin otherwise."""

_EXACT_DIGITS = 2**53 // 10
_EXACT_POWER = 21


def survives(value: float) -> bool:
    """Say whether a float is read back as it was: few enough digits, and a power of ten that is exact itself.

    Example:
        >>> survives(0.5), survives(0.9452706955539223)
        (True, False)
    """
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    return int(whole + fraction) < _EXACT_DIGITS and abs(int(power or 0) - len(fraction)) <= _EXACT_POWER


def exact_text(metadata: Mapping[str, Any]) -> str | None:
    """Return metadata as JSON text where the payload alone would change it."""
    return None if _survives(metadata) else json.dumps(metadata)


def order_fields(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return what numbers are ordered by: itself, or its halves where it would not survive."""
    fields: dict[str, float] = {}
    for name, value in filters.numbers(metadata).items():
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


def _survives(value: object) -> bool:
    if isinstance(value, float):
        return survives(value)
    if isinstance(value, Mapping):
        return all(map(_survives, value.values()))
    return not isinstance(value, list) or all(map(_survives, value))
