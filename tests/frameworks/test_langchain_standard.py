"""LangChain's own standard tests, on every store, with a plain embedding and with all legs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import make_backend

pytest.importorskip("langchain_tests")

from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectRetriever, M3ConnectVectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from m3connect import HybridStore
from m3connect.testing import FakeEncoder

STORES = ["memory", "qdrant-local", "edge", "milvus-lite"]


class TestM3ConnectEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[M3ConnectEmbeddings]:
        return M3ConnectEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "m3-mini"}


class TestM3ConnectEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[M3ConnectEmbeddings]:
        return M3ConnectEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "m3-mini"}


@pytest.fixture(scope="module", params=STORES)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    backend = make_backend(request.param, tmp_path_factory.mktemp("langchain"))
    yield backend
    if request.param != "memory":
        backend.close()


@pytest.fixture
def open_store(database: Any) -> Iterator[Callable[..., HybridStore]]:
    yield database.open
    database.drop()


class TestVectorStoreWithPlainEmbeddings(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, open_store: Callable[..., HybridStore]) -> M3ConnectVectorStore:
        embedding = self.get_embeddings()
        assert isinstance(embedding, DeterministicFakeEmbedding)
        return M3ConnectVectorStore(store=open_store(dim=6), embedding=embedding)


class TestVectorStoreWithAllLegs(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, open_store: Callable[..., HybridStore]) -> M3ConnectVectorStore:
        return M3ConnectVectorStore(store=open_store(), embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def fill(self, open_store: Callable[..., HybridStore]) -> None:
        embedding = M3ConnectEmbeddings(encoder=FakeEncoder())
        texts = ["red apple", "green apple", "blue sea", "deep blue sea", "yellow sun"]
        self.vectorstore = M3ConnectVectorStore.from_texts(texts, embedding, store=open_store())

    @property
    def retriever_constructor(self) -> type[M3ConnectRetriever]:
        return M3ConnectRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.vectorstore}

    @property
    def retriever_query_example(self) -> str:
        return "blue apple"


class TestRerankingRetriever(TestRetriever):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.vectorstore, "rerank": True}
