"""LangChain's stores: their "encoders" look vectors up, and texts of queries are their numbers."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from store_bench.contenders import Contender
from store_bench.data import BATCH, CANDIDATES, DIM, KINDS, TOP_K, Batch, Data, Found, Kind, Row, point_id


class _Lookup:
    """Finds vectors by text, as lists, which is what LangChain's encoders return."""

    def __init__(self, data: Data, *, sparse: Callable[[Row], Any] | None) -> None:
        self._queries: dict[str, Any] = {}
        for i, (query, row) in enumerate(zip(data.queries, data.query_rows, strict=True)):
            self._queries[str(i)] = sparse(row) if sparse else query.dense[0].tolist()
        self._documents: dict[str, Any] = {}
        for batch in data.batches:
            for document, dense, row in zip(batch.documents, batch.embeddings.dense, batch.rows, strict=True):
                self._documents[document.text] = row if sparse else dense
        self._sparse = sparse

    def embed_documents(self, texts: Sequence[str]) -> list[Any]:
        """Return vectors of documents."""
        rows = [self._documents[text] for text in texts]
        return [self._sparse(row) for row in rows] if self._sparse else [row.tolist() for row in rows]

    def embed_query(self, text: str) -> Any:  # noqa: ANN401  # by leg
        """Return the vector of a query."""
        return self._queries[text]


class LangChainQdrant(Contender):
    """langchain-qdrant; each leg brings as many candidates as hits are asked for, which cannot be changed."""

    def __init__(self, data: Data) -> None:
        from qdrant_client import QdrantClient, models

        library: Any = importlib.import_module("langchain_qdrant")
        client = QdrantClient(":memory:")
        client.create_collection(
            "docs",
            vectors_config={"dense": models.VectorParams(size=DIM, distance=models.Distance.DOT)},
            sparse_vectors_config={"sparse": models.SparseVectorParams()},
        )

        def to_sparse(row: Row) -> Any:  # noqa: ANN401  # the library's SparseVector
            return library.SparseVector(indices=row[0].tolist(), values=row[1].tolist())

        modes = library.RetrievalMode
        dense, sparse = _Lookup(data, sparse=None), _Lookup(data, sparse=to_sparse)
        self._stores = {
            kind: library.QdrantVectorStore(
                client,
                "docs",
                embedding=dense,
                sparse_embedding=sparse,
                retrieval_mode={"dense": modes.DENSE, "sparse": modes.SPARSE}.get(kind, modes.HYBRID),
                vector_name="dense",
                sparse_vector_name="sparse",
                validate_embeddings=False,
                validate_collection_config=False,
            )
            for kind in KINDS
        }
        self._fusion = {"hybrid_fusion": models.RrfQuery(rrf=models.Rrf(k=61))}
        match = models.MatchValue(value="de")
        self._condition = models.Filter(must=[models.FieldCondition(key="metadata.lang", match=match)])

    def ingest(self, batch: Batch) -> None:
        """Add texts."""
        metadatas = [{**document.metadata, "id": document.id} for document in batch.documents]
        ids = [point_id(document.id) for document in batch.documents]
        texts = [document.text for document in batch.documents]
        self._stores["hybrid"].add_texts(texts, metadatas, ids=ids, batch_size=BATCH)

    def search(self, kind: Kind, i: int) -> Found:
        """Search with scores."""
        options: dict[str, Any] = self._fusion if kind in ("hybrid", "filtered") else {}
        condition = self._condition if kind == "filtered" else None
        found = self._stores[kind].similarity_search_with_score(str(i), k=TOP_K, filter=condition, **options)
        return [(document.metadata["id"], score) for document, score in found]


class LangChainMilvus(Contender):
    """langchain-milvus, with candidates and index parameters as here, since Lite refuses its defaults."""

    def __init__(self, data: Data, folder: Path) -> None:
        library: Any = importlib.import_module("langchain_milvus")
        sparse_base: Any = importlib.import_module("langchain_milvus.utils.sparse").BaseSparseEmbedding

        def to_sparse(row: Row) -> dict[int, float]:
            return dict(zip(row[0].tolist(), row[1].tolist(), strict=True))

        encoders = _Lookup(data, sparse=None), _Lookup(data, sparse=to_sparse)
        members = {name: getattr(encoders[1], name) for name in ("embed_documents", "embed_query")}
        wrapped = type("Sparse", (sparse_base,), {name: staticmethod(one) for name, one in members.items()})()
        self._store = library.Milvus(
            [encoders[0], wrapped],
            collection_name="docs",
            connection_args={"uri": f"{folder}/langchain.db"},
            index_params=[
                {"index_type": "FLAT", "metric_type": "IP"},
                {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"},
            ],
            search_params=[{"metric_type": "IP", "params": {}}] * 2,
            vector_field=["dense", "sparse"],
            consistency_level="Strong",
            auto_id=False,
        )

    def ingest(self, batch: Batch) -> None:
        """Add texts."""
        texts = [document.text for document in batch.documents]
        ids = [document.id for document in batch.documents]
        self._store.add_texts(texts, [dict(document.metadata) for document in batch.documents], ids=ids)

    def finish(self) -> None:
        """Flush, which it leaves to its user."""
        self._store.client.flush("docs")

    def search(self, kind: Kind, i: int) -> Found:
        """Search hybrid; a store of two vectors has no other search."""
        expression = 'lang == "de"' if kind == "filtered" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = self._store.similarity_search_with_score(
                str(i), k=TOP_K, fetch_k=CANDIDATES, expr=expression, ranker_type="rrf", ranker_params={"k": 60}
            )
        return [(document.metadata["pk"], score) for document, score in found]
