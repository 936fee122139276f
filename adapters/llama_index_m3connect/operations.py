"""What the vector store does, written once for sync and async: flows over a store and a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index_m3connect.calls import compute
from llama_index_m3connect.filters import to_filter
from llama_index_m3connect.nodes import (
    FROM_ELSEWHERE,
    of_documents,
    of_nodes,
    stems_from,
    to_document,
    to_node,
)
from m3connect.embeddings import FloatArray, M3Embeddings, SparseRows, unit_rows
from m3connect.errors import CollectionMismatchError, FilterTooBroadError
from m3connect.filters import And, Filter, matches
from m3connect.flows import MOST_READ, Call, Flow
from m3connect.fusion import RRF, Dense, Fusion, Sparse, Weighted
from m3connect.retrieval import stored_flow
from m3connect.store import Document, Hit, StoreInfo, check_count, check_ids

__all__ = [
    "QueryOptions",
    "add",
    "check_fusion",
    "clear",
    "delete_document",
    "delete_nodes",
    "get_nodes",
    "query",
    "with_dense",
]

_SUPPORTED = (
    VectorStoreQueryMode.DEFAULT,
    VectorStoreQueryMode.SPARSE,
    VectorStoreQueryMode.HYBRID,
    VectorStoreQueryMode.MMR,
)

_SAME = 0.99
"""Cosine above which two dense vectors are of the same text; half precision and other hardware stay far above."""


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """What a query can be told beside LlamaIndex's `VectorStoreQuery`."""

    fusion: Fusion
    """Of HYBRID without alpha."""

    candidates: int | None = None
    """How many each leg brings before fusion."""

    mmr_threshold: float | None = None
    """1 is relevance alone, 0 is diversity alone; None means 0.5."""

    mmr_prefetch_k: int | None = None
    """How many nodes MMR chooses from; None means `max(100, 4 * top_k)`."""

    node_ids: Sequence[str] | None = None
    """Search these nodes alone. `VectorStoreQuery.node_ids` cannot say so: `as_retriever()` puts there what the index
    keeps itself, which beside a store like ours is none, or its image and index nodes, and means all."""

    def __post_init__(self) -> None:
        check_fusion(self.fusion)
        for name in ("candidates", "mmr_prefetch_k"):
            _check_optional_count(name, getattr(self, name))


def add(nodes: Sequence[BaseNode], *, encodes: bool, multi_vector: bool) -> Flow[list[str]]:
    """Store nodes, replacing those whose id is taken.

    Args:
        nodes: with an embedding each where there is no model.
        encodes: whether there is a model.
        multi_vector: whether the store keeps token vectors.

    Raises:
        ValueError: a node carries an embedding that is not the model's of its text, or, without a model, none.
        CollectionMismatchError: there is no model, and the collection has sparse weights of one.
    """
    if not nodes:
        return []
    if not encodes:
        yield from _refuse_mixing()
        documents = yield from _documents(nodes)
        batch: M3Embeddings = yield compute(lambda: _dense_only([_embedding_of(node) for node in nodes]))
        yield Call("upsert", {"documents": documents, "embeddings": batch})
        return [document.id for document in documents]
    try:
        names = yield from _add_encoded(nodes, multi_vector)
    except Exception:  # no `finally`: a flow that is being closed must not yield
        yield Call("settle")
        raise
    yield Call("settle")
    return names


def _add_encoded(nodes: Sequence[BaseNode], multi_vector: bool) -> Flow[list[str]]:
    documents = yield from _documents(nodes)
    texts = [document.text for document in documents]
    batch: M3Embeddings = yield Call("encode", {"texts": texts, "multi_vector": multi_vector})
    yield compute(lambda: _check_embeddings(nodes, batch))
    yield Call("upsert", {"documents": documents, "embeddings": batch})
    return [document.id for document in documents]


def _documents(nodes: Sequence[BaseNode]) -> Flow[list[Document]]:
    documents: list[Document] = yield compute(lambda: [to_document(node) for node in nodes])
    return documents


def _refuse_mixing() -> Flow[None]:
    info: StoreInfo = yield Call("info")
    if info.fingerprint is not None:
        raise CollectionMismatchError(
            f"collection {info.name!r} was filled by {info.fingerprint}, sparse weights included, and these nodes "
            "would have none: give encoder= (an M3ConnectEmbedding, or any m3connect encoder of that model), or use "
            "another collection"
        )


def _embedding_of(node: BaseNode) -> list[float]:
    if node.embedding is None:
        raise ValueError(
            f"node {node.node_id!r} has no embedding, and the store has no encoder to make one: give encoder= (best "
            "the M3ConnectEmbedding that embeds the nodes), or embed nodes before they are stored"
        )
    return node.embedding


def _check_embeddings(nodes: Sequence[BaseNode], batch: M3Embeddings) -> None:
    """Refuse an embedding of another model or of another text, which no query would find where it belongs."""
    for node, row in zip(nodes, batch.dense, strict=True):
        if node.embedding is not None and _cosine(np.asarray(node.embedding, np.float32), row) < _SAME:
            raise ValueError(
                f"node {node.node_id!r} carries an embedding that the store's encoder does not make of its text: embed "
                "with M3ConnectEmbedding of the same model, after every step that changes text or metadata, and with "
                "an empty cache where the model changed; a store without encoder= takes dense vectors of any model"
            )


def _cosine(left: FloatArray, right: FloatArray) -> float:
    """Return the cosine of two vectors; -1 where they have different lengths."""
    if left.shape != right.shape:
        return -1.0
    return float(left @ right) / max(float(np.linalg.norm(left) * np.linalg.norm(right)), 1e-12)


def query(asked: VectorStoreQuery, options: QueryOptions) -> Flow[VectorStoreQueryResult]:
    """Answer a query in its mode."""
    mode = VectorStoreQueryMode(asked.mode)
    if mode not in _SUPPORTED:
        names = ", ".join(supported.name for supported in _SUPPORTED)
        hint = "; SPARSE searches for words" if "text" in mode.value or "semantic" in mode.value else ""
        raise ValueError(f"query mode {mode.name} is not supported: use {names}{hint}")
    check_count("similarity_top_k", asked.similarity_top_k)
    for name in ("sparse_top_k", "hybrid_top_k"):
        _check_optional_count(name, getattr(asked, name))
    condition = yield from _restriction(asked, options)
    rows = yield from _rows(asked, mode)
    if mode == VectorStoreQueryMode.MMR:
        return (yield from _mmr(asked, options, rows, condition))
    plan = _plan(asked, mode, options)
    hits: list[list[Hit]] = yield Call("search", {"queries": rows, "filter": condition, **plan})
    return _result([to_node(hit.document) for hit in hits[0]], [hit.score for hit in hits[0]])


def check_fusion(fusion: object) -> Fusion:
    """Return a fusion.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(fusion, RRF | Weighted | Dense | Sparse):
        raise ValueError(f"fusion must be RRF(), Weighted(), Dense() or Sparse() of m3connect, but is {fusion!r}")
    return fusion


def _check_optional_count(name: str, count: int | None) -> None:
    if count is not None:
        check_count(name, count)


def _restriction(asked: VectorStoreQuery, options: QueryOptions) -> Flow[Filter | None]:
    parts = [(yield from to_filter(asked.filters))]
    if asked.doc_ids is not None:
        parts.append((yield from _of_sources(asked.doc_ids, most=MOST_READ)))
    parts.append(None if options.node_ids is None else of_nodes(check_ids(options.node_ids)))
    given = tuple(part for part in parts if part is not None)
    return And(given) if len(given) > 1 else next(iter(given), None)


def _of_sources(ref_doc_ids: Sequence[str], *, most: int | None = None) -> Flow[Filter]:
    """Select the nodes of source documents; a node without a source is its own.

    Databases can be asked for what LlamaIndex stored. Documents of another way of ingesting have their source in
    `Document.parent_id`, which filters do not see: they are read, where there are any.

    Args:
        ref_doc_ids: the source documents.
        most: how many documents may be read; None means any number.

    Raises:
        FilterTooBroadError: there are more; none was read.
    """
    stored = of_documents(check_ids(ref_doc_ids))
    others: int = yield Call("count", {"filter": FROM_ELSEWHERE})
    if not others:
        return stored
    if most is not None and others > most:
        raise FilterTooBroadError(
            f"the collection has {others} documents that LlamaIndex did not store, more than {most} to read for their "
            "sources: select by metadata instead (filters=)"
        )
    wanted = set(ref_doc_ids)
    own: list[str] = yield Call("scan", {"filter": stored, "keep": lambda _: True})
    read: list[str] = yield Call(
        "scan", {"filter": FROM_ELSEWHERE, "keep": lambda document: stems_from(document, wanted)}
    )
    return of_nodes([*own, *read])


def _plan(asked: VectorStoreQuery, mode: VectorStoreQueryMode, options: QueryOptions) -> dict[str, object]:
    """Return the arguments of the search, query and filter aside."""
    top_k = asked.similarity_top_k
    if mode == VectorStoreQueryMode.DEFAULT:
        return {"top_k": top_k, "fusion": Dense()}
    if mode == VectorStoreQueryMode.SPARSE:
        return {"top_k": asked.sparse_top_k or top_k, "fusion": Sparse()}
    fusion, candidates = options.fusion, options.candidates
    if asked.alpha is not None:
        if not 0 <= asked.alpha <= 1:
            raise ValueError(f"alpha must be from 0 (sparse alone) to 1 (dense alone), but is {asked.alpha}")
        fusion = Weighted(dense=asked.alpha, sparse=1 - asked.alpha)
    top_k = asked.hybrid_top_k or top_k
    if candidates is None and asked.sparse_top_k is not None:
        candidates = max(asked.sparse_top_k, asked.similarity_top_k, top_k)
    return {"top_k": top_k, "fusion": fusion, "candidates": candidates}


def _rows(asked: VectorStoreQuery, mode: VectorStoreQueryMode) -> Flow[M3Embeddings]:
    """Return the query's row: what the framework embedded, and from the model what is missing.

    The pass of `M3ConnectEmbedding` is remembered, so asking for the same text again is free.
    """
    dense, text = asked.query_embedding, asked.query_str
    if dense is not None and mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        return _dense_only([dense])
    if text is None:
        raise ValueError(f"query mode {mode.name} needs query_str, the question as text, but has none")
    batch: M3Embeddings = yield Call("encode", {"texts": [text], "multi_vector": True})  # a reranker may follow
    return batch if dense is None else with_dense(batch, dense)


def with_dense(query: M3Embeddings, vector: Sequence[float] | FloatArray) -> M3Embeddings:
    """Return the query with another dense vector, as HyDE makes one of other texts; its length does not matter."""
    row = np.asarray(vector, np.float32)[np.newaxis]
    return query if np.array_equal(row, query.dense) else replace(query, dense=unit_rows(row), fingerprint=None)


def _mmr(
    asked: VectorStoreQuery, options: QueryOptions, rows: M3Embeddings, condition: Filter | None
) -> Flow[VectorStoreQueryResult]:
    """Choose nodes that are near the query and far from each other, by LlamaIndex's own function."""
    top_k = asked.similarity_top_k
    threshold = options.mmr_threshold if asked.mmr_threshold is None else asked.mmr_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"mmr_threshold must be from 0 (diversity alone) to 1 (relevance alone), but is {threshold}")
    prefetch = options.mmr_prefetch_k or max(100, 4 * top_k)
    search = {"queries": rows, "filter": condition, "top_k": max(prefetch, top_k), "fusion": Dense()}
    hits: list[list[Hit]] = yield Call("search", search)
    stored = yield from stored_flow([hit.document.id for hit in hits[0]])
    documents = {hit.document.id: hit.document for hit in hits[0] if hit.document.id in stored.places}
    choose = partial(
        get_top_k_mmr_embeddings,
        rows.dense[0].tolist(),
        stored.rows.dense.tolist(),
        similarity_top_k=top_k,
        embedding_ids=list(documents),
        mmr_threshold=threshold,
    )
    scores, chosen = yield compute(choose)
    return _result([to_node(documents[name]) for name in chosen], [float(score) for score in scores])


def _result(nodes: list[BaseNode], scores: list[float]) -> VectorStoreQueryResult:
    return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=[node.node_id for node in nodes])


def get_nodes(node_ids: Sequence[str] | None, filters: MetadataFilters | Filter | None) -> Flow[list[BaseNode]]:
    """Return nodes: by ids in the order asked, or all that pass; both together must hold."""
    documents = yield from _selected(node_ids, filters)
    nodes: list[BaseNode] = yield compute(lambda: [to_node(document) for document in documents])
    return nodes


def delete_nodes(node_ids: Sequence[str] | None, filters: MetadataFilters | Filter | None) -> Flow[None]:
    """Delete nodes by ids, by filters, or by both together.

    Raises:
        ValueError: neither was given; `clear` deletes everything.
    """
    condition = yield from to_filter(filters)
    if node_ids is None and condition is None:
        raise ValueError("delete_nodes needs node_ids or filters that name something; clear() deletes everything")
    if node_ids is None:
        yield Call("delete", {"filter": condition})
        return
    documents = (yield from _selected(node_ids, condition)) if condition is not None else []
    names = [document.id for document in documents] if condition is not None else check_ids(node_ids)
    yield Call("delete", {"ids": names})


def delete_document(ref_doc_id: str) -> Flow[None]:
    """Delete the nodes of a source document."""
    condition = yield from _of_sources([ref_doc_id])
    yield Call("delete", {"filter": condition})


def clear() -> Flow[None]:
    """Delete every node."""
    yield Call("delete", {"filter": And(())})


def _selected(node_ids: Sequence[str] | None, filters: MetadataFilters | Filter | None) -> Flow[list[Document]]:
    condition = yield from to_filter(filters)
    if node_ids is None:
        documents: list[Document] = yield Call("scroll", {"filter": condition})
        return documents
    found: list[Document] = yield Call("get", {"ids": check_ids(node_ids)})
    return [document for document in found if condition is None or matches(condition, document.metadata)]


def _dense_only(vectors: Sequence[Sequence[float]]) -> M3Embeddings:
    return M3Embeddings(unit_rows(vectors), SparseRows.empty(len(vectors)))
