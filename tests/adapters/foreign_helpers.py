"""Documents with their embeddings, for collections that other libraries fill, and those libraries' encoders."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from store_checks import assert_same_search

from m3connect import RRF, Dense, Document, M3Embeddings, MemoryStore, Sparse, Weighted
from m3connect.base import Store
from m3connect.errors import FilterTooBroadError
from m3connect.filters import And, Filter, Native, field
from m3connect.testing import FakeEncoder

ENCODER = FakeEncoder()
FINGERPRINT = ENCODER.fingerprint

_WORDS = ["red", "apple", "blue", "sea", "old", "tree", "green", "stone", "small", "house", "cold", "winter"]

TEXTS = [
    " ".join(_WORDS[(i * step + shift) % len(_WORDS)] for step, shift in ((1, 0), (3, 1), (5, 2), (7, i // 4)))
    for i in range(24)
]
IDS = [str(uuid.uuid5(uuid.NAMESPACE_DNS, text + str(i))) for i, text in enumerate(TEXTS)]
METADATA: list[dict[str, Any]] = [
    {"lang": ["de", "en", "zh"][i % 3], "year": 1990 + i, "even": i % 2 == 0, "title": f"Page “{i}”"} for i in range(24)
]
DOCUMENTS = [Document(*row) for row in zip(IDS, TEXTS, METADATA, strict=True)]
QUERIES = ["red apple tree", "the cold sea in winter", "a small green house", "stone"]

FUSIONS = [RRF(), RRF(k=10, weights=(2, 1)), Weighted(), Weighted(missing="zero"), Dense(), Sparse()]
CONDITIONS = [
    field("lang") == "de",
    field("lang") != "de",
    field("year").between(1995, 2005) & ~(field("even") == True),  # noqa: E712  # builds a filter
    field("title").text_contains("PAGE", case=False) & field("lang").in_(["en", "zh"]),
    field("missing").is_empty(),
    field("missing") == 1,
]


def oracle(documents: Sequence[Document] = DOCUMENTS) -> MemoryStore:
    """The same documents and vectors in the exact store."""
    store = MemoryStore(dim=ENCODER.dim)
    store.upsert(documents, encoded(documents))
    return store


def encoded(documents: Sequence[Document]) -> M3Embeddings:
    return ENCODER.encode([document.text for document in documents])


def queries() -> M3Embeddings:
    return ENCODER.encode(QUERIES)


def assert_reads_like(store: Store, memory: MemoryStore) -> None:
    """Everything that reads gives what the exact store gives."""
    expected = {document.id: document for document in memory.scroll()}
    assert store.count() == len(expected)
    assert {document.id: document for document in store.scroll()} == expected
    names = list(expected)[5:1:-1]
    assert store.get([*names, "nobody"]) == [expected[name] for name in names]
    assert store.fingerprints(names) == memory.fingerprints(names)
    found, wanted = store.get_embeddings(names), memory.get_embeddings(names)
    assert abs(found.dense - wanted.dense).max() < 1e-6
    assert found.fingerprint == FINGERPRINT
    info = store.info()
    assert (info.count, info.dim, info.fingerprint) == (len(expected), ENCODER.dim, FINGERPRINT)
    assert info.details["read_only"] is True
    assert info.details["layout"]["dense"] is not None


def assert_searches_like(store: Store, memory: MemoryStore, *, legs: Sequence[str] = ("dense", "sparse")) -> None:
    """All fusions that these legs allow, with filters, scores, pages and thresholds."""
    for fusion in FUSIONS:
        if set(fusion.legs) <= set(legs):
            assert_same_search(store, memory, queries(), fusion=fusion, top_k=7)
    for condition in CONDITIONS:
        assert store.count(condition) == memory.count(condition)
        assert sorted(one.id for one in store.scroll(condition)) == sorted(one.id for one in memory.scroll(condition))
        assert_same_search(store, memory, queries(), fusion=Dense(), filter=condition, top_k=5)
    if "sparse" in legs:
        found, wanted = store.get_embeddings(IDS[:9]).sparse, memory.get_embeddings(IDS[:9]).sparse
        assert found.indices.tolist() == wanted.indices.tolist()
        assert abs(found.values - wanted.values).max() < 1e-6
        assert_same_search(store, memory, queries(), filter=CONDITIONS[0], with_scores=True, top_k=5)
        assert_same_search(store, memory, queries(), offset=3, top_k=4)
    first = memory.search(queries(), fusion=Dense(), top_k=1, with_scores=True)[0][0]
    (hit,) = store.search(queries()[0], fusion=Dense(), top_k=1, with_scores=True)[0]
    assert set(hit.scores or {}) == set(legs)
    assert hit.document == first.document
    assert_same_search(store, memory, queries(), fusion=Dense(), min_scores={"dense": 0.2})


def assert_native_filters_are_judged_by_the_database(
    store: Store, memory: MemoryStore, german: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`german` asks for lang == "de" in the database's own words, and is read here for nothing."""
    meant, late, page = field("lang") == "de", field("year") > 2000, field("title").text_contains("PAGE", case=False)
    for written, meaning in (
        (german & late, meant & late),
        (page & (german & late), meant & page & late),
        (german & ~late, meant & ~late),
    ):
        assert_filters_like(store, memory, written, meaning)
    for mixed in (german | late, ~(german & late)):
        with pytest.raises(ValueError, match=r"it stands in & alone, not in \| or ~"):
            store.count(mixed)
    monkeypatch.setattr("m3connect.flows.MOST_READ", 7)  # there are 8 of them
    for written in (german, german | german, And((german,))):
        assert_filters_like(store, memory, written, meant)
    with pytest.raises(
        FilterTooBroadError, match=r"leaves 8 documents to read, more than 7: .*m3connect\.filters\.Native"
    ):
        store.count(german & late)


def assert_filters_like(store: Store, memory: MemoryStore, written: Filter, meaning: Filter) -> None:
    """A filter finds what another one, for the exact store, finds there."""
    expected = memory.search(queries(), filter=meaning, fusion=Dense(), top_k=5)
    found = store.search(queries(), filter=written, fusion=Dense(), top_k=5)
    assert [[hit.document for hit in hits] for hits in found] == [[hit.document for hit in hits] for hits in expected]
    assert store.count(written) == memory.count(meaning) > 0
    assert sorted(one.id for one in store.scroll(written)) == sorted(one.id for one in memory.scroll(meaning))
