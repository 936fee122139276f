"""Filter expressions as Milvus writes them, and string literals that stay inside their quotes.

Only what means the same on a server and on Lite is used: membership in the array `filter_tokens`, order on numbers in
the JSON field `filter_numbers`, and `id in [...]`. A comparison with a missing JSON key is unknown in Milvus, and so is
its negation; therefore negations are pushed down to the leaves and spelled out there.
"""

from __future__ import annotations

from collections.abc import Iterable

from m3connect.filters import And, Filter, HasToken, Not, NumberRange, Or, number_name

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


def to_expression(condition: Filter | None) -> str:
    """Write a filter that tokens and numbers decide (`m3connect.filters.is_exact`) as an expression.

    Returns:
        The expression; empty for None.

    Raises:
        ValueError: something else than such a filter came, or its brackets are too deep for Milvus.

    Example:
        >>> from m3connect.filters import field
        >>> to_expression((field("year") >= 1990) & (field("year") < 2000))
        '(filter_numbers["n_year"] >= 1990.0 and filter_numbers["n_year"] < 2000.0)'
    """
    return "" if condition is None else _render(condition, False, 0)


def _render(condition: Filter, negated: bool, depth: int) -> str:
    match condition:
        case HasToken(any_of):
            return _has_token(any_of, negated)
        case NumberRange():
            return _number_range(condition, negated)
        case Not(part):
            return _render(part, not negated, depth)
        case And() | Or():
            return _connect(condition, negated, depth + 1)
    raise ValueError(f"Milvus can be asked for tokens and numbers, not for {condition!r}")


def _has_token(any_of: tuple[str, ...], negated: bool) -> str:
    if not any_of:
        return EVERYTHING if negated else NOTHING
    quoted = ", ".join(literal(token) for token in any_of)
    expression = f"array_contains_any(filter_tokens, [{quoted}])"
    return f"not ({expression})" if negated else expression


def _number_range(condition: NumberRange, negated: bool) -> str:
    name = f'filter_numbers["{number_name(condition.key)}"]'
    if not negated:
        return f"{name} {condition.op} {float(condition.bound)!r}"
    return f"(not (exists {name}) or {name} {_OPPOSITES[condition.op]} {float(condition.bound)!r})"


def _connect(condition: And | Or, negated: bool, depth: int) -> str:
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
            parts.append(_render(part, inverted, depth))
    if not parts:
        return EVERYTHING if conjunction else NOTHING
    joined = (" and " if conjunction else " or ").join(parts)
    return f"({joined})" if len(parts) > 1 else joined
