"""`M3ConnectRetriever`: hybrid search with reranking as a LangChain retriever."""

from __future__ import annotations

from typing import Annotated, Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import AfterValidator, ConfigDict, Field, InstanceOf, model_validator

from langchain_m3connect import flows
from langchain_m3connect.convert import from_hit, to_filter
from langchain_m3connect.embeddings import M3ConnectEmbeddings
from langchain_m3connect.vectorstore import M3ConnectVectorStore
from m3connect import RRF, Dense, Hit, Sparse, Weighted
from m3connect.awaiting import ThreadedStore
from m3connect.filters import Filter
from m3connect.flows import Flow
from m3connect.retrieval import TokenSource, check_weights
from m3connect.scoring import HYBRID_WEIGHTS

__all__ = ["M3ConnectRetriever"]


class M3ConnectRetriever(BaseRetriever):
    """Finds documents for a question, which is encoded once for all legs and for reranking.

    `invoke(question, k=..., filter=..., fusion=..., candidates=..., rerank=...)` changes one call; anything else
    raises a TypeError. A call's filter narrows the retriever's own one and never replaces it, so that a retriever for
    one tenant stays one.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> embedding = M3ConnectEmbeddings(encoder=FakeEncoder())
        >>> vectorstore = M3ConnectVectorStore.from_texts(["red apple", "blue sea"], embedding, ids=["a", "b"])
        >>> retriever = M3ConnectRetriever(vectorstore=vectorstore, rerank=True)
        >>> [document.id for document in retriever.invoke("apple", k=1)]
        ['a']
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    vectorstore: M3ConnectVectorStore

    k: int = Field(default=4, ge=1)
    """The most documents to return."""

    filter: Any = None
    """Which documents are searched: a filter of `m3connect.filters`, or the database's own."""

    fusion: InstanceOf[RRF] | InstanceOf[Weighted] | InstanceOf[Dense] | InstanceOf[Sparse] | None = None
    """How the legs become one list; None means the vector store's."""

    candidates: int | None = Field(default=None, ge=1)
    """How many documents each leg brings before fusion; None means the vector store's."""

    rerank: bool = False
    """Order the best `depth` hits by the hybrid score, token vectors included. They are read from a store that keeps
    them (`multi_vector=True`); with any other the texts of these hits are encoded again."""

    depth: int = Field(default=50, ge=1)
    """How many hits are reranked."""

    weights: Annotated[tuple[float, float, float], AfterValidator(check_weights)] = HYBRID_WEIGHTS
    """Of dense, sparse and multi-vector scores in the reranked score."""

    token_store: InstanceOf[TokenSource] | None = None
    """Where the token vectors are, a `TokenStore`; what it lacks is encoded again and, unless it is read-only, kept."""

    scores_key: str | None = None
    """Where given, the metadata of the returned documents has the scores under this key: `score`, and one a leg. They
    take the place of a stored value under it, so choose a key that the metadata do not have."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._asked(None, None, None, None)
        if self.rerank:
            self._require_tokens()
        return self

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: object = None,
        fusion: RRF | Weighted | Dense | Sparse | None = None,
        candidates: int | None = None,
        rerank: bool | None = None,
    ) -> list[Document]:
        hits = self.vectorstore.targets.run(self._hits(query, self._asked(k, filter, fusion, candidates), rerank))
        return [from_hit(hit, self.scores_key) for hit in hits]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: object = None,
        fusion: RRF | Weighted | Dense | Sparse | None = None,
        candidates: int | None = None,
        rerank: bool | None = None,
    ) -> list[Document]:
        flow = self._hits(query, self._asked(k, filter, fusion, candidates), rerank)
        return [from_hit(hit, self.scores_key) for hit in await self.vectorstore.targets.arun(flow)]

    def _hits(self, query: str, asked: flows.Asked, rerank: bool | None) -> Flow[list[Hit]]:
        reranking = self.rerank if rerank is None else rerank
        if reranking:
            self._require_tokens()
        encoded = yield from flows.encode_query(query)
        if not reranking:
            return (yield from flows.search(encoded, asked))
        stored = self.vectorstore.store.multi_vector
        how = flows.Reranking(self.depth, self.weights, stored=stored, token_store=self.token_store)
        return (yield from flows.rerank(encoded, asked, how))

    def _asked(
        self,
        k: int | None,
        filter: object,
        fusion: RRF | Weighted | Dense | Sparse | None,
        candidates: int | None,
    ) -> flows.Asked:
        return self.vectorstore.asked(
            self.k if k is None else k,
            filter=_both(to_filter(self.filter), to_filter(filter)),
            fusion=self.fusion if fusion is None else fusion,
            candidates=self.candidates if candidates is None else candidates,
            with_scores=self.scores_key is not None,
        )

    def _require_tokens(self) -> None:
        embedding = self.vectorstore.embeddings
        if not isinstance(embedding, M3ConnectEmbeddings):
            raise ValueError(
                f"reranking needs token vectors, which {type(embedding).__name__} does not make: use "
                "M3ConnectEmbeddings, or rerank=False"
            )

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:  # noqa: ANN401  # the framework's
        """Say what tracing shows: the kind of store, and the model."""
        embedding, store = self.vectorstore.embeddings, self.vectorstore.store
        if isinstance(store, ThreadedStore):
            store = store.store
        params = LangSmithRetrieverParams(
            ls_retriever_name="m3connect",
            ls_vector_store_provider=type(store).__name__,
            ls_embedding_provider=type(embedding).__name__,
        )
        model = getattr(embedding, "model", None)
        if isinstance(model, str):
            params["ls_embedding_model"] = model
        return params


def _both(own: Filter | None, of_call: Filter | None) -> Filter | None:
    if own is None or of_call is None:
        return of_call if own is None else own
    return own & of_call
