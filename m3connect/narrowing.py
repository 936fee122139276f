"""Filters that a database cannot decide by itself: it narrows the field, and what is left is read and judged here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from m3connect.errors import FilterTooBroadError
from m3connect.filters import Filter, matches, split_exact
from m3connect.store import check_filter

__all__ = ["MOST_READ", "narrow"]

MOST_READ = 10_000
"""How many documents are read, at most, to judge one filter."""


def narrow(
    condition: Filter | None,
    *,
    count: Callable[[Filter | None], int],
    scroll: Callable[[Filter | None], Iterable[tuple[str, Mapping[str, Any]]]],
    limit: int = MOST_READ,
) -> tuple[Filter | None, list[str] | None]:
    """Turn a filter into what a database can be asked: an exact filter and, where that does not decide, ids.

    Args:
        condition: any filter; None lets every document pass.
        count: counts the documents that pass an exact filter.
        scroll: gives id and metadata of the documents that pass an exact filter.
        limit: how many documents may be read.

    Returns:
        The part of the condition that tokens and numbers decide (None where there is none), and the ids of the
        documents that pass the whole condition. The ids are None where the exact part is the whole condition; an
        empty list means that nothing passes.

    Raises:
        FilterTooBroadError: the exact part leaves more than `limit` documents; nothing was read.

    Example:
        >>> from m3connect.filters import field
        >>> rows = {"a": {"title": "red sea"}, "b": {"title": "blue sky"}}
        >>> narrow(field("title").text_contains("sea"), count=lambda _: 2, scroll=lambda _: rows.items())
        (None, ['a'])
    """
    check_filter(condition)
    if condition is None:
        return None, None
    exact, rest = split_exact(condition)
    if rest is None:
        return exact, None
    left = count(exact)
    if left > limit:
        raise FilterTooBroadError(
            f"the filter looks for a substring, which the database cannot do, and its other conditions leave {left} "
            f"documents to read, more than {limit}: combine it (&) with conditions that leave fewer"
        )
    return exact, [name for name, metadata in scroll(exact) if matches(rest, metadata)]
