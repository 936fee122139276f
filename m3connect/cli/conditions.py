"""Filters as they are written on the command line, `lang=de`, `year>=1990`, and fields to filter by, `year:number`."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Sequence
from typing import Any

from m3connect.filters import And, FieldKind, Filter, field

__all__ = ["FORMS", "parse_fields", "parse_filter", "parse_filters"]

FORMS = "key=value, key!=value, key>number, key>=number, key<number, key<=number, key~text"

_CONDITION = re.compile(r"(?P<key>[^=!<>~]+)(?P<sign>!=|>=|<=|=|>|<|~)(?P<value>.*)", re.DOTALL)
_ORDER = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def parse_filter(text: str) -> Filter:
    """Read one condition.

    `=` finds a value or a list that has it as a member, and `!=` is its exact negation. What reads as a number, true
    or false finds that as well as the string; double quotes around the value leave the string alone. `~` is a
    substring in upper or lower case.

    Raises:
        ValueError: it has none of the known forms, or order is asked of something that is no number.

    Example:
        >>> from m3connect.filters import matches
        >>> matches(parse_filter("lang=de"), {"lang": "de"}), matches(parse_filter("year>=1990"), {"year": 1989})
        (True, False)
    """
    parts = _CONDITION.fullmatch(text)
    if not parts:
        raise ValueError(f"{text!r} is no filter: expected one of {FORMS}")
    key, sign, value = field(parts["key"].strip()), parts["sign"], parts["value"].strip()
    if sign in _ORDER:
        ordered: Filter = _ORDER[sign](key, _number(value, text))
        return ordered
    if sign == "~":
        return key.text_contains(_unquote(value), case=False)
    readings = _readings(value)
    found = key.in_(readings) | key.contains_any(readings)
    return ~found if sign == "!=" else found


def parse_filters(texts: Sequence[str]) -> Filter | None:
    """Read conditions that must all hold; None where there are none."""
    conditions = tuple(map(parse_filter, texts))
    return And(conditions) if len(conditions) > 1 else next(iter(conditions), None)


def parse_fields(texts: Sequence[str]) -> dict[str, FieldKind]:
    """Read declared filter fields: `lang`, `lang:str` or `year:number`.

    Raises:
        ValueError: a type is unknown, a name cannot be one, or one is declared twice.

    Example:
        >>> parse_fields(["lang", "year:number"])
        {'lang': 'str', 'year': 'number'}
    """
    kinds: dict[str, FieldKind] = {}
    for text in texts:
        name, _, kind = text.rpartition(":") if ":" in text else (text, "", "str")
        if not name or kind not in ("number", "str"):
            raise ValueError(f"{text!r} declares no field: expected NAME, NAME:str or NAME:number")
        if name in kinds:
            raise ValueError(f"{name!r} is declared twice")
        kinds[field(name).key] = "number" if kind == "number" else "str"
    return kinds


def _readings(value: str) -> list[Any]:
    """Return the values that a text on the command line may mean."""
    parsed = _parse(value)
    if isinstance(parsed, str):
        return [parsed]
    return [value, parsed] if isinstance(parsed, bool | int | float) else [value]


def _unquote(value: str) -> str:
    parsed = _parse(value)
    return parsed if isinstance(parsed, str) else value


def _number(value: str, text: str) -> float:
    parsed = _parse(value)
    if isinstance(parsed, bool) or not isinstance(parsed, int | float):
        raise ValueError(f"{text!r}: order is for numbers alone, and {value!r} is none")
    return parsed


def _parse(value: str) -> object:
    try:
        return json.loads(value, parse_constant=lambda _: None)
    except ValueError:
        return None
