"""Whole searches as one Qdrant request a query, where the database computes exactly what we mean: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import models

from m3connect.embeddings import M3Embeddings
from m3connect.fusion import RRF, Fusion, Leg, Weighted
from m3connect.search import SearchPlan
from m3connect_qdrant.convert import DOCUMENT_FIELDS, to_vector
from m3connect_qdrant.requests import EXACT

__all__ = ["OneRequest", "is_computed_exactly", "scale_of"]

_ABOVE_ZERO = float(np.finfo(np.float32).tiny)
"""A sparse score of 0 is no hit. Servers keep what scores at least the threshold, local mode what scores more."""


def is_computed_exactly(plan: SearchPlan) -> bool:
    """Say whether one request of Qdrant's means what DESIGN.md says.

    Qdrant's RRF is ours with k + 1 (its ranks count from 0) and a whole k. Its weights are something else, but equal
    ones only scale the score. Pages need one order of ties for all, and thresholds and groups are not Qdrant's.
    """
    if plan.offset is not None or plan.group_by_parent or plan.min_scores:
        return False
    match plan.fusion:
        case RRF(k, weights):
            return float(k).is_integer() and k < 2**31 and (weights is None or weights[0] == weights[1])
        case Weighted(missing=missing):
            return missing == "exact"
    return True


def scale_of(fusion: Fusion) -> float:
    """Return what Qdrant's score is to be multiplied by."""
    return fusion.weights[0] if isinstance(fusion, RRF) and fusion.weights is not None else 1.0


@dataclass(frozen=True, slots=True)
class OneRequest:
    """Builds the request of a query; answers hold whole documents."""

    plan: SearchPlan
    condition: models.Filter | None
    dense_params: models.SearchParams | None
    """How the dense leg looks for candidates."""

    server: bool
    """Whether exact scoring must be asked for."""

    def build(self, queries: M3Embeddings, i: int) -> models.QueryRequest | None:
        """Return the request of query i; None where nothing can be found."""
        leaves = [leaf for leg in self.plan.fusion.legs if (leaf := self._leaf(queries, i, leg)) is not None]
        if not leaves:
            return None
        if isinstance(self.plan.fusion, RRF):
            # Local mode and server alike: 1 / (k + rank), ranks from 0.
            query = models.RrfQuery(rrf=models.Rrf(k=int(self.plan.fusion.k) + 1))
            return self._request(query=query, prefetch=leaves)
        if isinstance(self.plan.fusion, Weighted):
            return self._weighted(self.plan.fusion, queries, i, leaves)
        (leaf,) = leaves
        return self._request(query=leaf.query, using=leaf.using, filter=leaf.filter, params=leaf.params)

    def _leaf(self, queries: M3Embeddings, i: int, leg: Leg) -> models.Prefetch | None:
        """Return the search for a leg's candidates."""
        vector = to_vector(queries, i, leg)
        if vector is None:
            return None
        return models.Prefetch(
            query=vector,
            using=leg,
            filter=self.condition,
            limit=self.plan.limit,
            params=self.dense_params if leg == "dense" else None,
            score_threshold=_ABOVE_ZERO if leg == "sparse" else None,
        )

    def _weighted(
        self, fusion: Weighted, queries: M3Embeddings, i: int, leaves: Sequence[models.Prefetch]
    ) -> models.QueryRequest | None:
        """Score the candidates of all leaves in every leg, then add up.

        Each leg prefetches the same candidates: a point that a leg does not bring counts 0 in it. That is right for a
        point without the vector, or one that shares no token with the query.
        """
        siblings: list[models.Prefetch] = []
        terms: list[models.Expression] = []
        for leg, weight in fusion.weights.items():
            vector = to_vector(queries, i, leg) if weight else None
            if vector is None:
                continue
            # Qdrant sums over the query's token vectors where M3 takes the mean.
            share = weight / len(vector) if leg == "multi_vector" else weight
            terms.append(models.MultExpression(mult=[share, f"$score[{len(siblings)}]"]))
            siblings.append(
                models.Prefetch(
                    prefetch=list(leaves),
                    query=vector,
                    using=leg,
                    limit=sum(leaf.limit or 0 for leaf in leaves),
                    params=EXACT if self.server else None,
                )
            )
        return self._request(query=models.FormulaQuery(formula=models.SumExpression(sum=terms)), prefetch=siblings)

    def _request(self, **parts: Any) -> models.QueryRequest:  # noqa: ANN401  # the client's own names
        return models.QueryRequest(limit=self.plan.top_k, with_payload=list(DOCUMENT_FIELDS), **parts)
