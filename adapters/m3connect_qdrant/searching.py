"""How a Qdrant collection is searched, as flows of calls to qdrant-client, sync or async."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from m3connect.embeddings import M3Embeddings
from m3connect.filters import Filter
from m3connect.flows import Call, Flow, StoreFlows
from m3connect.fusion import Leg, Weighted
from m3connect.search import SearchPlan
from m3connect.store import Hit, Selection, check_queries
from m3connect_qdrant import convert, limits, requests
from m3connect_qdrant.filters import to_filter
from m3connect_qdrant.one_request import OneRequest, is_computed_exactly, scale_of

__all__ = ["SearchingFlows"]


class SearchingFlows(StoreFlows):
    """The part of `QdrantFlows` that searches.

    Args:
        name: the collection's name.
        dim: the dimension of its vectors.
        multi_vector: whether token vectors are stored.
        server: whether a server answers, with its limits, or local mode.
        tenant_field: the metadata key that names a document's tenant.
        dense_params: how the dense leg looks for candidates.
    """

    def __init__(
        self,
        name: str,
        *,
        dim: int,
        multi_vector: bool,
        server: bool,
        tenant_field: str | None = None,
        dense_params: models.SearchParams | None = None,
    ) -> None:
        self.name = name
        self.dim = dim
        self.multi_vector = multi_vector
        self.tenant_field = tenant_field
        self._server = server
        self._dense_params = dense_params

    def _call(self, method: str, arguments: Mapping[str, Any] | None = None) -> Call:
        return Call(method, {"collection_name": self.name, **(arguments or {})})

    def _filter(self, selection: Selection) -> models.Filter | None:
        return to_filter(selection, self.tenant_field)

    def find(
        self, queries: M3Embeddings, legs: Sequence[Leg], limit: int, selection: Selection
    ) -> Flow[dict[Leg, list[dict[str, float]]]]:
        """Search all legs of all queries in one request."""
        condition, ids = self._filter(selection), len(selection.ids or ())
        params = {"dense": self._dense_params}
        asks = [
            requests.Ask(leg, i, limit, condition, ids, params.get(leg)) for leg in legs for i in range(len(queries))
        ]
        scores = iter((yield from self._ask(asks, queries)))
        return {leg: [next(scores) for _ in range(len(queries))] for leg in legs}

    def score(self, queries: M3Embeddings, leg: Leg, ids: Sequence[Sequence[str]]) -> Flow[list[dict[str, float]]]:
        """Score named documents in any leg, token vectors included."""
        return (yield from self._ask(requests.id_asks(leg, ids, server=self._server), queries))

    def search(self, queries: M3Embeddings, plan: SearchPlan, filter: Filter | None) -> Flow[list[list[Hit]]]:
        """Search in one request where Qdrant computes exactly what is asked, step by step where it does not."""
        if not self._is_one_request(queries, plan):
            return (yield from super().search(queries, plan, filter))
        check_queries(queries, dim=self.dim)
        yield from self.check_fingerprint(queries)
        selection = yield from self.select(filter)
        builder = OneRequest(plan, self._filter(selection), self._dense_params, self._server)
        made = [builder.build(queries, i) for i in range(len(queries))]
        answers = yield from self._query(made, [len(selection.ids or ())] * len(made))
        scale = scale_of(plan.fusion)
        found = [_hits(points, scale) for points in answers]
        return (yield from self._with_scores(found, queries)) if plan.with_scores else found

    def _is_one_request(self, queries: M3Embeddings, plan: SearchPlan) -> bool:
        has_tokens = self.multi_vector and queries.multi_vector is not None
        if isinstance(plan.fusion, Weighted) and plan.fusion.multi_vector and not has_tokens:
            return False  # the general way says what is missing
        return (not has_tokens or self.scores_tokens(queries)) and is_computed_exactly(plan)

    def scores_tokens(self, queries: M3Embeddings) -> bool:
        """A server refuses queries of too many tokens."""
        longest = max(map(len, queries.multi_vector or ()), default=0)
        return not (self._server and limits.too_many_numbers(longest, self.dim))

    def _with_scores(self, found: list[list[Hit]], queries: M3Embeddings) -> Flow[list[list[Hit]]]:
        """Ask for the exact scores of all hits in all legs, in one request."""
        legs: list[Leg] = ["dense", "sparse"]
        if self.multi_vector and queries.multi_vector is not None:
            legs.append("multi_vector")
        names = [[hit.document.id for hit in hits] for hits in found]
        asks = [ask for leg in legs for ask in requests.id_asks(leg, names, server=self._server)]
        scores = iter((yield from self._ask(asks, queries)))
        by_leg = {leg: [next(scores) for _ in found] for leg in legs}
        return [
            [replace(hit, scores={leg: by_leg[leg][i].get(hit.document.id, 0.0) for leg in legs}) for hit in hits]
            for i, hits in enumerate(found)
        ]

    def _ask(self, asks: Sequence[requests.Ask], queries: M3Embeddings) -> Flow[list[dict[str, float]]]:
        """Return scores by id for each ask."""
        made = [requests.to_request(ask, queries) for ask in asks]
        answers = yield from self._query(made, [ask.ids for ask in asks])
        return [requests.scores_of(ask, queries, points) for ask, points in zip(asks, answers, strict=True)]

    def _query(
        self, made: Sequence[models.QueryRequest | None], ids: Sequence[int]
    ) -> Flow[list[list[models.ScoredPoint]]]:
        """Send searches in as few requests as the size limit lets; what is None finds nothing.

        Args:
            made: the searches.
            ids: how many ids each one's filters name.
        """
        sent = [(request, n) for request, n in zip(made, ids, strict=True) if request is not None]
        sizes = [limits.request_size(request, ids=n) for request, n in sent]
        parts = yield tuple(
            self._call("query_batch_points", {"requests": [request for request, _ in sent[part]]})
            for part in limits.in_batches(sizes)
        )
        points = (answer.points for answers in parts for answer in answers)
        return [next(points) if request is not None else [] for request in made]


def _hits(points: Sequence[models.ScoredPoint], scale: float) -> list[Hit]:
    """Return hits, ties in the order of ids."""
    hits = [Hit(convert.from_payload(point.payload), scale * point.score) for point in points]
    return sorted(hits, key=lambda hit: (-hit.score, hit.document.id))
