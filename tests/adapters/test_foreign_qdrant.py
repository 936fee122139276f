"""Collections that langchain-qdrant, LlamaIndex or a hand filled, read through a layout; MemoryStore is the oracle."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from foreign_helpers import (
    CONDITIONS,
    DOCUMENTS,
    ENCODER,
    FINGERPRINT,
    IDS,
    METADATA,
    TEXTS,
    assert_native_filters_are_judged_by_the_database,
    assert_reads_like,
    assert_searches_like,
    encoded,
    oracle,
    queries,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_checks import assert_same_search, ids

from m3connect import RRF, Dense, Document, HybridRetriever, MemoryStore, Sparse, Weighted, ingest
from m3connect.awaiting import ThreadedStore
from m3connect.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    DocumentNotFoundError,
    FilterTooBroadError,
)
from m3connect.filters import Native, field

pytest.importorskip("qdrant_client", reason="pip install 'm3connect[qdrant]'")

from m3connect_qdrant import LAYOUTS, ForeignLayout, QdrantStore  # after the skip
from m3connect_qdrant.foreign import to_point_id
from qdrant_client import QdrantClient, models

DIM = ENCODER.dim
BY_HAND = ForeignLayout(dense="vec", sparse="words", text="body", metadata=None)


@pytest.fixture
def client() -> QdrantClient:
    return QdrantClient(":memory:")


def open_hand_made(client: QdrantClient, layout: ForeignLayout = BY_HAND, **options: Any) -> QdrantStore:
    return QdrantStore(client, "docs", layout=layout, **{"adopt_fingerprint": FINGERPRINT} | options)


def fill_by_hand(
    client: QdrantClient,
    *,
    distance: models.Distance = models.Distance.COSINE,
    point_id: Callable[[int], int | str] = lambda i: i,
    payload: Callable[[int], dict[str, Any]] = lambda i: {"body": TEXTS[i], **METADATA[i]},
    sparse: models.SparseVectorParams | None = None,
    scale: float = 1.0,
) -> None:
    vectors = models.VectorParams(size=DIM, distance=distance)
    weights = {"words": sparse or models.SparseVectorParams()}
    client.create_collection("docs", vectors_config={"vec": vectors}, sparse_vectors_config=weights)
    rows = encoded(DOCUMENTS)
    points = []
    for i in range(len(DOCUMENTS)):
        indices, values = rows.sparse.row(i)
        words = models.SparseVector(indices=indices.tolist(), values=values.tolist())
        vector = {"vec": (scale * rows.dense[i]).tolist(), "words": words}
        points.append(models.PointStruct(id=point_id(i), vector=vector, payload=payload(i)))
    client.upsert("docs", points)


def renamed(name: Callable[[int], str]) -> MemoryStore:
    return oracle([replace(document, id=name(i)) for i, document in enumerate(DOCUMENTS)])


# -- langchain-qdrant -------------------------------------------------------------------------------------------------


def langchain_store(client: QdrantClient, *, hybrid: bool) -> Any:
    library = pytest.importorskip("langchain_qdrant", reason="pip install langchain-qdrant")
    from langchain_core.embeddings import Embeddings

    class DenseRows(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return ENCODER.encode(texts).dense.tolist()

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    class Weights(library.SparseEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[Any]:
            rows = ENCODER.encode(texts).sparse.to_dicts()
            return [library.SparseVector(indices=list(row), values=list(row.values())) for row in rows]

        def embed_query(self, text: str) -> Any:
            return self.embed_documents([text])[0]

    client.create_collection(
        "docs",
        vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE),
        sparse_vectors_config={"langchain-sparse": models.SparseVectorParams()} if hybrid else None,
    )
    mode = library.RetrievalMode.HYBRID if hybrid else library.RetrievalMode.DENSE
    store = library.QdrantVectorStore(client, "docs", DenseRows(), mode, sparse_embedding=Weights() if hybrid else None)
    store.add_texts(TEXTS, METADATA, IDS)
    return store


def test_a_hybrid_collection_of_langchain_is_read_like_our_own(client: QdrantClient) -> None:
    langchain_store(client, hybrid=True)
    store = QdrantStore(client, "docs", layout="langchain-hybrid", adopt_fingerprint=FINGERPRINT)
    assert_reads_like(store, oracle())
    assert_searches_like(store, oracle())


def test_a_dense_collection_of_langchain_has_one_leg(client: QdrantClient) -> None:
    theirs = langchain_store(client, hybrid=False)
    store = QdrantStore(client, "docs", dim=DIM, layout="langchain", adopt_fingerprint=FINGERPRINT)
    assert_reads_like(store, oracle())
    assert_searches_like(store, oracle(), legs=["dense"])
    found = [document.page_content for document in theirs.similarity_search("red apple tree", k=5)]
    assert [hit.document.text for hit in store.search(queries()[0], fusion=Dense(), top_k=5)[0]] == found
    assert store.get_embeddings(IDS[:3]).sparse.to_dicts() == [{}, {}, {}]


def test_ids_as_langchain_spells_them_find_their_documents(client: QdrantClient) -> None:
    theirs = langchain_store(client, hybrid=False)
    (name,) = theirs.add_texts(["one more text"], [{"lang": "de"}])
    assert "-" not in name
    store = QdrantStore(client, "docs", layout="langchain", adopt_fingerprint=FINGERPRINT)
    (document,) = store.get([name])
    assert document == Document(str(uuid.UUID(name)), "one more text", {"lang": "de"})
    assert store.get_embeddings([name, document.id]).dense.shape == (2, DIM)
    with pytest.raises(DocumentNotFoundError, match=str(uuid.UUID(int=7))):
        store.get_embeddings([str(uuid.UUID(int=7)), name])


def test_what_langchain_made_with_its_defaults_is_read(client: QdrantClient) -> None:
    library = pytest.importorskip("langchain_qdrant")
    theirs = langchain_store(client, hybrid=False)
    theirs.client.delete_collection("docs")
    made = library.QdrantVectorStore.from_texts(TEXTS, theirs.embeddings, METADATA, IDS, location=":memory:")
    name = made.collection_name
    store = QdrantStore(made.client, name, layout="langchain", adopt_fingerprint=FINGERPRINT)
    assert_reads_like(store, oracle())


# -- LlamaIndex -------------------------------------------------------------------------------------------------------


def llama_index_store(client: QdrantClient, *, hybrid: bool) -> None:
    library = pytest.importorskip(
        "llama_index.vector_stores.qdrant", reason="pip install llama-index-vector-stores-qdrant"
    )
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

    def weights(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        rows = ENCODER.encode(texts).sparse.to_dicts()
        return [list(row) for row in rows], [list(row.values()) for row in rows]

    functions = {"sparse_doc_fn": weights, "sparse_query_fn": weights} if hybrid else {}
    store = library.QdrantVectorStore("docs", client=client, enable_hybrid=hybrid, **functions)
    rows = encoded(DOCUMENTS)
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book-1")}
    store.add(
        [
            TextNode(
                id_=document.id,
                text=document.text,
                metadata=dict(document.metadata),
                embedding=rows.dense[i].tolist(),
                relationships=source if i < 12 else {},
                excluded_embed_metadata_keys=list(document.metadata),
            )
            for i, document in enumerate(DOCUMENTS)
        ]
    )


def in_a_book() -> MemoryStore:
    return oracle([replace(document, parent_id="book-1" if i < 12 else None) for i, document in enumerate(DOCUMENTS)])


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_a_hybrid_collection_of_llama_index_is_read_like_our_own(client: QdrantClient) -> None:
    llama_index_store(client, hybrid=True)
    store = QdrantStore(client, "docs", layout="llama-index-hybrid", adopt_fingerprint=FINGERPRINT)
    assert_reads_like(store, in_a_book())
    assert_searches_like(store, in_a_book())
    grouped, expected = (one.search(queries(), group_by_parent=True) for one in (store, in_a_book()))
    assert [ids(hits) for hits in grouped] == [ids(hits) for hits in expected]


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_a_dense_collection_of_llama_index_has_one_leg(client: QdrantClient) -> None:
    llama_index_store(client, hybrid=False)
    store = QdrantStore(client, "docs", layout="llama-index", adopt_fingerprint=FINGERPRINT)
    assert_reads_like(store, in_a_book())
    assert_searches_like(store, in_a_book(), legs=["dense"])


# -- made by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [models.Distance.COSINE, models.Distance.DOT, models.Distance.EUCLID])
def test_every_distance_of_unit_rows_becomes_the_inner_product(client: QdrantClient, distance: models.Distance) -> None:
    fill_by_hand(client, distance=distance)
    store = open_hand_made(client)
    memory = renamed(str)
    assert_searches_like_numbers(store, memory)
    longer = replace(queries(), dense=3 * queries().dense)
    assert_same_search(store, memory, longer, fusion=Weighted(), top_k=6)


def assert_searches_like_numbers(store: QdrantStore, memory: MemoryStore) -> None:
    for fusion in (RRF(), Weighted(), Dense(), Sparse()):
        assert_same_search(store, memory, queries(), fusion=fusion, with_scores=True, top_k=6)


def test_numbers_as_ids_come_back_as_strings(client: QdrantClient) -> None:
    fill_by_hand(client, point_id=lambda i: i * 10**17)
    store = open_hand_made(client)
    memory = renamed(lambda i: str(i * 10**17))
    assert_reads_like(store, memory)
    assert_searches_like_numbers(store, memory)
    assert store.get(["00", "-1", "1.0", "x", str(2**64), "", "9" * 5000]) == []


def test_ids_may_lie_in_the_payload(client: QdrantClient) -> None:
    name = lambda i: f'a "quoted" id {i}' if i % 2 else str(i)  # noqa: E731
    fill_by_hand(
        client,
        point_id=lambda i: IDS[i],
        payload=lambda i: {"body": TEXTS[i], "own": {"key": name(i) if i % 2 else i}, "meta": METADATA[i]},
    )
    store = open_hand_made(client, replace(BY_HAND, id="own.key", metadata="meta"))
    memory = renamed(name)
    assert_reads_like(store, memory)
    assert_searches_like_numbers(store, memory)
    assert_same_search(store, memory, queries(), filter=CONDITIONS[0], top_k=6)


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.get(["book-0"]),
        lambda store: store.get_embeddings(["book-0"]),
        lambda store: store.search(encoded(DOCUMENTS[:1]), fusion=Dense(), top_k=24),
    ],
    ids=["get", "get_embeddings", "search"],
)
def test_an_id_that_two_points_have_is_refused(client: QdrantClient, read: Callable[[QdrantStore], object]) -> None:
    fill_by_hand(client, payload=lambda i: {"body": TEXTS[i], "doc": f"book-{i // 2}"})
    store = open_hand_made(client, replace(BY_HAND, id="doc"))
    with pytest.raises(CollectionMismatchError, match=r"several points with 'book-\d+'.*parent_id='doc'"):
        read(store)
    chunks = open_hand_made(client, replace(BY_HAND, parent_id="doc"))
    assert {document.parent_id for document in chunks.get(["0", "1"])} == {"book-0"}


def test_a_point_without_its_id_is_refused(client: QdrantClient) -> None:
    fill_by_hand(client, payload=lambda i: {"body": TEXTS[i]} | ({"doc": i} if i else {}))
    store = open_hand_made(client, replace(BY_HAND, id="doc"))
    with pytest.raises(CollectionMismatchError, match=r"point 0 .*expected a string or a whole number.*'doc'.*None"):
        list(store.scroll())


def test_token_vectors_are_part_of_a_layout(client: QdrantClient) -> None:
    tokens = models.VectorParams(
        size=DIM,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    vectors = {"vec": models.VectorParams(size=DIM, distance=models.Distance.DOT), "colbert": tokens}
    client.create_collection(
        "docs", vectors_config=vectors, sparse_vectors_config={"words": models.SparseVectorParams()}
    )
    rows = ENCODER.encode(TEXTS, multi_vector=True)
    memory = MemoryStore(dim=DIM, multi_vector=True)
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS)]
    memory.upsert(documents, rows)
    for i, text in enumerate(TEXTS):
        indices, values = rows.sparse.row(i)
        vector: dict[str, Any] = {
            "vec": rows.dense[i].tolist(),
            "colbert": rows.require_multi_vector()[i].tolist(),
            "words": models.SparseVector(indices=indices.tolist(), values=values.tolist()),
        }
        client.upsert("docs", [models.PointStruct(id=i, vector=vector, payload={"body": text})])
    store = open_hand_made(client, replace(BY_HAND, multi_vector="colbert"))
    asked = ENCODER.encode(["red apple", "cold winter"], multi_vector=True)
    assert store.multi_vector
    assert_same_search(store, memory, asked, fusion=Weighted(multi_vector=1), with_scores=True, top_k=6)
    found = HybridRetriever(ENCODER, store, rerank=True).search("red apple", top_k=3)
    assert [hit.document.id for hit in found] == [
        hit.document.id for hit in HybridRetriever(ENCODER, memory, rerank=True).search("red apple", top_k=3)
    ]


def test_a_retriever_reranks_what_it_finds_in_one_leg(client: QdrantClient) -> None:
    fill_by_hand(client)
    store = open_hand_made(client, replace(BY_HAND, sparse=None))
    found = HybridRetriever(ENCODER, store, fusion=Dense(), rerank=True).search("red apple tree", top_k=3)
    expected = HybridRetriever(ENCODER, renamed(str), fusion=Dense(), rerank=True).search("red apple tree", top_k=3)
    assert ids(found) == ids(expected)
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


async def test_it_is_read_in_threads(client: QdrantClient) -> None:
    fill_by_hand(client)
    store = ThreadedStore(open_hand_made(client))
    assert await store.count(field("lang") == "de") == 8
    assert len((await store.search(queries(), top_k=3))[0]) == 3


KEYS = st.sampled_from(["lang", "a.b", "weird key", "tags", "missing"])
VALUES = st.one_of(
    st.sampled_from(["de", "", 'say "a"']), st.booleans(), st.integers(-2, 2), st.sampled_from([1.0, 0.5])
)
METADATA_OF_ONE = st.dictionaries(KEYS, st.one_of(VALUES, st.none(), st.lists(VALUES, max_size=3)), max_size=4)


@st.composite
def conditions(draw: st.DrawFn) -> Any:
    one = field(draw(KEYS))
    made = draw(
        st.sampled_from(
            [
                lambda value: one == value,
                lambda value: one != value,
                lambda value: one.in_([value, "de"]),
                lambda value: one.contains(value),
                lambda value: one.is_empty(),
                lambda value: one > 0,
                lambda value: one.text_contains("a"),
            ]
        )
    )(draw(VALUES))
    return ~made if draw(st.booleans()) else made


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(METADATA_OF_ONE, min_size=1, max_size=6), left=conditions(), right=conditions())
def test_filters_mean_what_they_mean_in_memory(rows: list[dict[str, Any]], left: Any, right: Any) -> None:
    client = QdrantClient(":memory:")
    client.create_collection("docs", vectors_config=models.VectorParams(size=DIM, distance=models.Distance.DOT))
    documents = [Document(str(i), f"text {i}", row) for i, row in enumerate(rows)]
    dense = encoded(documents).dense.tolist()
    client.upsert(
        "docs",
        [
            models.PointStruct(
                id=i, vector=dense[i], payload={"page_content": document.text, "metadata": document.metadata}
            )
            for i, document in enumerate(documents)
        ],
    )
    store = QdrantStore(client, "docs", layout="langchain", adopt_fingerprint=FINGERPRINT)
    memory = oracle(documents)
    for condition in (left, left & right, left | right):
        assert store.count(condition) == memory.count(condition)
        assert_same_search(store, memory, queries(), fusion=Dense(), filter=condition)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_other_encoders_are_refused_as_in_our_own_collections(client: QdrantClient) -> None:
    fill_by_hand(client)
    store = open_hand_made(client, adopt_fingerprint="another-encoder")
    assert store.fingerprint == "another-encoder"
    with pytest.raises(CollectionMismatchError, match=r"filled by another-encoder.*come from fake-encoder"):
        store.search(queries())
    assert store.search(replace(queries(), fingerprint=None))[0]


def test_as_long_as_nobody_adopts_it_only_vectors_without_origin_search(client: QdrantClient) -> None:
    fill_by_hand(client)
    store = QdrantStore(client, "docs", layout=BY_HAND)
    assert store.fingerprint is None
    assert store.count() == len(store.get([str(i) for i in range(24)])) == 24
    with pytest.raises(CollectionMismatchError, match="open it with adopt_fingerprint="):
        store.search(queries())
    assert store.search(replace(queries(), fingerprint=None))[0]
    assert store.info().fingerprint is None


def test_reading_leaves_the_collection_as_it_is(client: QdrantClient) -> None:
    fill_by_hand(client, distance=models.Distance.DOT)  # local mode normalises rows again with every cosine search
    before = client.get_collection("docs"), client.scroll("docs", limit=99, with_vectors=True)
    store = open_hand_made(client)
    store.search(queries(), filter=field("lang") == "de", with_scores=True)
    store.flush()
    store.info()
    assert (client.get_collection("docs"), client.scroll("docs", limit=99, with_vectors=True)) == before


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.upsert(DOCUMENTS, encoded(DOCUMENTS)),
        lambda store: store.insert(DOCUMENTS, encoded(DOCUMENTS)),
        lambda store: store.update_embeddings(["1"], encoded(DOCUMENTS[:1])),
        lambda store: store.delete(["1"]),
        lambda store: store.delete(filter=field("lang") == "de"),
        lambda store: store.drop(),
        lambda store: store.problems(DOCUMENTS, encoded(DOCUMENTS)),
        lambda store: ingest(ENCODER, store, DOCUMENTS),
    ],
    ids=["upsert", "insert", "update", "delete ids", "delete filter", "drop", "problems", "ingest"],
)
def test_it_is_never_written(client: QdrantClient, write: Callable[[QdrantStore], object]) -> None:
    fill_by_hand(client)
    with pytest.raises(ValueError, match="only read: write with the library that filled it"):
        write(open_hand_made(client))
    assert client.count("docs").count == 24


@pytest.mark.parametrize("fusion", [RRF(), Weighted(), Sparse()])
def test_a_missing_sparse_leg_is_said(client: QdrantClient, fusion: Any) -> None:
    fill_by_hand(client)
    store = open_hand_made(client, replace(BY_HAND, sparse=None))
    with pytest.raises(ValueError, match=r"no sparse weights: search it with fusion=Dense\(\)"):
        store.search(queries(), fusion=fusion)
    (hits,) = store.search(queries()[0], fusion=Weighted(sparse=0), with_scores=True, top_k=2)
    assert [set(hit.scores or {}) for hit in hits] == [{"dense"}] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense": ""}, r"no vector ''; its dense vectors are 'vec', its sparse vectors 'words'"),
        ({"sparse": "wordz"}, r"no sparse vector 'wordz'; its dense vectors are 'vec', its sparse vectors 'words'"),
        ({"text": "txt"}, r"no field 'txt' in its first 24 documents; it has 'body', 'even', 'lang', 'title', 'year'"),
        ({"metadata": "meta"}, r"no field 'meta'"),
        ({"parent_id": "book"}, r"no field 'book'"),
        ({"id": "key"}, r"no field 'key'"),
        ({"node": "_node_content"}, r"no field '_node_content'"),
        ({"multi_vector": "vec"}, r"expected several vectors a point of 16 dimensions.*found one of 16"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_name_is_answered_with_the_right_ones(
    client: QdrantClient, change: dict[str, Any], message: str
) -> None:
    fill_by_hand(client)
    with pytest.raises(CollectionMismatchError, match=message):
        open_hand_made(client, replace(BY_HAND, **change))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"distance": models.Distance.MANHATTAN}, "compares 'vec' by Manhattan"),
        ({"distance": models.Distance.EUCLID, "scale": 3.0}, r"not of length 1 but up to 3: .*another"),
        ({"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)}, r"weights under 'words' by idf.*Dense"),
    ],
    ids=["manhattan", "not unit", "idf"],
)
def test_numbers_that_are_no_inner_products_are_refused(
    client: QdrantClient, made: dict[str, Any], message: str
) -> None:
    fill_by_hand(client, **made)
    with pytest.raises(CollectionMismatchError, match=message):
        open_hand_made(client)


def test_what_does_not_go_with_a_layout_is_refused(client: QdrantClient) -> None:
    with pytest.raises(CollectionNotFoundError, match="must exist"):
        QdrantStore(client, "docs", dim=DIM, layout=BY_HAND)
    fill_by_hand(client)
    with pytest.raises(CollectionMismatchError, match="expected dimension 8, found 16 in 'vec'"):
        open_hand_made(client, dim=8)
    with pytest.raises(ValueError, match=r"one of \['langchain', .*but is 'haystack'"):
        QdrantStore(client, "docs", layout="haystack")
    with pytest.raises(ValueError, match="filter_fields= and tenant_field="):
        open_hand_made(client, filter_fields=["year"])
    with pytest.raises(ValueError, match="multi_vector=True needs the name"):
        open_hand_made(client, multi_vector=True)
    QdrantStore(client, "ours", dim=DIM)
    with pytest.raises(CollectionMismatchError, match="made by m3connect: open it without layout="):
        QdrantStore(client, "ours", layout=LAYOUTS["langchain"])


def test_a_field_of_another_kind_is_refused_when_it_is_read(client: QdrantClient) -> None:
    fill_by_hand(client)
    with pytest.raises(CollectionMismatchError, match="expected a string in the field 'year', but it holds 1990"):
        open_hand_made(client, replace(BY_HAND, text="year")).get(["0"])
    with pytest.raises(CollectionMismatchError, match="expected an object in the field 'lang', but it holds 'de'"):
        open_hand_made(client, replace(BY_HAND, metadata="lang")).get(["0"])
    with pytest.raises(CollectionMismatchError, match="expected a node of LlamaIndex"):
        open_hand_made(client, replace(BY_HAND, node="title", text=None)).get(["0"])


def test_a_point_may_lack_text_metadata_and_sparse_weights(client: QdrantClient) -> None:
    fill_by_hand(client)
    vector = encoded([Document("x", "red apple")]).dense[0].tolist()
    client.upsert("docs", [models.PointStruct(id=99, vector={"vec": vector}, payload={})])
    store = open_hand_made(client)
    assert store.get(["99"]) == [Document("99", "")]
    assert store.get_embeddings(["99"]).sparse.to_dicts() == [{}]
    (hits,) = store.search(ENCODER.encode(["red apple"]), fusion=Weighted(), top_k=1)
    assert len(hits) == 1


def test_a_filter_on_too_many_documents_is_refused_before_one_is_read(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_by_hand(client)
    store = open_hand_made(client)
    monkeypatch.setattr("m3connect.flows.MOST_READ", 23)
    monkeypatch.setattr(client, "scroll", None)
    with pytest.raises(FilterTooBroadError, match=r"24 documents to read, more than 23: filters of field"):
        store.search(queries(), filter=field("lang") == "de")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0", 0),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", None),
        ("1_0", None),
        (" 1", None),
        ("", None),
    ],
)
def test_only_what_spells_a_point_id_is_one(name: str, expected: object) -> None:
    assert to_point_id(name) == expected


def test_large_rows_travel_in_several_requests(client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_by_hand(client)
    store = open_hand_made(client)
    expected = store.search(queries(), fusion=Weighted(), with_scores=True)
    monkeypatch.setattr("m3connect_qdrant.limits._BATCH_SIZE", 1000)
    monkeypatch.setattr("m3connect_qdrant.foreign._PAGE", 5)
    found = store.search(queries(), fusion=Weighted(), with_scores=True)
    assert [ids(hits) for hits in found] == [ids(hits) for hits in expected]
    assert np.allclose([hit.score for hits in found for hit in hits], [hit.score for hits in expected for hit in hits])
    assert len(list(store.scroll(field("lang") == "de"))) == 8


def test_a_filter_in_qdrant_s_own_words_is_judged_by_qdrant(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_by_hand(client)
    store = open_hand_made(client)
    german = models.FieldCondition(key="lang", match=models.MatchValue(value="de"))
    condition = Native(models.Filter(must=[german]))
    assert store.count(~condition) == 16
    with pytest.raises(ValueError, match=r"Qdrant's own condition is a qdrant_client.models.Filter, but got str"):
        store.count(Native('lang == "de"'))
    assert_native_filters_are_judged_by_the_database(store, renamed(str), condition, monkeypatch)
