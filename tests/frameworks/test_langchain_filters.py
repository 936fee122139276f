"""Filters of ours and of the databases, in searches, deletes and retrievers."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import make_backend

pytest.importorskip("langchain_core")

from langchain_helpers import filled, ids_of
from langchain_m3connect import M3ConnectRetriever

from m3connect import RRF, Dense, MemoryStore, Sparse, Weighted
from m3connect.filters import Filter, Native, field

PLACES = field("kind") == "place"
LARGE = field("size") > 9


def qdrant_filter(key: str, value: str) -> Any:
    models = pytest.importorskip("qdrant_client").models
    return models.Filter(must=[models.FieldCondition(key=f"metadata.{key}", match=models.MatchValue(value=value))])


def edge_filter(key: str, value: str) -> Any:
    edge = pytest.importorskip("qdrant_edge")
    return edge.Filter(must=[edge.FieldCondition(f"metadata.{key}", match=edge.MatchValue(value))])


NATIVE = {
    "qdrant-local": qdrant_filter,
    "edge": edge_filter,
    "milvus-lite": lambda key, value: f'metadata["{key}"] == "{value}"',
}


@pytest.fixture(params=NATIVE)
def database(request, tmp_path):
    """The store of a database, and what makes a filter in its own words."""
    backend = make_backend(request.param, tmp_path)
    yield backend.open(), NATIVE[request.param]
    backend.close()


@pytest.mark.parametrize("fusion", [None, RRF(), Weighted(), Dense()])
def test_our_filters_narrow_every_search(store, fusion):
    vectorstore = filled(store)
    assert set(ids_of(vectorstore.similarity_search("yellow sun", filter=PLACES, fusion=fusion))) == {"sea", "sky"}
    assert ids_of(vectorstore.similarity_search("yellow sun", filter=PLACES & LARGE, fusion=fusion)) == ["sky"]


async def test_our_filters_narrow_the_other_searches_too(store):
    vectorstore = filled(store)
    vector = vectorstore.embeddings.embed_query("yellow sun")
    assert ids_of(vectorstore.similarity_search_by_vector(vector, filter=PLACES & LARGE)) == ["sky"]
    assert ids_of(vectorstore.max_marginal_relevance_search("yellow sun", filter=PLACES & LARGE)) == ["sky"]
    assert ids_of(vectorstore.max_marginal_relevance_search_by_vector(vector, filter=PLACES & LARGE)) == ["sky"]
    assert ids_of(vectorstore.as_retriever(search_kwargs={"filter": PLACES & LARGE}).invoke("yellow sun")) == ["sky"]
    found = vectorstore.similarity_search_with_relevance_scores("yellow sun", filter=PLACES & LARGE)
    assert ids_of(document for document, _ in found) == ["sky"]
    assert ids_of(await vectorstore.asimilarity_search("yellow sun", filter=PLACES & LARGE)) == ["sky"]
    assert ids_of(await vectorstore.asimilarity_search_by_vector(vector, filter=PLACES & LARGE)) == ["sky"]


async def test_a_delete_takes_a_filter(store):
    vectorstore = filled(store)
    assert vectorstore.delete(filter=PLACES) is True
    assert set(ids_of(vectorstore.similarity_search("blue"))) == {"apple", "sun"}
    assert await vectorstore.adelete(filter=LARGE) is True
    assert ids_of(vectorstore.similarity_search("blue")) == ["apple"]


@pytest.mark.parametrize("fusion", [None, Weighted(), Dense(), Sparse()])
def test_a_database_s_own_filter_narrows_searches_and_deletes(database, fusion):
    store, native = database
    vectorstore = filled(store)
    found = vectorstore.similarity_search("blue yellow sun", filter=native("kind", "place"), fusion=fusion)
    assert set(ids_of(found)) == {"sea", "sky"}
    vectorstore.delete(filter=native("kind", "place"))
    assert set(ids_of(vectorstore.similarity_search("blue yellow sun", fusion=Dense()))) == {"apple", "sun"}


def test_a_database_s_own_filter_combines_with_ours(database):
    store, native = database
    retriever = M3ConnectRetriever(vectorstore=filled(store), filter=native("kind", "place"))
    assert ids_of(retriever.invoke("yellow sun", filter=LARGE)) == ["sky"]
    assert store.count(LARGE | Native(native("kind", "fruit"))) == 3


def test_another_database_s_filter_is_refused(database):
    store, _ = database
    vectorstore = filled(store)
    for wrong in (7, ["kind"]):
        with pytest.raises(ValueError, match=r"own condition is an? "):
            vectorstore.similarity_search("sun", filter=wrong)


def test_a_negated_native_filter_is_exact_or_refused(database):
    store, native = database
    filled(store)
    condition: Filter = ~Native(native("kind", "place"))
    if isinstance(native("a", "b"), str):
        with pytest.raises(ValueError, match="cannot be negated"):
            store.count(condition)
        with pytest.raises(ValueError, match="expression"):
            store.count(Native("  "))
    else:
        assert store.count(condition) == 2


def test_memory_knows_no_native_filters():
    with pytest.raises(ValueError, match=r"write it with field\(\.\.\.\) for a MemoryStore"):
        filled(MemoryStore(dim=16)).similarity_search("sun", filter="kind == 'place'")


@pytest.mark.parametrize("wrong", [{"kind": "place"}, lambda document: True])
async def test_dicts_and_functions_are_refused_before_anything_is_searched(wrong):
    vectorstore = filled()
    with pytest.raises(ValueError, match=r'dicts and functions are not taken.* write field\("lang"\) == "de"'):
        M3ConnectRetriever(vectorstore=vectorstore, filter=wrong)
    for call in (vectorstore.similarity_search, vectorstore.max_marginal_relevance_search):
        with pytest.raises(ValueError, match="are not taken"):
            call("sun", filter=wrong)
    with pytest.raises(ValueError, match="are not taken"):
        vectorstore.delete(filter=wrong)
    with pytest.raises(ValueError, match="are not taken"):
        await vectorstore.as_retriever(search_kwargs={"filter": wrong}).ainvoke("sun")


def test_a_retriever_s_own_filter_cannot_be_widened_by_a_call(store):
    retriever = M3ConnectRetriever(vectorstore=filled(store), filter=PLACES)
    assert set(ids_of(retriever.invoke("sun"))) == {"sea", "sky"}
    assert ids_of(retriever.invoke("sun", filter=LARGE)) == ["sky"]
    assert ids_of(retriever.invoke("sun", filter=field("kind") == "star")) == []
