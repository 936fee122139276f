"""Ingestion pipelines: docstore strategies, cache, worker processes; and how components travel."""

from __future__ import annotations

import pickle

import pytest
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, MetadataMode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index_helpers import TEXTS, WaitingEncoder, nodes_of
from llama_index_m3connect import M3ConnectEmbedding, M3ConnectRerank, M3ConnectSparseEmbedding, M3ConnectVectorStore

from m3connect import MemoryStore
from m3connect.testing import FakeEncoder

SEA = "The sea is deep and blue. Ships sail on it."
APPLE = "The red apple lies on the table."


class PickledEncoder(FakeEncoder):
    """Says in its fingerprint what it is; at the top of a module, so that another process finds it."""


@pytest.fixture
def vectors(store, encoder) -> M3ConnectVectorStore:
    return M3ConnectVectorStore(store=store, encoder=M3ConnectEmbedding(encoder=encoder))


def pipeline_of(vectors: M3ConnectVectorStore, strategy: DocstoreStrategy, *, split: bool = True) -> IngestionPipeline:
    splitters = [SentenceSplitter(chunk_size=12, chunk_overlap=0)] if split else []
    return IngestionPipeline(
        transformations=[*splitters, vectors.encoder],
        vector_store=vectors,
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
    )


def documents(**texts: str) -> list[Document]:
    return [Document(id_=name, text=text, metadata={"name": name}) for name, text in texts.items()]


def stored(vectors: M3ConnectVectorStore) -> dict[str, set[str]]:
    """The stored texts by source document."""
    found: dict[str, set[str]] = {}
    for node in vectors.get_nodes():
        found.setdefault(node.ref_doc_id or node.node_id, set()).add(node.get_content(MetadataMode.NONE))
    return found


@pytest.mark.parametrize("split", [True, False], ids=["in chunks", "whole"])
async def test_upserts_replace_changed_documents_and_pass_over_the_others(vectors, encoder, split: bool) -> None:
    pipeline = pipeline_of(vectors, DocstoreStrategy.UPSERTS, split=split)
    pipeline.run(documents=documents(sea=SEA, apple=APPLE))
    before = stored(vectors)
    assert before.keys() == {"sea", "apple"}
    assert (len(before["sea"]) > 1) == split
    encoder.calls.clear()
    pipeline.run(documents=documents(sea=SEA, apple=APPLE))
    assert (stored(vectors), encoder.calls) == (before, [])
    await pipeline.arun(documents=documents(sea="The sea is dry.", apple=APPLE))
    assert stored(vectors) == {"sea": {"The sea is dry."}, "apple": before["apple"]}


@pytest.mark.parametrize("split", [True, False], ids=["in chunks", "whole"])
async def test_upserts_and_delete_deletes_what_is_no_longer_given(vectors, split: bool) -> None:
    pipeline = pipeline_of(vectors, DocstoreStrategy.UPSERTS_AND_DELETE, split=split)
    pipeline.run(documents=documents(sea=SEA, apple=APPLE))
    pipeline.run(documents=documents(apple="A green apple."))
    assert stored(vectors) == {"apple": {"A green apple."}}
    await pipeline.arun(documents=documents(sea=SEA))
    assert stored(vectors).keys() == {"sea"}


def test_duplicates_only_keeps_what_is_there(vectors, encoder) -> None:
    pipeline = pipeline_of(vectors, DocstoreStrategy.DUPLICATES_ONLY)
    pipeline.run(documents=documents(sea=SEA))
    before = stored(vectors)
    encoder.calls.clear()
    pipeline.run(documents=documents(sea=SEA))
    assert (stored(vectors), encoder.calls) == (before, [])


def test_cached_nodes_cost_one_pass_and_are_found(store, tmp_path) -> None:
    first = IngestionPipeline(transformations=[M3ConnectEmbedding(encoder=FakeEncoder())])
    first.run(nodes=nodes_of())
    first.persist(str(tmp_path))
    encoder = FakeEncoder()
    vectors = M3ConnectVectorStore(store=store, encoder=M3ConnectEmbedding(encoder=encoder))
    second = IngestionPipeline(transformations=[vectors.encoder], vector_store=vectors)
    second.load(str(tmp_path))
    second.run(nodes=nodes_of())
    assert {node.node_id for node in vectors.get_nodes()} == TEXTS.keys()
    assert encoder.calls == [list(TEXTS.values())], "the dense vectors come from the cache, the words from one pass"


@pytest.mark.parametrize(
    "other",
    [
        {"encoder": FakeEncoder(fingerprint="another model")},
        {"encoder": FakeEncoder(), "max_length": 2},
        {"model_name": "m3-mini"},
        {"model_name": "m3-mini", "revision": "another"},
    ],
    ids=["model", "length", "name", "revision"],
)
def test_a_cache_is_no_good_for_another_model_or_setting(other) -> None:
    from llama_index.core.ingestion.pipeline import get_transformation_hash

    same = [M3ConnectEmbedding(encoder=FakeEncoder()) for _ in range(2)]
    hashes = [get_transformation_hash(nodes_of(), one) for one in (*same, M3ConnectEmbedding(**other))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_stale_cache_is_refused_rather_than_stored(vectors, tmp_path) -> None:
    """As when the folder of a model changed under the same name."""
    cache = IngestionCache()
    embedding = M3ConnectEmbedding(encoder=FakeEncoder(dim=16))
    IngestionPipeline(transformations=[embedding], cache=cache).run(nodes=nodes_of())
    (entry,) = cache.cache.get_all(collection=cache.collection).values()
    for node in entry["nodes"]:
        node["__data__"]["embedding"] = [1.0] + [0.0] * 15
    pipeline = IngestionPipeline(transformations=[vectors.encoder], vector_store=vectors, cache=cache)
    with pytest.raises(ValueError, match="carries an embedding that the store's encoder does not make"):
        pipeline.run(nodes=nodes_of())


@pytest.mark.parametrize("settings", [{"model_name": "m3-mini"}, {"encoder": PickledEncoder(dim=256)}], ids=list)
def test_two_worker_processes_embed_as_one(settings) -> None:
    embedding = M3ConnectEmbedding(**settings)
    vectors = M3ConnectVectorStore(store=MemoryStore(dim=256), encoder=embedding)
    pipeline = IngestionPipeline(transformations=[embedding], vector_store=vectors)
    found = pipeline.run(nodes=nodes_of(), num_workers=2)
    alone = embedding.get_text_embedding_batch(list(TEXTS.values()))
    assert {node.node_id for node in vectors.get_nodes()} == TEXTS.keys()
    assert [node.embedding for node in sorted(found, key=lambda node: list(TEXTS).index(node.node_id))] == [
        pytest.approx(vector, abs=1e-5) for vector in alone
    ]


# -- components that travel -------------------------------------------------------------------------------------------

KINDS = [M3ConnectEmbedding, M3ConnectSparseEmbedding, M3ConnectRerank]


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_made_by_name_travels_as_its_name(kind) -> None:
    component = kind(model_name="m3-mini", max_length=64)
    component.encode_texts(["loaded"])
    travelled = pickle.loads(sent := pickle.dumps(component))
    assert len(sent) < 10_000
    assert (travelled.model_name, travelled.max_length) == ("m3-mini", 64)
    assert travelled.encode_texts(["a"]).dense.tolist() == component.encode_texts(["a"]).dense.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_with_an_encoder_takes_it_along(kind) -> None:
    component = kind(encoder=PickledEncoder(fingerprint="mine"))
    travelled = pickle.loads(pickle.dumps(component))
    assert travelled.fingerprint == "mine"
    assert travelled.encode_texts(["a"]).dense.tolist() == component.encode_texts(["a"]).dense.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_does_not_travel_without_its_encoder(kind) -> None:
    component = kind(encoder=WaitingEncoder())
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(component)
    assert isinstance(component.encoder, WaitingEncoder)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_loaded_before_the_first_text(kind) -> None:
    component = kind(model_name="/no/such/folder")
    assert component.model_copy().model_name == "/no/such/folder"
    with pytest.raises(Exception, match="/no/such/folder"):
        component.encode_texts(["a"])


@pytest.mark.parametrize("kind", [M3ConnectEmbedding, M3ConnectRerank])
def test_settings_go_through_a_dict(kind) -> None:
    component = kind(model_name="m3-mini", max_length=64)
    written = component.to_dict()
    assert "encoder" not in written
    assert kind.from_dict(written).to_dict() == written


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_needs_a_model(kind) -> None:
    with pytest.raises(ValueError, match="give model_name= "):
        kind()
    with pytest.raises(ValueError, match="encoder must have dim, fingerprint and encode"):
        kind(encoder="m3-mini")


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_takes_the_model_of_another(kind) -> None:
    encoder = PickledEncoder(fingerprint="mine")
    embedding = M3ConnectEmbedding(encoder=encoder, max_length=2)
    component = kind(encoder=embedding)
    assert component.sharing is embedding.sharing
    assert (component.max_length, component.fingerprint) == (2, "mine")
    assert kind(encoder=embedding, max_length=3).max_length == 3
    assert pickle.loads(pickle.dumps(component)).fingerprint == "mine"
    named = kind(encoder=M3ConnectEmbedding(model_name="m3-mini", local_files_only=True))
    assert (named.model_name, named.local_files_only, named.encoder) == ("m3-mini", True, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_has_one_model(kind) -> None:
    for encoder in (FakeEncoder(), M3ConnectEmbedding(model_name="m3-mini")):
        with pytest.raises(ValueError, match="give model_name= or encoder=, not both"):
            kind(model_name="BAAI/bge-m3", encoder=encoder)


def test_a_fingerprint_pins_the_model() -> None:
    assert M3ConnectEmbedding(encoder=FakeEncoder()).fingerprint == "fake-encoder"
    pinned = M3ConnectEmbedding(encoder=FakeEncoder(), fingerprint="another")
    with pytest.raises(ValueError, match="makes embeddings fake-encoder, but fingerprint= asks for another"):
        pinned.get_query_embedding("a")
