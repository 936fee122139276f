"""What `M3ConnectVectorStore` promises beyond the standard tests, on every store."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStore
from langchain_helpers import METADATA, TEXTS, filled, ids_of
from langchain_m3connect import M3ConnectEmbeddings, M3ConnectVectorStore

from m3connect import RRF, Dense, Hit, MemoryStore, Sparse, Weighted
from m3connect.awaiting import ThreadedStore
from m3connect.errors import CollectionMismatchError
from m3connect.testing import FakeEncoder

STRANGE_IDS = ['say "a"', "it's", "back\\slash", "🦊", "a b\n c", "1", "ü" * 60]


def test_embeddings_are_python_floats_of_the_encoder():
    embeddings = M3ConnectEmbeddings(encoder=FakeEncoder())
    rows = embeddings.embed_documents(["red apple", "blue sea"])
    assert all(type(value) is float for row in rows for value in row)
    assert np.array_equal(np.float32(rows), FakeEncoder().encode(["red apple", "blue sea"]).dense)
    assert embeddings.embed_query("red apple") == rows[0]
    assert embeddings.embed_documents([]) == []


async def test_async_embeddings_are_the_same():
    embeddings = M3ConnectEmbeddings(encoder=FakeEncoder())
    assert await embeddings.aembed_documents(["red", "blue"]) == embeddings.embed_documents(["red", "blue"])
    assert await embeddings.aembed_query("red") == embeddings.embed_query("red")
    assert await embeddings.aembed_documents([]) == []


def test_a_model_is_loaded_when_it_is_first_used():
    embeddings = M3ConnectEmbeddings(model="m3-mini")
    assert not embeddings.encoder.loaded
    assert len(embeddings.embed_query("red")) == embeddings.dimension() == 256
    assert embeddings.encoder.loaded


def test_a_model_that_is_not_there_says_so_when_it_is_first_used(tmp_path):
    embeddings = M3ConnectEmbeddings(model=tmp_path / "nowhere")
    with pytest.raises(Exception, match="nowhere"):
        embeddings.embed_query("red")


def test_max_length_cuts_texts():
    cut = M3ConnectEmbeddings(encoder=FakeEncoder(), max_length=1)
    assert cut.embed_query("red apple") == M3ConnectEmbeddings(encoder=FakeEncoder()).embed_query("red")


@pytest.mark.parametrize("arguments", [{}, {"encoder": FakeEncoder(), "model": "m3-mini"}])
def test_embeddings_take_an_encoder_or_a_model(arguments):
    with pytest.raises(ValueError, match="exactly one"):
        M3ConnectEmbeddings(**arguments)


async def test_embeddings_are_pickled_and_copied_without_what_is_loaded():
    embeddings = M3ConnectEmbeddings(model="m3-mini", max_length=3, threads=2)
    assert len(await embeddings.aembed_query("red")) == 256
    for again in (pickle.loads(pickle.dumps(embeddings)), copy.deepcopy(embeddings)):
        assert (again.model, again.max_length, again.encoder.loaded) == ("m3-mini", 3, False)
        assert await again.aembed_query("red apple pie") == embeddings.embed_query("red apple pie")
    built = M3ConnectEmbeddings(encoder=FakeEncoder(dim=4))
    assert pickle.loads(pickle.dumps(built)).embed_query("red") == built.embed_query("red")


def test_what_is_no_encoder_is_refused():
    with pytest.raises(ValueError, match="threads must be at least 1"):
        M3ConnectEmbeddings(encoder=FakeEncoder(), threads=0)
    with pytest.raises(ValueError, match="expected an encoder"):
        M3ConnectEmbeddings(encoder="m3-mini")
    with pytest.raises(ValueError, match="one string"):
        M3ConnectEmbeddings(encoder=FakeEncoder()).embed_query(["red"])


def test_ids_of_any_kind_come_back(store):
    vectorstore = M3ConnectVectorStore(store=store, embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))
    texts = [f"text number {i}" for i in range(len(STRANGE_IDS))]
    assert vectorstore.add_texts(texts, ids=STRANGE_IDS) == STRANGE_IDS
    assert ids_of(vectorstore.get_by_ids(STRANGE_IDS[::-1])) == STRANGE_IDS[::-1]
    assert set(ids_of(vectorstore.similarity_search("text number 3", k=10))) == set(STRANGE_IDS)
    assert vectorstore.delete(STRANGE_IDS[:3]) is True
    assert ids_of(vectorstore.get_by_ids(STRANGE_IDS)) == STRANGE_IDS[3:]


def test_documents_without_id_get_one_and_the_others_keep_theirs(store):
    vectorstore = filled(store)
    added = vectorstore.add_documents([Document(page_content="moon", id="moon"), Document(page_content="star")])
    assert added[0] == "moon"
    assert [document.page_content for document in vectorstore.get_by_ids(added)] == ["moon", "star"]
    assert vectorstore.add_documents([Document(page_content="moon", id="moon")], ids=["other"]) == ["other"]


async def test_documents_may_come_from_a_generator():
    vectorstore = filled()
    assert vectorstore.add_documents(Document(page_content=text, id=text) for text in "ab") == ["a", "b"]
    assert await vectorstore.aadd_documents(Document(page_content=text, id=text) for text in "cd") == ["c", "d"]
    assert ids_of(vectorstore.get_by_ids(list("abcd"))) == list("abcd")


def test_a_document_under_a_taken_id_replaces_the_old_one(store):
    vectorstore = filled(store)
    vectorstore.add_texts(["green pear"], [{"kind": "other"}], ids=["apple"])
    (document,) = vectorstore.get_by_ids(["apple"])
    assert (document.page_content, document.metadata) == ("green pear", {"kind": "other"})
    assert store.count() == len(TEXTS)


def test_input_documents_are_not_changed_and_metadata_get_no_new_keys(store):
    vectorstore = filled(store)
    given = Document(id="moon", page_content="pale moon", metadata={"nested": {"a": [1, None, "x"]}, "none": None})
    before = given.model_copy(deep=True)
    vectorstore.add_documents([given])
    assert given == before
    for found in (vectorstore.get_by_ids(["moon"]), vectorstore.similarity_search("pale moon", k=1)):
        assert found == [before]
    found[0].metadata["new"] = 1
    assert vectorstore.get_by_ids(["moon"]) == [before]


def test_nothing_is_added_found_or_deleted_without_complaint(store):
    vectorstore = M3ConnectVectorStore(store=store, embedding=M3ConnectEmbeddings(encoder=FakeEncoder()))
    assert vectorstore.similarity_search("anything") == []
    assert vectorstore.similarity_search_with_score("anything") == []
    assert vectorstore.similarity_search_with_relevance_scores("anything") == []
    assert vectorstore.max_marginal_relevance_search("anything") == []
    assert vectorstore.add_documents([]) == []
    assert vectorstore.add_texts([], []) == []
    assert vectorstore.get_by_ids([]) == []
    assert vectorstore.get_by_ids(["nobody"]) == []
    assert vectorstore.delete([]) is True
    assert vectorstore.delete(["nobody"]) is True


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_of_any_size_store_the_same(store, size):
    vectorstore = filled(store, batch_size=size)
    assert ids_of(vectorstore.get_by_ids(list(TEXTS))) == list(TEXTS)


def test_scores_are_those_of_the_store(store):
    vectorstore = filled(store)
    for fusion in (RRF(), RRF(k=5), Weighted(), Dense(), Sparse()):
        hits = store.search(FakeEncoder().encode(["blue sea"]), top_k=3, fusion=fusion)[0]
        found = vectorstore.similarity_search_with_score("blue sea", k=3, fusion=fusion)
        assert ids_of(document for document, _ in found) == [hit.document.id for hit in hits]
        assert [score for _, score in found] == pytest.approx([hit.score for hit in hits])


def test_relevance_is_that_of_the_dense_leg_whatever_the_fusion(store):
    vectorstore = filled(store)
    query = FakeEncoder().encode(["blue sea"]).dense[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # LangChain warns of relevances outside 0 to 1
        for fusion in (None, Sparse(), Weighted(), Dense()):
            found = vectorstore.similarity_search_with_relevance_scores("blue sea", k=4, fusion=fusion)
            assert found
            for document, score in found:
                dense = FakeEncoder().encode([document.page_content]).dense[0]
                assert score == pytest.approx((float(dense @ query) + 1) / 2, abs=1e-5)
    order = ids_of(vectorstore.similarity_search("blue sea", k=4, fusion=Sparse()))
    assert (
        ids_of(
            document
            for document, _ in vectorstore.similarity_search_with_relevance_scores("blue sea", k=4, fusion=Sparse())
        )
        == order
    )


def test_a_threshold_is_compared_with_the_relevance(store):
    vectorstore = filled(store)
    retriever = vectorstore.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.999}
    )
    assert ids_of(retriever.invoke("sea blue deep")) == ["sea"]
    all_of_them = vectorstore.similarity_search_with_relevance_scores("sea blue deep", score_threshold=0.0)
    assert len(all_of_them) == 4


def test_a_search_by_vector_asks_the_dense_leg(store):
    vectorstore = filled(store)
    vector = vectorstore.embeddings.embed_query("deep blue sea")
    assert ids_of(vectorstore.similarity_search_by_vector(vector, k=1)) == ["sea"]
    longer = [10 * value for value in vector]
    assert ids_of(vectorstore.similarity_search_by_vector(longer, k=4)) == ids_of(
        vectorstore.similarity_search_by_vector(vector, k=4)
    )


def test_marginal_relevance_leaves_out_what_repeats(store):
    vectorstore = filled(store)
    vectorstore.add_texts(["sea deep blue", "blue deep sea"], ids=["again", "and again"])
    same = {"sea", "again", "and again"}
    plain = ids_of(vectorstore.similarity_search("deep blue sea", k=3))
    assert set(plain) == same
    diverse = ids_of(vectorstore.max_marginal_relevance_search("deep blue sea", k=3, lambda_mult=0.1))
    assert len(same & set(diverse)) == 1
    few = vectorstore.max_marginal_relevance_search("deep blue sea", k=3, fetch_k=3, lambda_mult=0.1)
    assert set(ids_of(few)) == same
    vector = vectorstore.embeddings.embed_query("deep blue sea")
    assert (
        len(same & set(ids_of(vectorstore.max_marginal_relevance_search_by_vector(vector, k=3, lambda_mult=0.1)))) == 1
    )
    near = vectorstore.max_marginal_relevance_search("deep blue sea", k=3, lambda_mult=1.0)
    assert set(ids_of(near)) == same


def test_marginal_relevance_agrees_with_langchain():
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
    from langchain_m3connect.flows import choose_diverse

    random = np.random.default_rng(0)
    for balance in (0.0, 0.3, 0.7, 1.0):
        rows = random.standard_normal((20, 8)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        wanted = maximal_marginal_relevance(rows[0], list(rows[1:]), lambda_mult=balance, k=7)
        assert choose_diverse(rows[0], rows[1:], 7, balance) == wanted


def test_marginal_relevance_gives_k_documents_even_where_fetch_k_is_smaller():
    assert len(filled().max_marginal_relevance_search("blue", k=3, fetch_k=1)) == 3
    with pytest.raises(ValueError, match="lambda_mult"):
        filled().max_marginal_relevance_search("blue", lambda_mult=2)


def test_the_fusion_of_the_vector_store_holds_where_a_search_names_none(store):
    sparse_alone = filled(store, fusion=Sparse())
    assert ids_of(sparse_alone.similarity_search("yellow", k=4)) == ["sun"]
    assert len(sparse_alone.similarity_search("yellow", k=4, fusion=Dense())) == 4


def test_candidates_limit_what_a_leg_brings(store):
    vectorstore = filled(store)
    assert len(vectorstore.similarity_search("yellow", k=4, candidates=4)) == 4
    assert len(vectorstore.similarity_search("yellow", k=4, candidates=1)) == 1
    narrow = M3ConnectVectorStore(store=store, embedding=vectorstore.embeddings, candidates=1)
    assert len(narrow.similarity_search("yellow", k=4)) == 1


def test_a_plain_embedding_uses_the_dense_leg_by_cosine(store_factory):
    store = store_factory(dim=6)
    embedding = DeterministicFakeEmbedding(size=6)
    vectorstore = M3ConnectVectorStore.from_texts(list(TEXTS.values()), embedding, ids=list(TEXTS), store=store)
    rows = np.array(embedding.embed_documents(list(TEXTS.values())))
    query = np.array(embedding.embed_query("deep blue sea"))
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    found = vectorstore.similarity_search_with_score("deep blue sea", k=4)
    assert ids_of(document for document, _ in found) == [list(TEXTS)[i] for i in np.argsort(-cosines)]
    assert [score for _, score in found] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
    assert not len(store.get_embeddings(["sea"]).sparse.indices)


@pytest.mark.parametrize("fusion", [RRF(), Sparse(), Weighted()])
def test_a_plain_embedding_refuses_a_fusion_that_needs_more(fusion):
    embedding = DeterministicFakeEmbedding(size=6)
    vectorstore = M3ConnectVectorStore.from_texts(["a"], embedding)
    with pytest.raises(ValueError, match="makes dense vectors alone"):
        vectorstore.similarity_search("a", fusion=fusion)
    with pytest.raises(ValueError, match="makes dense vectors alone"):
        M3ConnectVectorStore(store=MemoryStore(dim=6), embedding=embedding, fusion=fusion)


async def test_a_plain_embedding_adds_nothing_to_what_an_encoder_filled(store):
    filled(store)
    plain = M3ConnectVectorStore(store=store, embedding=DeterministicFakeEmbedding(size=16))
    with pytest.raises(CollectionMismatchError, match=r"fake-encoder.*give M3ConnectEmbeddings\(encoder="):
        plain.add_texts(["pale moon"], ids=["moon"])
    with pytest.raises(CollectionMismatchError, match="fake-encoder"):
        await plain.aadd_texts(["pale moon"], ids=["moon"])
    assert store.count() == len(TEXTS)
    assert len(plain.similarity_search("pale moon")) == 4


def test_a_plain_embedding_refuses_a_store_with_token_vectors():
    with pytest.raises(ValueError, match="keeps token vectors"):
        M3ConnectVectorStore(store=MemoryStore(dim=6, multi_vector=True), embedding=DeterministicFakeEmbedding(size=6))


def test_token_vectors_are_stored_where_the_store_keeps_them(token_store):
    vectorstore = filled(token_store)
    stored = token_store.get_embeddings(["sea"]).require_multi_vector()
    assert stored[0].shape == (3, 16)
    found = vectorstore.similarity_search_with_score("blue sea", fusion=Weighted(multi_vector=1.0), k=1)
    assert ids_of(document for document, _ in found) == ["sea"]


def test_a_store_of_another_encoder_is_refused(store):
    filled(store)
    other = M3ConnectEmbeddings(encoder=FakeEncoder(fingerprint="another"))
    with pytest.raises(CollectionMismatchError, match="another"):
        M3ConnectVectorStore(store=store, embedding=other).similarity_search("sea")


@pytest.mark.parametrize("embedding", [M3ConnectEmbeddings(encoder=FakeEncoder()), DeterministicFakeEmbedding(size=6)])
async def test_without_a_store_documents_go_into_memory(embedding):
    documents = [Document(page_content=text, id=name) for name, text in TEXTS.items()]
    made = [
        M3ConnectVectorStore.from_texts(list(TEXTS.values()), embedding, ids=list(TEXTS)),
        M3ConnectVectorStore.from_documents(documents, embedding),
        await M3ConnectVectorStore.afrom_texts(list(TEXTS.values()), embedding, ids=list(TEXTS)),
        await M3ConnectVectorStore.afrom_documents(documents, embedding),
    ]
    for vectorstore in made:
        assert isinstance(vectorstore.store, MemoryStore)
        assert ids_of(vectorstore.similarity_search("red apple", k=1)) == ["apple"]
    assert M3ConnectVectorStore.from_texts([], embedding).similarity_search("red") == []
    assert await (await M3ConnectVectorStore.afrom_texts([], embedding)).asimilarity_search("red") == []


@pytest.mark.parametrize(
    "call",
    [
        lambda v: v.similarity_search("a", top_k=1),
        lambda v: v.similarity_search_with_score("a", fetch_k=1),
        lambda v: v.similarity_search_with_relevance_scores("a", threshold=1),
        lambda v: v.similarity_search_by_vector([0.0] * 16, fusion=RRF()),
        lambda v: v.max_marginal_relevance_search("a", limit=1),
        lambda v: v.max_marginal_relevance_search_by_vector([0.0] * 16, limit=1),
        lambda v: v.add_texts(["a"], metadata=[{}]),
        lambda v: v.add_documents([], namespace="a"),
        lambda v: v.delete(["a"], namespace="a"),
        lambda v: v.as_retriever(search_kwargs={"top_k": 1}).invoke("a"),
        lambda v: M3ConnectVectorStore.from_texts(["a"], v.embeddings, collection_name="a"),
    ],
)
def test_an_unknown_argument_raises_a_type_error(call):
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        call(filled())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.add_texts("red"), "texts must be a list of strings"),
        (lambda v: v.add_texts(["x", "y", "z"], ids="abc"), "ids must be a list of strings"),
        (lambda v: v.max_marginal_relevance_search("a", k=0), "k must be at least 1"),
        (lambda v: v.max_marginal_relevance_search("a", fetch_k=-1), "fetch_k must be at least 1"),
        (lambda v: v.max_marginal_relevance_search_by_vector([0.0] * 16, k=0), "k must be at least 1"),
        (lambda v: v.max_marginal_relevance_search_by_vector([0.0] * 16, fetch_k=0), "fetch_k must be at least 1"),
        (lambda v: v.similarity_search("a", candidates=0), "candidates must be at least 1"),
        (lambda v: v.add_texts(["a", "b"], [{}]), "2 texts, but 1 metadatas"),
        (lambda v: v.add_texts(["a", "b"], ids=["a"]), "2 texts, but 1 ids"),
        (lambda v: v.add_texts(["a"], ids=[""]), "non-empty string"),
        (lambda v: v.add_texts(["a"], [{"when": object()}]), "JSON"),
        (lambda v: v.add_texts(["a"], batch_size=0), "batch_size"),
        (lambda v: v.similarity_search("a", k=0), "at least 1"),
        (lambda v: v.similarity_search(["a"]), "one string"),
        (lambda v: v.similarity_search("a", fusion="rrf"), "fusion must be"),
        (lambda v: M3ConnectVectorStore(store=v.store, embedding=v.embeddings, fusion="rrf"), "fusion must be"),
        (lambda v: M3ConnectVectorStore(store=v.store, embedding=v.embeddings, candidates=0), "candidates must be"),
        (lambda v: v.similarity_search_by_vector([1.0, 2.0]), "dimension"),
        (lambda v: v.delete(), "ids= or filter="),
        (lambda v: v.get_by_ids("apple"), "list of ids"),
        (lambda v: M3ConnectVectorStore(store=v, embedding=v.embeddings), "expected a store"),
        (lambda v: M3ConnectVectorStore(store=v.store, embedding=FakeEncoder()), "M3ConnectEmbeddings"),
    ],
)
def test_a_mistake_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call(filled())


def test_a_message_about_arguments_names_the_class_that_was_called():
    with pytest.raises(TypeError, match=r"M3ConnectVectorStore\.__init__\(\) takes 1 positional"):
        M3ConnectVectorStore(MemoryStore(dim=16), M3ConnectEmbeddings(encoder=FakeEncoder()))


def test_sync_methods_of_an_async_store_say_what_to_do():
    vectorstore = M3ConnectVectorStore(
        store=ThreadedStore(MemoryStore(dim=16)), embedding=M3ConnectEmbeddings(encoder=FakeEncoder())
    )
    with pytest.raises(ValueError, match="await"):
        vectorstore.similarity_search("red")


def test_every_method_of_langchain_s_vector_store_is_our_own():
    inherited = {"search", "asearch", "from_documents", "afrom_documents", "as_retriever"}
    inherited |= {"similarity_search_with_relevance_scores", "asimilarity_search_with_relevance_scores"}
    ours = {
        name
        for name, _ in inspect.getmembers(VectorStore, callable)
        if not name.startswith("_") and getattr(M3ConnectVectorStore, name) is not getattr(VectorStore, name)
    }
    public = {name for name, _ in inspect.getmembers(VectorStore, callable) if not name.startswith("_")}
    assert public - ours <= inherited


def test_metadata_are_those_given(store):
    assert {document.id: document.metadata for document in filled(store).get_by_ids(list(TEXTS))} == METADATA


def test_diversity_leaves_out_what_was_deleted_meanwhile() -> None:
    class Forgetful(MemoryStore):
        def search(self, *args: Any, **options: Any) -> list[list[Hit]]:
            found = super().search(*args, **options)
            assert found[0][0].document.id == "sea"
            self.delete(["sea"])
            return found

    embedding = M3ConnectEmbeddings(encoder=FakeEncoder())
    texts = {"sea": "deep blue sea", "sky": "blue sky over land", "apple": "red apple", "sun": "yellow sun"}
    found = []
    for kind, names in ((Forgetful, list(texts)), (MemoryStore, [name for name in texts if name != "sea"])):
        vectorstore = M3ConnectVectorStore(store=kind(dim=embedding.encoder.dim), embedding=embedding)
        vectorstore.add_texts([texts[name] for name in names], ids=names)
        chosen = vectorstore.max_marginal_relevance_search("deep blue sea", k=2, lambda_mult=0.2)
        found.append([document.id for document in chosen])
    assert found[0] == found[1]
