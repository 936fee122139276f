"""Filter expressions as Milvus writes them, and string literals that stay inside their quotes.

Only what means the same on a server and on Lite is used: membership in the array `filter_tokens`, order on numbers in
the JSON field `filter_numbers`, both also in declared columns, and `id in [...]`. A comparison with a missing JSON key
or with null is unknown in Milvus, and so is its negation; therefore negations are pushed down to the leaves and spelled
out there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from m3connect.filters import And, Filter, HasToken, Native, Not, NumberRange, Or, number_name
from m3connect_milvus.columns import TENANT, Columns

__all__ = ["EVERYTHING", "NOTHING", "both", "literal", "one_of", "to_expression"]

EVERYTHING = 'id != ""'
"""True for every row, as an id is never empty; Milvus has no constants."""

NOTHING = 'id == ""'

_DEEPEST = 64
"""Levels of brackets; Lite's parser spends eight Python frames on each, of the thousand there are."""

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_OPPOSITES = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def literal(text: str) -> str:
    r"""Quote a string for an expression.

    These five escapes are the ones that server and Lite share; every other character may stand as it is. `json.dumps`
    would write control characters as `\u0001`, which Lite refuses.

    Example:
        >>> print(literal('say "a"'))
        "say \"a\""
    """
    return f'"{text.translate(_ESCAPES)}"'


def one_of(ids: Iterable[str]) -> str:
    """Say that the id is one of these; no ids match nothing.

    Example:
        >>> one_of(["a", "b"])
        'id in ["a", "b"]'
    """
    quoted = ", ".join(literal(name) for name in ids)
    return f"id in [{quoted}]" if quoted else NOTHING


def both(left: str, right: str) -> str:
    """Join two expressions; an empty one says nothing.

    Example:
        >>> both("", "id > 'a'"), both("a or b", "c")
        ("id > 'a'", '(a or b) and (c)')
    """
    return f"({left}) and ({right})" if left and right else left or right


def to_expression(condition: Filter | None, columns: Columns | None = None) -> str:
    """Write a filter that tokens and numbers decide (`m3connect.splitting.is_exact`) as an expression.

    Args:
        condition: the filter.
        columns: the declared columns of the collection, which are asked where they can tell.

    Returns:
        The expression; empty for None.

    Raises:
        ValueError: something else than such a filter came, or its brackets are too deep for Milvus.

    Example:
        >>> from m3connect.filters import field
        >>> to_expression((field("year") >= 1990) & (field("year") < 2000))
        '(filter_numbers["n_year"] >= 1990.0 and filter_numbers["n_year"] < 2000.0)'
        >>> to_expression(field("year") >= 1990, Columns({"year": "number"}))
        'n_year >= 1990.0'
    """
    return "" if condition is None else _Writer(columns or Columns()).write(condition, False, 0)


@dataclass(frozen=True, slots=True)
class _Writer:
    columns: Columns

    def write(self, condition: Filter, negated: bool, depth: int) -> str:
        match condition:
            case HasToken(any_of):
                return self._has_token(any_of, negated)
            case NumberRange():
                return self._number_range(condition, negated)
            case Not(part):
                return self.write(part, not negated, depth)
            case And() | Or():
                return self._connect(condition, negated, depth + 1)
            case Native(native):
                return _own(native, negated)
        raise ValueError(f"Milvus can be asked for tokens and numbers, not for {condition!r}")

    def _has_token(self, any_of: tuple[str, ...], negated: bool) -> str:
        """Ask columns for the tokens they know, and `filter_tokens` for the others."""
        known: dict[str, list[str | float]] = {}
        others: list[str] = []
        for token in any_of:
            place = self.columns.place(token)
            if place is None:
                others.append(token)
            else:
                known.setdefault(place[0], []).append(place[1])
        parts = [_in_column(name, values, negated) for name, values in known.items()]
        if others:
            quoted = ", ".join(literal(token) for token in others)
            expression = f"array_contains_any(filter_tokens, [{quoted}])"
            parts.append(f"not ({expression})" if negated else expression)
        return _join(parts, conjunction=negated)

    def _number_range(self, condition: NumberRange, negated: bool) -> str:
        bound = repr(float(condition.bound))
        column = self.columns.range_of(condition.key)
        name = column or f'filter_numbers["{number_name(condition.key)}"]'
        if not negated:
            return f"{name} {condition.op} {bound}"
        missing = f"{name} is null" if column else f"not (exists {name})"
        return f"({missing} or {name} {_OPPOSITES[condition.op]} {bound})"

    def _connect(self, condition: And | Or, negated: bool, depth: int) -> str:
        """Join parts, those of nested `And` in `And` (or `Or` in `Or`) on one level."""
        if depth > _DEEPEST:
            raise ValueError(f"the filter alternates & and | more than {_DEEPEST} levels deep: write it flatter")
        conjunction = isinstance(condition, And) != negated
        waiting: list[tuple[Filter, bool]] = [(condition, negated)]
        parts: list[str] = []
        while waiting:
            part, inverted = waiting.pop()
            while isinstance(part, Not):
                part, inverted = part.part, not inverted
            if isinstance(part, And | Or) and (isinstance(part, And) != inverted) == conjunction:
                waiting += [(member, inverted) for member in reversed(part.parts)]
            else:
                parts.append(self.write(part, inverted, depth))
        return _join(parts, conjunction=conjunction)


def _own(native: object, negated: bool) -> str:
    if not isinstance(native, str) or not native.strip():
        raise ValueError(
            f"Milvus' own condition is an expression, but got {native!r}: write one, or m3connect.filters.field(...)"
        )
    if negated:  # what is unknown to Milvus, as a missing key is, would be so after a `not` too
        raise ValueError(f"an expression of Milvus cannot be negated from outside: write the negation in it: {native}")
    return f"({native})"


def _in_column(name: str, values: list[str | float], negated: bool) -> str:
    """One value is compared with `==`, which partition isolation asks for."""
    written = [literal(value) if isinstance(value, str) else repr(value) for value in values]
    if not negated:
        return f"{name} == {written[0]}" if len(written) == 1 else f"{name} in [{', '.join(written)}]"
    differs = f"{name} not in [{', '.join(written)}]"
    return differs if name == TENANT else f"({name} is null or {differs})"


def _join(parts: list[str], *, conjunction: bool) -> str:
    if not parts:
        return EVERYTHING if conjunction else NOTHING
    joined = (" and " if conjunction else " or ").join(parts)
    return f"({joined})" if len(parts) > 1 else joined
