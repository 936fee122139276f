"""Token vectors on disk: what is found again, what counts as absent, and what is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")

import lmdb

import m3connect
from m3connect import Document, M3Embeddings, SparseRows, token_file
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError, M3ConnectError
from m3connect.testing import FakeEncoder
from m3connect.token_rows import ENCODINGS, Encoding, encode_rows, pool_rows
from m3connect.token_store import TokenStore

TEXTS = {"a": "a red apple on the old table", "b": "the deep blue sea", "empty": ""}
DOCUMENTS = [Document(name, text) for name, text in TEXTS.items()]


def encoded(documents: list[Document], *, dim: int = 16, fingerprint: str | None = "fake-encoder") -> M3Embeddings:
    texts = [document.text for document in documents]
    return FakeEncoder(dim, fingerprint=fingerprint).encode(texts, multi_vector=True)


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenStore]:
    with TokenStore(tmp_path / "tokens", encoding="float16") as opened:
        yield opened


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pooling", [1, 2])
def test_what_is_stored_is_read_again_after_reopening(tmp_path: Path, encoding: Encoding, pooling: int) -> None:
    with TokenStore(tmp_path / "new" / "tokens", encoding=encoding, pooling=pooling) as tokens:
        tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    pooled = [pool_rows(matrix, pooling) for matrix in encoded(DOCUMENTS).require_multi_vector()]
    expected = encode_rows(pooled, encoding)
    for readonly in (True, False):
        with TokenStore(tmp_path / "new" / "tokens", readonly=readonly) as tokens:
            found = tokens.get(DOCUMENTS, fingerprint="fake-encoder")
            assert list(found.places) == list(TEXTS)
            for i, name in enumerate(TEXTS):
                np.testing.assert_array_equal(found.of([name]).decode()[0], expected.decode()[i])
            assert tokens.encode(encoded(DOCUMENTS).require_multi_vector()).codes.tobytes() == expected.codes.tobytes()
            told = tokens.stats()
            assert (told.documents, told.encoding, told.pooling, told.dim) == (3, encoding, pooling, 16)
            assert told.fingerprint == tokens.fingerprint == "fake-encoder"
            assert 0 < told.bytes < 100_000


def test_a_new_store_is_empty_and_keeps_bytes(tmp_path: Path) -> None:
    with TokenStore(tmp_path) as tokens:
        assert len(tokens) == 0
        assert tokens.get(DOCUMENTS).places == {}
        assert tokens.missing(DOCUMENTS) == DOCUMENTS
        told = tokens.stats()
        assert (told.documents, told.encoding, told.pooling, told.dim, told.fingerprint) == (0, "int8", 1, None, None)


def test_the_package_offers_it() -> None:
    assert m3connect.TokenStore is TokenStore


def test_another_text_is_a_miss_and_takes_the_old_place(tokens: TokenStore) -> None:
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    changed = [replace(DOCUMENTS[0], text="a green apple"), *DOCUMENTS[1:]]
    assert tokens.missing(changed) == changed[:1]
    assert list(tokens.get(changed).places) == ["b", "empty"]
    tokens.put(changed[:1], encoded(changed[:1]))
    assert tokens.missing(changed) == []
    assert tokens.missing(DOCUMENTS) == DOCUMENTS[:1]
    assert len(tokens) == 3
    assert tokens.get(changed).rows.lengths.tolist() == [3, 4, 0]


def test_other_metadata_are_no_other_text(tokens: TokenStore) -> None:
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    assert tokens.missing([replace(DOCUMENTS[0], metadata={"lang": "en"}, parent_id="book")]) == []


def test_vectors_of_an_unnamed_encoder_are_made_again_once_there_is_a_name(tokens: TokenStore) -> None:
    tokens.put(DOCUMENTS[:1], encoded(DOCUMENTS[:1], fingerprint=None))
    assert tokens.missing(DOCUMENTS) == DOCUMENTS[1:]
    assert tokens.missing(DOCUMENTS, fingerprint="fake-encoder") == DOCUMENTS
    tokens.put(DOCUMENTS[1:], encoded(DOCUMENTS[1:]))
    assert tokens.missing(DOCUMENTS) == DOCUMENTS[:1]
    tokens.put(DOCUMENTS[:1], encoded(DOCUMENTS[:1], fingerprint=None))
    assert tokens.missing(DOCUMENTS, fingerprint="fake-encoder") == []


def test_any_string_is_an_id(tokens: TokenStore) -> None:
    names = ["x" * 5000, "x" * 5001, "'\"\\", "a\x00b", "a\x00", "\n", "ünï", "文", "😀", " ", "m3connect token store"]
    documents = [Document(name, f"text {'of ' * i}") for i, name in enumerate(names)]
    tokens.put(documents, encoded(documents))
    assert len(tokens) == len(names)
    assert tokens.get(documents).rows.lengths.tolist() == [1 + i for i in range(len(names))]
    with pytest.raises(ValueError, match="half surrogate"):
        tokens.put([Document("\ud800", "text")], encoded(DOCUMENTS[:1]))


def test_of_documents_with_one_id_the_last_stays(tokens: TokenStore) -> None:
    twice = [Document("a", "one"), Document("a", "two words")]
    tokens.put(twice, encoded(twice))
    assert tokens.missing(twice[:1]) == twice[:1]
    assert tokens.missing(twice[1:]) == []
    assert len(tokens) == 1


def test_deleted_entries_are_gone(tokens: TokenStore) -> None:
    tokens.put(DOCUMENTS, encoded(DOCUMENTS))
    tokens.delete(["a", "never there"])
    assert list(tokens.get(DOCUMENTS).places) == ["b", "empty"]
    assert len(tokens) == 2
    with pytest.raises(ValueError, match="list of ids"):
        tokens.delete("b")


def test_a_document_as_long_as_the_model_reads_is_kept(tokens: TokenStore) -> None:
    long = [Document("long", " ".join(f"word{i}" for i in range(8192)))]
    tokens.put(long, encoded(long))
    assert tokens.get(long).rows.lengths.tolist() == [8192]


def test_no_documents_change_nothing(tokens: TokenStore) -> None:
    tokens.put([], encoded([]))
    assert tokens.get([]).places == {}
    assert tokens.missing([]) == []


# What is refused.


def test_another_model_is_refused(tokens: TokenStore) -> None:
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


def test_other_settings_than_the_folders_are_refused(tmp_path: Path) -> None:
    TokenStore(tmp_path, encoding="1-bit", pooling=2).close()
    for refused in ({"encoding": "int8"}, {"pooling": 1}):
        with pytest.raises(CollectionMismatchError, match="made with encoding='1-bit' and pooling=2"):
            TokenStore(tmp_path, **refused)  # type: ignore[arg-type]
    TokenStore(tmp_path, encoding="1-bit", pooling=2).close()
    with pytest.raises(ValueError, match="encoding must be one of float16, int8, 1-bit"):
        TokenStore(tmp_path, encoding="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pooling must be at least 1"):
        TokenStore(tmp_path, pooling=0)


def test_bad_batches_are_refused_whole(tokens: TokenStore) -> None:
    good = encoded(DOCUMENTS)
    with pytest.raises(ValueError, match="multi_vector=True"):
        tokens.put(DOCUMENTS, replace(good, multi_vector=None))
    with pytest.raises(ValueError, match="2 documents came with 3 rows"):
        tokens.put(DOCUMENTS[:2], good)
    bad = [*good.require_multi_vector()[:2], np.full((1, 16), np.nan, np.float32)]
    with pytest.raises(ValueError, match=r"\(id 'empty'\): its token vectors have a value that is not finite"):
        tokens.put(DOCUMENTS, replace(good, multi_vector=tuple(bad)))
    assert len(tokens) == 0


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    tokens = TokenStore(tmp_path)
    tokens.close()
    tokens.close()
    for refused in (
        lambda: tokens.get(DOCUMENTS),
        lambda: tokens.put(DOCUMENTS, encoded(DOCUMENTS)),
        lambda: len(tokens),
    ):
        with pytest.raises(M3ConnectError, match="is closed: open a new one"):
            refused()


def test_a_store_to_be_read_is_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match="there is no token store at"):
        TokenStore(tmp_path / "nothing", readonly=True)
    assert not (tmp_path / "nothing").exists()
    TokenStore(tmp_path).close()
    with TokenStore(tmp_path, readonly=True) as tokens:
        for refused in (
            lambda: tokens.put(DOCUMENTS, encoded(DOCUMENTS)),
            lambda: tokens.delete(["a"]),
            lambda: tokens.check_writable(None),
        ):
            with pytest.raises(ValueError, match="readonly=True"):
                refused()


def test_a_place_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(M3ConnectError, match="choose a folder that can be written to"):
        TokenStore(tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(M3ConnectError, match="no token store"):
        TokenStore(tmp_path / "other")
    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", b"value")
    with pytest.raises(CollectionMismatchError, match="database of something else"):
        TokenStore(tmp_path / "foreign")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="this user may write everywhere")
def test_a_folder_without_the_right_to_write_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(M3ConnectError, match="can be written to"):
        TokenStore(tmp_path / "tokens")


def test_a_folder_is_opened_once_in_a_process(tmp_path: Path) -> None:
    with TokenStore(tmp_path), pytest.raises(M3ConnectError, match="open in this process already; share"):
        TokenStore(tmp_path)
    TokenStore(tmp_path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_told_to_open_its_own(tokens: TokenStore) -> None:
    child = os.fork()
    if child == 0:
        try:
            len(tokens)
        except M3ConnectError as error:
            os._exit(0 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_another_format_is_refused(tmp_path: Path) -> None:
    TokenStore(tmp_path).close()
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"m3connect token store", b'{"format": 99, "colour": "red"}')
    with pytest.raises(CollectionMismatchError, match="fill a new one"):
        TokenStore(tmp_path)


# Growing, and threads.


def wide(names: list[str], rows: int, *, seed: int = 0) -> tuple[list[Document], M3Embeddings]:
    rng = np.random.default_rng(seed)
    matrices = tuple(rng.standard_normal((rows, 64)).astype(np.float32) for _ in names)
    return [Document(name, f"text of {name} {seed}") for name in names], M3Embeddings(
        np.zeros((len(names), 64), np.float32), SparseRows.empty(len(names)), multi_vector=matrices
    )


def test_the_map_grows_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "_FIRST_MAP", 2**16)
    documents, embeddings = wide([f"d{i}" for i in range(64)], 200)
    with TokenStore(tmp_path) as tokens:
        tokens.put(documents, embeddings)
        assert tokens.missing(documents) == []
        assert tokens.stats().bytes > 10 * 2**16
    with TokenStore(tmp_path, readonly=True) as tokens:
        assert tokens.missing(documents) == []


def test_threads_read_while_another_lets_the_map_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "_FIRST_MAP", 2**16)
    documents, embeddings = wide([f"d{i}" for i in range(8)], 20)
    expected = encode_rows(embeddings.require_multi_vector(), "int8").codes
    done = threading.Event()

    def read(tokens: TokenStore) -> int:
        times = 0
        while not done.is_set() or not times:
            np.testing.assert_array_equal(tokens.get(documents).rows.codes, expected)
            times += 1
        return times

    def write(tokens: TokenStore, which: int) -> None:
        for part in range(6):
            tokens.put(*wide([f"more{which}.{part}.{i}" for i in range(8)], 60, seed=part))

    with TokenStore(tmp_path) as tokens, ThreadPoolExecutor(6) as pool:
        tokens.put(documents, embeddings)
        readers = [pool.submit(read, tokens) for _ in range(4)]
        writers = [pool.submit(write, tokens, which) for which in range(2)]
        try:
            for writer in writers:
                writer.result(timeout=60)
        finally:
            done.set()
        assert all(reader.result(timeout=60) for reader in readers)
        assert len(tokens) == 8 + 2 * 6 * 8
