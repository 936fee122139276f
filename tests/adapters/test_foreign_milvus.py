"""Collections that langchain-milvus, LlamaIndex or a hand filled, read through a layout; MemoryStore is the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

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

pymilvus = pytest.importorskip("pymilvus", reason="pip install 'm3connect[milvus]'")
pytest.importorskip("milvus_lite", reason="pip install 'm3connect[milvus]'")

from m3connect_milvus import LAYOUTS, AsyncMilvusStore, ForeignLayout, MilvusStore  # noqa: E402  # after the skip
from m3connect_milvus.foreign import to_key  # noqa: E402
from pymilvus import DataType  # noqa: E402

numbers = itertools.count()
DIM = ENCODER.dim
BY_HAND = ForeignLayout(dense="vec", sparse="words", text="body", metadata=None)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    made: Path = tmp_path_factory.mktemp("milvus") / "foreign.db"
    return str(made)


@pytest.fixture(scope="module")
def client(path: str) -> Iterator[Any]:
    from milvus_lite.server_manager import server_manager_instance

    client = pymilvus.MilvusClient(path)
    yield client
    client.close()
    server_manager_instance.release_server(path)


@pytest.fixture
def name(client: Any) -> Iterator[str]:
    name = f"foreign_{next(numbers)}"
    yield name
    if client.has_collection(name):
        client.drop_collection(name)


def fill_by_hand(
    client: Any,
    name: str,
    *,
    metric: str = "IP",
    sparse_metric: str = "IP",
    key: DataType = DataType.VARCHAR,
    dynamic: bool = True,
    scale: float = 1.0,
    indexed: bool = True,
) -> None:
    """Keys "0", "1", ... or 0, -10^17, 2 * 10^17, ...; metadata are dynamic fields, or columns `lang` and `year`."""
    schema = client.create_schema(auto_id=False, enable_dynamic_field=dynamic)
    schema.add_field("key", key, is_primary=True, **({"max_length": 100} if key == DataType.VARCHAR else {}))
    schema.add_field("body", DataType.VARCHAR, max_length=1000)
    schema.add_field("vec", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    if not dynamic:
        schema.add_field("lang", DataType.VARCHAR, max_length=10)
        schema.add_field("year", DataType.INT64)
        schema.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=9, max_length=9)
    indexes = client.prepare_index_params()
    indexes.add_index("vec", index_type="FLAT", metric_type=metric)
    if indexed:
        indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type=sparse_metric)
    client.create_collection(name, schema=schema, index_params=indexes)
    rows, weights = encoded(DOCUMENTS), encoded(DOCUMENTS).sparse.to_dicts()
    columns = [
        row if dynamic else {"lang": row["lang"], "year": row["year"], "tags": [row["lang"]]} for row in METADATA
    ]
    client.insert(
        name,
        [
            {"key": key_of(key, i), "body": TEXTS[i], "vec": scale * rows.dense[i], "words": weights[i], **columns[i]}
            for i in range(len(DOCUMENTS))
        ],
    )


def key_of(kind: DataType, i: int) -> int | str:
    return f'a "quoted" \\ key {i}' if kind == DataType.VARCHAR else (-1) ** i * i * 10**17


def memory_of(kind: DataType = DataType.VARCHAR, metadata: Any = METADATA) -> MemoryStore:
    return oracle([Document(str(key_of(kind, i)), TEXTS[i], metadata[i]) for i in range(len(TEXTS))])


def open_hand_made(client: Any, name: str, layout: ForeignLayout = BY_HAND, **options: Any) -> MilvusStore:
    return MilvusStore(client, name, layout=layout, **{"adopt_fingerprint": FINGERPRINT} | options)


def assert_all_fusions(store: MilvusStore, memory: MemoryStore) -> None:
    for fusion in (RRF(), Weighted(), Weighted(missing="zero"), Dense(), Sparse()):
        assert_same_search(store, memory, queries(), fusion=fusion, with_scores=True, top_k=6)


# -- langchain-milvus -------------------------------------------------------------------------------------------------


def langchain_store(client: Any, path: str, name: str, *, hybrid: bool, **options: Any) -> Any:
    library = pytest.importorskip("langchain_milvus", reason="pip install langchain-milvus")
    from langchain_core.embeddings import Embeddings
    from langchain_milvus.utils.sparse import BaseSparseEmbedding

    class DenseRows(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return ENCODER.encode(texts).dense.tolist()

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    class Weights(BaseSparseEmbedding):
        def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
            return ENCODER.encode(texts).sparse.to_dicts()

        def embed_query(self, query: str) -> dict[int, float]:
            return self.embed_documents([query])[0]

    fields = {"vector_field": ["dense", "sparse"]} if hybrid else {}
    store = library.Milvus(
        [DenseRows(), Weights()] if hybrid else DenseRows(),
        collection_name=name,
        connection_args={"uri": path},
        **fields,
        **options,
    )
    store.add_texts(TEXTS, METADATA, ids=None if options.get("auto_id") else IDS)
    return store


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic fields", "columns"])
def test_a_dense_collection_of_langchain_compares_by_l2_and_is_read_as_inner_product(
    client: Any, path: str, name: str, dynamic: bool
) -> None:
    langchain_store(client, path, name, hybrid=False, auto_id=False, enable_dynamic_field=dynamic)
    assert client.describe_index(name, "vector")["metric_type"] == "L2"
    store = MilvusStore(client, name, dim=DIM, layout="langchain", adopt_fingerprint=FINGERPRINT)
    assert_reads_like(store, oracle())
    assert_searches_like(store, oracle(), legs=["dense"])


def test_a_hybrid_collection_of_langchain_is_read_like_our_own(client: Any, path: str, name: str) -> None:
    langchain_store(client, path, name, hybrid=True, auto_id=False, enable_dynamic_field=True)
    store = MilvusStore(client, name, layout="langchain-hybrid", adopt_fingerprint=FINGERPRINT)
    assert_reads_like(store, oracle())
    assert_searches_like(store, oracle())


def test_numbers_that_milvus_made_up_are_ids(client: Any, path: str, name: str) -> None:
    langchain_store(client, path, name, hybrid=False, auto_id=True, metadata_field="about")
    layout = replace(LAYOUTS["langchain"], metadata="about")
    store = MilvusStore(client, name, layout=layout, adopt_fingerprint=FINGERPRINT)
    by_text = {document.text: document for document in store.scroll()}
    assert all(name.isdigit() for name in (document.id for document in by_text.values()))
    memory = oracle([replace(document, id=by_text[document.text].id) for document in DOCUMENTS])
    assert_reads_like_by_id(store, memory)
    assert_same_search(store, memory, queries(), fusion=Dense(), filter=CONDITIONS[2], top_k=4)


def assert_reads_like_by_id(store: MilvusStore, memory: MemoryStore) -> None:
    assert {one.id: one for one in store.scroll()} == {one.id: one for one in memory.scroll()}
    names = [one.id for one in memory.scroll()][7:2:-1]
    assert store.get(names) == memory.get(names)
    assert abs(store.get_embeddings(names).dense - memory.get_embeddings(names).dense).max() < 1e-6


# -- LlamaIndex -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_collection_of_llama_index_is_read(client: Any, name: str, hybrid: bool) -> None:
    """Its Milvus store needs another pymilvus: this is the schema that it makes, and its own form of a node."""
    schema_of = pytest.importorskip("llama_index.core.schema", reason="pip install llama-index-core")
    from llama_index.core.vector_stores.utils import node_to_metadata_dict

    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=65_535)
    schema.add_field("doc_id", DataType.VARCHAR, max_length=65_535)
    schema.add_field("text", DataType.VARCHAR, max_length=65_535)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIM)
    indexes = client.prepare_index_params()
    indexes.add_index("embedding", index_type="FLAT", metric_type="IP")
    if hybrid:
        schema.add_field("sparse_embedding", DataType.SPARSE_FLOAT_VECTOR)
        indexes.add_index("sparse_embedding", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Session")
    rows = encoded(DOCUMENTS)
    source = {schema_of.NodeRelationship.SOURCE: schema_of.RelatedNodeInfo(node_id="book-1")}
    entries = []
    for i, document in enumerate(DOCUMENTS):
        node = schema_of.TextNode(
            id_=document.id, text=document.text, metadata=dict(document.metadata), relationships=source
        )
        entry = node_to_metadata_dict(node, remove_text=True, text_field="text")
        entry |= {"id": node.node_id, "text": node.text, "embedding": rows.dense[i]}
        entries.append(entry | ({"sparse_embedding": rows.sparse.to_dicts()[i]} if hybrid else {}))
    client.insert(name, entries)
    layout = "llama-index-hybrid" if hybrid else "llama-index"
    store = MilvusStore(client, name, layout=layout, adopt_fingerprint=FINGERPRINT)
    memory = oracle([replace(document, parent_id="book-1") for document in DOCUMENTS])
    assert_reads_like(store, memory)
    assert_searches_like(store, memory, legs=["dense", "sparse"] if hybrid else ["dense"])


# -- made by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [DataType.VARCHAR, DataType.INT64])
@pytest.mark.parametrize("metric", ["IP", "COSINE", "L2"])
def test_every_metric_of_unit_rows_becomes_the_inner_product(
    client: Any, name: str, metric: str, key: DataType
) -> None:
    fill_by_hand(client, name, metric=metric, key=key)
    store, memory = open_hand_made(client, name), memory_of(key)
    assert_reads_like(store, memory)
    assert_all_fusions(store, memory)
    longer = replace(queries(), dense=3 * queries().dense)
    assert_same_search(store, memory, longer, fusion=Weighted(), top_k=6)
    for condition in CONDITIONS[:3]:
        assert_same_search(store, memory, queries(), filter=condition, top_k=6)


def test_only_the_direction_of_rows_counts_where_cosine_compares(client: Any, name: str) -> None:
    fill_by_hand(client, name, metric="COSINE", scale=5.0)
    store, memory = open_hand_made(client, name), memory_of()
    assert_reads_like(store, memory)
    assert_all_fusions(store, memory)


def test_columns_are_metadata(client: Any, name: str) -> None:
    fill_by_hand(client, name, dynamic=False)
    columns = [{"lang": row["lang"], "year": row["year"], "tags": [row["lang"]]} for row in METADATA]
    store, memory = open_hand_made(client, name), memory_of(metadata=columns)
    assert_reads_like(store, memory)
    contains = field("tags").contains("de") & (field("year") > 1999)
    assert store.count(contains) == memory.count(contains) > 0
    assert_same_search(store, memory, queries(), filter=contains, top_k=4)


def test_ids_that_no_key_can_be_are_absent(client: Any, name: str) -> None:
    fill_by_hand(client, name, key=DataType.INT64)
    store = open_hand_made(client, name)
    assert store.get(["00", "x", "", str(2**63), "1" * 40, "7", "0"]) == [Document("0", TEXTS[0], METADATA[0])]
    with pytest.raises(DocumentNotFoundError, match="'7'"):
        store.get_embeddings(["7", "0"])
    assert (to_key("-5", whole_numbers=True), to_key("-0", whole_numbers=True)) == (-5, None)


def test_ids_cannot_leave_their_quotes(client: Any, name: str) -> None:
    fill_by_hand(client, name)
    assert open_hand_made(client, name).get(['x"] or key != "', "x'", "\\"]) == []


def test_it_is_walked_and_judged_in_pages(client: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_by_hand(client, name, key=DataType.INT64)
    monkeypatch.setattr("m3connect_milvus.foreign._PAGE", 5)
    store, memory = open_hand_made(client, name), memory_of(DataType.INT64)
    walked = [int(document.id) for document in store.scroll()]
    assert walked == sorted(walked)
    assert len(walked) == 24
    assert len(list(store.scroll(CONDITIONS[0]))) == 8
    assert_same_search(store, memory, queries(), filter=CONDITIONS[0], with_scores=True)


def test_ids_of_many_requests_keep_the_best_of_all(client: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_by_hand(client, name, metric="L2")
    store, memory = open_hand_made(client, name), memory_of()
    monkeypatch.setattr("m3connect_milvus.foreign.MOST_HITS", 3)
    assert_same_search(store, memory, queries(), filter=CONDITIONS[1], top_k=4)


def test_a_released_collection_is_loaded(client: Any, name: str) -> None:
    fill_by_hand(client, name)
    client.release_collection(name)
    assert open_hand_made(client, name).count() == 24


def test_a_retriever_reranks_what_it_finds(client: Any, name: str) -> None:
    fill_by_hand(client, name)
    found, expected = (
        HybridRetriever(ENCODER, store, rerank=True).search("red apple tree", top_k=3)
        for store in (open_hand_made(client, name), memory_of())
    )
    assert ids(found) == ids(expected)


async def test_it_is_read_by_the_async_client_and_in_threads(client: Any, path: str, name: str) -> None:
    fill_by_hand(client, name)
    expected = [ids(hits) for hits in memory_of().search(queries(), top_k=3)]
    threaded = ThreadedStore(open_hand_made(client, name))
    assert [ids(hits) for hits in await threaded.search(queries(), top_k=3)] == expected
    async_client = pymilvus.AsyncMilvusClient(path)
    store = await AsyncMilvusStore.open(
        async_client, name, layout=BY_HAND, adopt_fingerprint=FINGERPRINT, index_client=client
    )
    assert [ids(hits) for hits in await store.search(queries(), top_k=3)] == expected
    assert await store.count(field("lang") == "de") == 8
    await async_client.close()


# -- what is refused --------------------------------------------------------------------------------------------------


def test_other_encoders_are_refused_as_in_our_own_collections(client: Any, name: str) -> None:
    fill_by_hand(client, name)
    with pytest.raises(CollectionMismatchError, match=r"filled by another-encoder.*come from fake-encoder"):
        open_hand_made(client, name, adopt_fingerprint="another-encoder").search(queries())
    store = MilvusStore(client, name, layout=BY_HAND)
    assert store.fingerprint is None
    assert store.count() == 24
    with pytest.raises(CollectionMismatchError, match="open it with adopt_fingerprint="):
        store.search(queries())
    assert store.search(replace(queries(), fingerprint=None))[0]


def test_reading_leaves_the_collection_as_it_is(client: Any, name: str) -> None:
    def everything() -> tuple[Mapping[str, Any], list[Any]]:
        return client.describe_collection(name), client.query(name, filter="", limit=99, output_fields=["*"])

    fill_by_hand(client, name)
    before = everything()
    store = open_hand_made(client, name)
    store.search(queries(), filter=field("lang") == "de", with_scores=True)
    store.flush()
    store.info()
    assert everything() == before


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.upsert(DOCUMENTS, encoded(DOCUMENTS)),
        lambda store: store.insert(DOCUMENTS, encoded(DOCUMENTS)),
        lambda store: store.update_embeddings(["1"], encoded(DOCUMENTS[:1])),
        lambda store: store.delete(filter=field("lang") == "de"),
        lambda store: store.drop(),
        lambda store: ingest(ENCODER, store, DOCUMENTS),
    ],
    ids=["upsert", "insert", "update", "delete", "drop", "ingest"],
)
def test_it_is_never_written(client: Any, name: str, write: Any) -> None:
    fill_by_hand(client, name)
    store = open_hand_made(client, name)
    with pytest.raises(ValueError, match="only read: write with the library that filled it"):
        write(store)
    assert store.count() == 24


@pytest.mark.parametrize("fusion", [RRF(), Weighted(), Sparse()])
def test_a_missing_sparse_leg_is_said(client: Any, name: str, fusion: Any) -> None:
    fill_by_hand(client, name, indexed=False)
    store = open_hand_made(client, name, replace(BY_HAND, sparse=None))
    with pytest.raises(ValueError, match=r"no sparse weights: search it with fusion=Dense\(\)"):
        store.search(queries(), fusion=fusion)
    assert_same_search(store, memory_of(), queries(), fusion=Weighted(sparse=0), top_k=3)


@pytest.mark.parametrize(
    ("dynamic", "change", "message"),
    [
        (True, {"dense": "vector"}, r"no FLOAT_VECTOR or FLOAT16_VECTOR named 'vector'; its vectors are 'vec' \(FLOAT"),
        (True, {"sparse": "vec"}, r"no SPARSE_FLOAT_VECTOR named 'vec'; its vectors are .*'words' \(SPARSE"),
        (True, {"text": "txt"}, r"no field 'txt' in its first 24 documents; it has 'body', 'even', 'key', 'lang'"),
        (False, {"text": "txt"}, r"no field 'txt'; it has 'body', 'lang', 'year', 'tags'"),
        (True, {"metadata": "meta"}, r"no field 'meta'"),
        (False, {"parent_id": "book"}, r"no field 'book'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(
    client: Any, name: str, dynamic: bool, change: dict[str, Any], message: str
) -> None:
    fill_by_hand(client, name, dynamic=dynamic)
    with pytest.raises(CollectionMismatchError, match=message):
        open_hand_made(client, name, replace(BY_HAND, **change))


def test_vectors_that_are_not_unit_are_refused_where_distances_are_compared(client: Any, name: str) -> None:
    fill_by_hand(client, name, metric="L2", scale=3.0)
    with pytest.raises(CollectionMismatchError, match=r"not of length 1 but up to 3"):
        open_hand_made(client, name)


def test_a_leg_without_index_is_refused(client: Any, name: str) -> None:
    fill_by_hand(client, name, indexed=False)
    with pytest.raises(CollectionMismatchError, match="no index on 'words'"):
        open_hand_made(client, name)


def test_what_does_not_go_with_a_layout_is_refused(client: Any, name: str) -> None:
    with pytest.raises(CollectionNotFoundError, match="must exist"):
        MilvusStore(client, name, dim=DIM, layout=BY_HAND)
    fill_by_hand(client, name)
    with pytest.raises(CollectionMismatchError, match="expected dimension 8, found 16 in 'vec'"):
        open_hand_made(client, name, dim=8)
    with pytest.raises(ValueError, match="but is 'haystack'"):
        MilvusStore(client, name, layout="haystack")
    with pytest.raises(ValueError, match="filter_fields= and tenant_field="):
        open_hand_made(client, name, tenant_field="lang")
    with pytest.raises(ValueError, match="the id is the primary key, here 'key'"):
        open_hand_made(client, name, replace(BY_HAND, id="body"))
    with pytest.raises(ValueError, match="no token vectors from Milvus"):
        open_hand_made(client, name, replace(BY_HAND, multi_vector="words"))
    client.drop_collection(name)
    MilvusStore(client, name, dim=DIM)
    with pytest.raises(CollectionMismatchError, match="made by m3connect: open it without layout="):
        MilvusStore(client, name, layout="langchain")


def test_a_filter_on_too_many_documents_is_refused_before_one_is_read(
    client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_by_hand(client, name)
    store = open_hand_made(client, name)
    monkeypatch.setattr("m3connect.flows.MOST_READ", 23)
    monkeypatch.setattr(client, "search", None)
    with pytest.raises(FilterTooBroadError, match=r"24 documents to read, more than 23: filters of field"):
        store.search(queries(), filter=field("lang") == "de")


@pytest.mark.parametrize("key", [DataType.VARCHAR, DataType.INT64], ids=["strings", "numbers"])
def test_a_filter_in_milvus_own_words_is_judged_by_milvus(
    client: Any, name: str, key: DataType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_by_hand(client, name, key=key)
    store = open_hand_made(client, name)
    german = Native('lang == "de"')
    with pytest.raises(ValueError, match="write the negation in it"):
        store.count(~german)
    with pytest.raises(ValueError, match="Milvus' own condition is an expression"):
        store.count(Native({"lang": "de"}))
    monkeypatch.setattr("m3connect_milvus.foreign._PAGE", 3)
    assert_native_filters_are_judged_by_the_database(store, memory_of(key), german, monkeypatch)
