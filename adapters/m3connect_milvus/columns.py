"""Scalar columns that a caller declares: metadata keys that filters ask for often, and the tenant of a document.

They say nothing that `filter_tokens` and `filter_numbers` do not say too; a filter on them is only faster: a typed
column has an index of its own, and the tenant's column decides in which partition a document lies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from m3connect import filters
from m3connect.store import Document

__all__ = ["TENANT", "Columns", "Kind"]

Kind: TypeAlias = filters.FieldKind

TENANT = "tenant"
"""The name of the column that is the partition key."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The declared columns of a collection.

    Raises:
        ValueError: a kind is unknown, or a key is declared twice.
    """

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """By metadata key: a column of its numbers, or of its strings."""

    tenant: str | None = None
    """The metadata key that holds the tenant; every document must have it."""

    def __post_init__(self) -> None:
        filters.declared_fields(self.kinds)
        if self.tenant is not None:
            filters.field(self.tenant)
        names = [self.name(key) for key in self.keys]
        if len(set(names)) != len(names) or self.tenant in self.kinds:
            raise ValueError(f"filter_fields and tenant_field must be different keys, but are {self.keys}")

    @property
    def keys(self) -> list[str]:
        """All declared metadata keys."""
        return [*self.kinds, *([] if self.tenant is None else [self.tenant])]

    def name(self, key: str) -> str:
        """Return the column of a declared key."""
        if key == self.tenant:
            return TENANT
        return filters.number_name(key) if self.kinds[key] == "number" else "s" + filters.number_name(key)[1:]

    def values(self, metadata: Mapping[str, Any]) -> dict[str, float | str | None]:
        """Return what the columns hold for a document."""
        found: dict[str, float | str | None] = {}
        if not self.keys:
            return found
        numbers, facts = filters.numbers(metadata), set(filters.tokens(metadata))
        for key in self.keys:
            if self.kinds.get(key) == "number":
                found[self.name(key)] = numbers.get(filters.number_name(key))
            else:
                text = metadata.get(key)
                known = isinstance(text, str) and _fact(key, text) in facts
                found[self.name(key)] = text if known else None
        return found

    def problem(self, document: Document) -> str | None:
        """Say what is wrong with a document's tenant, or None."""
        if self.tenant is None:
            return None
        value = document.metadata.get(self.tenant)
        if not isinstance(value, str) or not value:
            return f"metadata[{self.tenant!r}] is the tenant and must be a non-empty string, but is {value!r}"
        if self.values(document.metadata)[TENANT] is None:
            return f"metadata[{self.tenant!r}] is the tenant, but too long: keep it below 80 ASCII characters"
        return None

    def place(self, token: str) -> tuple[str, str | float] | None:
        """Find the column and the value in it that say the same as a token of `filters.tokens`.

        Returns:
            The column and the value; None where only `filter_tokens` knows.
        """
        for key in self.keys:
            prefix = _fact(key, "")[:-2]
            if token.startswith(prefix):
                value = json.loads(token[len(prefix) :])
                wanted = (int, float) if self.kinds.get(key) == "number" else str
                if isinstance(value, bool) or not isinstance(value, wanted):
                    return None
                return self.name(key), float(value) if isinstance(value, int) else value
        return None

    def range_of(self, key: str) -> str | None:
        """Return the column of a key's numbers, or None where there is none."""
        return self.name(key) if self.kinds.get(key) == "number" else None


def _fact(key: str, text: str) -> str:
    """Write the token of `filters.tokens` that says that a key holds a text; a long one is a hash there."""
    return f"={json.dumps(key)}:{json.dumps(text)}"
