"""A Milvus collection that somebody else filled, as flows of calls of pymilvus' client: how it is opened and read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from m3connect.embeddings import M3Embeddings
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError
from m3connect.filters import Filter
from m3connect.flows import Call, Flow
from m3connect.foreign import ForeignLayout, ReadOnlyFlows, check_fields, check_unit, inner_product, to_document
from m3connect.fusion import Leg
from m3connect.search import SearchPlan
from m3connect.store import Document, Hit, Selection
from m3connect_milvus import convert, requests
from m3connect_milvus.convert import Row
from m3connect_milvus.filters import both, literal, to_expression
from m3connect_milvus.flows import MOST_HITS, Server, check_limit, described_indexes, may_pass, within_limit
from m3connect_milvus.layouts import ForeignSchema, read_schema
from m3connect_milvus.schema import is_ours
from m3connect_milvus.settings import MilvusSettings, settings_for_lite

__all__ = ["ForeignFlows", "open_foreign", "to_key"]

_PAGE = 512
"""Documents read in one request."""

_SAMPLE = 64
"""Rows read at opening, to see whether the layout fits."""

_LARGEST_KEY = 2**63 - 1


def to_key(document_id: str, *, whole_numbers: bool) -> int | str | None:
    """Return the primary key that a string spells; None where no row can have it.

    Example:
        >>> to_key("7", whole_numbers=True), to_key("7", whole_numbers=False), to_key("x", whole_numbers=True)
        (7, '7', None)
    """
    if not whole_numbers:
        return document_id
    if not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", document_id) or abs(int(document_id)) > _LARGEST_KEY:
        return None
    return int(document_id)


def open_foreign(
    name: str,
    layout: ForeignLayout,
    *,
    dim: int | None,
    fingerprint: str | None,
    settings: MilvusSettings,
) -> Flow[ForeignFlows]:
    """Find the collection, check that the layout fits, and load it; nothing of it is changed.

    Raises:
        CollectionNotFoundError: there is none.
        CollectionMismatchError: it has other vectors or fields than the layout names, or is one of m3connect's own.
    """
    server = Server(str((yield Call("get_server_version"))))
    if not (yield Call("has_collection", {"collection_name": name})):
        raise CollectionNotFoundError(f"there is no collection {name!r}; one that is opened with layout= must exist")
    description = yield Call("describe_collection", {"collection_name": name})
    if is_ours(description):
        raise CollectionMismatchError(f"collection {name!r} was made by m3connect: open it without layout=")
    schema = read_schema(name, description, (yield from described_indexes(name)), layout, dim=dim)
    state = yield Call("get_load_state", {"collection_name": name})
    if getattr(state["state"], "name", "") != "Loaded":  # loaded again, a server would refuse other replicas
        yield Call("load_collection", {"collection_name": name})
    searched = settings_for_lite(settings) if server.lite else settings
    flows = ForeignFlows(name, layout, schema, server=server, settings=searched)
    flows.fingerprint = fingerprint
    yield from flows.check_sample()
    return flows


class ForeignFlows(ReadOnlyFlows):
    """The flows of one collection that somebody else filled; `open_foreign` makes them.

    Args:
        name: the collection's name.
        layout: the names of its parts, already checked.
        schema: what it turned out to be.
        server: the kind of database.
        settings: how it is searched.
    """

    def __init__(
        self, name: str, layout: ForeignLayout, schema: ForeignSchema, *, server: Server, settings: MilvusSettings
    ) -> None:
        self.name = name
        self.layout = layout
        self.dim = schema.dim
        self.sparse = layout.sparse is not None
        self.multi_vector = False
        self.server = server
        self._schema = schema
        self._settings = settings

    def is_transient(self, error: BaseException) -> bool:
        """Say whether an error of the client may pass by itself."""
        return may_pass(error) or super().is_transient(error)

    def check_sample(self) -> Flow[None]:
        """Refuse a layout whose fields no row has, or dense vectors whose distances tell nothing."""
        by_distance = self._schema.metric == "squared distance"
        fields = [*self._schema.output_fields, *([self.layout.dense] if by_distance else [])]
        rows = yield self._query("", fields, limit=_SAMPLE)
        parts = [{key: value for key, value in row.items() if key != self.layout.dense} for row in rows]
        check_fields(self.name, self.layout, parts, known=(*self._schema.fields, self._schema.key))
        if by_distance:
            vectors = [row[self.layout.dense] for row in rows if row.get(self.layout.dense) is not None]
            check_unit(self.name, list(convert.dense_rows(vectors)))

    # Reading.

    def fetch_documents(self, ids: Sequence[str]) -> Flow[dict[str, Document]]:
        """Query by ids."""
        rows = yield from self._rows(ids, self._schema.output_fields)
        return {name: self._document(row) for name, row in rows.items()}

    def fetch_embeddings(self, ids: Sequence[str]) -> Flow[tuple[list[str], M3Embeddings]]:
        """Query by ids; a store without sparse weights has empty rows of them."""
        rows = yield from self._rows(ids, [self._schema.key, *self.layout.vectors.values()])
        for name, row in rows.items():
            if row.get(self.layout.dense) is None:
                raise CollectionMismatchError(
                    f"document {name!r} of collection {self.name!r} has no vector {self.layout.dense!r}: leave it out"
                )
        renamed = [self._renamed(row) for row in rows.values()]
        return list(rows), convert.to_embeddings(renamed, dim=self.dim, fingerprint=None)

    def number_of(self, selection: Selection) -> Flow[int]:
        """Count by expression."""
        total = 0
        for expression in self._expressions(selection):
            rows = yield self._query(expression, ["count(*)"])
            total += int(rows[0]["count(*)"])
        return total

    def page(self, selection: Selection, cursor: Any) -> Flow[tuple[list[Document], Any]]:  # noqa: ANN401  # opaque
        """Read documents in the order of keys; the cursor is what is left of the selected ids, or the last key."""
        if selection.ids is not None:
            names = list(dict.fromkeys(selection.ids)) if cursor is None else cursor
            documents = yield from self.get(names[:_PAGE])
            return documents, names[_PAGE:] or None
        rows = yield self._next_rows(to_expression(selection.exact), cursor)
        if not rows:
            return [], None
        rows = sorted(rows, key=lambda row: row[self._schema.key])
        return [self._document(row) for row in rows], rows[-1][self._schema.key]

    def _next_rows(self, condition: str, last: int | str | None) -> Call:
        """Read on after a key; see `requests.next_ids` for the flags, and why only an empty page ends the walk."""
        key = self._schema.key
        if last is not None:
            expression = f"{key} > {_written(last)}"
        else:
            expression = f"{key} <= {_LARGEST_KEY}" if self._schema.whole_numbers else f'{key} >= ""'
        call = self._query(both(condition, expression), self._schema.output_fields, limit=_PAGE)
        arguments = {key: value for key, value in call.arguments.items() if key != "consistency_level"}
        return Call("query", {**arguments, "iterator": "True", "reduce_stop_for_best": "True"})

    def describe(self) -> Flow[Mapping[str, Any]]:
        """Gather what the server tells, and the layout."""
        description = yield Call("describe_collection", {"collection_name": self.name})
        return {
            "backend": "milvus",
            "lite": self.server.lite,
            "version": self.server.version,
            "read_only": True,
            "layout": asdict(self.layout),
            "primary_key": self._schema.key,
            "fields": list(self._schema.fields),
            "consistency_level": description.get("consistency_level_name"),
            "indexes": (yield from described_indexes(self.name)),
        }

    # Searching.

    def search(self, queries: M3Embeddings, plan: SearchPlan, filter: Filter | None) -> Flow[list[list[Hit]]]:
        """Search with as many candidates as Milvus gives."""
        return (yield from super().search(queries, within_limit(plan), filter))

    def find(
        self, queries: M3Embeddings, legs: Sequence[Leg], limit: int, selection: Selection
    ) -> Flow[dict[Leg, list[dict[str, float]]]]:
        """Search each leg; where the ids take several requests, keep the best of all."""
        check_limit(limit)
        expressions = self._expressions(selection, most=MOST_HITS)
        found: dict[Leg, list[dict[str, float]]] = {}
        for leg in legs:
            rows: list[dict[str, float]] = [{} for _ in range(len(queries))]
            for expression in expressions:
                yield from self._search(queries, leg, limit, expression, rows)
            found[leg] = [requests.best(row, limit) for row in rows]
        return found

    def _search(
        self, queries: M3Embeddings, leg: Leg, limit: int, expression: str, rows: list[dict[str, float]]
    ) -> Flow[None]:
        """Search one leg for all queries that have weights in it, and add scores by id to their rows."""
        dense = queries.dense.astype(np.float16 if self._schema.half_precision else np.float32, copy=False)
        data: Sequence[Any] = queries.sparse.to_dicts() if leg == "sparse" else list(dense)
        asked = [i for i in range(len(queries)) if leg == "dense" or data[i]]
        for start in range(0, len(asked), requests.QUERIES_A_REQUEST):
            positions = asked[start : start + requests.QUERIES_A_REQUEST]
            answers = yield Call(
                "search",
                {
                    "collection_name": self.name,
                    "data": [data[i] for i in positions],
                    "anns_field": self.layout.vectors[leg],
                    "filter": expression,
                    "limit": limit,
                    "output_fields": [self._schema.key],  # left out, Lite would send everything, vectors too
                    "search_params": self._settings.search_params(leg, limit),
                    "consistency_level": self._settings.consistency,
                },
            )
            for i, hits in zip(positions, answers, strict=True):
                rows[i] |= self._scores(leg, hits, length=float(np.linalg.norm(queries.dense[i])))

    def _scores(self, leg: Leg, hits: Sequence[Mapping[str, Any]], *, length: float) -> dict[str, float]:
        scores = {str(hit[self._schema.key]): float(hit["distance"]) for hit in hits}
        if leg == "sparse":
            return {name: score for name, score in scores.items() if score > 0}
        return {name: inner_product(self._schema.metric, score, length=length) for name, score in scores.items()}

    def score(self, queries: M3Embeddings, leg: Leg, ids: Sequence[Sequence[str]]) -> Flow[list[dict[str, float]]]:
        """Score named documents from their stored vectors: a server's approximate index could miss some."""
        field = self.layout.vectors[leg]
        distinct = list(dict.fromkeys(name for group in ids for name in group))
        rows = yield from self._rows(distinct, [self._schema.key, field])
        stored = {name: self._renamed(row) for name, row in rows.items() if row.get(field) is not None}
        groups = [[stored[name] for name in group if name in stored] for group in ids]
        return [convert.scores_from_rows(queries[i], group, leg) for i, group in enumerate(groups)]

    # Rows, their keys and their parts.

    def _query(self, expression: str, fields: Sequence[str], *, limit: int | None = None) -> Call:
        asked = {"collection_name": self.name, "filter": expression, "output_fields": list(fields)}
        return Call("query", asked | {"consistency_level": "Strong"} | ({} if limit is None else {"limit": limit}))

    def _rows(self, ids: Sequence[str], fields: Sequence[str]) -> Flow[dict[str, Row]]:
        """Read rows by id, absent ones left out."""
        found: dict[str, Row] = {}
        for expression in self._expressions(Selection(ids=tuple(ids)), most=_PAGE):
            rows = yield self._query(expression, fields)
            found |= {str(row[self._schema.key]): row for row in rows}
        return found

    def _expressions(self, selection: Selection, *, most: int | None = None) -> list[str]:
        """Write a selection as expressions, in as many as the number and the bytes of its ids ask for."""
        if selection.ids is None:
            return [to_expression(selection.exact)]
        whole_numbers = self._schema.whole_numbers
        written = []
        for group in requests.groups(selection.ids, most=most):
            keys = [key for name in group if (key := to_key(name, whole_numbers=whole_numbers)) is not None]
            if keys:
                written.append(f"{self._schema.key} in [{', '.join(map(_written, keys))}]")
        return written

    def _document(self, row: Mapping[str, Any]) -> Document:
        fields = {name: _plain(value) for name, value in row.items() if name != self._schema.key}
        return to_document(self.layout, str(row[self._schema.key]), fields)

    def _renamed(self, row: Mapping[str, Any]) -> Row:
        """Return the vectors of a row under our names, of length 1 where only their direction counts."""
        renamed: Row = {"id": str(row[self._schema.key]), "sparse": row.get(self.layout.sparse or "") or {}}
        if self.layout.dense in row:
            (dense,) = convert.dense_rows([row[self.layout.dense]])
            renamed["dense"] = dense / np.linalg.norm(dense) if self._schema.metric == "cosine" else dense
        return renamed


def _written(key: int | str) -> str:
    return str(key) if isinstance(key, int) else literal(key)


def _plain(value: Any) -> Any:  # noqa: ANN401  # a field of any type
    """Return an array, which comes in a container of its own, as a list."""
    plain = value is None or isinstance(value, str | bytes | int | float | bool | list | Mapping)
    return value if plain else list(value)
