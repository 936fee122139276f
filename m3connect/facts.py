"""What filters can ask of metadata, as plain strings and numbers that every database compares alike.

What databases compare differs (does 1 equal true? does a list equal one of its members?), so a store keeps two derived
fields beside the metadata. `tokens` turns every fact that equality can ask for into one string, and `numbers` holds
what can be ordered under names that need no quoting. Equality and membership are then a plain string match, whatever
the key or value contains.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeGuard

__all__ = [
    "Value",
    "is_number",
    "is_value",
    "list_token",
    "member_token",
    "number_name",
    "numbers",
    "presence_token",
    "scalar_token",
    "tokens",
]

Value: TypeAlias = str | bool | int | float
"""What a filter compares with: a string, a bool, an int below 2**53 in size, or a finite float."""

_LARGEST_INT = 2**53
_LONGEST_TOKEN = 96

_quoted = json.JSONEncoder().encode
"""`json.dumps` of a string without its detours: every document goes through here."""


def tokens(metadata: Mapping[str, Any]) -> list[str]:
    """List every fact about metadata that equality, membership and emptiness can ask for, as strings.

    Returns:
        Sorted unique ASCII strings of at most 96 characters, longer ones replaced by a hash.

    Example:
        >>> tokens({"lang": "de", "tags": ["a"], "none": None})
        ['="lang":"de"', '?"lang"', '?"tags"', '["tags"', '~"tags":"a"']
    """
    found: set[str] = set()
    for key, value in metadata.items():
        if isinstance(value, list | tuple):
            found.add(list_token(key))
            found.update(member_token(key, member) for member in value if is_value(member))
            if value:
                found.add(presence_token(key))
        elif value is not None:
            found.add(presence_token(key))
            if is_value(value):
                found.add(scalar_token(key, value))
    return sorted(found)


def numbers(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return what can be ordered, under names that need no quoting in any filter language (`number_name`).

    Zero has no sign here: to some databases -0.0 is another member of a list than 0.0.
    """
    return {number_name(key): float(value) + 0.0 for key, value in metadata.items() if is_number(value)}


@functools.lru_cache(maxsize=1024)  # documents of a collection share their keys
def number_name(key: str) -> str:
    """Return the name under which `numbers` keeps the value of a key.

    Example:
        >>> number_name("year")
        'n_year'
        >>> number_name("a.b")[:2]
        'x_'
    """
    if re.fullmatch(r"[A-Za-z0-9_]{1,48}", key):
        return f"n_{key}"
    return "x_" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def scalar_token(key: str, value: Value) -> str:
    """Return the token of a key that holds this value itself."""
    return _token("=", f"{_quoted_key(key)}:{_literal(value)}")


def member_token(key: str, value: Value) -> str:
    """Return the token of a key that holds a list with this member."""
    return _token("~", f"{_quoted_key(key)}:{_literal(value)}")


@functools.lru_cache(maxsize=1024)
def _quoted_key(key: str) -> str:
    return _quoted(key)


@functools.lru_cache(maxsize=1024)
def list_token(key: str) -> str:
    """Return the token of a key that holds a list."""
    return _token("[", _quoted(key))


@functools.lru_cache(maxsize=1024)
def presence_token(key: str) -> str:
    """Return the token of a key that holds neither None nor an empty list."""
    return _token("?", _quoted(key))


def _token(kind: str, fact: str) -> str:
    if len(fact) >= _LONGEST_TOKEN:
        return f"{kind}#{hashlib.sha256(fact.encode()).hexdigest()}"
    return kind + fact


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not value.is_integer():
        return float.__repr__(value)
    return int.__repr__(int(value))


def is_number(value: object) -> TypeGuard[int | float]:
    """Say whether a value can be ordered; a bool is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and is_value(value)


def is_value(value: object) -> bool:
    """Say whether a value can be compared."""
    if isinstance(value, str | bool):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) < _LARGEST_INT
