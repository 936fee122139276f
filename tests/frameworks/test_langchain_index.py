"""LangChain's indexing API keeps a store in step with its source, in every clean-up mode."""

from __future__ import annotations

import pytest

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectVectorStore

from m3connect.testing import FakeEncoder

MODES = [None, "incremental", "full", "scoped_full"]


def page(text: str, source: str) -> Document:
    return Document(page_content=text, metadata={"source": source})


FIRST = [page("red apple", "a"), page("green apple", "a"), page("blue sea", "b")]
SECOND = [page("red apple", "a"), page("yellow apple", "a")]

LEFT = {
    None: {"red apple", "green apple", "yellow apple", "blue sea"},
    "incremental": {"red apple", "yellow apple", "blue sea"},
    "scoped_full": {"red apple", "yellow apple", "blue sea"},
    "full": {"red apple", "yellow apple"},
}


@pytest.fixture
def manager():
    manager = InMemoryRecordManager("documents")
    manager.create_schema()
    return manager


@pytest.fixture(params=["index", "aindex"])
def run(request, manager):
    async def run(documents, vectorstore, mode, **options):
        given = {"cleanup": mode, "source_id_key": "source", "key_encoder": "sha256"} | options
        if request.param == "index":
            return index(documents, manager, vectorstore, **given)
        return await aindex(documents, manager, vectorstore, **given)

    return run


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_gone_from_the_source_goes_as_the_mode_says(store, run, mode):
    encoder = FakeEncoder()
    vectorstore = M3ConnectVectorStore(store=store, embedding=M3ConnectEmbeddings(encoder=encoder))
    assert (await run(FIRST, vectorstore, mode))["num_added"] == 3
    report = await run(SECOND, vectorstore, mode)
    assert (report["num_added"], report["num_skipped"]) == (1, 1)
    assert report["num_deleted"] == 4 - len(LEFT[mode])
    stored = list(store.scroll())
    assert {document.text for document in stored} == LEFT[mode]
    assert all(len(document.id) == 64 for document in stored)
    assert sum(map(len, encoder.calls)) == 4


@pytest.mark.parametrize("mode", ["full", "scoped_full", "incremental"])
async def test_an_update_is_forced_and_batches_may_be_small(store, run, mode):
    vectorstore = M3ConnectVectorStore(store=store, embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))
    await run(FIRST, vectorstore, mode, batch_size=3)
    report = await run(FIRST, vectorstore, mode, batch_size=2, force_update=True)
    assert report["num_updated"] == 3
    assert store.count() == 3


async def test_an_empty_source_with_full_cleanup_empties_the_store(store, run):
    vectorstore = M3ConnectVectorStore(store=store, embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))
    await run(FIRST, vectorstore, "full")
    assert (await run([], vectorstore, "full"))["num_deleted"] == 3
    assert store.count() == 0
