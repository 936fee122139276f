"""What every token store does, wherever it is: what is found again, what counts as absent, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from token_places import DOCUMENTS, TEXTS, Place, encoded, make_place

from m3connect import Document, M3Embeddings, MemoryStore, SparseRows, ingest
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError
from m3connect.retrieval import TokenSource
from m3connect.store import TokenSink
from m3connect.testing import FakeEncoder
from m3connect.token_base import TokenStoreBase
from m3connect.token_rows import ENCODINGS, Encoding, encode_rows, pool_rows, pooled_length


@pytest.fixture(params=["folder", "collection"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return make_place(request.param, tmp_path)


@pytest.fixture
def tokens(place: Place) -> Iterator[TokenStoreBase]:
    with place.open(encoding="float16") as opened:
        yield opened


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pooling", [1, 2])
def test_what_is_stored_is_read_again_after_reopening(place: Place, encoding: Encoding, pooling: int) -> None:
    with place.open(encoding=encoding, pooling=pooling) as tokens:
        tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    pooled = [pool_rows(matrix, pooling) for matrix in encoded(DOCUMENTS).require_multi_vector()]
    expected = encode_rows(pooled, encoding)
    for readonly in (True, False):
        with place.open(readonly=readonly) as tokens:
            found = tokens.get(DOCUMENTS, fingerprint="fake-encoder")
            assert list(found.places) == list(TEXTS)
            for i, name in enumerate(TEXTS):
                np.testing.assert_array_equal(found.of([name]).decode()[0], expected.decode()[i])
            assert tokens.encode(encoded(DOCUMENTS).require_multi_vector()).codes.tobytes() == expected.codes.tobytes()
            told = tokens.stats()
            assert (told.documents, told.encoding, told.pooling, told.dim) == (3, encoding, pooling, 16)
            assert told.fingerprint == tokens.fingerprint == "fake-encoder"
            assert told.bytes is None or 0 < told.bytes < 100_000


def test_a_new_store_is_empty_and_keeps_bytes(place: Place) -> None:
    with place.open() as tokens:
        assert len(tokens) == 0
        assert tokens.get(DOCUMENTS).places == {}
        assert tokens.missing(DOCUMENTS) == DOCUMENTS
        told = tokens.stats()
        assert (told.documents, told.encoding, told.pooling, told.dim, told.fingerprint) == (0, "int8", 1, None, None)


def test_another_text_is_a_miss_and_takes_the_old_place(tokens: TokenStoreBase) -> None:
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    changed = [replace(DOCUMENTS[0], text="a green apple"), *DOCUMENTS[1:]]
    assert tokens.missing(changed) == changed[:1]
    assert list(tokens.get(changed).places) == ["b", "empty"]
    tokens.put(changed[:1], encoded(changed[:1]))
    assert tokens.missing(changed) == []
    assert tokens.missing(DOCUMENTS) == DOCUMENTS[:1]
    assert len(tokens) == 3
    assert tokens.get(changed).rows.lengths.tolist() == [3, 4, 0]


def test_other_metadata_are_no_other_text(tokens: TokenStoreBase) -> None:
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    assert tokens.missing([replace(DOCUMENTS[0], metadata={"lang": "en"}, parent_id="book")]) == []


def test_vectors_of_an_unnamed_encoder_are_made_again_once_there_is_a_name(tokens: TokenStoreBase) -> None:
    tokens.put(DOCUMENTS[:1], encoded(DOCUMENTS[:1], fingerprint=None))
    assert tokens.missing(DOCUMENTS) == DOCUMENTS[1:]
    assert tokens.missing(DOCUMENTS, fingerprint="fake-encoder") == DOCUMENTS
    tokens.put(DOCUMENTS[1:], encoded(DOCUMENTS[1:]))
    assert tokens.missing(DOCUMENTS) == DOCUMENTS[:1]
    tokens.put(DOCUMENTS[:1], encoded(DOCUMENTS[:1], fingerprint=None))
    assert tokens.missing(DOCUMENTS, fingerprint="fake-encoder") == []


def test_any_string_is_an_id(tokens: TokenStoreBase) -> None:
    names = ["x" * 5000, "x" * 5001, "'\"\\", "a\x00b", "a\x00", "\n", "ünï", "文", "😀", " ", "m3connect token store"]
    documents = [Document(name, f"text {'of ' * i}") for i, name in enumerate(names)]
    tokens.put(documents, encoded(documents))
    assert len(tokens) == len(names)
    assert tokens.get(documents).rows.lengths.tolist() == [1 + i for i in range(len(names))]
    with pytest.raises(ValueError, match="half surrogate"):
        tokens.put([Document("\ud800", "text")], encoded(DOCUMENTS[:1]))


def test_of_documents_with_one_id_the_last_stays(tokens: TokenStoreBase) -> None:
    twice = [Document("a", "one"), Document("a", "two words")]
    tokens.put(twice, encoded(twice))
    assert tokens.missing(twice[:1]) == twice[:1]
    assert tokens.missing(twice[1:]) == []
    assert len(tokens) == 1


def test_deleted_entries_are_gone(tokens: TokenStoreBase) -> None:
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    tokens.delete(["a", "never there"])
    assert list(tokens.get(DOCUMENTS).places) == ["b", "empty"]
    assert len(tokens) == 2
    with pytest.raises(ValueError, match="list of ids"):
        tokens.delete("b")


def test_a_document_as_long_as_the_model_reads_is_kept(tokens: TokenStoreBase) -> None:
    long = [Document("long", " ".join(f"word{i}" for i in range(8192)))]
    tokens.put(long, encoded(long))
    assert tokens.get(long).rows.lengths.tolist() == [8192]


def test_no_documents_change_nothing(tokens: TokenStoreBase) -> None:
    tokens.put([], encoded([]))
    assert tokens.get([]).places == {}
    assert tokens.missing([]) == []


# What is refused.


def test_another_model_is_refused(tokens: TokenStoreBase) -> None:
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    other = encoded(DOCUMENTS, fingerprint="other-encoder")
    for refused in (
        lambda: tokens.put(DOCUMENTS, other),
        lambda: tokens.get(DOCUMENTS, fingerprint="other-encoder"),
        lambda: tokens.missing(DOCUMENTS, fingerprint="other-encoder"),
        lambda: tokens.check_writable("other-encoder"),
    ):
        with pytest.raises(CollectionMismatchError, match=r"was filled by fake-encoder, but .* other-encoder"):
            refused()
    with pytest.raises(CollectionMismatchError, match="dimension 16, but these have 8"):
        tokens.put(DOCUMENTS, encoded(DOCUMENTS, dim=8))
    assert tokens.missing(DOCUMENTS) == []


def test_other_settings_than_the_stores_own_are_refused(place: Place) -> None:
    with place.open(encoding="1-bit", pooling=2):
        pass
    for refused in ({"encoding": "int8"}, {"pooling": 1}):
        with pytest.raises(CollectionMismatchError, match="made with encoding='1-bit' and pooling=2"):
            place.open(**refused).__enter__()
    with place.open(encoding="1-bit", pooling=2) as again:
        assert (again.stats().encoding, again.stats().pooling) == ("1-bit", 2)
    with pytest.raises(ValueError, match="encoding must be one of float16, int8, 1-bit"):
        place.open(encoding="int4").__enter__()
    with pytest.raises(ValueError, match="pooling must be at least 1"):
        place.open(pooling=0).__enter__()


def test_rows_of_another_encoding_than_the_stores_own_are_refused(tokens: TokenStoreBase) -> None:
    rows = encode_rows(encoded(DOCUMENTS).require_multi_vector(), "int8")
    with pytest.raises(CollectionMismatchError, match="made with encoding='float16'"):
        tokens.put_rows(DOCUMENTS, rows, fingerprint="fake-encoder")
    assert len(tokens) == 0


def test_bad_batches_are_refused_whole(tokens: TokenStoreBase) -> None:
    good = encoded(DOCUMENTS)
    with pytest.raises(ValueError, match="multi_vector=True"):
        tokens.put(DOCUMENTS, replace(good, multi_vector=None))
    with pytest.raises(ValueError, match="2 documents came with 3 rows"):
        tokens.put(DOCUMENTS[:2], good)
    bad = [*good.require_multi_vector()[:2], np.full((1, 16), np.nan, np.float32)]
    with pytest.raises(ValueError, match=r"\(id 'empty'\): its token vectors have a value that is not finite"):
        tokens.put(DOCUMENTS, replace(good, multi_vector=tuple(bad)))
    assert len(tokens) == 0


def test_a_store_to_be_read_is_not_written_to(place: Place) -> None:
    with pytest.raises(CollectionNotFoundError, match="there is no token store"):
        place.open(readonly=True).__enter__()
    with pytest.raises(CollectionNotFoundError, match="there is no token store"):
        place.open(readonly=True).__enter__()  # the first try made none
    with place.open():
        pass
    with place.open(readonly=True) as tokens:
        for refused in (
            lambda: tokens.put(DOCUMENTS, encoded(DOCUMENTS)),
            lambda: tokens.delete(["a"]),
            lambda: tokens.check_writable(None),
        ):
            with pytest.raises(ValueError, match="readonly=True"):
                refused()
        assert len(tokens) == 0


# Texts that cannot be encoded.


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_batch_of_which_nothing_can_be_encoded_stops_no_run(tokens: TokenStoreBase, batch_size: int) -> None:
    class Fragile(FakeEncoder):
        def encode(self, texts: Sequence[str], **options: Any) -> M3Embeddings:
            if any("sea" in text for text in texts):
                raise RuntimeError("cannot read this")
            return super().encode(texts, **options)

    stream = [DOCUMENTS[0], Document("c", "the same sea"), DOCUMENTS[2], DOCUMENTS[1]]
    report = ingest(Fragile(), MemoryStore(dim=16), stream, token_store=tokens, batch_size=batch_size)
    assert [rejected.document.id for rejected in report.rejected] == ["c", "b"]
    assert (report.stored, len(tokens)) == (2, 2)
    assert tokens.missing(DOCUMENTS) == [DOCUMENTS[1]]


# Long documents.


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_document_as_long_as_bge_m3_reads_goes_in_at_its_dimension(place: Place, encoding: Encoding) -> None:
    long = Document("long", "a long text")
    matrix = np.tile(np.eye(1024, dtype=np.float32), (8, 1))
    embeddings = M3Embeddings(np.ones((1, 1024), np.float32), SparseRows.empty(1), (matrix,))
    with place.open(encoding=encoding) as tokens:
        assert tokens.problems([long], embeddings) == {}
        tokens.put([long], embeddings)
        rows = tokens.get([long]).rows
        assert rows.codes.tobytes() == encode_rows([matrix], encoding).codes.tobytes()


def test_what_pooling_leaves_is_known_beforehand() -> None:
    rng = np.random.default_rng(0)
    for length in (0, 1, 2, 5, 512, 513, 1030):
        matrix = rng.standard_normal((length, 4)).astype(np.float32)
        for factor in (1, 2, 3, 600):
            assert len(pool_rows(matrix, factor)) == pooled_length(length, factor), (length, factor)


def test_more_than_the_place_takes_is_refused_with_a_way_out(place: Place) -> None:
    """Neither the other documents of the batch nor a scan of all numbers is needed to say so."""
    documents = [Document("short", "text"), Document("huge", "text")]
    huge = np.broadcast_to(np.float32(0), (2**22, 1024))
    embeddings = M3Embeddings(np.ones((2, 1024), np.float32), SparseRows.empty(2), (np.eye(2, 1024), huge))
    with place.open(encoding="float16") as tokens:
        problems = tokens.problems(documents, embeddings)
        assert list(problems) == [1]
        assert "it has 4194304 token vectors, which take" in problems[1]
        assert "split the text" in problems[1]
        with pytest.raises(ValueError, match=r"\(id 'huge'\): it has 4194304 token vectors"):
            tokens.put(documents, embeddings)
        assert len(tokens) == 0


def test_token_stores_are_what_ingest_and_retrievers_ask_for(tokens: TokenStoreBase) -> None:
    assert isinstance(tokens, TokenSink)
    assert isinstance(tokens, TokenSource)
