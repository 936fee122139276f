"""The retriever and the reranker, alone and inside what LangChain builds of retrievers."""

from __future__ import annotations

import pytest

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import create_retriever_tool
from langchain_helpers import METADATA, TEXTS, ForgetfulStore, filled, ids_of
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectReranker, M3ConnectRetriever, M3ConnectVectorStore

from m3connect import RRF, Dense, HybridRetriever, MemoryStore, Sparse, ThreadedStore, Weighted
from m3connect.testing import FakeEncoder

QUESTION = "which sea is blue"


def retriever_over(store=None, **options) -> M3ConnectRetriever:
    return M3ConnectRetriever(vectorstore=filled(store), **options)


def documents(*texts: str) -> list[Document]:
    return [Document(page_content=text, metadata={"place": i}) for i, text in enumerate(texts)]


@pytest.mark.parametrize("rerank", [False, True])
def test_the_retriever_finds_what_the_core_s_retriever_finds(store, rerank):
    vectorstore = filled(store)
    core = HybridRetriever(FakeEncoder(), store, rerank=rerank)
    ours = M3ConnectRetriever(vectorstore=vectorstore, rerank=rerank, scores_key="scores")
    for question in [QUESTION, "red sun", "land"]:
        hits = core.search(question, top_k=3, with_scores=True)
        found = ours.invoke(question, k=3)
        assert ids_of(found) == [hit.document.id for hit in hits]
        for document, hit in zip(found, hits, strict=True):
            scores = document.metadata["scores"]
            assert scores.pop("score") == pytest.approx(hit.score, abs=1e-5)
            assert scores == pytest.approx(hit.scores, abs=1e-5)


def test_reranking_reads_stored_token_vectors(token_store):
    with_tokens, without = retriever_over(token_store, rerank=True), retriever_over(rerank=True)
    assert ids_of(with_tokens.invoke(QUESTION)) == ids_of(without.invoke(QUESTION))


def test_each_argument_of_a_call_changes_that_call_alone():
    retriever = retriever_over()
    assert len(retriever.invoke("yellow")) == 4
    assert len(retriever.invoke("yellow", k=2)) == 2
    assert ids_of(retriever.invoke("yellow", fusion=Sparse())) == ["sun"]
    assert len(retriever.invoke("yellow", candidates=1)) == 1
    assert len(retriever.invoke("yellow")) == 4
    quiet = retriever_over(rerank=True, scores_key="scores")
    assert "multi_vector" in quiet.invoke("yellow")[0].metadata["scores"]
    assert "multi_vector" not in quiet.invoke("yellow", rerank=False)[0].metadata["scores"]


async def test_calls_by_coroutines_take_the_same_arguments():
    retriever = retriever_over()
    assert len(await retriever.ainvoke("yellow", k=2)) == 2
    assert ids_of(await retriever.ainvoke("yellow", fusion=Sparse(), rerank=True)) == ["sun"]


async def test_an_unknown_argument_of_a_call_raises_a_type_error():
    with pytest.raises(TypeError, match="top_k"):
        retriever_over().invoke("yellow", top_k=2)
    with pytest.raises(TypeError, match="fliter"):
        await retriever_over().ainvoke("yellow", fliter=None)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 3},
        {"k": 0},
        {"depth": 0},
        {"candidates": 0},
        {"fusion": "rrf"},
        {"vectorstore": None},
        {"rerank": "?"},
        {"weights": (float("nan"), 0, 0)},
        {"weights": (1, 1, -1)},
    ],
)
def test_a_wrong_argument_is_refused_when_the_retriever_is_made(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        M3ConnectRetriever(**{"vectorstore": filled()} | options)


def test_a_plain_embedding_cannot_rerank_or_search_other_legs():
    vectorstore = M3ConnectVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=6))
    with pytest.raises(ValueError, match="reranking needs token vectors"):
        M3ConnectRetriever(vectorstore=vectorstore, rerank=True)
    with pytest.raises(ValueError, match="reranking needs token vectors"):
        M3ConnectRetriever(vectorstore=vectorstore).invoke("a", rerank=True)
    with pytest.raises(ValueError, match="dense vectors alone"):
        M3ConnectRetriever(vectorstore=vectorstore, fusion=RRF())


def test_scores_are_in_the_metadata_only_where_asked_for():
    assert [document.metadata for document in retriever_over().invoke("yellow sun", k=1)] == [METADATA["sun"]]
    (document,) = retriever_over(scores_key="_scores", fusion=Weighted()).invoke("yellow sun", k=1)
    scores = document.metadata.pop("_scores")
    assert document.metadata == METADATA["sun"]
    assert scores["score"] == pytest.approx(scores["dense"] + 0.3 * scores["sparse"])


def test_fields_can_be_set_by_the_configuration_of_a_chain():
    retriever = retriever_over().configurable_fields(k=ConfigurableField(id="k"), fusion=ConfigurableField(id="fusion"))
    assert len(retriever.invoke("yellow", config={"configurable": {"k": 2}})) == 2
    assert ids_of(retriever.invoke("yellow", config={"configurable": {"fusion": Sparse()}})) == ["sun"]


def test_tracing_is_told_what_store_and_model_answer(store):
    params = retriever_over(store)._get_ls_params()
    assert params["ls_retriever_name"] == "m3connect"
    assert params["ls_vector_store_provider"] == type(store).__name__
    assert params["ls_embedding_provider"] == "M3ConnectEmbeddings"
    assert "ls_embedding_model" not in params
    embeddings = M3ConnectEmbeddings(model="m3-mini")
    named = M3ConnectRetriever(
        vectorstore=M3ConnectVectorStore(store=MemoryStore(dim=256), embedding=embeddings)
    )._get_ls_params()
    assert named["ls_embedding_model"] == "m3-mini"
    assert not embeddings.encoder.loaded


def test_tracing_is_told_of_the_store_within_an_async_one():
    vectorstore = M3ConnectVectorStore(
        store=ThreadedStore(MemoryStore(dim=16)), embedding=M3ConnectEmbeddings(encoder=FakeEncoder())
    )
    assert M3ConnectRetriever(vectorstore=vectorstore)._get_ls_params()["ls_vector_store_provider"] == "MemoryStore"


async def test_tracing_is_told_the_model_by_langchain_s_own_retriever_too():
    named = M3ConnectVectorStore.from_texts(["red"], M3ConnectEmbeddings(model="m3-mini"))
    events = [event async for event in named.as_retriever(metadata={"mine": 1}).astream_events("red")]
    assert events[0]["metadata"].items() >= {"ls_embedding_model": "m3-mini", "mine": 1}.items()
    events = [event async for event in filled().as_retriever().astream_events("red")]
    assert "ls_embedding_model" not in events[0]["metadata"]


async def test_events_tell_where_retrieval_starts_and_ends():
    events = [event async for event in retriever_over().astream_events(QUESTION)]
    assert [event["event"] for event in events] == ["on_retriever_start", "on_retriever_end"]
    assert ids_of(events[-1]["data"]["output"])[0] == "sea"
    assert events[0]["metadata"]["ls_retriever_name"] == "m3connect"


async def test_a_retriever_becomes_a_tool():
    tool = create_retriever_tool(retriever_over(k=1), "search", "Finds documents.")
    assert tool.invoke({"query": "yellow sun"}) == "yellow sun"
    assert await tool.ainvoke({"query": "red apple"}) == "red apple"


def test_the_reranker_orders_by_the_hybrid_score_of_the_core():
    reranker = M3ConnectReranker(embedding=M3ConnectEmbeddings(encoder=FakeEncoder()), scores_key="scores")
    store = MemoryStore(dim=16)
    filled(store)
    wanted = HybridRetriever(FakeEncoder(), store, rerank=True).search(QUESTION, top_k=4)
    found = reranker.compress_documents(documents(*TEXTS.values()), QUESTION)
    assert [document.page_content for document in found] == [hit.document.text for hit in wanted]
    for document, hit in zip(found, wanted, strict=True):
        assert document.metadata["scores"]["score"] == pytest.approx(hit.score)
        assert document.metadata["scores"]["multi_vector"] == pytest.approx(hit.scores["multi_vector"])


def test_the_reranker_changes_no_document_and_keeps_equal_ones_in_order():
    reranker = M3ConnectReranker(embedding=M3ConnectEmbeddings(encoder=FakeEncoder()), scores_key="scores", top_n=3)
    given = documents("a b", "red apple", "a b", "a b")
    before = [document.model_copy(deep=True) for document in given]
    found = reranker.compress_documents(given, "a b")
    assert given == before
    assert [document.metadata["place"] for document in found] == [0, 2, 3]


@pytest.mark.parametrize("lost", [["sea"], list(TEXTS)])
@pytest.mark.parametrize(
    "search",
    [
        lambda v: v.amax_marginal_relevance_search("blue sea"),
        lambda v: M3ConnectRetriever(vectorstore=v, rerank=True).ainvoke("blue sea"),
    ],
)
async def test_a_document_that_is_deleted_during_a_search_is_left_out(search, lost):
    store = ForgetfulStore(dim=16, multi_vector=True)
    vectorstore = filled(store)
    store.lost = tuple(lost)
    assert set(ids_of(await search(vectorstore))) == TEXTS.keys() - set(lost)


@pytest.mark.parametrize("rerank", [False, True])
async def test_a_wrong_number_is_refused_in_a_call_too(rerank):
    retriever = retriever_over(rerank=rerank)
    for option in ("k", "candidates"):
        with pytest.raises(ValueError, match=f"{option} must be at least 1"):
            retriever.invoke("sea", **{option: 0})
        with pytest.raises(ValueError, match=f"{option} must be at least 1"):
            await retriever.ainvoke("sea", **{option: -1})


@pytest.mark.parametrize(("leg", "weights"), [("dense", (1, 0, 0)), ("sparse", (0, 1, 0)), ("multi_vector", (0, 0, 1))])
def test_weights_of_the_retriever_choose_the_legs(leg, weights):
    retriever = retriever_over(rerank=True, weights=weights, scores_key="scores")
    scores = [document.metadata["scores"] for document in retriever.invoke("blue sea")]
    assert [each["score"] for each in scores] == [each[leg] for each in scores]
    assert len({tuple(each.values()) for each in scores}) > 1


def test_weights_of_the_reranker_choose_the_legs():
    embeddings = M3ConnectEmbeddings(encoder=FakeEncoder())
    alone = M3ConnectReranker(embedding=embeddings, weights=(0, 0, 1), scores_key="scores")
    (document,) = alone.compress_documents(documents("red apple"), "apple")
    assert document.metadata["scores"]["score"] == pytest.approx(1.0)


async def test_the_reranker_of_nothing_gives_nothing():
    reranker = M3ConnectReranker(embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))
    assert reranker.compress_documents([], "red") == []
    assert await reranker.acompress_documents([], "red") == []


async def test_the_reranker_is_a_step_of_a_chain():
    step = M3ConnectReranker(embedding=M3ConnectEmbeddings(encoder=FakeEncoder()), top_n=1).as_runnable()
    given = {"documents": documents("blue sea", "red apple"), "query": "apple"}
    assert [document.page_content for document in step.invoke(given)] == ["red apple"]
    assert await step.ainvoke(given) == step.invoke(given)
    with pytest.raises(ValueError, match=r'takes \{"documents"'):
        step.invoke({"documents": []})


@pytest.mark.parametrize(
    "options",
    [
        {"top_n": 0},
        {"top": 1},
        {"embedding": FakeEncoder()},
        {"weights": (0, 0, -1)},
        {"weights": (float("inf"), 0, 0)},
    ],
)
def test_a_wrong_argument_of_the_reranker_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        M3ConnectReranker(**{"embedding": M3ConnectEmbeddings(encoder=FakeEncoder())} | options)


async def test_a_contextual_compression_retriever_takes_retriever_and_reranker():
    compression = pytest.importorskip("langchain_classic.retrievers").ContextualCompressionRetriever
    vectorstore = filled()
    retriever = compression(
        base_compressor=M3ConnectReranker(embedding=vectorstore.embeddings, top_n=1),
        base_retriever=M3ConnectRetriever(vectorstore=vectorstore),
    )
    assert ids_of(retriever.invoke(QUESTION)) == ids_of(await retriever.ainvoke(QUESTION)) == ["sea"]


async def test_an_ensemble_takes_two_of_our_retrievers():
    ensemble = pytest.importorskip("langchain_classic.retrievers").EnsembleRetriever
    vectorstore = filled()
    legs = [M3ConnectRetriever(vectorstore=vectorstore, fusion=leg) for leg in (Dense(), Sparse())]
    retriever = ensemble(retrievers=legs, weights=[0.5, 0.5], c=60)
    rrf = ids_of(vectorstore.similarity_search(QUESTION, fusion=RRF(k=60), k=2))
    assert ids_of(retriever.invoke(QUESTION))[:2] == ids_of(await retriever.ainvoke(QUESTION))[:2] == rrf


async def test_a_parent_document_retriever_searches_parts_and_returns_wholes(store):
    classic = pytest.importorskip("langchain_classic.retrievers")
    from langchain_core.stores import InMemoryStore
    from langchain_text_splitters import CharacterTextSplitter

    vectorstore = M3ConnectVectorStore(store=store, embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))
    retriever = classic.ParentDocumentRetriever(
        vectorstore=vectorstore,
        docstore=InMemoryStore(),
        child_splitter=CharacterTextSplitter(separator=". ", chunk_size=20, chunk_overlap=0),
    )
    wholes = [
        Document(page_content="red apple. green pear. sweet plum", metadata={"name": "fruit"}),
        Document(page_content="deep blue sea. blue sky. white cloud", metadata={"name": "places"}),
    ]
    retriever.add_documents(wholes, ids=["one", "two"])
    assert store.count() > 2
    assert retriever.invoke("blue sky")[0].metadata["name"] == "places"
    assert (await retriever.ainvoke("green pear"))[0].metadata["name"] == "fruit"
