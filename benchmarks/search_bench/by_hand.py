"""Reranked search as a user of FlagEmbedding and Qdrant Edge writes it: no token vectors are kept."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from store_bench.data import point_id

from m3connect import Document, M3Embeddings
from m3connect.scoring import HYBRID_WEIGHTS
from search_bench.contenders import TOP_K, Contender
from search_bench.stages import Answer, Stopwatch

BATCH_SIZE = 4
"""What FlagEmbedding encodes candidates with: its best on two cores (benchmarks/encode.py); its default is 256."""


def load_model(checkpoint: Path) -> Any:  # noqa: ANN401  # FlagEmbedding has no types
    """Load FlagEmbedding's model in float32, the only type it computes in on a processor."""
    library = importlib.import_module("FlagEmbedding")
    with contextlib.redirect_stderr(io.StringIO()):
        return library.BGEM3FlagModel(str(checkpoint), use_fp16=False, devices=["cpu"])


class EdgeShard:
    """A Qdrant Edge shard with dense and sparse vectors."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._edge: Any = importlib.import_module("qdrant_edge")
        folder.mkdir()
        config = self._edge.EdgeConfig(
            vectors={"dense": self._edge.EdgeVectorParams(size=dim, distance=self._edge.Distance.Dot)},
            sparse_vectors={"sparse": self._edge.EdgeSparseVectorParams()},
        )
        self._shard = self._edge.EdgeShard.create(str(folder), config)

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents."""
        points = [
            self._edge.Point(
                point_id(document.id),
                {"dense": dense, "sparse": self._edge.SparseVector(list(weights), list(weights.values()))},
                {"id": document.id, "text": document.text},
            )
            for document, dense, weights in zip(documents, embeddings.dense, embeddings.sparse.to_dicts(), strict=True)
        ]
        self._shard.update(self._edge.UpdateOperation.upsert_points(points))

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._shard.flush()

    def search(self, question: dict[str, Any], depth: int) -> list[Any]:
        """Return the best points by reciprocal rank fusion, with as many candidates a leg as m3connect takes."""
        edge, limit, exact = self._edge, max(100, 4 * depth), self._edge.SearchParams(exact=True)
        weights = question["lexical_weights"]
        sparse = edge.SparseVector([int(token) for token in weights], [float(weight) for weight in weights.values()])
        legs = {"dense": question["dense_vecs"], "sparse": sparse}
        prefetches = [
            edge.Prefetch(limit=limit, query=edge.Query.Nearest(vector, using=name), params=exact)
            for name, vector in legs.items()
        ]
        fused = edge.Fusion.Rrf(61)  # its ranks count from 0
        request = edge.QueryRequest(limit=depth, query=fused, prefetches=prefetches, with_payload=True)
        return list(self._shard.query(request))


class ByHand(Contender):
    """Encodes the question, asks the shard, encodes the candidates' texts, and scores them pair by pair."""

    _needs_tokens = True
    """Whether the question's token vectors are asked for."""

    def __init__(self, model: Any, shard: EdgeShard) -> None:  # noqa: ANN401  # FlagEmbedding has no types
        self._model, self._shard = model, shard
        self._watch = Stopwatch()

    def answer(self, question: str, depth: int) -> Answer:
        """Search and rerank."""
        self._watch.start()
        with self._watch.stage("encode"):
            query = {name: rows[0] for name, rows in self._encode([question], tokens=self._needs_tokens).items()}
        with self._watch.stage("search"):
            points = self._shard.search(query, depth)
        scores = self._scores(question, query, [point.payload["text"] for point in points])
        order = np.argsort(-scores, kind="stable")[:TOP_K]
        found = [(points[place].payload["id"], float(scores[place])) for place in order]
        return Answer(found, self._watch.stop())

    def _encode(self, texts: list[str], *, tokens: bool) -> dict[str, Any]:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            found: dict[str, Any] = self._model.encode(
                texts, batch_size=BATCH_SIZE, return_dense=True, return_sparse=True, return_colbert_vecs=tokens
            )
        return {name: rows for name, rows in found.items() if rows is not None}

    def _scores(self, question: str, query: dict[str, Any], texts: list[str]) -> np.ndarray:
        with self._watch.stage("encode candidates"):
            rows = self._encode(texts, tokens=True)
        model, (dense, sparse, tokens) = self._model, HYBRID_WEIGHTS
        lexical = [
            model.compute_lexical_matching_score(query["lexical_weights"], row) for row in rows["lexical_weights"]
        ]
        late = [float(model.colbert_score(query["colbert_vecs"], row)) for row in rows["colbert_vecs"]]
        return np.asarray(
            dense * (rows["dense_vecs"] @ query["dense_vecs"]) + sparse * np.array(lexical) + tokens * np.array(late)
        )


class ByComputeScore(ByHand):
    """The same with FlagEmbedding's call for pairs of texts, which encodes the question with every candidate."""

    _needs_tokens = False

    def _scores(self, question: str, query: dict[str, Any], texts: list[str]) -> np.ndarray:
        pairs = [(question, text) for text in texts]
        with self._watch.stage("encode candidates"), contextlib.redirect_stderr(io.StringIO()):
            scores = self._model.compute_score(pairs, weights_for_different_modes=list(HYBRID_WEIGHTS))
        return np.array(scores["colbert+sparse+dense"]) * sum(HYBRID_WEIGHTS)
