"""Whole searches as one Qdrant request a query, where the database computes exactly what we mean: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
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
    if isinstance(plan.fusion, RRF):
        k, weights = plan.fusion.k, plan.fusion.weights
        return float(k).is_integer() and k < 2**31 and (weights is None or weights[0] == weights[1])
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
        legs = self.plan.fusion.legs
        leaves = {leg: leaf for leg in legs if (leaf := self._leaf(queries, i, leg)) is not None}
        if not leaves:
            return None
        if isinstance(self.plan.fusion, RRF):
            # Local mode and server alike: 1 / (k + rank), ranks from 0.
            query = models.RrfQuery(rrf=models.Rrf(k=int(self.plan.fusion.k) + 1))
            return self._fused(query, list(leaves.values()))
        if isinstance(self.plan.fusion, Weighted):
            return self._weighted(self.plan.fusion, queries, i, leaves)
        (leaf,) = leaves.values()
        return models.QueryRequest(
            query=leaf.query,
            using=leaf.using,
            filter=leaf.filter,
            params=leaf.params,
            score_threshold=leaf.score_threshold,
            limit=self.plan.top_k,
            with_payload=list(DOCUMENT_FIELDS),
        )

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
        self, fusion: Weighted, queries: M3Embeddings, i: int, leaves: Mapping[Leg, models.Prefetch]
    ) -> models.QueryRequest:
        """Add up weighted scores of what any leaf found.

        What a prefetch does not bring counts 0. So each leg scores the same candidates in full, unless what it did not
        find shall count 0; a point without a vector, or one that shares no token with the query, rightly does.
        """
        prefetches: list[models.Prefetch] = []
        terms: list[models.Expression] = []
        for leg, weight in fusion.weights.items():
            vector = to_vector(queries, i, leg) if weight else None
            if vector is None:
                continue
            # Qdrant sums over the query's token vectors where M3 takes the mean.
            share = weight / len(vector) if leg == "multi_vector" else weight
            terms.append(models.MultExpression(mult=[share, f"$score[{len(prefetches)}]"]))
            found_alone = fusion.missing == "zero" and leg in leaves
            prefetches.append(leaves[leg] if found_alone else self._rescored(leg, vector, list(leaves.values())))
        return self._fused(models.FormulaQuery(formula=models.SumExpression(sum=terms)), prefetches)

    def _rescored(self, leg: Leg, vector: Any, leaves: list[models.Prefetch]) -> models.Prefetch:  # noqa: ANN401  # by leg
        """Score what all leaves found, exactly."""
        return models.Prefetch(
            prefetch=leaves,
            query=vector,
            using=leg,
            limit=len(leaves) * self.plan.limit,
            params=EXACT if self.server else None,
        )

    def _fused(
        self, query: models.RrfQuery | models.FormulaQuery, prefetches: list[models.Prefetch]
    ) -> models.QueryRequest:
        return models.QueryRequest(
            query=query, prefetch=prefetches, limit=self.plan.top_k, with_payload=list(DOCUMENT_FIELDS)
        )
