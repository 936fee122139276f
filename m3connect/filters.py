"""Filter expressions over the metadata of documents.

    from m3connect.filters import field
    (field("lang") == "de") & field("year").between(1990, 2000)

An expression is a small frozen tree. `matches` gives its meaning, which every store follows: filters are two-valued, a
comparison with a missing key is false, and `!=` and `not_in` are the exact negations of `==` and `in_`. A bool is no
number, 1 equals 1.0, and order is for numbers alone.

How databases are made to agree on it: facts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Literal, TypeAlias

from m3connect.facts import (
    Value,
    is_number,
    is_value,
    list_token,
    member_token,
    number_name,
    numbers,
    presence_token,
    scalar_token,
    tokens,
)

__all__ = [
    "And",
    "Field",
    "FieldKind",
    "Filter",
    "FilterFields",
    "HasId",
    "HasToken",
    "Native",
    "Not",
    "NumberRange",
    "Or",
    "Predicate",
    "TextContains",
    "Value",
    "declared_fields",
    "field",
    "matches",
    "number_keys",
    "number_name",
    "numbers",
    "tokens",
]

FieldKind: TypeAlias = Literal["number", "str"]

FilterFields: TypeAlias = Mapping[str, FieldKind] | Iterable[str]
"""The metadata keys that filters ask for often, by what they hold; a list of keys means numbers."""

_DEEPEST = 64


class Filter:
    """A condition on metadata; combine with `&`, `|` and `~`."""

    __slots__ = ()

    def __and__(self, other: Filter) -> Filter:
        parts = self.parts if isinstance(self, And) else (self,)
        return And((*parts, _require_filter(other)))

    def __or__(self, other: Filter) -> Filter:
        parts = self.parts if isinstance(self, Or) else (self,)
        return Or((*parts, _require_filter(other)))

    def __invert__(self) -> Filter:
        return self.part if isinstance(self, Not) else Not(self)

    def __bool__(self) -> bool:
        raise TypeError("a filter has no truth value: combine filters with & | ~ instead of and, or, not, a < b < c")


@dataclass(frozen=True, slots=True)
class HasToken(Filter):
    """True where at least one of these tokens is among the document's `tokens`."""

    any_of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NumberRange(Filter):
    """True where the key holds a number on the right side of the bound."""

    key: str
    op: Literal["<", "<=", ">", ">="]
    bound: float


@dataclass(frozen=True, slots=True)
class TextContains(Filter):
    """True where the key holds a string that contains the text."""

    key: str
    text: str
    case: bool = True


@dataclass(frozen=True, slots=True)
class Native(Filter):
    """A condition in the database's own words, which it judges as it sees fit; only that database's store takes it.

    Metadata are under `metadata`: `models.FieldCondition(key="metadata.lang", ...)` for Qdrant, whose filter is a
    `models.Filter` (Edge: a `qdrant_edge.Filter`), and `'metadata["lang"] == "de"'` for Milvus, whose filter is text.
    In a collection that was opened with `layout=` they are wherever those who filled it put them.
    """

    condition: Any


@dataclass(frozen=True, slots=True)
class Predicate(Filter):
    """True where a function of the metadata says so: for the conditions of others that `Field` cannot say.

    No database can be asked; like a substring it is judged here, over the documents that other conditions leave.

    Example:
        >>> later = Predicate(lambda metadata: str(metadata.get("date", "")) > "2024-05")
        >>> matches(later & (field("lang") == "de"), {"date": "2024-06-01", "lang": "de"})
        True
    """

    test: Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class HasId(Filter):
    """True for the documents with these ids; stands alone or in `&`, where the others are then judged by reading."""

    any_of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class And(Filter):
    """True where every part is."""

    parts: tuple[Filter, ...]
    depth: int = dataclass_field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper(*self.parts))


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """True where some part is."""

    parts: tuple[Filter, ...]
    depth: int = dataclass_field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper(*self.parts))


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """True where the part is not."""

    part: Filter
    depth: int = dataclass_field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper(self.part))


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A metadata key that waits for its comparison; made by `field`."""

    key: str

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]  # builds an expression, like an ORM column
        return self.in_([value])

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return ~self.in_([value])

    __hash__ = None  # type: ignore[assignment]

    def in_(self, values: Iterable[Any]) -> Filter:
        """True where the key holds one of these values; no values match nothing."""
        return HasToken(tuple(scalar_token(self.key, _check_value(value)) for value in _check_list(values)))

    def not_in(self, values: Iterable[Any]) -> Filter:
        """The exact negation of `in_`: a document without the key matches."""
        return ~self.in_(values)

    def __lt__(self, bound: float) -> Filter:
        return NumberRange(self.key, "<", _check_number(bound))

    def __le__(self, bound: float) -> Filter:
        return NumberRange(self.key, "<=", _check_number(bound))

    def __gt__(self, bound: float) -> Filter:
        return NumberRange(self.key, ">", _check_number(bound))

    def __ge__(self, bound: float) -> Filter:
        return NumberRange(self.key, ">=", _check_number(bound))

    def between(self, low: float, high: float) -> Filter:
        """True where the key holds a number from low to high, both included."""
        return (self >= low) & (self <= high)

    def contains(self, value: Value) -> Filter:
        """True where the key holds a list with this member."""
        return self.contains_any([value])

    def contains_any(self, values: Iterable[Any]) -> Filter:
        """True where the key holds a list with at least one of these members."""
        return HasToken(tuple(member_token(self.key, _check_value(value)) for value in _check_list(values)))

    def contains_all(self, values: Iterable[Any]) -> Filter:
        """True where the key holds a list with all of these members; no values match every list."""
        members = tuple(self.contains(value) for value in _check_list(values))
        return And((HasToken((list_token(self.key),)), *members))

    def text_contains(self, text: str, *, case: bool = True) -> Filter:
        """True where the key holds a string with this substring; `case=False` ignores upper and lower case."""
        if not isinstance(text, str):
            raise ValueError(f"text_contains takes a string, but got {text!r}")
        return TextContains(self.key, text, case)

    def is_empty(self) -> Filter:
        """True where the key is missing, or holds None or an empty list."""
        return ~HasToken((presence_token(self.key),))


def field(key: str) -> Field:
    """Name a metadata key to compare.

    Raises:
        ValueError: the key is no string, is empty, or holds a double quote or a control character.

    Example:
        >>> matches(field("year") >= 1990, {"year": 1995})
        True
        >>> matches(field("lang") != "de", {})
        True
    """
    if not isinstance(key, str) or not key or '"' in key or any(ord(char) < 32 or ord(char) == 127 for char in key):
        raise ValueError(f"a key is a non-empty string without double quotes and control characters, not {key!r}")
    return Field(key)


def declared_fields(fields: FilterFields) -> dict[str, FieldKind]:
    """Return declared metadata keys with what they hold.

    Raises:
        ValueError: a kind is unknown, a key cannot be one, or one string came instead of a list.

    Example:
        >>> declared_fields(["year"]) == declared_fields({"year": "number"})
        True
    """
    if isinstance(fields, str):
        raise ValueError(f"filter_fields takes a list of metadata keys, or their kinds by key, but got {fields!r}")
    declared: dict[str, FieldKind] = dict(fields) if isinstance(fields, Mapping) else dict.fromkeys(fields, "number")
    for key, kind in declared.items():
        field(key)
        if kind not in ("number", "str"):
            raise ValueError(f"filter_fields[{key!r}] must be 'number' or 'str', but is {kind!r}")
    return declared


def number_keys(fields: FilterFields) -> tuple[str, ...]:
    """Return the declared metadata keys that hold numbers; errors as for `declared_fields`."""
    return tuple(key for key, kind in declared_fields(fields).items() if kind == "number")


def matches(condition: Filter, metadata: Mapping[str, Any]) -> bool:
    """Say whether a document with this metadata passes."""
    match condition:
        case HasToken(any_of):
            return not set(any_of).isdisjoint(tokens(metadata))
        case NumberRange(key, op, bound):
            value = metadata.get(key)
            return is_number(value) and _ordered(value, op, bound)
        case TextContains(key, text, case):
            value = metadata.get(key)
            return isinstance(value, str) and (text in value if case else text.casefold() in value.casefold())
        case Predicate(test):
            return bool(test(metadata))
        case And(parts):
            return all(matches(part, metadata) for part in parts)
        case Or(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)
        case Native(native):
            raise ValueError(
                f"only its own database can judge {native!r:.200}: write it with field(...) for a MemoryStore; beside "
                "conditions that are judged by reading (text_contains, Predicate, and all of field(...) where layout= "
                "was given) it stands in & alone, not in | or ~"
            )
        case HasId():
            raise ValueError("the metadata do not tell a document's id: HasId stands alone or in & with other filters")
    raise ValueError(f"expected a filter built with field(...), but got {condition!r}")


def _deeper(*parts: Filter) -> int:
    depth = 1 + max((getattr(part, "depth", 0) for part in parts), default=0)
    if depth > _DEEPEST:
        raise ValueError(f"the filter is nested more than {_DEEPEST} deep; in_() and contains_any() take long lists")
    return depth


def _ordered(value: float, op: str, bound: float) -> bool:
    return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[op]


def _check_value(value: Any) -> Value:  # noqa: ANN401  # whatever the caller wrote
    if not is_value(value):
        raise ValueError(
            f"a filter compares with a string, a bool, an int below 2**53 or a finite float, not {value!r}; "
            "for missing values there is is_empty()"
        )
    checked: Value = value
    return checked


def _check_number(bound: object) -> float:
    if not is_number(bound):
        raise ValueError(f"order is for numbers alone: expected an int below 2**53 or a finite float, got {bound!r}")
    return bound


def _check_list(values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"expected a list of values, but got {values!r}")
    return list(values)


def _require_filter(other: object) -> Filter:
    if not isinstance(other, Filter):
        raise ValueError(f"expected a filter built with field(...), but got {other!r}")
    return other
