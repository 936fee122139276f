"""`M3ConnectVectorStore`: any store of m3connect as LlamaIndex's vector store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from llama_index_m3connect import operations
from llama_index_m3connect.calls import Performer
from llama_index_m3connect.model import ModelSettings, source_of
from m3connect.flows import Flow, run, run_async
from m3connect.fusion import RRF
from m3connect.store import HybridStore

__all__ = ["M3ConnectVectorStore"]

_QUERY_KWARGS = {"candidates", "fusion", "mmr_prefetch_k", "mmr_threshold", "node_ids"}


class M3ConnectVectorStore(BasePydanticVectorStore):
    """Nodes in a store of m3connect, found by dense vectors, by words, by both, or with diversity.

    Modes: DEFAULT (dense), SPARSE, HYBRID and MMR. HYBRID fuses by reciprocal rank, or with `alpha` by the weighted sum
    of raw scores, `alpha` dense + (1 - `alpha`) sparse. Its `hybrid_top_k` says how many nodes come back and
    `sparse_top_k` how many candidates each leg brings, where not the store decides (100 or more). Filters mean what
    LlamaIndex's `build_metadata_filter_fn` says, on every database; one of `m3connect.filters` is taken as well.

    What LlamaIndex hands over is dense alone. The sparse weights come from `encoder`, whose last passes are remembered:
    give the `M3ConnectEmbedding` that embeds the nodes, and adding or asking costs one forward pass for all legs.

    Args:
        store: a `Store` such as `QdrantStore`, `EdgeStore`, `MilvusStore` and `MemoryStore`, whose calls run in a
            thread for the async methods, or an `AsyncStore`, which has async methods alone.
        encoder: an `M3ConnectEmbedding` (best: its passes are shared), or any m3connect encoder. Without one, nodes are
            stored with the dense vector they carry, and only DEFAULT and MMR work.
        fusion: of HYBRID without `alpha`.
        candidates: how many each leg of HYBRID brings; None means what the store does.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index.core.vector_stores.types import VectorStoreQuery
        >>> from m3connect import MemoryStore
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = M3ConnectVectorStore(store=MemoryStore(dim=encoder.dim), encoder=encoder)
        >>> store.add([TextNode(id_="a", text="red apple"), TextNode(id_="b", text="blue sea")])
        ['a', 'b']
        >>> store.query(VectorStoreQuery(query_str="deep blue sea", mode="hybrid")).ids
        ['b']
    """

    model_config = ConfigDict(extra="forbid")

    stores_text: bool = True
    store: Any = Field(exclude=True, description="A store of m3connect.")
    encoder: Any = Field(default=None, exclude=True, description="What makes the sparse weights.")
    fusion: Any = Field(default_factory=RRF, exclude=True, description="Of HYBRID without alpha.")
    candidates: int | None = Field(default=None, ge=1, description="How many each leg of HYBRID brings.")

    _model: ModelSettings | None = PrivateAttr(default=None)
    _performer: Performer = PrivateAttr()

    @field_validator("store")
    @classmethod
    def _check_store(cls, store: object) -> object:
        if not isinstance(store, HybridStore):  # an AsyncStore has the same methods
            raise ValueError(
                f"store must be a store of m3connect, such as QdrantStore or MilvusStore, but is {store!r}"
            )
        return store

    @field_validator("fusion")
    @classmethod
    def _check_fusion(cls, fusion: object) -> object:
        return operations.check_fusion(fusion)

    def model_post_init(self, context: object) -> None:
        """Find the model behind `encoder`."""
        super().model_post_init(context)
        self._model = None if self.encoder is None else source_of(self.encoder)
        self._performer = Performer(self.store, self._model)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes into its files."""
        return "M3ConnectVectorStore"

    @property
    def client(self) -> Any:  # noqa: ANN401  # the base class says so
        """The store of m3connect."""
        return self.store

    def add(self, nodes: Sequence[BaseNode], **kwargs: object) -> list[str]:
        """Store nodes, replacing those whose id is taken.

        Returns:
            Their ids.

        Raises:
            ValueError: a node carries an embedding that `encoder` does not make of its text.
            CollectionMismatchError: there is no `encoder`, and the collection was filled by one.
        """
        _refuse(kwargs, set())
        return run(self._add(nodes), self._performer.perform)

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: object) -> list[str]:
        """See `add`."""
        _refuse(kwargs, set())
        return await run_async(self._add(nodes), self._performer.aperform)

    def _add(self, nodes: Sequence[BaseNode]) -> Flow[list[str]]:
        return operations.add(nodes, encodes=self._model is not None, multi_vector=self.store.multi_vector)

    def query(self, query: VectorStoreQuery, **kwargs: object) -> VectorStoreQueryResult:
        """Find nodes.

        Args:
            query: as LlamaIndex's retrievers build it. Its `node_ids` are not used: retrievers of a `VectorStoreIndex`
                put there what the index keeps itself, and mean all nodes.
            kwargs: `fusion` and `candidates` for this query, `node_ids`, the nodes to search, `mmr_threshold`, and
                `mmr_prefetch_k`, how many nodes MMR chooses from. `VectorIndexRetriever` passes them on from
                `vector_store_kwargs`.

        Raises:
            ValueError: the mode is not supported, or lacks what it needs.
        """
        return run(operations.query(query, self._options(kwargs)), self._performer.perform)

    async def aquery(self, query: VectorStoreQuery, **kwargs: object) -> VectorStoreQueryResult:
        """See `query`."""
        return await run_async(operations.query(query, self._options(kwargs)), self._performer.aperform)

    def _options(self, kwargs: dict[str, Any]) -> operations.QueryOptions:
        _refuse(kwargs, _QUERY_KWARGS)
        return operations.QueryOptions(**{"fusion": self.fusion, "candidates": self.candidates} | kwargs)

    def delete(self, ref_doc_id: str, **delete_kwargs: object) -> None:
        """Delete the nodes of a source document; a node without a source is its own."""
        _refuse(delete_kwargs, set())
        run(operations.delete_document(ref_doc_id), self._performer.perform)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: object) -> None:
        """See `delete`."""
        _refuse(delete_kwargs, set())
        await run_async(operations.delete_document(ref_doc_id), self._performer.aperform)

    def get_nodes(
        self, node_ids: Sequence[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return nodes by ids in the order asked, or those that pass the filters, or where both hold; else all."""
        return run(operations.get_nodes(node_ids, filters), self._performer.perform)

    async def aget_nodes(
        self, node_ids: Sequence[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """See `get_nodes`."""
        return await run_async(operations.get_nodes(node_ids, filters), self._performer.aperform)

    def delete_nodes(
        self, node_ids: Sequence[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: object
    ) -> None:
        """Delete nodes by ids, by filters, or those for which both hold."""
        _refuse(delete_kwargs, set())
        run(operations.delete_nodes(node_ids, filters), self._performer.perform)

    async def adelete_nodes(
        self, node_ids: Sequence[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: object
    ) -> None:
        """See `delete_nodes`."""
        _refuse(delete_kwargs, set())
        await run_async(operations.delete_nodes(node_ids, filters), self._performer.aperform)

    def clear(self) -> None:
        """Delete every node; the collection stays."""
        run(operations.clear(), self._performer.perform)

    async def aclear(self) -> None:
        """See `clear`."""
        await run_async(operations.clear(), self._performer.aperform)


def _refuse(kwargs: dict[str, object], known: set[str]) -> None:
    """Refuse arguments that would otherwise be ignored in silence."""
    if unknown := sorted(kwargs.keys() - known):
        raise TypeError(f"unexpected argument {unknown[0]!r}; known are {sorted(known) or 'none'}")
