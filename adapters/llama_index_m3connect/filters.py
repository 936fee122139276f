"""LlamaIndex's metadata filters as filters of m3connect, with LlamaIndex's own meaning.

The meaning is that of `llama_index.core.vector_stores.utils.build_metadata_filter_fn`. What tokens and numbers decide
is asked of the database. The rest (order of strings, equality of lists, upper and lower case) is judged by that very
function over the documents that the other conditions leave, at most `m3connect.flows.MOST_READ`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llama_index_m3connect.nodes import REF_DOC_ID
from m3connect.filters import And, Field, Filter, Or, Predicate, field
from m3connect.flows import Call, Flow

__all__ = ["check_kind", "to_filter"]

_LISTS = {FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL}
_ORDERS = {FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE}
_TEXTS = {FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE}

_SOURCE_NAMES = {"ref_doc_id", "doc_id", "document_id"}

_EVERYTHING = And(())
_NOTHING = Or(())


def to_filter(filters: MetadataFilters | Filter | None) -> Flow[Filter | None]:
    """Translate filters; a filter of m3connect is passed through.

    CONTAINS, ANY and ALL look into lists and into strings. Lists are the database's work, strings ours, so the flow
    counts first whether there is any document with a string under that key, and leaves the strings out where not.

    Yields:
        `Call("count", {"filter": ...})`.

    Raises:
        ValueError: a filter for which LlamaIndex itself has no answer, such as IN without a list.
    """
    filters = check_kind(filters)
    if filters is None or isinstance(filters, Filter):
        return filters
    return (yield from _group(filters)) if filters.filters else None


def check_kind(filters: object) -> MetadataFilters | Filter | None:
    """Return filters of either kind.

    Raises:
        ValueError: they are something else.
    """
    if filters is None or isinstance(filters, MetadataFilters | Filter):
        return filters
    raise ValueError(f"expected MetadataFilters, or a filter of m3connect.filters, but got {filters!r}")


def _group(filters: MetadataFilters) -> Flow[Filter]:
    parts: list[Filter] = []
    for part in filters.filters:
        parts.append((yield from (_group(part) if isinstance(part, MetadataFilters) else _leaf(part))))
    if not parts:
        return _EVERYTHING
    if filters.condition == FilterCondition.OR:
        return _any(parts)
    if filters.condition == FilterCondition.NOT:
        return ~_any(parts)
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _leaf(leaf: MetadataFilter) -> Flow[Filter]:
    """Translate one condition; on a name that LlamaIndex's stores have for the source, metadata of that name first."""
    if leaf.key not in _SOURCE_NAMES:
        return (yield from _comparison(leaf))
    absent = field(leaf.key).is_empty()
    of_metadata = yield from _comparison(leaf)
    of_source = yield from _comparison(leaf.model_copy(update={"key": REF_DOC_ID}))
    return (~absent & of_metadata) | (absent & of_source)


def _comparison(leaf: MetadataFilter) -> Flow[Filter]:
    _check(leaf)
    if not _can_name(leaf.key):
        return _judged(leaf)
    key, operator = field(leaf.key), leaf.operator
    if operator in (FilterOperator.NE, FilterOperator.NIN):
        positive = FilterOperator.EQ if operator == FilterOperator.NE else FilterOperator.IN
        return ~(yield from _comparison(leaf.model_copy(update={"operator": positive})))
    if operator == FilterOperator.IS_EMPTY:
        return key.is_empty() | (key == "")
    if operator in _ORDERS:
        return _ordered(key, leaf)
    if operator in (FilterOperator.EQ, FilterOperator.IN):
        return _equal(key, leaf)
    if operator == FilterOperator.TEXT_MATCH:
        return key.text_contains(str(leaf.value))
    if operator == FilterOperator.TEXT_MATCH_INSENSITIVE:
        return _judged(leaf)
    return (yield from _contained(key, leaf))


def _check(leaf: MetadataFilter) -> None:
    """Refuse what LlamaIndex's own function fails on for every document that has the key."""
    operator, value = leaf.operator, leaf.value
    wanted = None
    if operator in _LISTS and not isinstance(value, list | str):
        wanted = "a list"
    elif operator in _TEXTS and not isinstance(value, str):
        wanted = "a string"
    elif operator in _ORDERS and value is None:
        wanted = "a number or a string"
    if wanted:
        raise ValueError(f"the filter {operator.name} on {leaf.key!r} needs {wanted}, but its value is {value!r}")


def _equal(key: Field, leaf: MetadataFilter) -> Filter:
    values: Any = leaf.value if leaf.operator == FilterOperator.IN else [leaf.value]
    if values == [None]:
        return _NOTHING
    if not isinstance(values, list) or not all(_is_plain(value) for value in values):
        return _judged(leaf)
    return key.in_(_equals(*values))


def _ordered(key: Field, leaf: MetadataFilter) -> Filter:
    bound, operator = leaf.value, leaf.operator
    if isinstance(bound, str | list) or bound is None or not _is_plain(bound):
        return _judged(leaf)
    compared = {
        FilterOperator.GT: key > bound,
        FilterOperator.GTE: key >= bound,
        FilterOperator.LT: key < bound,
        FilterOperator.LTE: key <= bound,
    }
    satisfied = [flag for flag in (False, True) if _judge(leaf, {leaf.key: flag})]  # in Python a bool is a number
    return compared[operator] | key.in_(satisfied) if satisfied else compared[operator]


def _contained(key: Field, leaf: MetadataFilter) -> Flow[Filter]:
    """Membership in a list, or, where documents hold strings under this key, a substring too."""
    values: Any = leaf.value if leaf.operator in _LISTS else [leaf.value]
    if not isinstance(values, list) or not all(_is_plain(value) for value in values):
        return _judged(leaf)
    members = [key.contains_any(_equals(value)) for value in values]
    if leaf.operator == FilterOperator.ALL:
        in_list = And((key.contains_all([]), *members)) if values else key.contains_all([]) | ~key.is_empty()
    else:
        in_list = _any(members)
    if not any(isinstance(value, str) for value in values):
        return in_list
    no_list = ~key.is_empty() & ~key.contains_all([])
    others: int = yield Call("count", {"filter": no_list})
    return in_list | (no_list & _judged(leaf)) if others else in_list


def _judged(leaf: MetadataFilter) -> Filter:
    return Predicate(lambda metadata: _judge(leaf, metadata))


def _judge(leaf: MetadataFilter, metadata: Mapping[str, Any]) -> bool:
    """Ask LlamaIndex; where it cannot compare the two kinds of value, a comparison is false."""
    try:
        return bool(build_metadata_filter_fn(lambda _: metadata, MetadataFilters(filters=[leaf]))(""))
    except TypeError:
        return leaf.operator in (FilterOperator.NE, FilterOperator.NIN)


def _any(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else Or(tuple(parts))


def _equals(*values: str | int | float) -> list[str | int | float]:
    """Return values with what Python counts as equal to them: 1 is True, and LlamaIndex's filters hold no bools."""
    flags = [flag for flag in (False, True) if any(value == flag for value in values)]
    return [*values, *flags]


def _is_plain(value: object) -> bool:
    """Say whether tokens and numbers can hold it: a string, or a number below 2^53."""
    return isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53)


def _can_name(key: str) -> bool:
    try:
        field(key)
    except ValueError:
        return False
    return True
