"""What every store does alike, with MemoryStore as the oracle. A new store joins by a new backend in conftest.py."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_checks import assert_same_search, fill, ids, random_documents, random_embeddings, unit

from m3connect import RRF, Dense, Document, HybridStore, M3Embeddings, MemoryStore, Sparse, SparseRows, Weighted
from m3connect.errors import CollectionMismatchError, DocumentNotFoundError, M3ConnectError
from m3connect.filters import Filter, HasId, Predicate, field, matches
from m3connect.testing import FakeEncoder

Factory = Callable[..., HybridStore]

HOSTILE_IDS = {
    "space": " ",
    "single quote": "it's",
    "double quote": 'say "hi"',
    "backslash": "back\\slash",
    "escaped quote": '\\"',
    "newline": "line\nbreak",
    "tab and return": "tab\treturn\r",
    "emoji": "👩\u200d👩\u200d👧 😀",
    "right to left": "שלום\u200f مرحبا",
    "cjk": "日本語の文書",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "lower case": "case",
    "upper case": "CASE",
    "line separator": "a\u2028b",
    "200 characters": "x" * 200,
    "200 wide characters": "語" * 200,
    "list of ids": 'x"] or id in ["a',
    "always true": "' or 1 == 1 or id == '",
    "template": "{x} %s %(y)s $meta",
    "wildcard": "%",
    "number": "42",
    "uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "path": "../../etc/passwd",
    "null": "null",
}

FUSIONS = {
    "rrf": RRF(),
    "rrf small k": RRF(k=1),
    "rrf k of 0": RRF(k=0),
    "rrf weights": RRF(k=10, weights=(0.3, 0.7)),
    "rrf dense alone": RRF(weights=(1, 0)),
    "rrf sparse alone": RRF(weights=(0, 2)),
    "weighted exact": Weighted(),
    "weighted zero": Weighted(missing="zero"),
    "weighted other": Weighted(dense=0.4, sparse=1.5),
    "weighted other zero": Weighted(dense=0.4, sparse=1.5, missing="zero"),
    "weighted dense alone": Weighted(dense=2, sparse=0),
    "weighted sparse alone": Weighted(dense=0, sparse=1),
    "dense": Dense(),
    "sparse": Sparse(),
}

METADATA = [
    {},
    {"lang": "de", "year": 1990, "score": 0.5, "ok": True, "tags": ["a", "b"], "note": "The Quick brown Fox"},
    {"lang": "DE", "year": 1990.0, "score": -0.5, "ok": False, "tags": [], "note": "the quick"},
    {"lang": "en", "year": 1991.5, "score": 0, "ok": 1, "tags": ["a"], "note": "QUICK"},
    {"lang": None, "year": "1990", "score": 1, "ok": 0, "tags": "a", "note": None},
    {"lang": "", "year": True, "score": 1.0, "ok": "true", "tags": None, "note": ""},
    {"lang": ["de"], "year": [1990], "score": 2**53 - 1, "ok": [True], "tags": ["b", "a", 1, True], "note": ["quick"]},
    {"lang": 'd"e', "year": -1, "score": 1e-9, "ok": None, "tags": ["1"], "note": "50% of {x} _y_ \\ 'z'"},
    {"lang": "größe", "year": 0, "score": 1e300, "tags": [0.5, None], "note": "STRASSE straße"},
    {"lang": "日本", "year": 10**6, "score": -1e300, "tags": [[]], "note": "日本語"},
    {"nested": {"lang": "de"}, "lang.x": "de"},
    {"a.b": 1, "with space": 2, "it's": 3, "[0]": 4, "größe": 5, "back\\slash": 6, "$meta": 7, "{x}%": 8, "日本": 9},
    {"id": "x", "text": "y", "metadata": "z", "tokens": "t", "parent_id": "p", "dense": 1.5, "n_year": 3},
    {"a.b": "one", "with space": "two", "it's": "three", "[0]": "four", "größe": "five", "back\\slash": ["six"]},
]

FILTERS: dict[str, Filter] = {
    "equals": field("lang") == "de",
    "equals empty string": field("lang") == "",
    "equals a quoted string": field("lang") == 'd"e',
    "equals unicode": field("lang") == "größe",
    "is not": field("lang") != "de",
    "is not, on a missing key": field("nowhere") != 1,
    "in": field("lang").in_(["de", "en", "日本"]),
    "in nothing": field("lang").in_([]),
    "not in": field("lang").not_in(["de", "en"]),
    "not in nothing": field("lang").not_in([]),
    "int equals float": field("year") == 1990,
    "float equals int": field("year") == 1990.0,
    "string of digits is no number": field("year") == "1990",
    "true": field("ok") == True,  # noqa: E712
    "false": field("ok") == False,  # noqa: E712
    "one is not true": field("ok") == 1,
    "zero is not false": field("ok").in_([0]),
    "not true": field("ok") != True,  # noqa: E712
    "largest int": field("score") == 2**53 - 1,
    "huge float": field("score") == 1e300,
    "less": field("year") < 1990,
    "at most": field("year") <= 1990,
    "more": field("year") > 1990,
    "at least": field("year") >= 1990,
    "not less": ~(field("year") < 1990),
    "order on fractions": field("score") > 0.49,
    "order near zero": field("score") > 0,
    "order on huge numbers": field("score") < -1e299,
    "order on the largest int": field("score") >= 2**53 - 1,
    "between": field("year").between(1990, 1991.5),
    "between nothing": field("year").between(3, 2),
    "contains": field("tags").contains("a"),
    "contains a number": field("tags").contains(1),
    "contains a bool": field("tags").contains(True),
    "contains not": ~field("tags").contains("a"),
    "contains any": field("tags").contains_any(["b", 0.5]),
    "contains any of nothing": field("tags").contains_any([]),
    "contains all": field("tags").contains_all(["a", "b"]),
    "contains all of nothing": field("tags").contains_all([]),
    "text contains": field("note").text_contains("quick"),
    "text contains, any case": field("note").text_contains("quick", case=False),
    "text contains, folded": field("note").text_contains("STRASSE", case=False),
    "text contains wildcards": field("note").text_contains("% of {x} _"),
    "text contains a backslash": field("note").text_contains("\\ 'z"),
    "text contains nothing": field("note").text_contains(""),
    "text contains not": ~field("note").text_contains("quick"),
    "is empty": field("tags").is_empty(),
    "is not empty": ~field("tags").is_empty(),
    "is empty everywhere": field("nowhere").is_empty(),
    "dotted key is one key": field("lang.x") == "de",
    "nested values are out of sight": field("nested.lang") == "de",
    "key with a dot": field("a.b") == 1,
    "key with a space": field("with space") >= 2,
    "key with a quote": field("it's") == 3,
    "key with brackets": field("[0]") > 3,
    "key with unicode": field("größe") == "five",
    "key in another script": field("日本") >= 9,
    "key with a backslash": field("back\\slash").contains("six"),
    "key with signs": (field("$meta") == 7) & (field("{x}%") == 8),
    "key that a store might use": (field("id") == "x") & (field("text") == "y") & (field("tokens") == "t"),
    "key that a store might order": field("n_year") >= 3,
    "key that a store might fill": field("dense") > 1,
    "and": (field("lang") == "de") & (field("year") == 1990),
    "or": (field("lang") == "de") | (field("ok") == False) | field("tags").contains("1"),  # noqa: E712
    "not and": ~((field("lang") == "de") & (field("year") >= 0)),
    "not or": ~((field("lang") == "de") | (field("year") >= 0)),
    "nested": (field("lang").in_(["de", "en"]) | ~(field("year") >= 0)) & ~(field("ok") == True),  # noqa: E712
    "exact and substring": (field("year") >= 0) & field("note").text_contains("quick"),
    "predicate": Predicate(lambda metadata: str(metadata.get("lang", "")) > "de"),
    "exact and predicate": (field("year") >= 0) & ~Predicate(lambda metadata: metadata.get("lang") == "de"),
    "exact or substring": (field("year") > 10**5) | field("note").text_contains("quick"),
    "negated mix": ~((field("year") >= 0) & field("note").text_contains("quick", case=False)),
}


def keys(table: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("case", list(table), ids=lambda name: name.replace(" ", "-"))


def one(text: str = "text", *, id: str = "a", **fields: Any) -> list[Document]:
    return [Document(id, text, **fields)]


# -- reading what was written -----------------------------------------------------------------------------------------


def test_the_exact_text_is_found_first(store: HybridStore, encoder: FakeEncoder) -> None:
    texts = ["red apple", "blue sea", "old stone house", "seven green bottles", "rot wie der Mohn"]
    store.upsert([Document(f"d{i}", text) for i, text in enumerate(texts)], encoder.encode(texts))
    found = store.search(encoder.encode(texts), top_k=2)
    assert [hits[0].document for hits in found] == [Document(f"d{i}", text) for i, text in enumerate(texts)]


def test_upsert_twice_equals_once(store: HybridStore) -> None:
    oracle, documents, batch = MemoryStore(dim=16), random_documents(20), random_embeddings(20, seed=1)
    fill([store, store, oracle], documents, batch)
    assert store.count() == 20
    assert_same_search(store, oracle, random_embeddings(3, seed=2))


def test_upsert_replaces_text_metadata_parent_and_vectors(store: HybridStore) -> None:
    old, new = random_embeddings(1, seed=1), random_embeddings(1, seed=2)
    store.upsert([Document("a", "old", {"gone": 1, "kept": [1]}, parent_id="p")], old)
    store.upsert([Document("a", "new", {"kept": [2]})], new)
    assert store.get(["a"]) == [Document("a", "new", {"kept": [2]})]
    assert store.count() == 1
    assert store.count(field("gone") == 1) == store.count(field("kept").contains(1)) == 0
    np.testing.assert_allclose(store.get_embeddings(["a"]).dense, new.dense, atol=1e-6)
    assert store.get_embeddings(["a"]).sparse.to_dicts() == new.sparse.to_dicts()
    assert store.search(new, fusion=Dense())[0][0].score == pytest.approx(1, abs=1e-5)


def test_of_duplicate_ids_in_one_batch_the_last_stays(store: HybridStore) -> None:
    batch = random_embeddings(3, seed=3)
    store.upsert([Document("a", "first"), Document("b", "other"), Document("a", "last")], batch)
    assert store.count() == 2
    assert store.get(["a"])[0].text == "last"
    np.testing.assert_allclose(store.get_embeddings(["a"]).dense[0], batch.dense[2], atol=1e-6)


def test_an_empty_store_gives_no_hits(store: HybridStore) -> None:
    queries = random_embeddings(2, seed=1)
    for fusion in FUSIONS.values():
        assert store.search(queries, fusion=fusion, with_scores=True) == [[], []]
    assert store.search(queries, filter=FILTERS["text contains"]) == [[], []]
    assert store.count() == 0
    assert list(store.scroll()) == store.get(["a"]) == []
    assert store.fingerprints(["a"]) == {}
    assert store.fingerprint is None
    assert store.dim == 16


def test_nothing_asked_gives_nothing(store: HybridStore) -> None:
    store.upsert([], random_embeddings(0, seed=1))
    store.upsert(one(), random_embeddings(1, seed=1))
    store.delete([])
    nothing = store.get_embeddings([])
    assert (len(nothing), nothing.dim) == (0, 16)
    assert store.search(random_embeddings(0, seed=1)) == store.get([]) == []
    assert store.count() == 1


def test_a_batch_of_queries_equals_single_queries(store: HybridStore) -> None:
    store.upsert(random_documents(40), random_embeddings(40, seed=4))
    queries = random_embeddings(6, seed=5)
    together = store.search(queries, top_k=7, with_scores=True)
    for i, hits in enumerate(together):
        alone = store.search(queries[i], top_k=7, with_scores=True)[0]
        assert ids(alone) == ids(hits)
        assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], abs=1e-6)


def test_get_keeps_the_order_asked_and_leaves_absent_ids_out(store: HybridStore) -> None:
    documents = random_documents(9)
    store.upsert(documents, random_embeddings(9, seed=1))
    asked = ["doc-005", "nowhere", "doc-000", "doc-008", "doc-003"]
    assert store.get(asked) == [documents[5], documents[0], documents[8], documents[3]]


def test_get_embeddings_gives_back_the_numbers_in_the_order_asked(store: HybridStore) -> None:
    batch = random_embeddings(9, seed=6)
    store.upsert(random_documents(9), batch)
    stored = store.get_embeddings(["doc-007", "doc-002", "doc-004", "doc-002"])
    expected = batch.take([7, 2, 4, 2])
    np.testing.assert_allclose(stored.dense, expected.dense, atol=1e-6)
    assert stored.sparse.to_dicts() == expected.sparse.to_dicts()


def test_get_embeddings_names_the_absent_id(store: HybridStore) -> None:
    store.upsert(one(), random_embeddings(1, seed=1))
    with pytest.raises(DocumentNotFoundError, match="nowhere"):
        store.get_embeddings(["a", "nowhere"])


def test_scroll_gives_each_document_once(store: HybridStore) -> None:
    documents = random_documents(130)
    store.upsert(documents, random_embeddings(130, seed=1))
    assert sorted(store.scroll(), key=lambda document: document.id) == documents
    passing = sorted(document.id for document in store.scroll(field("lang") == "zh"))
    assert passing == [document.id for document in documents if document.metadata["lang"] == "zh"]


def test_fingerprints_tell_whether_content_changed(store: HybridStore) -> None:
    documents = [Document("a", "text", {"n": 1, "t": [1.5, None]}, parent_id="p"), Document("b", "")]
    store.upsert(documents, random_embeddings(2, seed=1))
    expected = {document.id: document.fingerprint for document in documents}
    assert store.fingerprints(["a", "nowhere", "b"]) == expected


def test_large_batches_arrive_whole(store: HybridStore) -> None:
    documents, batch = random_documents(1200), random_embeddings(1200, seed=7)
    store.upsert(documents, batch)
    store.flush()
    assert store.count() == 1200
    assert len({document.id for document in store.scroll()}) == 1200
    assert len(store.get([document.id for document in documents])) == 1200
    assert ids(store.search(batch[1111], top_k=1, fusion=Dense())[0]) == [documents[1111].id]


def test_many_queries_and_a_substring_that_most_documents_have(store: HybridStore) -> None:
    """More queries and more ids than one request takes."""
    oracle = MemoryStore(dim=16)
    documents = [replace(document, metadata={"note": f"n{i}"}) for i, document in enumerate(random_documents(1200))]
    fill([store, oracle], documents, random_embeddings(1200, seed=7))
    store.flush()
    condition = ~field("note").text_contains("99")
    assert store.count(condition) == oracle.count(condition) > 1000
    assert_same_search(store, oracle, random_embeddings(2, seed=2), filter=condition, fusion=Weighted())
    assert_same_search(store, oracle, random_embeddings(70, seed=3), fusion=Weighted(), top_k=3, candidates=10)
    store.delete(filter=condition)
    oracle.delete(filter=condition)
    assert {document.id for document in store.scroll()} == {document.id for document in oracle.scroll()} != set()


def test_flush_changes_no_answer(store: HybridStore) -> None:
    oracle = MemoryStore(dim=16)
    fill([store, oracle], random_documents(50), random_embeddings(50, seed=8))
    store.flush()
    fill([store, oracle], random_documents(60)[50:], random_embeddings(10, seed=9))
    store.delete(["doc-003"])
    oracle.delete(["doc-003"])
    assert_same_search(store, oracle, random_embeddings(3, seed=2))
    assert store.count() == 59


# -- ids, texts, metadata ---------------------------------------------------------------------------------------------


@keys(HOSTILE_IDS)
def test_any_id_survives_storing_finding_and_deleting(store: HybridStore, case: str) -> None:
    name = HOSTILE_IDS[case]
    batch = random_embeddings(2, seed=1)
    documents = [Document(name, "hostile", parent_id=name), Document("a", "bystander")]
    store.upsert(documents, batch)
    assert store.get([name]) == [documents[0]]
    assert store.search(batch[0], fusion=Dense())[0][0].document == documents[0]
    assert store.fingerprints([name]) == {name: documents[0].fingerprint}
    assert store.get_embeddings([name]).sparse.to_dicts() == batch[0].sparse.to_dicts()
    store.delete([name])
    assert list(store.scroll()) == [documents[1]]
    assert store.get([name]) == []


def test_ids_that_look_alike_stay_apart(store: HybridStore) -> None:
    names = list(HOSTILE_IDS.values())
    store.upsert([Document(name, str(i)) for i, name in enumerate(names)], random_embeddings(len(names), seed=1))
    assert store.count() == len(names)
    assert [document.text for document in store.get(names)] == [str(i) for i in range(len(names))]
    store.delete(["cafe\u0301", "CASE"])
    assert {document.id for document in store.scroll()} == set(names) - {"cafe\u0301", "CASE"}


@pytest.mark.parametrize("name", ['x"] or id in ["a', "x'] or id in ['a", 'x" or id != "', "%", "a\\", '") or (1 == 1'])
def test_a_hostile_id_deletes_nothing_else(store: HybridStore, name: str) -> None:
    store.upsert([Document("a", "one"), Document("b", "two")], random_embeddings(2, seed=1))
    store.delete([name])
    assert store.count() == 2
    assert store.get([name]) == []


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n", "\"'\\", "e\u0301 👩\u200d👧 שלום 日本", "</s> <pad>", "a\u2028b\x85c", "long " * 4000],
    ids=["empty", "space", "newline", "quotes", "unicode", "tokens", "separators", "long"],
)
def test_any_text_survives(store: HybridStore, encoder: FakeEncoder, text: str) -> None:
    store.upsert(one(text), encoder.encode([text]))
    assert store.get(["a"]) == one(text)
    assert ids(store.search(encoder.encode([text]))[0]) == ["a"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"none": None, "true": True, "false": False, "int": 1, "float": 1.0, "text": "x"},
        {"nested": {"a": {"b": [1, {"c": None}]}}, "list": [[1, 2], [], {}], "empty": {}},
        {"large": 2**62, "small": -(2**63), "beyond": 2**53 + 1, "tiny": 1e-300, "huge": 1.7e308, "third": 1 / 3},
        {"größe": "ß", "日本": ["語"], "emoji": "👩\u200d👧", "it's": "'", 'say "hi"': '"', "line\nbreak": "\n\\"},
        {"id": "other", "text": "other", "metadata": {"text": 1}, "parent_id": 5, "tokens": [], "dense": [0.5]},
        {"a.b": 1, "a": {"b": 2}, "[0]": 3, "": 4, " ": 5, "$meta": 6},
        {"long": "語" * 3000, "many": list(range(300))},
    ],
    ids=["scalars", "nested", "numbers", "unicode", "taken-names", "odd-keys", "long"],
)
def test_metadata_survives_with_its_types(store: HybridStore, metadata: dict[str, Any]) -> None:
    store.upsert(one(metadata=metadata), random_embeddings(1, seed=1))
    (stored,) = store.get(["a"])
    assert repr(stored.metadata) == repr(metadata) or sorted(map(repr, stored.metadata.items())) == sorted(
        map(repr, metadata.items())
    )
    assert store.search(random_embeddings(1, seed=1))[0][0].document.metadata == metadata


def test_tuples_come_back_as_lists(store: HybridStore) -> None:
    document = Document("a", "text", {"pair": (1, "x"), "deep": {"pair": (None,)}})
    store.upsert([document], random_embeddings(1, seed=1))
    assert store.get(["a"])[0].metadata == {"pair": [1, "x"], "deep": {"pair": [None]}}
    assert store.fingerprints(["a"]) == {"a": document.fingerprint}
    assert store.count(field("pair").contains("x")) == 1


def test_changing_what_went_in_or_came_back_changes_nothing_stored(store: HybridStore) -> None:
    given: dict[str, Any] = {"lang": "de", "tags": ["a"]}
    batch = random_embeddings(1, seed=1)
    store.upsert(one(metadata=given), batch)
    given["lang"] = "en"
    given["tags"].append("b")
    for document in (*store.get(["a"]), *store.scroll(), store.search(batch)[0][0].document):
        assert document.metadata == {"lang": "de", "tags": ["a"]}
        document.metadata["lang"] = "fr"  # type: ignore[index]
        document.metadata["tags"].append("c")
    assert store.get(["a"])[0].metadata == {"lang": "de", "tags": ["a"]}
    assert store.count(field("lang") == "de") == 1
    assert ids(store.search(batch, filter=field("tags").contains("c"))[0]) == []


def test_parent_id_survives(store: HybridStore) -> None:
    documents = [Document("a", "x", parent_id='p"1\n'), Document("b", "x"), Document("c", "x", parent_id="")]
    store.upsert(documents, random_embeddings(3, seed=1))
    assert store.get(["a", "b", "c"]) == documents


# -- search -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(backend: Any) -> tuple[HybridStore, MemoryStore]:
    """The store under test and the exact store with the same 120 random documents; nobody writes to them."""
    pair = backend.open(), MemoryStore(dim=16)
    fill(pair, random_documents(120), random_embeddings(120, seed=11))
    return pair


@keys(FUSIONS)
@pytest.mark.parametrize("candidates", [None, 4, 15])
def test_every_fusion_gives_the_hits_and_scores_of_the_exact_store(
    filled: tuple[HybridStore, MemoryStore], case: str, candidates: int | None
) -> None:
    assert_same_search(*filled, random_embeddings(5, seed=12), fusion=FUSIONS[case], candidates=candidates)


@keys(FUSIONS)
def test_leg_scores_are_the_exact_ones(filled: tuple[HybridStore, MemoryStore], case: str) -> None:
    queries = random_embeddings(2, seed=13)
    assert_same_search(*filled, queries, fusion=FUSIONS[case], candidates=6, with_scores=True)
    hits = filled[0].search(queries, fusion=FUSIONS[case], with_scores=True)[0]
    assert all(set(hit.scores or {}) == {"dense", "sparse"} for hit in hits)


def test_leg_scores_come_only_where_asked(filled: tuple[HybridStore, MemoryStore]) -> None:
    assert all(hit.scores is None for hit in filled[0].search(random_embeddings(1, seed=13))[0])


@pytest.mark.parametrize("top_k", [1, 3, 50, 120, 400])
@pytest.mark.parametrize("fusion", [RRF(), Weighted(), Dense(), Sparse()], ids=["rrf", "weighted", "dense", "sparse"])
def test_any_top_k_is_answered_alike(filled: tuple[HybridStore, MemoryStore], fusion: Any, top_k: int) -> None:
    assert_same_search(*filled, random_embeddings(2, seed=14), fusion=fusion, top_k=top_k)


@keys(FUSIONS)
def test_a_filter_applies_to_every_leg(filled: tuple[HybridStore, MemoryStore], case: str) -> None:
    queries = random_embeddings(3, seed=15)
    for condition in (field("lang") == "de", field("year").between(1930, 1941), field("text").text_contains("x")):
        assert_same_search(*filled, queries, fusion=FUSIONS[case], filter=condition, candidates=5)
        for hits in filled[0].search(queries, fusion=FUSIONS[case], filter=condition):
            assert all(matches(condition, hit.document.metadata) for hit in hits)


def test_a_substring_filter_is_searched_exactly(store: HybridStore) -> None:
    oracle = MemoryStore(dim=16)
    documents = [replace(document, metadata={"note": document.text}) for document in random_documents(80)]
    fill([store, oracle], documents, random_embeddings(80, seed=11))
    condition = field("note").text_contains("number 1")
    for fusion in FUSIONS.values():
        assert_same_search(store, oracle, random_embeddings(2, seed=16), fusion=fusion, filter=condition)


@keys(FUSIONS)
def test_documents_without_sparse_weights_are_found_by_the_dense_leg(store_factory: Factory, case: str) -> None:
    store, oracle, batch = store_factory(), MemoryStore(dim=16), random_embeddings(30, seed=17)
    sparse = [row if i % 3 else {} for i, row in enumerate(batch.sparse.to_dicts())]
    fill([store, oracle], random_documents(30), replace(batch, sparse=SparseRows.from_dicts(sparse)))
    assert_same_search(store, oracle, random_embeddings(3, seed=18), fusion=FUSIONS[case], with_scores=True)
    assert [len(row) > 0 for row in store.get_embeddings(["doc-000", "doc-001"]).sparse.to_dicts()] == [False, True]


@keys(FUSIONS)
def test_queries_without_sparse_weights_are_answered_by_the_dense_leg(
    filled: tuple[HybridStore, MemoryStore], case: str
) -> None:
    queries = random_embeddings(3, seed=19)
    rows = queries.sparse.to_dicts()
    queries = replace(queries, sparse=SparseRows.from_dicts([{}, rows[1], {}]))
    assert_same_search(*filled, queries, fusion=FUSIONS[case], with_scores=True)
    assert filled[0].search(queries[0], fusion=Sparse()) == [[]]


def test_a_batch_without_any_sparse_weight_works(store: HybridStore) -> None:
    oracle, batch = MemoryStore(dim=16), replace(random_embeddings(8, seed=1), sparse=SparseRows.empty(8))
    fill([store, oracle], random_documents(8), batch)
    for fusion in FUSIONS.values():
        assert_same_search(store, oracle, batch[:2], fusion=fusion, with_scores=True)


def test_tokens_that_only_the_query_has_match_nothing(store: HybridStore) -> None:
    dense = unit(np.ones((2, 16)))
    for token in (0, 1, 2, 3, 249_999, 250_001):
        store.upsert(one(), M3Embeddings(dense[:1], SparseRows.from_dicts([{7: 1.0}])))
        assert store.search(M3Embeddings(dense[:1], SparseRows.from_dicts([{token: 1.0}])), fusion=Sparse()) == [[]]
    store.upsert(one(), M3Embeddings(dense[:1], SparseRows.empty(1)))
    every = SparseRows.from_dicts([dict.fromkeys(range(10), 1.0)])
    assert store.search(M3Embeddings(dense[:1], every), fusion=Sparse()) == [[]]


def test_genuine_weights_of_bge_m3_survive_and_score_alike(store: HybridStore, open_data: Path) -> None:
    fixture = open_data / "xlmr_tokenizer" / "fixtures" / "bge_m3_lexical_weights.json"
    texts = json.loads(fixture.read_text(encoding="utf-8"))
    sparse, oracle = SparseRows.from_dicts([text["lexical_weights"] for text in texts]), MemoryStore(dim=16)
    batch = replace(random_embeddings(len(texts), seed=1), sparse=sparse)
    fill([store, oracle], [Document(f"t{i}", text["text"]) for i, text in enumerate(texts)], batch)
    stored = store.get_embeddings([f"t{i}" for i in range(len(texts))])
    assert stored.sparse.to_dicts() == sparse.to_dicts()
    for fusion in FUSIONS.values():
        assert_same_search(store, oracle, batch, fusion=fusion, with_scores=True)


def test_negative_similarities_rank_below_positive_ones(store: HybridStore) -> None:
    rows = unit(np.array([[1.0] + [0] * 15, [-1.0] + [0] * 15, [0.0, 1.0] + [0] * 14]))
    store.upsert([Document(name, name) for name in "abc"], M3Embeddings(rows, SparseRows.empty(3)))
    hits = store.search(M3Embeddings(rows[:1], SparseRows.empty(1)), fusion=Dense())[0]
    assert ids(hits) == ["a", "c", "b"]
    assert [hit.score for hit in hits] == pytest.approx([1, 0, -1], abs=1e-6)


def test_dense_scores_are_inner_products_of_what_was_given(store: HybridStore) -> None:
    rows = np.zeros((2, 16), np.float32)
    rows[0, 0], rows[1, :2] = 0.5, (0.6, 0.8)
    store.upsert(random_documents(2), M3Embeddings(rows, SparseRows.empty(2)))
    hits = store.search(M3Embeddings(rows[1:], SparseRows.empty(1)), fusion=Dense())[0]
    assert {hit.document.id: hit.score for hit in hits} == pytest.approx({"doc-000": 0.3, "doc-001": 1.0}, abs=1e-6)
    np.testing.assert_allclose(store.get_embeddings(["doc-000"]).dense[0], rows[0], atol=1e-6)


@pytest.mark.parametrize("missing", ["exact", "zero"])
def test_token_vectors_are_stored_returned_and_weighed_in(token_store: HybridStore, missing: Any) -> None:
    oracle = MemoryStore(dim=16, multi_vector=True)
    batch = random_embeddings(40, seed=21, multi_vector=True)
    batch = replace(batch, multi_vector=(np.zeros((0, 16), np.float32), *batch.require_multi_vector()[1:]))
    fill([token_store, oracle], random_documents(40), batch)
    queries = random_embeddings(3, seed=22, multi_vector=True)
    for fusion in (Weighted(1, 0.3, 1, missing=missing), Weighted(0.2, 0, 2, missing=missing), RRF(), Dense()):
        for condition in (None, field("lang") == "de"):
            options = {"fusion": fusion, "filter": condition, "candidates": 7, "with_scores": True}
            assert_same_search(token_store, oracle, queries, **options)
    stored = token_store.get_embeddings(["doc-001", "doc-000"]).require_multi_vector()
    np.testing.assert_allclose(stored[0], batch.require_multi_vector()[1], atol=1e-6)
    assert stored[1].shape == (0, 16)


def test_a_document_without_tokens_scores_zero_in_that_leg(token_store: HybridStore) -> None:
    batch = random_embeddings(1, seed=1, multi_vector=True)
    token_store.upsert(one(), replace(batch, multi_vector=(np.zeros((0, 16), np.float32),)))
    hits = token_store.search(batch, fusion=Weighted(1, 0.3, 1), with_scores=True)[0]
    assert (hits[0].scores or {})["multi_vector"] == 0


def test_a_store_of_token_vectors_needs_them(token_store: HybridStore) -> None:
    with pytest.raises(ValueError, match="multi_vector=True"):
        token_store.upsert(one(), random_embeddings(1, seed=1))
    assert token_store.count() == 0


def test_token_vectors_are_refused_where_none_are_stored(store: HybridStore) -> None:
    batch = random_embeddings(1, seed=1, multi_vector=True)
    store.upsert(one(), batch)
    assert not store.multi_vector
    assert store.get_embeddings(["a"]).multi_vector is None
    with pytest.raises(ValueError, match="no token vectors"):
        store.search(batch, fusion=Weighted(multi_vector=1))
    with pytest.raises(ValueError, match="multi_vector=True"):
        store.search(replace(batch, multi_vector=None), fusion=Weighted(multi_vector=1))


# -- filters ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described(backend: Any) -> tuple[HybridStore, list[Document]]:
    """A store whose documents hold every kind of metadata; nobody writes to it."""
    store = backend.open()
    documents = [Document(f"m{i:02}", "text", metadata) for i, metadata in enumerate(METADATA)]
    store.upsert(documents, random_embeddings(len(documents), seed=31))
    return store, documents


def check_filter(store: HybridStore, documents: list[Document], condition: Filter) -> None:
    expected = {document.id for document in documents if matches(condition, document.metadata)}
    assert {document.id for document in store.scroll(condition)} == expected
    assert store.count(condition) == len(expected)
    found = store.search(random_embeddings(1, seed=32), fusion=Dense(), filter=condition, top_k=200)
    assert set(ids(found[0])) == expected


@keys(FILTERS)
def test_filters_agree_with_their_meaning(described: tuple[HybridStore, list[Document]], case: str) -> None:
    check_filter(*described, FILTERS[case])


def test_ids_are_a_filter_alone_and_beside_others(described: tuple[HybridStore, list[Document]]) -> None:
    store, documents = described
    some = HasId((*(document.id for document in documents[::2]), "nowhere"))
    for condition, others in ((some, field("x").not_in([])), (some & FILTERS["is not"], FILTERS["is not"])):
        expected = {document.id for document in documents[::2] if matches(others, document.metadata)}
        assert {document.id for document in store.scroll(condition)} == expected
        assert store.count(condition) == len(expected) > 0
        found = store.search(random_embeddings(1, seed=32), fusion=Dense(), filter=condition, top_k=200)
        assert set(ids(found[0])) == expected
    for wrong in (some | FILTERS["is not"], ~some):
        with pytest.raises(ValueError, match=r"HasId stands alone|expected a filter|can be asked for"):
            store.count(wrong)


def test_filters_of_this_suite_divide_the_documents() -> None:
    """A filter that passes all or nothing proves little: only those that say so in their name may."""
    for name, condition in FILTERS.items():
        passing = sum(matches(condition, metadata) for metadata in METADATA)
        says_so = "noth" in name or "everywhere" in name or "missing" in name or "out of sight" in name
        assert says_so or 0 < passing < len(METADATA), name


@pytest.mark.parametrize("case", ["equals", "is not", "text contains", "exact or substring", "key with a quote"])
def test_delete_by_filter_takes_what_passes(store: HybridStore, case: str) -> None:
    documents = [Document(f"m{i:02}", "text", metadata) for i, metadata in enumerate(METADATA)]
    store.upsert(documents, random_embeddings(len(documents), seed=33))
    store.delete(filter=FILTERS[case])
    rest = {document.id for document in documents if not matches(FILTERS[case], document.metadata)}
    assert {document.id for document in store.scroll()} == rest
    assert store.count(FILTERS[case]) == 0


def test_delete_takes_ids_or_a_filter(store: HybridStore) -> None:
    store.upsert(random_documents(4), random_embeddings(4, seed=1))
    with pytest.raises(ValueError, match="exactly one"):
        store.delete()
    with pytest.raises(ValueError, match="exactly one"):
        store.delete(["doc-000"], filter=field("lang") == "de")
    with pytest.raises(ValueError, match="list of ids"):
        store.delete("doc-000")
    assert store.count() == 4
    store.delete(["doc-000", "nowhere", "doc-002"])
    assert sorted(document.id for document in store.scroll()) == ["doc-001", "doc-003"]


def test_a_deleted_document_is_found_no_more(store: HybridStore) -> None:
    batch = random_embeddings(5, seed=1)
    store.upsert(random_documents(5), batch)
    store.delete(["doc-002"])
    assert all("doc-002" not in ids(hits) for hits in store.search(batch))
    with pytest.raises(DocumentNotFoundError):
        store.get_embeddings(["doc-002"])
    store.upsert([Document("doc-002", "back")], batch[2])
    assert ids(store.search(batch[2], top_k=1)[0]) == ["doc-002"]


def random_metadata(rng: random.Random) -> dict[str, Any]:
    scalars = ["a", "A", "b c", "", "1", 1, 1.0, 0, 2.5, -3, True, False, None]
    pick: dict[str, Callable[[], Any]] = {
        "plain": lambda: rng.choice(scalars),
        "a.b": lambda: rng.choice(scalars),
        "o'k [0]": lambda: rng.choice(scalars),
        "größe": lambda: [rng.choice(scalars) for _ in range(rng.randrange(3))],
    }
    return {key: value() for key, value in pick.items() if rng.random() < 0.7}


def random_filters() -> st.SearchStrategy[Filter]:
    key = st.sampled_from(["plain", "a.b", "o'k [0]", "größe", "nowhere"]).map(field)
    value = st.sampled_from(["a", "A", "b c", "", "1", 1, 1.0, 0, 2.5, -3, True, False, 7])
    number = st.sampled_from([0, 1, 1.0, 2.5, -3, 7])
    values = st.lists(value, max_size=3)
    leaves = st.one_of(
        st.builds(lambda k, v: k == v, key, value),
        st.builds(lambda k, v: k != v, key, value),
        st.builds(lambda k, v: k.in_(v), key, values),
        st.builds(lambda k, v: k.not_in(v), key, values),
        st.builds(lambda k, v: k < v, key, number),
        st.builds(lambda k, v: k <= v, key, number),
        st.builds(lambda k, v: k > v, key, number),
        st.builds(lambda k, v: k >= v, key, number),
        st.builds(lambda k, v: k.contains(v), key, value),
        st.builds(lambda k, v: k.contains_any(v), key, values),
        st.builds(lambda k, v: k.contains_all(v), key, values),
        st.builds(lambda k, v, c: k.text_contains(v, case=c), key, st.sampled_from(["a", "A", " ", ""]), st.booleans()),
        st.builds(lambda k: k.is_empty(), key),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(lambda a, b: a & b, inner, inner),
            st.builds(lambda a, b: a | b, inner, inner),
            inner.map(lambda a: ~a),
        ),
        max_leaves=6,
    )


@pytest.fixture(scope="module")
def varied(backend: Any) -> tuple[HybridStore, list[Document]]:
    rng, store = random.Random(5), backend.open()
    documents = [Document(f"v{i:02}", "text", random_metadata(rng)) for i in range(70)]
    store.upsert(documents, random_embeddings(70, seed=41))
    return store, documents


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(condition=random_filters())
def test_random_filters_agree_with_their_meaning(varied: tuple[HybridStore, list[Document]], condition: Filter) -> None:
    check_filter(*varied, condition)


# -- what is refused --------------------------------------------------------------------------------------------------


def spoiled(view: str, value: float) -> M3Embeddings:
    """Three rows, the second with one bad value."""
    batch = random_embeddings(3, seed=1, multi_vector=True)
    if view == "dense":
        dense = batch.dense.copy()
        dense[1, 3] = value
        return replace(batch, dense=dense)
    if view == "sparse":
        values = batch.sparse.values.copy()
        values[batch.sparse.indptr[1]] = value
        return replace(batch, sparse=replace(batch.sparse, values=values))
    matrices = [matrix.copy() for matrix in batch.require_multi_vector()]
    matrices[1][0, 0] = value
    return replace(batch, multi_vector=tuple(matrices))


@pytest.mark.parametrize(
    ("view", "value"),
    [("dense", math.nan), ("dense", math.inf), ("dense", -math.inf), ("sparse", math.nan), ("sparse", math.inf)],
)
def test_numbers_that_are_not_finite_are_refused_and_nothing_is_written(
    store: HybridStore, view: str, value: float
) -> None:
    batch = spoiled(view, value)
    documents = random_documents(3)
    with pytest.raises(ValueError, match=f"document 1 .*doc-001.*{view}.*not finite"):
        store.upsert(documents, batch)
    assert store.count() == 0
    assert list(store.problems(documents, batch)) == [1]
    store.upsert(documents[2:], batch[2:])
    assert store.count() == 1


def test_token_vectors_that_are_not_finite_are_refused(token_store: HybridStore) -> None:
    with pytest.raises(ValueError, match=r"document 1 .*doc-001.*token vectors.*not finite"):
        token_store.upsert(random_documents(3), spoiled("multi_vector", math.nan))
    assert token_store.count() == 0


BAD_DOCUMENTS = {
    "empty id": (Document("", "text"), "id must be a non-empty string"),
    "number as id": (Document(7, "text"), "id must be a non-empty string"),  # type: ignore[arg-type]
    "bytes as text": (Document("x", b"text"), "text must be a string"),  # type: ignore[arg-type]
    "number as parent": (Document("x", "text", parent_id=3), "parent_id must be a string"),  # type: ignore[arg-type]
    "set in metadata": (Document("x", "text", {"tags": {1}}), "metadata.*tags.*set"),
    "object in metadata": (Document("x", "text", {"deep": [{"o": object()}]}), r"metadata.*deep.*0.*o.*object"),
    "nan in metadata": (Document("x", "text", {"n": math.nan}), "metadata.*n.*nan"),
    "number as key": (Document("x", "text", {1: "a"}), "keys must be strings"),  # type: ignore[dict-item]
    "huge int in metadata": (Document("x", "text", {"n": 2**63}), "64 bits"),
    "no metadata": (Document("x", "text", None), "metadata must be a mapping"),  # type: ignore[arg-type]
    "list as metadata": (Document("x", "text", ["a"]), "metadata must be a mapping"),  # type: ignore[arg-type]
    "a mapping that is no dict": (Document("x", "text", {"n": MappingProxyType({})}), "metadata.*n.*mappingproxy"),
    "half a surrogate pair": (Document("x", "te\ud800xt"), "surrogate"),
    "half a surrogate pair in the id": (Document("\ud800", "text"), "surrogate"),
}


@keys(BAD_DOCUMENTS)
def test_a_bad_document_is_named_and_nothing_is_written(store: HybridStore, case: str) -> None:
    bad, reason = BAD_DOCUMENTS[case]
    documents, batch = [Document("a", "fine"), bad], random_embeddings(2, seed=1)
    with pytest.raises(ValueError, match=f"(?s)document 1 .*{reason}.*nothing was written"):
        store.upsert(documents, batch)
    assert store.count() == 0
    assert list(store.problems(documents, batch)) == [1]


def test_problems_are_empty_where_all_is_well(store: HybridStore) -> None:
    assert store.problems(random_documents(3), random_embeddings(3, seed=1)) == {}
    assert store.count() == 0


def test_a_wrong_number_of_rows_is_refused(store: HybridStore) -> None:
    with pytest.raises(ValueError, match="3 documents came with 2 rows"):
        store.upsert(random_documents(3), random_embeddings(2, seed=1))
    assert store.count() == 0


def test_a_wrong_dimension_is_refused(store: HybridStore) -> None:
    with pytest.raises(ValueError, match="dimension 16, but the embeddings have 8"):
        store.upsert(random_documents(1), random_embeddings(1, dim=8, seed=1))
    with pytest.raises(ValueError, match="dimension 16, but the embeddings have 8"):
        store.search(random_embeddings(1, dim=8, seed=1))
    assert store.count() == 0


def test_token_vectors_of_a_wrong_dimension_are_refused(token_store: HybridStore) -> None:
    batch = replace(
        random_embeddings(1, seed=1), multi_vector=random_embeddings(1, dim=8, seed=1, multi_vector=True).multi_vector
    )
    with pytest.raises(ValueError, match="dimension 16, but the token vectors have 8"):
        token_store.upsert(one(), batch)
    assert token_store.count() == 0


def test_a_search_that_makes_no_sense_is_refused(store: HybridStore) -> None:
    queries = random_embeddings(1, seed=1)
    for view in ("dense", "sparse"):
        with pytest.raises(ValueError, match="not finite"):
            store.search(spoiled(view, math.nan))
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        store.search(queries, top_k=0)
    with pytest.raises(ValueError, match="candidates must be at least 1"):
        store.search(queries, candidates=0)


# -- fingerprints and collections -------------------------------------------------------------------------------------


def test_another_encoder_is_refused(store: HybridStore) -> None:
    batch = replace(random_embeddings(2, seed=1), fingerprint="one")
    other = replace(batch, fingerprint="two")
    store.upsert(random_documents(2), batch)
    assert store.fingerprint == "one"
    with pytest.raises(CollectionMismatchError, match=r"(?s)one.*two"):
        store.upsert([Document("new", "text")], other[0])
    with pytest.raises(CollectionMismatchError, match=r"(?s)one.*two"):
        store.search(other)
    assert store.count() == 2
    assert ids(store.search(batch[0], top_k=1)[0]) == ["doc-000"]


def test_a_batch_made_by_hand_is_accepted(store: HybridStore) -> None:
    batch = random_embeddings(2, seed=1)
    store.upsert(random_documents(1), batch[0])
    assert store.fingerprint is None
    store.upsert(random_documents(1), replace(batch[0], fingerprint="one"))
    store.upsert([Document("b", "text")], batch[1])
    assert store.fingerprint == "one"
    assert store.get_embeddings(["b"]).fingerprint == "one"
    assert len(store.search(batch)[0]) == 2


def test_a_refused_batch_leaves_no_fingerprint(store: HybridStore) -> None:
    with pytest.raises(ValueError, match="not finite"):
        store.upsert(random_documents(3), replace(spoiled("dense", math.nan), fingerprint="one"))
    assert store.fingerprint is None


def test_collections_do_not_see_each_other(store_factory: Factory) -> None:
    first, second = store_factory(), store_factory(dim=8)
    first.upsert(one("first"), random_embeddings(1, seed=1))
    second.upsert(one("second"), replace(random_embeddings(1, dim=8, seed=1), fingerprint="two"))
    assert (first.get(["a"])[0].text, second.get(["a"])[0].text) == ("first", "second")
    assert (first.fingerprint, second.fingerprint) == (None, "two")
    first.delete(["a"])
    assert (first.count(), second.count()) == (0, 1)


def test_reopening_loses_nothing(disk: Any) -> None:
    store, oracle = disk.open("kept"), MemoryStore(dim=16)
    documents, batch = random_documents(60), replace(random_embeddings(60, seed=51), fingerprint="one")
    documents[7] = Document('it\'s "7"\n', "größe 👧", {"a.b": [1, 2.5, None], "lang": "de"}, parent_id="p")
    fill([store, oracle], documents, batch)
    store.flush()
    fill([store, oracle], documents[:5], batch[5:10])
    names = [document.id for document in documents]
    for options in ({}, {"dim": None}, {"create": False}):
        disk.reopen()
        store = disk.open("kept", **options)
        assert (store.dim, store.count(), store.fingerprint) == (16, 60, "one")
        assert store.get(names) == documents
        np.testing.assert_allclose(store.get_embeddings(names).dense, oracle.get_embeddings(names).dense, atol=1e-6)
        assert store.get_embeddings(names).sparse.to_dicts() == oracle.get_embeddings(names).sparse.to_dicts()
        for fusion in FUSIONS.values():
            queries = random_embeddings(2, seed=52)
            assert_same_search(store, oracle, queries, fusion=fusion, filter=field("lang") == "de")


def test_a_reopened_collection_refuses_another_encoder(disk: Any) -> None:
    batch = replace(random_embeddings(1, seed=1), fingerprint="one")
    disk.open("kept").upsert(one(), batch)
    disk.reopen()
    store = disk.open("kept")
    for act in (lambda rows: store.upsert(one(), rows), store.search):
        with pytest.raises(CollectionMismatchError, match=r"(?s)one.*two"):
            act(replace(batch, fingerprint="two"))


def test_a_collection_of_another_dimension_is_refused(disk: Any) -> None:
    disk.open("kept").upsert(one(), random_embeddings(1, seed=1))
    with pytest.raises(CollectionMismatchError, match=r"(?s)16.*8|8.*16"):
        disk.open("kept", dim=8)
    assert disk.open("kept").count() == 1


@pytest.mark.parametrize("options", [{"dim": None}, {"create": False}, {"dim": None, "create": False}])
def test_a_collection_that_must_exist_is_not_made(disk: Any, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, M3ConnectError), match="absent"):
        disk.open("absent", **options)
    assert not disk.has("absent")


def test_two_handles_see_one_collection(disk: Any) -> None:
    first, second = disk.open("kept"), disk.open("kept")
    first.upsert(one(), replace(random_embeddings(1, seed=1), fingerprint="one"))
    assert second.get(["a"]) == one()
    assert second.count() == 1
    with pytest.raises(CollectionMismatchError):
        second.upsert(one(), replace(random_embeddings(1, seed=1), fingerprint="two"))


@pytest.mark.parametrize("call", ["get", "get_embeddings", "fingerprints"])
@pytest.mark.parametrize("ids", ["ab", [5], ["\ud800"]])
def test_what_is_no_list_of_ids_is_refused(store: HybridStore, call: str, ids: object) -> None:
    with pytest.raises(ValueError, match="id"):
        getattr(store, call)(ids)


def test_ids_may_come_from_a_generator(store: HybridStore) -> None:
    fill([store], random_documents(3), random_embeddings(3, seed=1))
    names = [document.id for document in store.scroll()]
    assert [document.id for document in store.get(name for name in names)] == names
    assert len(store.get_embeddings(name for name in names)) == 3


def test_what_is_no_filter_is_refused_even_by_an_empty_store(store: HybridStore) -> None:
    for call in (store.count, lambda given: list(store.scroll(given)), lambda given: store.delete(filter=given)):
        with pytest.raises(ValueError, match="filter"):
            call({"lang": "de"})


def test_metadata_nested_without_end_is_one_documents_problem(store: HybridStore) -> None:
    nested: dict = {}
    for _ in range(600):
        nested = {"deeper": nested}
    documents = [Document("good", "text"), Document("deep", "text", nested)]
    problems = store.problems(documents, random_embeddings(2, seed=1))
    assert list(problems) == [1]
    assert "nested" in problems[1]


def test_a_token_id_beyond_32_bits_is_one_documents_problem(store: HybridStore) -> None:
    rows = random_embeddings(1, seed=1)
    huge = replace(rows, sparse=SparseRows.from_dicts([{2**32 - 1: 0.5}]))
    assert "token id" in store.problems([Document("a", "text")], huge)[0]
    with pytest.raises(ValueError, match="token id"):
        store.search(huge)


def test_a_query_whose_token_vectors_are_not_finite_is_refused(store: HybridStore) -> None:
    rows = random_embeddings(1, seed=1)
    with pytest.raises(ValueError, match="not finite"):
        store.search(replace(rows, multi_vector=(np.full((2, 16), np.nan, np.float32),)))


@pytest.mark.parametrize("top_k", [2.5, "5", True, 0])
def test_top_k_must_be_a_whole_number(store: HybridStore, top_k: object) -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        store.search(random_embeddings(1, seed=1), top_k=top_k)  # type: ignore[arg-type]


def test_a_search_in_steps_reads_no_token_vectors_where_the_database_scores_them(
    token_store: HybridStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token_store.name == "memory":
        pytest.skip("the exact store computes everything here")
    oracle = MemoryStore(dim=16, multi_vector=True)
    fill([token_store, oracle], random_documents(30), random_embeddings(30, seed=1, multi_vector=True))
    flows: Any = token_store._flows  # type: ignore[attr-defined]
    monkeypatch.setattr(flows, "fetch_token_vectors", None)
    queries = random_embeddings(3, seed=2, multi_vector=True)
    for fusion in (Weighted(multi_vector=1), Weighted(multi_vector=1, missing="zero"), RRF()):
        assert_same_search(token_store, oracle, queries, fusion=fusion, offset=2, with_scores=True)


def test_declared_fields_mean_the_same_on_every_store(backend: Any) -> None:
    if backend.open().name == "memory":
        pytest.skip("the exact store has no indexes")
    for n, declared in enumerate((["year"], {"year": "number", "lang": "str"}, {})):
        store = backend.open(f"declared_{n}", filter_fields=declared)
        store.upsert(random_documents(20), random_embeddings(20, seed=1))
        assert store.count((field("year") > 1910) & (field("lang") == "de")) == 2
    for wrong in ("year", {"year": "int"}, ['a"b']):
        with pytest.raises(ValueError, match=r"filter_fields|a key is"):
            backend.open("declared_wrong", filter_fields=wrong)
