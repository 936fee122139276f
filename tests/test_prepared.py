"""What a document needs on its way into a store is computed once, and stays true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any

import numpy as np
import pytest
from store_checks import random_documents, random_embeddings

import m3connect.prepared
from m3connect import Document, HybridStore, ingest
from m3connect.prepared import find_problems, prepare
from m3connect.testing import FakeEncoder


class Colour(StrEnum):
    RED = "red"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often documents were checked and hashed."""
    calls = {"document_problem": 0, "content_of": 0}

    def counting(name: str, real: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(document: Any) -> Any:
            calls[name] += 1
            return real(document)

        return call

    for name in calls:
        monkeypatch.setattr(m3connect.prepared, name, counting(name, getattr(m3connect.prepared, name)))
    return calls


def test_an_upsert_checks_and_hashes_each_document_once(store: HybridStore, counted: dict[str, int]) -> None:
    store.upsert(random_documents(20), random_embeddings(20, seed=1))
    assert counted == {"document_problem": 20, "content_of": 20}


def test_an_ingest_checks_and_hashes_each_document_once(store: HybridStore, counted: dict[str, int]) -> None:
    ingest(FakeEncoder(), store, random_documents(20), batch_size=8)
    assert counted == {"document_problem": 20, "content_of": 20}


def test_a_caller_who_changes_metadata_changes_nothing_that_is_prepared() -> None:
    metadata: dict[str, Any] = {"tags": ["a"], "year": 1}
    prepared = prepare([Document("a", "text", metadata)])
    metadata["year"] = 2
    metadata["tags"].append("b")
    assert prepared[0].metadata == {"tags": ["a"], "year": 1}
    assert prepared.fingerprints == [prepared[0].fingerprint]


@pytest.mark.parametrize(
    ("metadata", "plain"),
    [
        ({"pair": (1, (2,))}, {"pair": [1, [2]]}),
        ({"score": np.float64(0.5)}, {"score": 0.5}),
        ({"colour": Colour.RED}, {"colour": "red"}),
        ({Colour.RED: 1}, {"red": 1}),
        ({"z": 1, "a": None, "m": True}, {"z": 1, "a": None, "m": True}),
    ],
    ids=str,
)
def test_metadata_is_copied_as_json_gives_it_back(metadata: dict[str, Any], plain: dict[str, Any]) -> None:
    prepared = prepare([Document("a", "text", metadata)])
    copy = prepared[0].metadata
    assert list(copy.items()) == list(plain.items())
    assert [type(value) for value in copy.values()] == [type(value) for value in plain.values()]
    assert [type(key) for key in copy] == [str] * len(plain)
    assert prepared.fingerprints == [Document("a", "text", metadata).fingerprint]


def test_what_was_hashed_before_is_hashed_alike_today() -> None:
    """Stored fingerprints outlive versions of this code: other hashes would encode every document again."""
    document = Document("a", "größe\n", {"b": [1, 2.5, None], "a": {"y": True, "x": "é"}}, parent_id="p")
    assert document.fingerprint == "4b05dbf7801f00bca160d3f701b780a2"
    assert Document("a", "").fingerprint == "32044937c174288a40e447c2776d54c6"


def test_documents_prepared_already_come_back_as_they_are() -> None:
    prepared = prepare(random_documents(3))
    assert prepare(prepared) is prepared


def test_parts_of_prepared_documents_keep_what_belongs_to_them() -> None:
    documents = [*random_documents(3), Document("", "no id")]
    prepared = prepare(documents)
    part = prepared.take([3, 1])
    assert [document.id for document in part] == ["", "doc-001"]
    assert part.fingerprints == ["", documents[1].fingerprint]
    assert list(part.problems) == [0]
    assert list(prepared[1:3]) == documents[1:3]


def test_sizes_are_never_too_small() -> None:
    documents = [Document("a", "語\x01" * 9, {"é": ["ü", 1.5]}, "p"), Document("b", "")]
    for document, size in zip(documents, prepare(documents).sizes, strict=True):
        written = [document.text, document.metadata, document.parent_id]
        assert size >= len(str(written).encode()) - 20
        assert size >= len(document.text.encode())


def test_every_row_to_blame_is_named_with_its_first_reason() -> None:
    batch = random_embeddings(5, seed=1, multi_vector=True)
    dense, values = batch.dense.copy(), batch.sparse.values.copy()
    tokens = [matrix.copy() for matrix in batch.require_multi_vector()]
    dense[1, 3] = np.nan
    values[batch.sparse.indptr[1]] = values[batch.sparse.indptr[2]] = np.inf
    tokens[2][0, 0] = tokens[4][0, 0] = -np.inf
    wrong = replace(batch, dense=dense, sparse=replace(batch.sparse, values=values), multi_vector=tuple(tokens))
    documents = [Document("", ""), *random_documents(4)]
    reasons = find_problems(documents, wrong, dim=16)
    assert reasons == {
        0: "its id must be a non-empty string, but is ''",
        1: "its dense vector has a value that is not finite",
        2: "its sparse row has a weight that is not finite",
        4: "its token vectors have a value that is not finite",
    }


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"a": [1, {"b": {2}}]}, "metadata['a'][1]['b'] holds a set"),
        ({"a": {1: 2}}, "metadata['a'] has the key 1"),
        ({"a": [float("nan")]}, "metadata['a'][0] holds nan"),
        ({"a": "\ud800"}, "metadata['a'] holds half of a surrogate pair"),
    ],
    ids=str,
)
def test_the_place_in_metadata_is_told(metadata: dict[str, Any], reason: str) -> None:
    assert prepare([Document("a", "", metadata)]).problems[0].startswith(reason)
