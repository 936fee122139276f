"""Filter expressions as Qdrant filters: equality on tokens, order on numbers, the rest as ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from qdrant_client import models

from m3connect import points
from m3connect.filters import Filter, HasToken, Native, NumberRange, number_name
from m3connect.points import Clause, Leaf
from m3connect.store import Selection
from m3connect_qdrant.convert import FILTER_NUMBERS, FILTER_TENANT, FILTER_TOKENS, point_id

__all__ = ["has_ids", "render", "to_filter"]

_BOUND_NAMES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def to_filter(selection: Selection, tenant_field: str | None = None) -> models.Filter | None:
    """Render a selection; None lets every point pass."""
    if selection.ids is not None:
        return has_ids(selection.ids)
    return None if selection.exact is None else render(selection.exact, tenant_field)


def has_ids(ids: Sequence[str]) -> models.Filter:
    """Pass exactly the documents with these ids; no ids pass nothing."""
    return models.Filter(must=[models.HasIdCondition(has_id=[point_id(name) for name in ids])])


def render(condition: Filter, tenant_field: str | None = None) -> models.Filter:
    """Render an exact condition (`m3connect.splitting.is_exact`).

    Args:
        condition: a filter.
        tenant_field: the metadata key whose values have an index of their own.

    Raises:
        ValueError: it is no filter, or one that only the metadata itself can decide.

    Example:
        >>> from m3connect.filters import field
        >>> render(field("year") > 1990).must[0].key
        'filter_numbers.n_year'
    """
    return points.render(
        condition,
        leaf=partial(_leaf, tenant_field),
        join=_join,
        nothing=lambda: has_ids([]),
    )


def _join(clause: Clause, parts: list[models.Filter]) -> models.Filter:
    return models.Filter.model_validate({clause: parts})


def _leaf(tenant_field: str | None, condition: Leaf) -> models.Filter:
    match condition:
        case HasToken(any_of):
            return _has_token(any_of, tenant_field)
        case NumberRange(key, op, bound):
            limits = models.Range.model_validate({_BOUND_NAMES[op]: float(bound)})
            return models.Filter(must=[models.FieldCondition(key=f"{FILTER_NUMBERS}.{number_name(key)}", range=limits)])
        case Native(native):
            return _own(native)


def _own(native: object) -> models.Filter:
    if not isinstance(native, models.Filter):
        raise ValueError(
            f"Qdrant's own condition is a qdrant_client.models.Filter, but got {type(native).__name__}: wrap it in "
            "one, or write it with m3connect.filters.field(...)"
        )
    return native


def _has_token(any_of: Sequence[str], tenant_field: str | None) -> models.Filter:
    # A token too long to be spelled out does not tell its key; it is among the other tokens too.
    of_tenant = tenant_field is not None and all(token.startswith(f"={json.dumps(tenant_field)}:") for token in any_of)
    key = FILTER_TENANT if of_tenant else FILTER_TOKENS
    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchAny(any=list(any_of)))])
