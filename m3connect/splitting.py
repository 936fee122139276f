"""Who judges a filter: which part the database decides, and which is read and judged here."""

from __future__ import annotations

from collections.abc import Callable

from m3connect.filters import And, Filter, HasId, Native, Not, Or, Predicate, TextContains

__all__ = ["is_exact", "is_native", "split_exact", "split_ids"]


def is_exact(condition: Filter) -> bool:
    """Say whether tokens and numbers decide the condition; substrings and predicates need the metadata itself."""
    match condition:
        case And(parts) | Or(parts):
            return all(is_exact(part) for part in parts)
        case Not(part):
            return is_exact(part)
    return not isinstance(condition, TextContains | Predicate)


def is_native(condition: Filter) -> bool:
    """Say whether all of the condition is in the database's own words."""
    match condition:
        case And(parts) | Or(parts):
            return all(is_native(part) for part in parts)
        case Not(part):
            return is_native(part)
    return isinstance(condition, Native)


def split_exact(condition: Filter, decides: Callable[[Filter], bool] = is_exact) -> tuple[Filter | None, Filter | None]:
    """Split a condition into what a database decides and what is left to read one by one.

    Args:
        condition: a filter.
        decides: says whether the database decides a condition.

    Returns:
        Two filters whose conjunction is the condition; None where a side has nothing to say.
    """
    if decides(condition):
        return condition, None
    if not isinstance(condition, And):
        return None, condition
    halves = [split_exact(part, decides) for part in condition.parts]
    exact = tuple(half for half, _ in halves if half is not None)
    rest = tuple(half for _, half in halves if half is not None)
    return (And(exact) if exact else None), And(rest)


def split_ids(condition: Filter) -> tuple[tuple[str, ...] | None, Filter]:
    """Split a condition into the ids it names and the rest.

    Returns:
        The ids that every `HasId` of a conjunction names, in order, or None where there is none; and what else holds.

    Example:
        >>> split_ids(HasId(("a", "b")) & HasId(("b", "c")))
        (('b',), And(parts=()))
    """
    parts = _conjuncts(condition)
    named = [dict.fromkeys(part.any_of) for part in parts if isinstance(part, HasId)]
    if not named:
        return None, condition
    common = tuple(name for name in named[0] if all(name in ids for ids in named[1:]))
    return common, And(tuple(part for part in parts if not isinstance(part, HasId)))


def _conjuncts(condition: Filter) -> list[Filter]:
    """Return the conditions that must all hold, those of nested `And` on one level."""
    if not isinstance(condition, And):
        return [condition]
    return [inner for part in condition.parts for inner in _conjuncts(part)]
