"""`M3ConnectRetriever`: hybrid search with rerank as LlamaIndex's retriever, one forward pass a query."""

from __future__ import annotations

from functools import partial

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from llama_index_m3connect.calls import Performer, compute
from llama_index_m3connect.filters import check_kind, to_filter
from llama_index_m3connect.model import ModelSettings, source_of
from llama_index_m3connect.nodes import to_node
from llama_index_m3connect.operations import check_fusion, with_dense
from llama_index_m3connect.vector_store import M3ConnectVectorStore
from m3connect import scoring
from m3connect.base import AsyncStore
from m3connect.embeddings import M3Embeddings
from m3connect.filters import Filter
from m3connect.flows import Call, Flow, run, run_async
from m3connect.fusion import RRF, Fusion
from m3connect.retrieval import TokenSource, candidates_flow, check_weights, rerank_hits
from m3connect.store import Encoder, Hit, HybridStore, check_count

__all__ = ["M3ConnectRetriever"]


class M3ConnectRetriever(BaseRetriever):
    """Questions in, scored nodes out: dense and sparse fused, reranked where asked.

    A question costs one forward pass whatever it is used for. Where a query transformation brings other texts or a
    vector (`QueryBundle.custom_embedding_strs`, `.embedding`), as HyDE does, they stand for it in the dense leg. Rerank
    takes token vectors of the candidates from a store that keeps them, and encodes their texts otherwise.

    Args:
        store: an `M3ConnectVectorStore`, or a store of m3connect itself, awaited ones included.
        encoder: an encoder, or a component of ours with one; None means that of the `M3ConnectVectorStore`.
        similarity_top_k: the most nodes that come back.
        filters: LlamaIndex's filters or one of `m3connect.filters`: only nodes that pass are searched.
        fusion: how the legs become one list: `RRF`, `Weighted`, `Dense` or `Sparse`.
        candidates: how many each leg brings before fusion; None means `max(100, 4 * top_k)`.
        rerank: order the best by dense + 0.3 sparse + multi-vector score.
        depth: how many are reranked.
        weights: of the three scores.
        token_store: where the candidates' token vectors are, a `TokenStore`; what it lacks is encoded again and, unless
            it is read-only, stored.
        callback_manager: as every retriever's.

    Example:
        >>> from m3connect import Document, MemoryStore, ingest
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = MemoryStore(dim=encoder.dim)
        >>> report = ingest(encoder, store, [Document("a", "red apple"), Document("b", "blue sea")])
        >>> retriever = M3ConnectRetriever(store, encoder=encoder, similarity_top_k=1, rerank=True)
        >>> [scored.node.text for scored in retriever.retrieve("deep blue sea")]
        ['blue sea']
    """

    def __init__(
        self,
        store: M3ConnectVectorStore | HybridStore | AsyncStore,
        *,
        encoder: Encoder | ModelSettings | None = None,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filters: MetadataFilters | Filter | None = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        rerank: bool = False,
        depth: int = 50,
        weights: tuple[float, float, float] = scoring.HYBRID_WEIGHTS,
        token_store: TokenSource | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        check_count("similarity_top_k", similarity_top_k)
        check_count("depth", depth)
        if isinstance(store, M3ConnectVectorStore):
            encoder = store.encoder if encoder is None else encoder
            fusion = store.fusion if fusion is None else fusion
            candidates = store.candidates if candidates is None else candidates
        elif not isinstance(store, HybridStore):  # an AsyncStore has the same methods
            raise ValueError(f"store must be an M3ConnectVectorStore or a store of m3connect, but is {store!r}")
        if encoder is None:
            raise ValueError("give encoder=, or an M3ConnectVectorStore that has one: questions must be encoded")
        self.similarity_top_k = similarity_top_k
        self.filters = check_kind(filters)
        self.fusion = check_fusion(RRF() if fusion is None else fusion)
        self.candidates = candidates
        self.rerank = rerank
        self.depth = depth
        self.weights = check_weights(weights)
        self.token_store = token_store
        self._store: HybridStore | AsyncStore = store.store if isinstance(store, M3ConnectVectorStore) else store
        self._performer = Performer(self._store, source_of(encoder))
        super().__init__(callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return run(self._answer(query_bundle), self._performer.perform)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await run_async(self._answer(query_bundle), self._performer.aperform)

    def _answer(self, question: QueryBundle) -> Flow[list[NodeWithScore]]:
        condition = yield from to_filter(self.filters)
        query = yield from _encoded(question)
        search = {
            "queries": query,
            "top_k": max(self.similarity_top_k, self.depth) if self.rerank else self.similarity_top_k,
            "filter": condition,
            "fusion": self.fusion,
            "candidates": self.candidates,
        }
        found: list[list[Hit]] = yield Call("search", search)
        hits = (yield from self._reranked(query, found[0])) if self.rerank else found[0]
        return [NodeWithScore(node=to_node(hit.document), score=hit.score) for hit in hits]

    def _reranked(self, query: M3Embeddings, hits: list[Hit]) -> Flow[list[Hit]]:
        candidates = yield from candidates_flow(
            query, [hits], stored=self._store.multi_vector, token_store=self.token_store
        )
        score = partial(rerank_hits, query, [hits], candidates, top_k=self.similarity_top_k, weights=self.weights)
        ranked: list[list[Hit]] = yield compute(score)
        return ranked[0]


def _encoded(question: QueryBundle) -> Flow[M3Embeddings]:
    """Return the question's row; its dense vector is that of other texts where the bundle brings some, as HyDE does."""
    others = [] if question.embedding is not None else question.custom_embedding_strs or []
    batch: M3Embeddings = yield Call("encode", {"texts": [question.query_str, *others], "multi_vector": True})
    if question.embedding is not None:
        return with_dense(batch, question.embedding)
    return with_dense(batch[:1], batch.dense[1:].mean(axis=0)) if others else batch
