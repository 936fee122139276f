"""A Qdrant collection that somebody else filled, as flows of calls to qdrant-client: how it is opened and read."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from qdrant_client import models

from m3connect.embeddings import M3Embeddings
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError
from m3connect.flows import Call, Flow
from m3connect.foreign import (
    ForeignLayout,
    Metric,
    ReadOnlyFlows,
    check_fields,
    check_unit,
    inner_product,
    lookup,
    to_document,
)
from m3connect.fusion import Leg
from m3connect.store import Document, Selection
from m3connect_qdrant import convert, limits, schema
from m3connect_qdrant.filters import to_filter
from m3connect_qdrant.layouts import check_vectors
from m3connect_qdrant.requests import EXACT
from m3connect_qdrant.settings import RESCORED
from m3connect_qdrant.transient import may_pass

__all__ = ["ForeignFlows", "open_foreign", "to_point_id"]

_PAGE = 256
"""Points read in one request."""

_PAGE_WITH_TOKENS = 16
"""The same with their token vectors, of some megabytes each."""

_SAMPLE = 64
"""Points read at opening, to see whether the layout fits."""

_UUID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def to_point_id(document_id: str) -> int | str | None:
    """Return the point id that a string spells; None where no point can have it.

    Example:
        >>> to_point_id("7"), to_point_id("9F8B6A4E0C1D4E5F8A7B6C5D4E3F2A1B"), to_point_id("07")
        (7, '9f8b6a4e-0c1d-4e5f-8a7b-6c5d4e3f2a1b', None)
    """
    if re.fullmatch(r"0|[1-9][0-9]{0,19}", document_id):
        return int(document_id) if int(document_id) < 2**64 else None
    return str(uuid.UUID(document_id)) if _UUID.fullmatch(document_id) else None


def open_foreign(
    name: str,
    layout: ForeignLayout,
    *,
    dim: int | None,
    fingerprint: str | None,
    server: bool,
    search: models.SearchParams | None,
) -> Flow[ForeignFlows]:
    """Find the collection and check that the layout fits; nothing of it is changed.

    Raises:
        CollectionNotFoundError: there is none.
        CollectionMismatchError: it has other vectors or fields than the layout names, or is one of m3connect's own.
    """
    if not (yield Call("collection_exists", {"collection_name": name})):
        raise CollectionNotFoundError(f"there is no collection {name!r}; one that is opened with layout= must exist")
    info = yield Call("get_collection", {"collection_name": name})
    if schema.read_marker(name, info) is not None:
        raise CollectionMismatchError(f"collection {name!r} was made by m3connect: open it without layout=")
    dim, metric = check_vectors(name, info, layout, dim=dim)
    if search is None and server and schema.is_quantized(info, layout.dense):
        search = RESCORED
    flows = ForeignFlows(name, layout, dim=dim, metric=metric, server=server, dense_params=search if server else None)
    flows.fingerprint = fingerprint
    yield from flows.check_sample()
    return flows


class ForeignFlows(ReadOnlyFlows):
    """The flows of one collection that somebody else filled; `open_foreign` makes them.

    Args:
        name: the collection's name.
        layout: the names of its parts, already checked.
        dim: the dimension of its dense vectors.
        metric: what they are compared by.
        server: whether a server answers, or local mode.
        dense_params: how the dense leg looks for candidates.
    """

    def __init__(
        self,
        name: str,
        layout: ForeignLayout,
        *,
        dim: int,
        metric: Metric,
        server: bool,
        dense_params: models.SearchParams | None,
    ) -> None:
        self.name = name
        self.layout = layout
        self.dim = dim
        self.sparse = layout.sparse is not None
        self.multi_vector = layout.multi_vector is not None
        self._metric = metric
        self._server = server
        self._dense_params = dense_params

    def is_transient(self, error: BaseException) -> bool:
        """Say whether an error of the client may pass by itself."""
        return may_pass(error) or super().is_transient(error)

    def check_sample(self) -> Flow[None]:
        """Refuse a layout whose fields no point has, or dense vectors whose distances tell nothing."""
        by_distance = self._metric == "squared distance"
        wanted = {
            "limit": _SAMPLE,
            "with_payload": True,
            "with_vectors": self._names(["dense"]) if by_distance else False,
        }
        points, _ = yield self._call("scroll", wanted)
        check_fields(self.name, self.layout, [point.payload or {} for point in points], known=())
        if by_distance:
            vectors = [self._vectors(point).get("dense") for point in points]
            check_unit(self.name, [vector for vector in vectors if vector is not None])

    # Reading.

    def fetch_documents(self, ids: Sequence[str]) -> Flow[dict[str, Document]]:
        """Read documents from payloads."""
        points = yield from self._points(ids, self._fields())
        return {name: self._document(point) for name, point in points.items()}

    def fetch_embeddings(self, ids: Sequence[str]) -> Flow[tuple[list[str], M3Embeddings]]:
        """Read all vectors that the layout names; a store without sparse weights has empty rows of them."""
        fields = [self.layout.id] if self.layout.id is not None else False
        points = yield from self._points(ids, fields, list(self.layout.vectors))
        vectors = [self._all_vectors(name, point) for name, point in points.items()]
        return list(points), convert.from_vectors(vectors, dim=self.dim, multi_vector=self.multi_vector)

    def number_of(self, selection: Selection) -> Flow[int]:
        """Count points, exactly."""
        answer = yield self._call("count", {"count_filter": self._filter(selection), "exact": True})
        count: int = answer.count
        return count

    def page(self, selection: Selection, cursor: Any) -> Flow[tuple[list[Document], Any]]:  # noqa: ANN401  # a point id
        """Read a page, in the order of point ids."""
        wanted = {"scroll_filter": self._filter(selection), "with_payload": self._fields()}
        points, following = yield self._call("scroll", wanted | {"limit": _PAGE, "offset": cursor})
        return [self._document(point) for point in points], following

    def describe(self) -> Flow[Mapping[str, Any]]:
        """Gather settings and state, and the layout."""
        info = yield self._call("get_collection")
        own = {"mode": "server" if self._server else "local", "read_only": True, "layout": asdict(self.layout)}
        return {"backend": "qdrant"} | own | schema.describe(info)

    # Searching.

    def find(
        self, queries: M3Embeddings, legs: Sequence[Leg], limit: int, selection: Selection
    ) -> Flow[dict[Leg, list[dict[str, float]]]]:
        """Search each leg of all queries."""
        condition, n_ids = self._filter(selection), len(selection.ids or ())
        found: dict[Leg, list[dict[str, float]]] = {}
        for leg in legs:
            params = self._dense_params if leg == "dense" else None
            made = [self._request(queries, i, leg, limit, condition, params) for i in range(len(queries))]
            found[leg] = yield from self._ask(queries, leg, made, [n_ids] * len(made))
        return found

    def score(self, queries: M3Embeddings, leg: Leg, ids: Sequence[Sequence[str]]) -> Flow[list[dict[str, float]]]:
        """Score named documents in any leg, exactly."""
        params = EXACT if self._server else None
        made = [self._request(queries, i, leg, len(names), self._has_ids(names), params) for i, names in enumerate(ids)]
        return (yield from self._ask(queries, leg, made, [len(names) for names in ids]))

    def _request(
        self,
        queries: M3Embeddings,
        i: int,
        leg: Leg,
        limit: int,
        condition: models.Filter | None,
        params: models.SearchParams | None,
    ) -> models.QueryRequest | None:
        """Return a request whose answer holds ids and scores alone; None where nothing can be found."""
        query = convert.to_vector(queries, i, leg)
        if query is None or not limit:
            return None
        return models.QueryRequest(
            query=query,
            using=self.layout.vectors[leg] or None,
            filter=condition,
            limit=limit,
            with_payload=[self.layout.id] if self.layout.id is not None else False,
            params=params,
        )

    def _ask(
        self, queries: M3Embeddings, leg: Leg, made: Sequence[models.QueryRequest | None], n_ids: Sequence[int]
    ) -> Flow[list[dict[str, float]]]:
        """Send requests, one a query, in as few calls as their size lets, and return scores by id."""
        sent = [i for i, request in enumerate(made) if request is not None]
        requests = [request for request in made if request is not None]
        sizes = [limits.request_size(request, ids=n_ids[i]) for i, request in zip(sent, requests, strict=True)]
        scores: list[dict[str, float]] = [{} for _ in made]
        for part in limits.in_batches(sizes):
            answers = yield self._call("query_batch_points", {"requests": requests[part]})
            for i, answer in zip(sent[part], answers, strict=True):
                scores[i] = self._scores(queries, i, leg, answer.points)
        return scores

    def _scores(
        self, queries: M3Embeddings, i: int, leg: Leg, points: Sequence[models.ScoredPoint]
    ) -> dict[str, float]:
        by_id = {self._id(point): point.score for point in points}
        if len(by_id) < len(points):
            self._refuse_twins([self._id(point) for point in points])
        if leg == "sparse":
            return {name: score for name, score in by_id.items() if score > 0}
        if leg == "multi_vector":  # Qdrant sums over the query's token vectors where M3 takes the mean
            return {name: score / len(queries.require_multi_vector()[i]) for name, score in by_id.items()}
        length = float(np.linalg.norm(queries.dense[i]))
        squared = {name: score**2 if self._metric == "squared distance" else score for name, score in by_id.items()}
        return {name: inner_product(self._metric, score, length=length) for name, score in squared.items()}

    # Points, their ids and their parts.

    def _call(self, method: str, arguments: Mapping[str, Any] | None = None) -> Call:
        return Call(method, {"collection_name": self.name, **(arguments or {})})

    def _filter(self, selection: Selection) -> models.Filter | None:
        return to_filter(selection) if selection.ids is None else self._has_ids(selection.ids)

    def _has_ids(self, ids: Sequence[str]) -> models.Filter:
        """Pass exactly the documents with these ids."""
        points = [to_point_id(name) for name in ids]
        if self.layout.id is None or not ids:
            return models.Filter(must=[models.HasIdCondition(has_id=[one for one in points if one is not None])])
        numbers = [one for one in points if isinstance(one, int) and one < 2**63]
        matches = [models.MatchAny(any=list(ids)), *([models.MatchAny(any=numbers)] if numbers else [])]
        return models.Filter(should=[models.FieldCondition(key=self.layout.id, match=match) for match in matches])

    def _points(
        self, ids: Sequence[str], fields: list[str] | bool, legs: Sequence[Leg] = ()
    ) -> Flow[dict[str, models.Record]]:
        """Fetch points by the ids asked for: a UUID may be spelled with dashes or without."""
        found: dict[str, models.Record] = {}
        page = _PAGE_WITH_TOKENS if "multi_vector" in legs else _PAGE
        for group in _groups(list(dict.fromkeys(ids)), page):
            # One more than there can be, to see whether an id is not unique.
            wanted = {"scroll_filter": self._has_ids(group), "limit": len(group) + 1}
            points, _ = yield self._call(
                "scroll", wanted | {"with_payload": fields, "with_vectors": self._names(legs) if legs else False}
            )
            by_id = {self._id(point): point for point in points}
            if len(by_id) < len(points):
                self._refuse_twins([self._id(point) for point in points])
            own = {name: name if self.layout.id is not None else str(to_point_id(name)) for name in group}
            found |= {name: by_id[spelled] for name, spelled in own.items() if spelled in by_id}
        return found

    def _id(self, point: models.Record | models.ScoredPoint) -> str:
        if self.layout.id is None:
            return str(point.id)
        value = lookup(point.payload or {}, self.layout.id)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise CollectionMismatchError(
                f"point {point.id} of collection {self.name!r}: expected a string or a whole number in the field "
                f"{self.layout.id!r}, found {value!r}: leave id= out of the layout to use the points' own ids"
            )
        return str(value)

    def _refuse_twins(self, ids: Sequence[str]) -> None:
        twin = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise CollectionMismatchError(
            f"collection {self.name!r} has several points with {twin!r} in the field {self.layout.id!r}: leave id= out "
            f"of the layout to use the points' own ids; parent_id={self.layout.id!r} makes it what hits are grouped by"
        )

    def _fields(self) -> list[str] | bool:
        """Return the payload that makes a document."""
        layout = self.layout
        return True if layout.metadata is None and layout.node is None else list(layout.fields)

    def _document(self, point: models.Record) -> Document:
        return to_document(self.layout, self._id(point), point.payload or {})

    def _names(self, legs: Sequence[Leg]) -> list[str] | bool:
        """Return what `with_vectors` takes; the unnamed vector comes with all others."""
        names = [self.layout.vectors[leg] for leg in legs]
        return True if "" in names else names

    def _vectors(self, point: models.Record) -> dict[Leg, Any]:
        """Return the vectors of a point by leg."""
        stored: Any = point.vector if isinstance(point.vector, dict) else {"": point.vector}
        named = {leg: stored.get(name) for leg, name in self.layout.vectors.items()}
        return {leg: vector for leg, vector in named.items() if vector is not None}

    def _all_vectors(self, name: str, point: models.Record) -> Mapping[str, Any]:
        vectors = self._vectors(point)
        if "dense" not in vectors:
            raise CollectionMismatchError(
                f"document {name!r} of collection {self.name!r} has no vector {self.layout.dense!r}: leave it out"
            )
        return {str(leg): vector for leg, vector in vectors.items()}


def _groups(ids: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])
