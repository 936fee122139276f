"""The client libraries by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from store_bench.contenders import Contender
from store_bench.data import CANDIDATES, DIM, TOKEN, TOP_K, Batch, Data, Found, Kind, few, make_payload, point_id


class QdrantByHand(Contender):
    """qdrant-client in local mode."""

    def __init__(self, data: Data, *, plain: bool) -> None:
        from qdrant_client import QdrantClient, models

        self._rows, self._plain, self._models = data.query_rows, plain, models
        self._dense = [query.dense[0] for query in data.queries]
        self._client = QdrantClient(":memory:")
        self._client.create_collection(
            "docs",
            vectors_config={"dense": models.VectorParams(size=DIM, distance=models.Distance.DOT)},
            sparse_vectors_config={"sparse": models.SparseVectorParams()},
        )
        key, value = ("metadata.lang", "de") if plain else ("filter_tokens", TOKEN)
        match = models.MatchAny(any=[value])
        self._condition = models.Filter(must=[models.FieldCondition(key=key, match=match)])

    def ingest(self, batch: Batch) -> None:
        """Upsert points."""
        models = self._models
        points = [
            models.PointStruct(
                id=point_id(document.id),
                vector={
                    "dense": dense.tolist(),
                    "sparse": models.SparseVector(indices=tokens.tolist(), values=weights.tolist()),
                },
                payload=few(document) if self._plain else make_payload(document),
            )
            for document, dense, (tokens, weights) in zip(
                batch.documents, batch.embeddings.dense, batch.rows, strict=True
            )
        ]
        self._client.upsert("docs", points, wait=True)

    def search(self, kind: Kind, i: int) -> Found:
        """Query points."""
        models = self._models
        tokens, weights = self._rows[i]
        sparse = models.SparseVector(indices=tokens.tolist(), values=weights.tolist())
        dense, fields = self._dense[i].tolist(), ["id", "text", "metadata", *([] if self._plain else ["parent_id"])]
        if kind == "dense" or kind == "sparse":
            query = dense if kind == "dense" else sparse
            answer = self._client.query_points("docs", query=query, using=kind, limit=TOP_K, with_payload=fields)
        else:
            condition = self._condition if kind == "filtered" else None
            answer = self._client.query_points(
                "docs",
                prefetch=[
                    models.Prefetch(query=dense, using="dense", limit=CANDIDATES, filter=condition),
                    models.Prefetch(query=sparse, using="sparse", limit=CANDIDATES, filter=condition),
                ],
                query=models.RrfQuery(rrf=models.Rrf(k=61)),  # its ranks count from 0
                limit=TOP_K,
                with_payload=fields,
            )
        return [((point.payload or {})["id"], point.score) for point in answer.points]


class EdgeByHand(Contender):
    """qdrant-edge-py."""

    def __init__(self, data: Data, folder: Path, *, plain: bool) -> None:
        self._edge: Any = importlib.import_module("qdrant_edge")
        edge = self._edge
        self._rows, self._plain = data.query_rows, plain
        self._dense = [query.dense[0] for query in data.queries]
        folder.mkdir()
        config = edge.EdgeConfig(
            vectors={"dense": edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Dot)},
            sparse_vectors={"sparse": edge.EdgeSparseVectorParams()},
        )
        self._shard = edge.EdgeShard.create(str(folder), config)
        key, value = ("metadata.lang", "de") if plain else ("filter_tokens", TOKEN)
        self._shard.update(edge.UpdateOperation.create_field_index(key, edge.PayloadSchemaType.Keyword))
        self._condition = edge.Filter(must=[edge.FieldCondition(key, match=edge.MatchAny([value]))])

    def ingest(self, batch: Batch) -> None:
        """Upsert points."""
        edge = self._edge
        points = [
            edge.Point(
                point_id(document.id),
                {"dense": dense, "sparse": edge.SparseVector(tokens.tolist(), weights.tolist())},
                few(document) if self._plain else make_payload(document),
            )
            for document, dense, (tokens, weights) in zip(
                batch.documents, batch.embeddings.dense, batch.rows, strict=True
            )
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(points))

    def finish(self) -> None:
        """Flush."""
        self._shard.flush()

    def search(self, kind: Kind, i: int) -> Found:
        """Query the shard, exactly."""
        edge = self._edge
        tokens, weights = self._rows[i]
        exact = edge.SearchParams(exact=True)
        legs = {
            "dense": edge.Query.Nearest(self._dense[i], using="dense"),
            "sparse": edge.Query.Nearest(edge.SparseVector(tokens.tolist(), weights.tolist()), using="sparse"),
        }
        if kind in legs:
            request = edge.QueryRequest(limit=TOP_K, query=legs[kind], params=exact, with_payload=True)
        else:
            condition = self._condition if kind == "filtered" else None
            prefetches = [
                edge.Prefetch(limit=CANDIDATES, query=leg, filter=condition, params=exact) for leg in legs.values()
            ]
            fused = edge.Fusion.Rrf(61)  # its ranks count from 0
            request = edge.QueryRequest(limit=TOP_K, query=fused, prefetches=prefetches, with_payload=True)
        return [(point.payload["id"], point.score) for point in self._shard.query(request)]


class MilvusByHand(Contender):
    """pymilvus on a Milvus Lite file."""

    def __init__(self, data: Data, folder: Path, *, plain: bool) -> None:
        self._milvus: Any = importlib.import_module("pymilvus")
        types = self._milvus.DataType
        self._rows, self._plain = data.query_rows, plain
        self._dense = [query.dense[0] for query in data.queries]
        self._client = self._milvus.MilvusClient(f"{folder}/{'plain' if plain else 'hand'}.db")
        schema = self._milvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.VARCHAR, is_primary=True, max_length=4096)
        schema.add_field("text", types.VARCHAR, max_length=65_535)
        schema.add_field("metadata", types.JSON)
        if not plain:
            schema.add_field("parent_id", types.VARCHAR, max_length=4096, nullable=True)
            schema.add_field("fingerprint", types.VARCHAR, max_length=64)
            schema.add_field("filter_tokens", types.ARRAY, element_type=types.VARCHAR, max_capacity=4096, max_length=96)
            schema.add_field("filter_numbers", types.JSON)
        schema.add_field("dense", types.FLOAT_VECTOR, dim=DIM)
        schema.add_field("sparse", types.SPARSE_FLOAT_VECTOR)
        indexes = self._milvus.MilvusClient.prepare_index_params()
        indexes.add_index("dense", index_type="FLAT", metric_type="IP")
        indexes.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self._client.create_collection("docs", schema=schema, index_params=indexes)
        self._condition = 'metadata["lang"] == "de"' if plain else f"array_contains(filter_tokens, {json.dumps(TOKEN)})"

    def ingest(self, batch: Batch) -> None:
        """Upsert rows."""
        rows = [
            {
                **(few(document) if self._plain else make_payload(document)),
                "dense": dense,
                "sparse": dict(zip(tokens.tolist(), weights.tolist(), strict=True)),
            }
            for document, dense, (tokens, weights) in zip(
                batch.documents, batch.embeddings.dense, batch.rows, strict=True
            )
        ]
        self._client.upsert("docs", rows)

    def finish(self) -> None:
        """Flush, without which Lite compares row by row."""
        self._client.flush("docs")

    def search(self, kind: Kind, i: int) -> Found:
        """Search, or search hybrid."""
        tokens, weights = self._rows[i]
        queries: dict[str, Any] = {
            "dense": self._dense[i],
            "sparse": dict(zip(tokens.tolist(), weights.tolist(), strict=True)),
        }
        fields = ["id", "text", "metadata", *([] if self._plain else ["parent_id"])]
        if kind in queries:
            answer = self._client.search(
                "docs", data=[queries[kind]], anns_field=kind, limit=TOP_K, output_fields=fields
            )
        else:
            expression = self._condition if kind == "filtered" else ""
            legs = [
                self._milvus.AnnSearchRequest(
                    data=[query], anns_field=leg, param={"metric_type": "IP"}, limit=CANDIDATES, expr=expression
                )
                for leg, query in queries.items()
            ]
            ranker = self._milvus.RRFRanker(60)
            answer = self._client.hybrid_search("docs", legs, ranker, limit=TOP_K, output_fields=fields)
        return [(hit["id"], hit["distance"]) for hit in answer[0]]
