"""Filter expressions as Edge filters: equality on tokens, order on numbers, the rest as ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_edge import FieldCondition, HasIdCondition, IsEmptyCondition, MatchAny, RangeFloat
from qdrant_edge import Filter as EdgeFilter

from m3connect import points
from m3connect.filters import Filter, HasToken, Native, NumberRange, number_name
from m3connect.points import Clause, Leaf
from m3connect.store import Selection
from m3connect_edge.convert import FILTER_NUMBERS, FILTER_TOKENS, point_id
from m3connect_edge.exact import HIGH, LOW, halves

__all__ = ["foreign_points", "has_ids", "number_fields", "render", "to_filter"]


def to_filter(selection: Selection) -> EdgeFilter | None:
    """Render a selection; None lets every point pass."""
    if selection.ids is not None:
        return has_ids(selection.ids)
    return None if selection.exact is None else render(selection.exact)


def has_ids(ids: Sequence[str]) -> EdgeFilter:
    """Pass exactly the documents with these ids; no ids pass nothing."""
    return EdgeFilter(must=[HasIdCondition({point_id(name) for name in ids})])


def number_fields(key: str) -> list[str]:
    """Return the payload fields that hold what a metadata key has to order by."""
    name = number_name(key)
    return [f"{FILTER_NUMBERS}.{prefix}{name}" for prefix in ("", HIGH, LOW)]


def render(condition: Filter) -> EdgeFilter:
    """Render an exact condition (`m3connect.splitting.is_exact`).

    Raises:
        ValueError: it is no filter, or one that only the metadata itself can decide.

    Example:
        >>> from m3connect.filters import field
        >>> render(field("year") > 1990).should[0].key
        'filter_numbers.n_year'
    """
    return points.render(condition, leaf=_leaf, join=_join, nothing=lambda: has_ids([]))


def _join(clause: Clause, parts: list[EdgeFilter]) -> EdgeFilter:
    clauses: dict[str, Any] = {clause: parts}
    return EdgeFilter(**clauses)


def _leaf(condition: Leaf) -> EdgeFilter:
    match condition:
        case HasToken(any_of):
            return _must(FieldCondition(FILTER_TOKENS, match=MatchAny(list(any_of))))
        case NumberRange(key, op, bound):
            return _ordered(key, op, float(bound))
        case Native(native):
            return _own(native)


def _own(native: object) -> EdgeFilter:
    if not isinstance(native, EdgeFilter):
        raise ValueError(
            f"Edge's own condition is a qdrant_edge.Filter, but got {type(native).__name__}: wrap it in one, or write "
            "it with m3connect.filters.field(...)"
        )
    return native


def foreign_points() -> EdgeFilter:
    """Pass the points that lack what every point of ours has."""
    return EdgeFilter(should=[IsEmptyCondition(key) for key in ("id", "text", "fingerprint")])


def _must(*conditions: FieldCondition) -> EdgeFilter:
    return EdgeFilter(must=list(conditions))


def _ordered(key: str, op: str, bound: float) -> EdgeFilter:
    """Compare a number, or its halves: the high ones differ, or they are equal and the low ones decide."""
    (field, high_field, low_field), (high, low) = number_fields(key), halves(bound)
    strict = op[0]
    return EdgeFilter(
        should=[
            FieldCondition(field, range=_range(op, bound)),
            FieldCondition(high_field, range=_range(strict, high)),
            _must(
                FieldCondition(high_field, range=RangeFloat(gte=high, lte=high)),
                FieldCondition(low_field, range=_range(op, low)),
            ),
        ]
    )


def _range(op: str, bound: float) -> RangeFloat:
    match op:
        case "<":
            return RangeFloat(lt=bound)
        case "<=":
            return RangeFloat(lte=bound)
        case ">":
            return RangeFloat(gt=bound)
    return RangeFloat(gte=bound)
