"""The code of docs/stores.md runs: threads for embedded stores, and collections that others filled."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from foreign_helpers import DOCUMENTS, ENCODER, encoded
from support import REPOSITORY

qdrant_client = pytest.importorskip("qdrant_client", reason="pip install 'm3connect[qdrant]'")
models = qdrant_client.models

PAGE = (REPOSITORY / "docs" / "stores.md").read_text("utf-8")
THREADED, FOREIGN, BY_HAND = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def fill(client: Any, name: str, dense: str, sparse: str, payload: Any) -> None:
    vectors = models.VectorParams(size=ENCODER.dim, distance=models.Distance.COSINE)
    weights = {sparse: models.SparseVectorParams()}
    client.create_collection(name, vectors_config={dense: vectors}, sparse_vectors_config=weights)
    rows = encoded(DOCUMENTS)
    for i, document in enumerate(DOCUMENTS):
        indices, values = rows.sparse.row(i)
        words = models.SparseVector(indices=indices.tolist(), values=values.tolist())
        point = models.PointStruct(
            id=i, vector={dense: rows.dense[i].tolist(), sparse: words}, payload=payload(document)
        )
        client.upsert(name, [point])


def test_an_embedded_store_is_awaited_as_the_page_shows() -> None:
    names: dict[str, Any] = {}
    exec(compile(THREADED, "stores.md", "exec"), names)
    assert asyncio.run(names["work"]()) == ["a"]


def test_collections_of_others_are_opened_as_the_page_shows() -> None:
    client = qdrant_client.QdrantClient(":memory:")
    fill(client, "docs", "", "langchain-sparse", lambda one: {"page_content": one.text, "metadata": one.metadata})
    own = lambda one: {"key": one.id, "book": "b"}  # noqa: E731
    fill(client, "by-hand", "vec", "words", lambda one: {"body": one.text, "doc": own(one), **one.metadata})
    names: dict[str, Any] = {"client": client, "encoder": ENCODER}
    exec(compile(FOREIGN, "stores.md", "exec"), names)
    assert [hit.document.metadata["lang"] for hit in names["hits"][0]] == ["de"] * 3
    exec(compile(BY_HAND, "stores.md", "exec"), names)
    assert len(names["hits"][0]) == 3
    (document,) = names["store"].get([DOCUMENTS[5].id])
    assert (document.text, document.parent_id) == (DOCUMENTS[5].text, "b")
