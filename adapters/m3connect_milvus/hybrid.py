"""A whole search in one request, where Milvus computes exactly what we mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymilvus import AnnSearchRequest, RRFRanker

from m3connect.embeddings import M3Embeddings
from m3connect.flows import Call, Flow
from m3connect.fusion import RRF, Dense, Sparse
from m3connect.search import SearchPlan
from m3connect.store import Hit
from m3connect_milvus.convert import DOCUMENT_FIELDS, EMPTY_SPARSE, scores_from_hits, to_document
from m3connect_milvus.requests import QUERIES_A_REQUEST, LegSearch, search_legs, weights_of
from m3connect_milvus.settings import MilvusSettings

__all__ = ["OneRequest", "is_computed_exactly", "search_one_leg"]

_LARGEST_K = 16_383
_HITS_A_REQUEST = 512
"""Whole documents come back, for each query its own, so few enough must fit an answer."""


def is_computed_exactly(plan: SearchPlan, queries: M3Embeddings) -> bool:
    """Say whether one search of Milvus' means what DESIGN.md says.

    One leg's hits are those of the database. Milvus' RRF is ours, ranks from 1, for a whole k from 1 and equal weights.
    Pages need one order of ties for all, and thresholds, groups and raw scores are not in its answer; a query without
    weights has no sparse leg, and one that weighs `<pad>` would find the rows that stand for empty ones.
    """
    if plan.offset is not None or plan.group_by_parent or plan.min_scores or plan.with_scores:
        return False
    if plan.top_k > _HITS_A_REQUEST or not len(queries):
        return False
    if isinstance(plan.fusion, RRF):
        return _is_our_rrf(plan.fusion) and bool(queries.sparse.row_lengths.all()) and not _weighs_pad(queries)
    return isinstance(plan.fusion, Dense | Sparse)


def search_one_leg(
    name: str, queries: M3Embeddings, plan: SearchPlan, *, expression: str, settings: MilvusSettings
) -> Flow[list[list[Hit]]]:
    """Search one leg, the documents in the same answer; of sparse hits those above 0."""
    (leg,) = plan.fusion.legs
    search = LegSearch(name, leg, plan.top_k, settings, expression, DOCUMENT_FIELDS, _step(plan.top_k))
    (answers,) = yield from search_legs([search], queries)
    found: list[list[Hit]] = []
    for hits, query in zip(answers, weights_of(queries, leg), strict=True):
        kept = scores_from_hits(hits, query)
        found.append(_to_hits([hit for hit in hits if hit["id"] in kept], 1.0))
    return found


@dataclass(frozen=True, slots=True)
class OneRequest:
    """A hybrid search for some queries at a time."""

    name: str
    plan: SearchPlan
    fusion: RRF
    expression: str
    settings: MilvusSettings

    def run(self, queries: M3Embeddings) -> Flow[list[list[Hit]]]:
        """Search, and read the hits."""
        weight = self.fusion.weights[0] if self.fusion.weights is not None else 1.0
        dense = queries.dense.astype(np.float16 if self.settings.half_precision else np.float32, copy=False)
        sparse = queries.sparse.to_dicts()
        found: list[list[Hit]] = []
        step = _step(self.plan.top_k)
        for start in range(0, len(queries), step):
            answers = yield self._call(list(dense[start : start + step]), sparse[start : start + step])
            found += [_to_hits(hits, weight) for hits in answers]
        return found

    def _call(self, dense: Sequence[Any], sparse: Sequence[Mapping[int, float]]) -> Call:
        """Put the filter on each leg: Milvus passes over one for both without a word."""
        limit = self.plan.limit
        legs = [
            AnnSearchRequest(
                data=list(data),
                anns_field=leg,
                param={"metric_type": "IP", **self.settings.search_params(leg, limit)},
                limit=limit,
                expr=self.expression,
            )
            for leg, data in zip(self.fusion.legs, (dense, sparse), strict=True)
        ]
        return Call(
            "hybrid_search",
            {
                "collection_name": self.name,
                "reqs": legs,
                "ranker": RRFRanker(int(self.fusion.k)),
                "limit": self.plan.top_k,
                "output_fields": DOCUMENT_FIELDS,
                "consistency_level": self.settings.consistency,
            },
        )


def _is_our_rrf(fusion: RRF) -> bool:
    if not float(fusion.k).is_integer() or not 1 <= fusion.k <= _LARGEST_K:
        return False
    return fusion.weights is None or fusion.weights[0] == fusion.weights[1]


def _weighs_pad(queries: M3Embeddings) -> bool:
    return bool(np.isin(queries.sparse.indices, list(EMPTY_SPARSE)).any())


def _step(top_k: int) -> int:
    """Return how many queries share a request."""
    return min(QUERIES_A_REQUEST, max(1, _HITS_A_REQUEST // top_k))


def _to_hits(hits: Sequence[Mapping[str, Any]], weight: float) -> list[Hit]:
    """Read one query's hits, ties in the order of ids."""
    read = [Hit(to_document(hit["entity"]), float(hit["distance"]) * weight) for hit in hits]
    return sorted(read, key=lambda hit: (-hit.score, hit.document.id))
