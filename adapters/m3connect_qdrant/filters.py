"""Filter expressions as Qdrant filters: equality on tokens, order on numbers, the rest as ids."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from m3connect.filters import And, Filter, HasToken, Not, NumberRange, Or, number_name
from m3connect_qdrant.convert import FILTER_NUMBERS, FILTER_TOKENS, point_id

__all__ = ["has_ids", "render", "to_filter"]

_BOUND_NAMES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def to_filter(exact: Filter | None, ids: Sequence[str] | None) -> models.Filter | None:
    """Render what `m3connect.narrowing.narrow` returns; None lets every point pass."""
    if ids is not None:
        return has_ids(ids)
    return None if exact is None else render(exact)


def has_ids(ids: Sequence[str]) -> models.Filter:
    """Pass exactly the documents with these ids; no ids pass nothing."""
    return models.Filter(must=[models.HasIdCondition(has_id=[point_id(name) for name in ids])])


def render(condition: Filter) -> models.Filter:
    """Render an exact condition (`m3connect.filters.is_exact`).

    Raises:
        ValueError: it is no filter, or one that only the metadata itself can decide.

    Example:
        >>> from m3connect.filters import field
        >>> render(field("year") > 1990).must[0].key
        'filter_numbers.n_year'
    """
    match condition:
        case HasToken(any_of):
            return _has_token(any_of)
        case NumberRange(key, op, bound):
            limits = models.Range.model_validate({_BOUND_NAMES[op]: float(bound)})
            return models.Filter(must=[models.FieldCondition(key=f"{FILTER_NUMBERS}.{number_name(key)}", range=limits)])
        case And(parts):
            return models.Filter(must=[render(part) for part in parts])
        case Or(parts):
            # Qdrant reads an empty `should` as no condition at all.
            return models.Filter(should=[render(part) for part in parts]) if parts else has_ids([])
        case Not(part):
            return models.Filter(must_not=[render(part)])
    raise ValueError(f"expected a filter built with field(...) that tokens and numbers decide, but got {condition!r}")


def _has_token(any_of: Sequence[str]) -> models.Filter:
    if not any_of:
        return has_ids([])
    return models.Filter(must=[models.FieldCondition(key=FILTER_TOKENS, match=models.MatchAny(any=list(any_of)))])
