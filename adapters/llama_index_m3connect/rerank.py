"""`M3ConnectRerank`: nodes in the order of M3's full score, as LlamaIndex's node postprocessor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # theirs to re-export
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import Field, field_validator

from llama_index_m3connect.model import ModelSettings
from llama_index_m3connect.nodes import embedded_text
from m3connect import scoring
from m3connect.embeddings import M3Embeddings
from m3connect.retrieval import check_weights

__all__ = ["M3ConnectRerank"]

_dispatcher = get_dispatcher(__name__)


class M3ConnectRerank(ModelSettings, BaseNodePostprocessor):
    """Orders nodes by dense + 0.3 sparse + multi-vector score, which is the scoring of the paper.

    The nodes' texts are encoded here, token vectors included, so it works behind every retriever. The query is not,
    where an `M3ConnectEmbedding` or a hybrid search with the same model asked for it before.

    Args:
        model_name: what `M3Encoder.from_pretrained` takes; loaded at the first query.
        encoder: an encoder that is there already, instead of a name.
        top_n: the most nodes that come back; None means all.
        metadata_mode: which metadata belongs to the text; EMBED is what was indexed.
        weights: of dense, sparse and multi-vector scores.
    """

    top_n: int | None = Field(default=None, ge=1, description="The most nodes that come back; None means all.")
    metadata_mode: MetadataMode = Field(default=MetadataMode.EMBED, description="Which metadata belongs to the text.")
    weights: tuple[float, float, float] = Field(
        default=scoring.HYBRID_WEIGHTS, description="Of dense, sparse and multi-vector scores."
    )

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        return check_weights(weights)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes into its files."""
        return "M3ConnectRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _require_query(query_bundle)
        if not nodes:
            return []
        with self._told(query, nodes) as ranked:
            ranked += self._rank(nodes, self.encode_texts(self._texts(query, nodes), multi_vector=True))
        return ranked

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _require_query(query_bundle)
        if not nodes:
            return []
        with self._told(query, nodes) as ranked:
            batch = await self.aencode_texts(self._texts(query, nodes), multi_vector=True)
            ranked += await asyncio.to_thread(self._rank, nodes, batch)
        return ranked

    def _texts(self, query: QueryBundle, nodes: Sequence[NodeWithScore]) -> list[str]:
        return [query.query_str, *(embedded_text(scored.node, self.metadata_mode) for scored in nodes)]

    def _rank(self, nodes: Sequence[NodeWithScore], batch: M3Embeddings) -> list[NodeWithScore]:
        """Return new scored nodes, best first, ties as they came; row 0 of the batch is the query."""
        scores: list[float] = scoring.hybrid(batch[:1], batch[1:], weights=self.weights)[0].tolist()
        best = sorted(range(len(nodes)), key=lambda i: -scores[i])[: self.top_n]
        return [NodeWithScore(node=nodes[i].node, score=scores[i]) for i in best]

    @contextmanager
    def _told(self, query: QueryBundle, nodes: list[NodeWithScore]) -> Iterator[list[NodeWithScore]]:
        """Tell listeners what begins, and at the end what came out; yields the list to put it in."""
        top_n = self.top_n or len(nodes)
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=self.model_name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model_name,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        ranked: list[NodeWithScore] = []
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield ranked
            event.on_end(payload={EventPayload.NODES: ranked})
        _dispatcher.event(ReRankEndEvent(nodes=ranked))


def _require_query(query_bundle: QueryBundle | None) -> QueryBundle:
    if query_bundle is None:
        raise ValueError("M3ConnectRerank compares nodes with the query: pass query_bundle= or query_str=")
    return query_bundle
