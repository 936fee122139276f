"""The embeddings, the retriever and the reranker: their numbers, order and events."""

from __future__ import annotations

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.embeddings.utils import resolve_embed_model
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import IndexNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index_helpers import TEXTS, ids, nodes_of
from llama_index_m3connect import (
    M3ConnectEmbedding,
    M3ConnectRerank,
    M3ConnectRetriever,
    M3ConnectSparseEmbedding,
    M3ConnectVectorStore,
)

from m3connect import Dense, HybridRetriever, MemoryStore, Sparse, ThreadedStore, Weighted
from m3connect.filters import field
from m3connect.scoring import hybrid
from m3connect.testing import FakeEncoder


@pytest.fixture
def embedding(encoder) -> M3ConnectEmbedding:
    return M3ConnectEmbedding(encoder=encoder)


# -- embeddings -------------------------------------------------------------------------------------------------------


async def test_every_way_to_ask_gives_the_encoders_dense_vector(embedding) -> None:
    wanted = FakeEncoder().encode(["blue sea"]).dense[0].tolist()
    assert embedding.get_text_embedding("blue sea") == embedding.get_query_embedding("blue sea") == wanted
    assert await embedding.aget_text_embedding("blue sea") == await embedding.aget_query_embedding("blue sea") == wanted
    assert embedding.get_text_embedding_batch(["a", "blue sea"])[1] == wanted
    assert (await embedding.aget_text_embedding_batch(["a", "blue sea"]))[1] == wanted
    assert all(type(value) is float for value in embedding.get_text_embedding("blue sea"))
    assert embedding.get_text_embedding_batch([]) == await embedding.aget_text_embedding_batch([]) == []


async def test_every_way_to_ask_gives_the_encoders_sparse_row(encoder) -> None:
    sparse = M3ConnectSparseEmbedding(encoder=encoder)
    wanted = FakeEncoder().encode(["blue sea"]).sparse.to_dicts()[0]
    assert sparse.get_text_embedding("blue sea") == sparse.get_query_embedding("blue sea") == wanted
    assert await sparse.aget_text_embedding("blue sea") == await sparse.aget_query_embedding("blue sea") == wanted
    assert sparse.get_text_embedding_batch(["a", "blue sea"])[1] == wanted
    assert (await sparse.aget_text_embedding_batch(["a", "blue sea"]))[1] == wanted
    assert sparse.get_text_embedding("") == {}


def test_texts_come_to_the_encoder_in_large_batches(embedding, encoder) -> None:
    texts = [f"text {i}" for i in range(300)]
    embedding.get_text_embedding_batch(texts)
    assert [len(call) for call in encoder.calls] == [256, 44]
    assert M3ConnectSparseEmbedding(encoder=encoder).embed_batch_size == 256


def test_the_classes_are_llamaindexs_own_kinds(embedding, encoder) -> None:
    assert isinstance(embedding, BaseEmbedding)
    assert isinstance(M3ConnectSparseEmbedding(encoder=encoder), BaseSparseEmbedding)
    assert resolve_embed_model(embedding) is embedding
    kinds = (M3ConnectEmbedding, M3ConnectSparseEmbedding, M3ConnectRerank, M3ConnectVectorStore)
    assert [kind.class_name() for kind in kinds] == [kind.__name__ for kind in kinds]


def test_a_text_is_read_up_to_max_length(encoder) -> None:
    short = M3ConnectEmbedding(encoder=encoder, max_length=1)
    assert short.get_text_embedding("blue sea") == short.get_text_embedding("blue")


# -- retriever --------------------------------------------------------------------------------------------------------


@pytest.fixture
def vectors(embedding) -> M3ConnectVectorStore:
    vectors = M3ConnectVectorStore(store=MemoryStore(dim=16), encoder=embedding)
    vectors.add([*nodes_of(lang="en"), TextNode(id_="meer", text="blue sea", metadata={"lang": "de"})])
    return vectors


@pytest.mark.parametrize("fusion", [None, Dense(), Sparse(), Weighted(1, 2)], ids=str)
@pytest.mark.parametrize("rerank", [False, True])
async def test_the_retriever_finds_what_m3connects_own_finds(vectors, encoder, fusion, rerank) -> None:
    retriever = M3ConnectRetriever(vectors, similarity_top_k=3, fusion=fusion, rerank=rerank)
    own = HybridRetriever(encoder, vectors.store, rerank=rerank)
    wanted = [
        (hit.document.id, pytest.approx(hit.score, abs=1e-6))
        for hit in own.search("the blue sea", top_k=3, fusion=fusion)
    ]
    for found in (retriever.retrieve("the blue sea"), await retriever.aretrieve(QueryBundle("the blue sea"))):
        assert [(one.node_id, one.score) for one in found] == wanted


async def test_the_retriever_reranks_as_deep_and_by_the_weights_it_is_told(vectors, encoder) -> None:
    """Words alone find candidates in one order, and dense scores alone order them anew."""
    question, weights = "a blue table", (1, 0, 0)

    async def found(**settings) -> list[tuple[str, float]]:
        retriever = M3ConnectRetriever(vectors, similarity_top_k=1, fusion=Sparse(), rerank=True, **settings)
        nodes = retriever.retrieve(question)
        assert [(one.node_id, one.score) for one in await retriever.aretrieve(question)] == [
            (one.node_id, pytest.approx(one.score)) for one in nodes
        ]
        return [(one.node_id, one.score) for one in nodes]

    by_words = vectors.store.search(encoder.encode([question]), fusion=Sparse())[0]
    rows = {hit.document.id: encoder.encode([hit.document.text]).dense[0] for hit in by_words}
    cosines = {name: float(encoder.encode([question]).dense[0] @ row) for name, row in rows.items()}
    best = max(cosines, key=cosines.__getitem__)
    first = by_words[0].document.id
    assert best != first, "or this test would show nothing"
    assert await found(weights=weights) == [(best, pytest.approx(cosines[best], abs=1e-5))]
    assert await found(weights=weights, depth=1) == [(first, pytest.approx(cosines[first], abs=1e-5))]
    assert (await found())[0][1] != pytest.approx(cosines[best], abs=1e-2), "the paper's weights are others"


async def test_the_retriever_takes_filters_candidates_and_depth(vectors, encoder) -> None:
    german = MetadataFilters(filters=[MetadataFilter(key="lang", value="de")])
    for filters in (german, field("lang") == "de"):
        assert ids(M3ConnectRetriever(vectors, filters=filters).retrieve("apple")) == ["meer"]
        assert ids(await M3ConnectRetriever(vectors, filters=filters, rerank=True).aretrieve("apple")) == ["meer"]
    few = M3ConnectRetriever(vectors, candidates=1, similarity_top_k=5).retrieve("blue sea")
    assert len(few) <= 2, "one candidate a leg"
    shallow = M3ConnectRetriever(vectors, rerank=True, depth=1, similarity_top_k=1).retrieve("blue sea")
    assert ids(shallow) == ids(M3ConnectRetriever(vectors, similarity_top_k=1).retrieve("blue sea"))


@pytest.mark.parametrize("rerank", [False, True])
async def test_the_retriever_takes_the_texts_and_vectors_of_query_transformations(vectors, encoder, rerank) -> None:
    text = f"lang: en\n\n{TEXTS['bottle']}"
    bottle = FakeEncoder().encode([text]).dense[0]
    weights = (1, 0, 0)  # dense alone
    retriever = M3ConnectRetriever(
        vectors, fusion=Dense(), similarity_top_k=1, rerank=rerank, weights=weights, encoder=encoder
    )
    for bundle in (
        QueryBundle("blue sea", custom_embedding_strs=[text]),
        QueryBundle("blue sea", embedding=(10 * bottle).tolist()),
    ):
        for found in (retriever.retrieve(bundle), await retriever.aretrieve(bundle)):
            assert ids(found) == ["bottle"]
            assert found[0].score == pytest.approx(1, abs=1e-5)
    words = M3ConnectRetriever(vectors, fusion=Sparse(), similarity_top_k=1)
    assert ids(words.retrieve(QueryBundle("sea", custom_embedding_strs=[TEXTS["bottle"]]))) != ["bottle"]


def test_several_texts_of_a_query_count_by_their_mean_in_one_call(vectors, encoder) -> None:
    encoder.calls.clear()
    texts = [TEXTS["apple"], TEXTS["bottle"]]
    found = M3ConnectRetriever(vectors, fusion=Dense()).retrieve(QueryBundle("sea", custom_embedding_strs=texts))
    assert set(ids(found)) == {"apple", "bottle"}
    assert encoder.calls == [["sea", *texts]]


async def test_the_retriever_awaits_an_awaited_store(vectors, encoder) -> None:
    retriever = M3ConnectRetriever(ThreadedStore(vectors.store), encoder=encoder, similarity_top_k=2, rerank=True)
    assert len(await retriever.aretrieve("blue sea")) == 2
    with pytest.raises(ValueError, match="can only be awaited"):
        retriever.retrieve("blue sea")


class ForgetfulStore(MemoryStore):
    """Somebody deletes a document right after each search."""

    def search(self, *args, **options):
        found = super().search(*args, **options)
        self.delete(["sea"])
        return found


async def test_a_document_that_is_deleted_meanwhile_is_left_out(embedding) -> None:
    async def ask(what: str) -> list[str]:
        vectors = M3ConnectVectorStore(store=ForgetfulStore(dim=16, multi_vector=True), encoder=embedding)
        vectors.add(nodes_of())
        if what == "rerank":
            return ids(await M3ConnectRetriever(vectors, rerank=True, similarity_top_k=4).aretrieve("blue sea"))
        query = VectorStoreQuery(query_str="blue sea", similarity_top_k=4, mode="mmr")
        return (await vectors.aquery(query)).ids

    for what in ("rerank", "mmr"):
        assert set(await ask(what)) == TEXTS.keys() - {"sea"}


def test_the_retriever_follows_index_nodes(vectors) -> None:
    inner = TextNode(id_="inner", text="what the index node stands for")
    vectors.add([IndexNode(id_="outer", text="glacier", index_id="inner", obj=inner)])
    assert ids(M3ConnectRetriever(vectors, similarity_top_k=1).retrieve("glacier")) == ["inner"]


def test_a_retriever_that_cannot_work_says_why(encoder) -> None:
    store = MemoryStore(dim=16)
    with pytest.raises(ValueError, match="give encoder="):
        M3ConnectRetriever(M3ConnectVectorStore(store=store))
    for wrong, reason in (
        ({"weights": (1, float("nan"), 1)}, "weights must be three numbers of at least 0"),
        ({"weights": (1, -0.5, 1)}, "weights must be three numbers of at least 0"),
        ({"filters": {"lang": "de"}}, "expected MetadataFilters"),
        ({"store": "docs"}, "store must be an M3ConnectVectorStore or a store"),
    ):
        with pytest.raises(ValueError, match=reason):
            M3ConnectRetriever(**{"store": store, "encoder": encoder} | wrong)
    for wrong in ({"similarity_top_k": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least 1"):
            M3ConnectRetriever(store, encoder=encoder, **wrong)


# -- rerank -----------------------------------------------------------------------------------------------------------


def scored(**metadata) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=0.5) for node in nodes_of(**metadata)]


async def test_rerank_orders_by_the_score_of_the_paper(encoder) -> None:
    rows = FakeEncoder().encode(["blue sea", *TEXTS.values()], multi_vector=True)
    scores = dict(zip(TEXTS, hybrid(rows[:1], rows[1:])[0].tolist(), strict=True))
    wanted = sorted(TEXTS, key=lambda name: -scores[name])
    rerank = M3ConnectRerank(encoder=encoder)
    given = scored()
    for found in (
        rerank.postprocess_nodes(given, query_str="blue sea"),
        await rerank.apostprocess_nodes(given, QueryBundle("blue sea")),
    ):
        assert [(one.node_id, one.score) for one in found] == [
            (name, pytest.approx(scores[name], abs=1e-6)) for name in wanted
        ]
    assert [one.score for one in given] == [0.5] * len(TEXTS), "what was given stays as it was"
    assert ids(M3ConnectRerank(encoder=encoder, top_n=2).postprocess_nodes(given, query_str="blue sea")) == wanted[:2]
    assert rerank.postprocess_nodes([], query_str="blue sea") == []
    assert await rerank.apostprocess_nodes([], query_str="blue sea") == []


def test_rerank_weights_and_metadata_mode_are_settings(encoder) -> None:
    dense = M3ConnectRerank(encoder=encoder, weights=(1, 0, 0)).postprocess_nodes(scored(), query_str="blue sea")
    rows = FakeEncoder().encode(["blue sea", TEXTS[dense[0].node_id]]).dense
    assert dense[0].score == pytest.approx(float(np.dot(*rows)), abs=1e-6)
    encoder.calls.clear()
    for mode, text in ((MetadataMode.EMBED, "lang: en\n\ndeep blue sea"), (MetadataMode.NONE, "deep blue sea")):
        M3ConnectRerank(encoder=encoder, metadata_mode=mode).postprocess_nodes(scored(lang="en"), query_str="q")
        assert text in encoder.calls.pop()


async def test_rerank_without_a_query_says_so(encoder) -> None:
    rerank = M3ConnectRerank(encoder=encoder)
    with pytest.raises(ValueError, match="pass query_bundle= or query_str="):
        rerank.postprocess_nodes(scored())
    with pytest.raises(ValueError, match="pass query_bundle= or query_str="):
        await rerank.apostprocess_nodes(scored())
    with pytest.raises(ValueError, match="top_n"):
        M3ConnectRerank(encoder=encoder, top_n=0)
    for weights in ((1, float("nan"), 1), (1, -0.5, 1)):
        with pytest.raises(ValueError, match="weights must be three numbers of at least 0"):
            M3ConnectRerank(encoder=encoder, weights=weights)


class Listener(BaseEventHandler):
    heard: list = []  # noqa: RUF012  # a pydantic field, copied for each instance

    def handle(self, event, **kwargs) -> None:
        self.heard.append(event)


async def test_rerank_tells_listeners(encoder) -> None:
    listener, debug = Listener(), LlamaDebugHandler(print_trace_on_end=False)
    rerank = M3ConnectRerank(encoder=encoder, top_n=1, callback_manager=CallbackManager([debug]))
    root = get_dispatcher()
    root.add_event_handler(listener)
    try:
        found = rerank.postprocess_nodes(scored(), query_str="blue sea")
        await rerank.apostprocess_nodes(scored(), query_str="blue sea")
    finally:
        root.event_handlers.remove(listener)
    start, end = [event for event in listener.heard if "ReRank" in event.class_name()][:2]
    assert (start.class_name(), start.top_n, len(start.nodes)) == ("ReRankStartEvent", 1, len(TEXTS))
    assert (end.class_name(), ids(end.nodes)) == ("ReRankEndEvent", ids(found))
    assert sum("ReRank" in event.class_name() for event in listener.heard) == 4
    assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 2
