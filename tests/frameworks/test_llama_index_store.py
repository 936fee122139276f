"""The vector store: nodes come back whole, every mode finds what it should, deletes and errors."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery, VectorStoreQueryMode
from llama_index_helpers import TEXTS, ids, nodes_of
from llama_index_m3connect import (
    M3ConnectEmbedding,
    M3ConnectRerank,
    M3ConnectRetriever,
    M3ConnectSparseEmbedding,
    M3ConnectVectorStore,
    operations,
)
from llama_index_m3connect.nodes import to_document, to_node

from m3connect import Dense, Hit, MemoryStore, Sparse, ThreadedStore, Weighted, ingest
from m3connect import Document as StoredDocument
from m3connect.errors import CollectionMismatchError, FilterTooBroadError
from m3connect.testing import FakeEncoder


@pytest.fixture
def vectors(store, encoder) -> M3ConnectVectorStore:
    return M3ConnectVectorStore(store=store, encoder=encoder)


def asked(text: str | None = "blue sea", **fields) -> VectorStoreQuery:
    return VectorStoreQuery(**{"query_str": text, "similarity_top_k": 4} | fields)


# -- nodes ------------------------------------------------------------------------------------------------------------

METADATA = {"lang": "de", "year": 1990, "tags": ["a", "b"], "deep": {"x": [1, None]}, 'quo"te': "back\\slash"}
RELATIONS = {
    NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc-1", hash="abc", metadata={"file": "a.txt"}),
    NodeRelationship.NEXT: RelatedNodeInfo(node_id="next"),
    NodeRelationship.CHILD: [RelatedNodeInfo(node_id="child-1"), RelatedNodeInfo(node_id="child-2")],
}

NODES = {
    "plain": TextNode(id_="n", text="Bienen machen Honig."),
    "with everything": TextNode(
        id_='id "with" \\ quotes',
        text="  two lines\nof 蜜蜂 text",
        metadata=METADATA,
        relationships=RELATIONS,
        excluded_embed_metadata_keys=["year"],
        excluded_llm_metadata_keys=["lang"],
        start_char_idx=3,
        end_char_idx=9,
        text_template="{content} // {metadata_str}",
    ),
    "text that the template strips": TextNode(id_="n", text="ends with blanks  \n", metadata={"lang": "de"}),
    "text that is in its metadata too": TextNode(id_="n", text="de", metadata={"lang": "de"}),
    "empty": TextNode(id_="n", text="", metadata={"lang": "de"}),
    "metadata named like LlamaIndex's own": TextNode(id_="n", text="t", metadata={"doc_id": 7, "ref_doc_id": "x"}),
    "index": IndexNode(id_="n", text="points elsewhere", index_id="other", obj=TextNode(id_="o", text="inner")),
    "image": ImageNode(id_="n", text="a picture", image_url="http://localhost/a.png", metadata={"lang": "de"}),
    "node": Node(id_="n", text_resource=MediaResource(text="resource", mimetype="text/plain"), metadata=METADATA),
    "document": Document(id_="n", text="a whole document", metadata=METADATA),
}


@pytest.mark.parametrize("name", NODES)
def test_a_node_comes_back_as_it_was(vectors, name: str) -> None:
    node = NODES[name]
    before = node.model_dump()
    assert vectors.add([node]) == [node.node_id]
    (back,) = vectors.get_nodes([node.node_id])
    assert type(back) is type(node)
    assert back == node
    assert back.hash == node.hash
    assert back.ref_doc_id == node.ref_doc_id
    assert node.model_dump() == before, "the node that was given must stay as it is"
    assert vectors.query(asked("t", mode="hybrid")).nodes == [node]


def test_metadata_for_filters_is_the_nodes_own() -> None:
    ours = to_document(NODES["with everything"]).metadata
    assert {key: value for key, value in ours.items() if not key.startswith("_")} == METADATA
    assert to_document(NODES["metadata named like LlamaIndex's own"]).metadata["doc_id"] == 7
    assert "document_id" not in to_document(NODES["plain"]).metadata


def test_dates_become_strings_as_in_llamaindex() -> None:
    node = TextNode(text="t", metadata={"day": date(2024, 5, 1)})
    assert to_node(to_document(node)).metadata == {"day": "2024-05-01"}


def test_every_leg_sees_the_text_that_llamaindex_embeds(vectors, encoder) -> None:
    node = TextNode(id_="n", text="text", metadata={"lang": "de", "secret": 1}, excluded_embed_metadata_keys=["secret"])
    vectors.add([node])
    (stored,) = vectors.store.get(["n"])
    assert stored.text == node.get_content(metadata_mode=MetadataMode.EMBED) == "lang: de\n\ntext"
    assert encoder.calls == [["lang: de\n\ntext"]]


def test_a_long_text_is_stored_once() -> None:
    document = to_document(TextNode(text="long " * 1000 + "end", metadata={"lang": "de"}))
    assert "long long" not in str(document.metadata)


def test_metadata_under_the_stores_own_names_is_refused(vectors) -> None:
    with pytest.raises(ValueError, match="metadata key '_node_id', which the store uses"):
        vectors.add([TextNode(text="t", metadata={"_node_id": "x"})])


def test_documents_of_another_way_of_ingesting_become_text_nodes(vectors, encoder) -> None:
    ingest(encoder, vectors.store, [StoredDocument("a", "blue sea", {"lang": "de"}, parent_id="book")])
    (node,) = vectors.query(asked(mode="hybrid")).nodes
    assert (node.node_id, node.text, node.metadata, node.ref_doc_id) == ("a", "blue sea", {"lang": "de"}, "book")
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == "blue sea"


def fill_from_elsewhere(encoder, store) -> None:
    """What `m3connect.ingest` and the command line store: no node, the source is `Document.parent_id`."""
    documents = [StoredDocument("a", "blue sea", parent_id="book"), StoredDocument("b", "blue lake", parent_id="book")]
    ingest(encoder, store, [*documents, StoredDocument("c", "blue sky", {"lang": "de"})])


async def test_documents_of_another_way_of_ingesting_are_found_by_source_and_by_id(vectors, encoder) -> None:
    fill_from_elsewhere(encoder, vectors.store)
    vectors.add(nodes_of({"d": "blue bird"}, source="doc"))
    german = MetadataFilters(filters=[MetadataFilter(key="lang", value="de")])
    for mode in ("default", "hybrid", "mmr"):
        assert set(vectors.query(asked("blue", mode=mode, doc_ids=["book", "doc"])).ids) == {"a", "b", "d"}
        assert vectors.query(asked("blue", mode=mode, doc_ids=["c", "nowhere"])).ids == ["c"]
        assert set(vectors.query(asked("blue", mode=mode), node_ids=["a", "d", "nowhere"]).ids) == {"a", "d"}
        assert vectors.query(asked("blue", mode=mode, filters=german), node_ids=["a", "c"]).ids == ["c"]
    assert (await vectors.aquery(asked("blue", doc_ids=["doc"]))).ids == ["d"]


async def test_documents_of_another_way_of_ingesting_are_deleted_by_source(vectors, encoder) -> None:
    fill_from_elsewhere(encoder, vectors.store)
    vectors.add(nodes_of({"d": "blue bird"}, source="doc"))
    vectors.delete("a")
    assert {node.node_id for node in vectors.get_nodes()} == {"b", "c", "d"}
    vectors.delete("book")
    assert {node.node_id for node in vectors.get_nodes()} == {"c", "d"}
    await vectors.adelete("c")
    assert {node.node_id for node in vectors.get_nodes()} == {"d"}
    fill_from_elsewhere(encoder, vectors.store)
    await M3ConnectVectorStore(store=ThreadedStore(vectors.store), encoder=encoder).adelete("book")
    assert {node.node_id for node in vectors.get_nodes()} == {"c", "d"}


def test_too_many_documents_of_another_way_of_ingesting_are_not_read(vectors, encoder, monkeypatch) -> None:
    fill_from_elsewhere(encoder, vectors.store)
    monkeypatch.setattr(operations, "MOST_READ", 2)
    with pytest.raises(FilterTooBroadError, match="3 documents that LlamaIndex did not store, more than 2"):
        vectors.query(asked(doc_ids=["book"]))
    vectors.delete("book")
    assert vectors.store.count() == 1


# -- adding and deleting ----------------------------------------------------------------------------------------------


def test_adding_again_replaces(vectors) -> None:
    vectors.add(nodes_of())
    vectors.add([TextNode(id_="sea", text="a dry desert")])
    assert vectors.store.count() == len(TEXTS)
    assert vectors.get_nodes(["sea"])[0].text == "a dry desert"
    assert vectors.query(asked("desert", similarity_top_k=1)).ids == ["sea"]


def test_adding_nothing_does_nothing(vectors, encoder) -> None:
    assert vectors.add([]) == []
    assert encoder.calls == []


def test_nodes_are_found_by_id_by_filter_and_by_both(vectors) -> None:
    vectors.add([*nodes_of(lang="en"), TextNode(id_="de", text="Meer", metadata={"lang": "de"})])
    english = MetadataFilters(filters=[MetadataFilter(key="lang", value="en")])
    assert [node.node_id for node in vectors.get_nodes(["sea", "nowhere", "apple"])] == ["sea", "apple"]
    assert {node.node_id for node in vectors.get_nodes(filters=english)} == set(TEXTS)
    assert [node.node_id for node in vectors.get_nodes(["de", "sea"], filters=english)] == ["sea"]
    assert len(vectors.get_nodes()) == len(TEXTS) + 1


def test_delete_takes_the_nodes_of_a_source_document(vectors) -> None:
    vectors.add(nodes_of({"a": "one", "b": "two"}, source='doc "1"'))
    vectors.add([*nodes_of({"c": "three"}, source="doc-2"), TextNode(id_="alone", text="four")])
    vectors.delete('doc "1"')
    vectors.delete("nowhere")
    assert {node.node_id for node in vectors.get_nodes()} == {"c", "alone"}
    vectors.delete("alone")
    assert {node.node_id for node in vectors.get_nodes()} == {"c"}


def test_delete_nodes_takes_ids_or_filters_or_what_both_name(vectors) -> None:
    vectors.add([*nodes_of(lang="en"), TextNode(id_="de", text="Meer", metadata={"lang": "de"})])
    english = MetadataFilters(filters=[MetadataFilter(key="lang", value="en")])
    vectors.delete_nodes(["sea", "de"], filters=english)
    assert {node.node_id for node in vectors.get_nodes()} == {"apple", "bottle", "ship", "de"}
    vectors.delete_nodes(["apple", "nowhere"])
    vectors.delete_nodes([])
    assert {node.node_id for node in vectors.get_nodes()} == {"bottle", "ship", "de"}
    vectors.delete_nodes(filters=english)
    assert {node.node_id for node in vectors.get_nodes()} == {"de"}
    for nothing in (None, MetadataFilters(filters=[])):
        with pytest.raises(ValueError, match="needs node_ids or filters"):
            vectors.delete_nodes(filters=nothing)
    assert vectors.store.count() == 1


def test_clear_deletes_every_node_and_the_store_goes_on(vectors) -> None:
    vectors.add(nodes_of())
    vectors.clear()
    assert vectors.get_nodes() == []
    assert vectors.query(asked(mode="hybrid")).ids == []
    vectors.add(nodes_of({"sea": "blue sea"}))
    assert vectors.query(asked(mode="hybrid")).ids == ["sea"]


async def test_the_async_methods_do_the_same(vectors) -> None:
    assert await vectors.async_add(nodes_of(source="doc")) == list(TEXTS)
    assert await vectors.aget_nodes(["sea"]) == vectors.get_nodes(["sea"])
    for mode in ("default", "sparse", "hybrid", "mmr"):
        result = await vectors.aquery(asked(mode=mode))
        assert result == vectors.query(asked(mode=mode))
        assert result.ids
    await vectors.adelete_nodes(["sea"])
    assert {node.node_id for node in await vectors.aget_nodes()} == TEXTS.keys() - {"sea"}
    await vectors.adelete("doc")
    assert vectors.store.count() == 0
    await vectors.async_add(nodes_of())
    await vectors.aclear()
    assert vectors.store.count() == 0


async def test_an_awaited_store_has_the_async_methods_and_says_so(store, encoder) -> None:
    vectors = M3ConnectVectorStore(store=ThreadedStore(store), encoder=encoder)
    await vectors.async_add(nodes_of())
    assert (await vectors.aquery(asked(mode="hybrid"))).ids[0] == "sea"
    assert len(await vectors.aget_nodes()) == len(TEXTS)
    with pytest.raises(ValueError, match="can only be awaited"):
        vectors.query(asked())


# -- queries ----------------------------------------------------------------------------------------------------------


def expected(vectors, encoder, text: str, **search) -> list[tuple[str, float]]:
    hits = vectors.store.search(encoder.encode([text], multi_vector=True), **search)[0]
    return [(hit.document.id, pytest.approx(hit.score, abs=1e-5)) for hit in hits]


def shown(result) -> list[tuple[str, float]]:
    assert [node.node_id for node in result.nodes] == result.ids
    return list(zip(result.ids, result.similarities, strict=True))


def test_default_is_dense_and_sparse_is_words_alone(vectors, encoder) -> None:
    vectors.add(nodes_of())
    dense = encoder.encode(["blue sea"]).dense[0].tolist()
    by_vector = vectors.query(asked(None, query_embedding=dense, similarity_top_k=3))
    assert shown(by_vector) == expected(vectors, encoder, "blue sea", fusion=Dense(), top_k=3)
    assert shown(vectors.query(asked(similarity_top_k=3))) == shown(by_vector)
    words = vectors.query(asked(mode="sparse"))
    assert shown(words) == expected(vectors, encoder, "blue sea", fusion=Sparse(), top_k=4)
    assert set(words.ids) == {"sea", "ship"}
    assert len(vectors.query(asked(mode="sparse", sparse_top_k=1)).ids) == 1


def test_hybrid_is_the_stores_own_fusion(vectors, encoder) -> None:
    vectors.add(nodes_of())
    assert shown(vectors.query(asked(mode="hybrid"))) == expected(vectors, encoder, "blue sea", top_k=4)
    assert len(vectors.query(asked(mode="hybrid", hybrid_top_k=2)).ids) == 2
    weighted = vectors.query(asked(mode="hybrid"), fusion=Weighted(dense=1, sparse=2, multi_vector=0), candidates=3)
    assert shown(weighted) == expected(vectors, encoder, "blue sea", top_k=4, fusion=Weighted(1, 2), candidates=3)
    ours = M3ConnectVectorStore(store=vectors.store, encoder=encoder, fusion=Weighted(dense=1, sparse=2), candidates=3)
    assert shown(ours.query(asked(mode="hybrid"))) == shown(weighted)


@pytest.mark.parametrize(("alpha", "fusion"), [(0, Sparse()), (0.25, Weighted(0.25, 0.75)), (1, Dense())])
def test_alpha_goes_from_sparse_alone_to_dense_alone(vectors, encoder, alpha, fusion) -> None:
    vectors.add(nodes_of())
    found = vectors.query(asked(mode="hybrid", alpha=alpha))
    assert shown(found) == expected(vectors, encoder, "blue sea", top_k=4, fusion=fusion)


def test_the_papers_weights_as_alpha_give_the_papers_order(vectors, encoder) -> None:
    vectors.add(nodes_of())
    found = vectors.query(asked(mode="hybrid", alpha=0.77))
    paper = vectors.query(asked(mode="hybrid"), fusion=Weighted(dense=1, sparse=0.3))
    assert found.ids == paper.ids
    assert found.similarities == pytest.approx([0.77 * score for score in paper.similarities], abs=1e-3)


def test_sparse_top_k_is_how_many_candidates_a_hybrid_search_takes(encoder) -> None:
    store = MemoryStore(dim=encoder.dim)
    vectors = M3ConnectVectorStore(store=store, encoder=encoder)
    vectors.add(nodes_of({f"n{i}": f"blue word{i}" for i in range(30)}))
    few = vectors.query(asked("blue sea", mode="hybrid", similarity_top_k=2, sparse_top_k=3, hybrid_top_k=20))
    assert shown(few) == expected(vectors, encoder, "blue sea", top_k=20, candidates=20)
    fewer = vectors.query(asked("blue sea", mode="hybrid", similarity_top_k=2, sparse_top_k=3))
    assert shown(fewer) == expected(vectors, encoder, "blue sea", top_k=2, candidates=3)


def test_a_dense_vector_of_other_texts_is_used_as_it_is(vectors, encoder) -> None:
    vectors.add(nodes_of())
    other = encoder.encode(["seven green bottles"]).dense[0].tolist()
    result = vectors.query(asked("apple", mode="hybrid", alpha=1, query_embedding=other))
    assert result.ids[0] == "bottle"
    assert vectors.query(asked("apple", mode="hybrid", alpha=0, query_embedding=other)).ids == ["apple"]


def test_queries_are_held_to_documents_and_nodes(vectors) -> None:
    vectors.add(nodes_of({"a": "blue sea", "b": "blue lake"}, source="doc-1", lang="en"))
    vectors.add(nodes_of({"c": "blue sea", "d": "blue sky"}, source="doc-2", lang="de"))
    german = MetadataFilters(filters=[MetadataFilter(key="lang", value="de")])
    for mode in ("default", "sparse", "hybrid", "mmr"):
        assert set(vectors.query(asked("blue", mode=mode, doc_ids=["doc-1", "nowhere"])).ids) == {"a", "b"}
        assert set(vectors.query(asked("blue", mode=mode), node_ids=["a", "c"]).ids) == {"a", "c"}
        assert vectors.query(asked("blue", mode=mode, filters=german), node_ids=["a", "c"]).ids == ["c"]
        assert vectors.query(asked("blue", mode=mode, doc_ids=[])).ids == []
        assert vectors.query(asked("blue", mode=mode), node_ids=[]).ids == []


def test_an_index_finds_nodes_of_every_kind(vectors, encoder) -> None:
    """LlamaIndex keeps image and index nodes in the index too, and passes the ids of those alone with a query."""
    kinds = [*nodes_of(), NODES["index"], ImageNode(id_="image", text="a blue picture", image_url="http://localhost")]
    context = StorageContext.from_defaults(vector_store=vectors)
    index = VectorStoreIndex(kinds, storage_context=context, embed_model=M3ConnectEmbedding(encoder=encoder))
    retriever = index.as_retriever(similarity_top_k=10)
    wanted = {"o" if node is NODES["index"] else node.node_id for node in kinds}  # an index node stands for another
    assert set(ids(retriever.retrieve("blue sea"))) == wanted
    held = index.as_retriever(similarity_top_k=10, vector_store_kwargs={"node_ids": ["sea", "image"]})
    assert set(ids(held.retrieve("blue sea"))) == {"sea", "image"}


@pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 1.0])
def test_mmr_chooses_as_llamaindex_does(vectors, encoder, threshold) -> None:
    texts = {f"n{i}": text for i, text in enumerate([*TEXTS.values(), "deep blue sea too", "the deep blue sea"])}
    vectors.add(nodes_of(texts))
    query = encoder.encode(["blue sea"]).dense[0]
    near = [name for name, _ in expected(vectors, encoder, "blue sea", fusion=Dense(), top_k=100)]
    rows = vectors.store.get_embeddings(near).dense.tolist()
    scores, names = get_top_k_mmr_embeddings(
        query.tolist(), rows, similarity_top_k=3, embedding_ids=near, mmr_threshold=threshold
    )
    found = vectors.query(asked(mode="mmr", similarity_top_k=3, mmr_threshold=threshold))
    assert shown(found) == [(name, pytest.approx(score, abs=1e-5)) for name, score in zip(names, scores, strict=True)]
    assert shown(vectors.query(asked(mode="mmr", similarity_top_k=3), mmr_threshold=threshold)) == shown(found)
    if threshold == 1:
        assert found.ids == near[:3]


def test_mmr_leaves_out_what_was_deleted_meanwhile(encoder) -> None:
    class Forgetful(MemoryStore):
        def search(self, *args, **options) -> list[list[Hit]]:
            found = super().search(*args, **options)
            assert found[0][0].document.id == "sea"
            self.delete(["sea"])
            return found

    vectors = M3ConnectVectorStore(store=Forgetful(dim=encoder.dim), encoder=encoder)
    vectors.add(nodes_of())
    left = M3ConnectVectorStore(store=MemoryStore(dim=encoder.dim), encoder=encoder)
    left.add([node for node in nodes_of() if node.node_id != "sea"])
    wanted = asked(mode="mmr", similarity_top_k=3)
    assert vectors.query(wanted).ids == left.query(wanted).ids


@pytest.mark.parametrize("prefetch", [2, 3, 4])
def test_mmr_chooses_from_as_many_as_it_is_told(vectors, prefetch: int) -> None:
    """With little weight on relevance the second node is the farthest from the first, of those it chooses from."""
    vectors.add(nodes_of())
    nearest = vectors.query(asked(similarity_top_k=prefetch)).ids
    rows = vectors.store.get_embeddings(nearest).dense
    farthest = nearest[1:][int(np.argmin(rows[1:] @ rows[0]))]
    diverse = vectors.query(asked(mode="mmr", similarity_top_k=2), mmr_threshold=0.01, mmr_prefetch_k=prefetch)
    assert diverse.ids == [nearest[0], farthest]


def test_the_second_node_of_mmr_depends_on_how_many_it_chooses_from(vectors) -> None:
    vectors.add(nodes_of())
    chosen = [
        vectors.query(asked(mode="mmr", similarity_top_k=2), mmr_threshold=0.01, mmr_prefetch_k=prefetch).ids[1]
        for prefetch in (2, 4)
    ]
    assert chosen[0] != chosen[1]


def test_an_empty_store_finds_nothing(vectors) -> None:
    for mode in ("default", "sparse", "hybrid", "mmr"):
        assert vectors.query(asked(mode=mode)).nodes == []


# -- without an encoder -----------------------------------------------------------------------------------------------


def test_without_an_encoder_dense_vectors_of_any_model_are_stored_and_found(store) -> None:
    vectors = M3ConnectVectorStore(store=store)
    for i, node in enumerate(nodes := nodes_of()):
        node.embedding = np.eye(16)[i].tolist()
    vectors.add(nodes)
    for mode in ("default", "mmr"):
        found = vectors.query(asked(None, mode=mode, query_embedding=np.eye(16)[1].tolist(), similarity_top_k=1))
        assert found.ids == ["sea"]
    assert vectors.get_nodes(["sea"])[0].embedding is None


def test_vectors_are_compared_by_direction_whatever_their_length() -> None:
    vectors = M3ConnectVectorStore(store=MemoryStore(dim=2))
    vectors.add([TextNode(id_="long", text="t", embedding=[3, 3]), TextNode(id_="near", text="t", embedding=[1, 0])])
    for length in (1.0, 10.0):
        found = vectors.query(asked(None, query_embedding=[length, 0.0]))
        assert shown(found) == [("near", pytest.approx(1)), ("long", pytest.approx(0.5**0.5))]


def test_the_length_of_a_query_vector_does_not_change_a_hybrid_search(vectors, encoder) -> None:
    vectors.add(nodes_of())
    other = encoder.encode(["deep green bottles"]).dense[0]
    asked_with = {
        length: asked("apple", mode="hybrid", alpha=0.5, query_embedding=(other * length).tolist())
        for length in (1, 10)
    }
    once, tenfold = (vectors.query(query) for query in asked_with.values())
    assert once.ids == tenfold.ids
    assert once.similarities == pytest.approx(tenfold.similarities, abs=1e-5)


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["text_search", "semantic_hybrid", "svm", "logistic_regression", "linear_regression"])
def test_a_mode_that_is_not_there_says_which_are(mode: str) -> None:
    with pytest.raises(ValueError, match=f"{mode.upper()} is not supported: use DEFAULT, SPARSE, HYBRID, MMR"):
        M3ConnectVectorStore(store=MemoryStore(dim=16)).query(asked(mode=VectorStoreQueryMode(mode)))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (asked(mode="hybrid", alpha=1.5), "alpha must be from 0"),
        (asked(mode="mmr", mmr_threshold=-1), "mmr_threshold must be from 0"),
        (asked(None, mode="hybrid", query_embedding=[1.0] + [0.0] * 15), "HYBRID needs query_str"),
        (asked(None), "DEFAULT needs query_str"),
        (asked(similarity_top_k=0), "similarity_top_k must be at least 1"),
        (asked(doc_ids="doc"), "expected a list of ids"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(query: VectorStoreQuery, message: str) -> None:
    vectors = M3ConnectVectorStore(store=MemoryStore(dim=16), encoder=FakeEncoder())
    with pytest.raises(ValueError, match=message):
        vectors.query(query)


async def test_a_collection_that_an_encoder_filled_takes_no_nodes_without_sparse_weights(vectors) -> None:
    vectors.add(nodes_of())
    forgotten = M3ConnectVectorStore(store=vectors.store)
    nodes = [TextNode(id_="new", text="t", embedding=[1.0] + [0.0] * 15)]
    with pytest.raises(
        CollectionMismatchError, match=r"was filled by fake-encoder, sparse weights included.*give encoder="
    ):
        forgotten.add(nodes)
    with pytest.raises(ValueError, match="give encoder="):
        await forgotten.async_add(nodes)
    assert vectors.store.count() == len(TEXTS)


@pytest.mark.parametrize("setting", ["mmr_prefetch_k", "candidates", "hybrid_top_k", "sparse_top_k"])
def test_a_count_below_one_is_refused(vectors, setting: str) -> None:
    for count in (0, -1):
        fields, options = ({setting: count}, {}) if setting.endswith("top_k") else ({}, {setting: count})
        for mode in ("default", "sparse", "hybrid", "mmr"):
            with pytest.raises(ValueError, match=f"{setting} must be at least 1, but is {count}"):
                vectors.query(asked(mode=mode, **fields), **options)


def test_a_fusion_that_is_none_is_refused_at_once(vectors, encoder) -> None:
    for call in (
        lambda: M3ConnectVectorStore(store=MemoryStore(dim=16), encoder=encoder, fusion="rrf"),
        lambda: M3ConnectRetriever(vectors, fusion="rrf"),
        lambda: vectors.query(asked(), fusion="rrf"),
    ):
        with pytest.raises(ValueError, match=r"fusion must be RRF\(\), .* but is 'rrf'"):
            call()


def test_a_number_that_json_cannot_write_is_refused(vectors) -> None:
    for metadata in ({"score": float("nan")}, {"deep": [{"score": float("inf")}]}):
        with pytest.raises(ValueError, match=r"node 'n' has (nan|inf) in its metadata"):
            vectors.add([TextNode(id_="n", text="t", metadata=metadata)])
    assert vectors.store.count() == 0


def test_words_need_an_encoder() -> None:
    vectors = M3ConnectVectorStore(store=MemoryStore(dim=16))
    for mode in ("sparse", "hybrid"):
        with pytest.raises(ValueError, match="give encoder="):
            vectors.query(asked(mode=mode))
    with pytest.raises(ValueError, match="node 'apple' has no embedding, and the store has no encoder"):
        vectors.add(nodes_of())


def test_an_embedding_of_another_model_or_another_text_is_refused(vectors) -> None:
    node = TextNode(id_="n", text="red apple", embedding=FakeEncoder().encode(["blue sea"]).dense[0].tolist())
    for embedding in (node.embedding, [1.0, 0.0]):
        node.embedding = embedding
        with pytest.raises(ValueError, match="node 'n' carries an embedding that the store's encoder does not make"):
            vectors.add([node])
    assert vectors.store.count() == 0


def test_an_argument_that_would_be_ignored_is_refused(vectors) -> None:
    for call in (
        lambda: vectors.query(asked(), mmr_treshold=0.5),
        lambda: vectors.add([], batch=1),
        lambda: vectors.delete("doc", soft=True),
        lambda: vectors.delete_nodes(["a"], soft=True),
    ):
        with pytest.raises(TypeError, match="unexpected argument"):
            call()


def test_a_misspelt_argument_is_refused(encoder) -> None:
    for make in (
        lambda: M3ConnectVectorStore(store=MemoryStore(dim=16), encodr=encoder),
        lambda: M3ConnectEmbedding(encoder=encoder, max_lenght=8),
        lambda: M3ConnectSparseEmbedding(encoder=encoder, batch_size=8),
        lambda: M3ConnectRerank(encoder=encoder, topn=2),
    ):
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            make()


def test_what_is_no_store_or_no_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="store must be a store of m3connect"):
        M3ConnectVectorStore(store={})
    with pytest.raises(ValueError, match="encoder must have dim, fingerprint and encode"):
        M3ConnectVectorStore(store=MemoryStore(dim=16), encoder="BAAI/bge-m3")


def test_settings_can_be_written_down_without_the_live_objects(vectors) -> None:
    assert vectors.to_dict() == {
        "stores_text": True,
        "is_embedding_query": True,
        "candidates": None,
        "class_name": "M3ConnectVectorStore",
    }
    assert vectors.client is vectors.store


def test_an_encoder_can_be_given_as_the_embedding_that_has_it(store) -> None:
    vectors = M3ConnectVectorStore(store=store, encoder=M3ConnectEmbedding(encoder=FakeEncoder(), max_length=2))
    vectors.add([TextNode(id_="n", text="one two three")])
    assert vectors.query(asked("three", mode="sparse")).ids == []
    assert vectors.query(asked("two", mode="sparse")).ids == ["n"]
