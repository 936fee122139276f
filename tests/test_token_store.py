"""Token vectors on disk: the file, its growing, and who shares it; test_token_conformance.py has the rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from token_places import DOCUMENTS, encoded

pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")

import lmdb

import m3connect
from m3connect import Document, M3Embeddings, SparseRows, token_file
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError, M3ConnectError
from m3connect.token_rows import encode_rows
from m3connect.token_store import TokenStore


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenStore]:
    with TokenStore(tmp_path / "tokens", encoding="float16") as opened:
        yield opened


def test_the_package_offers_it() -> None:
    assert m3connect.TokenStore is TokenStore


# What is refused.


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


def test_opening_to_read_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match="there is no token store at"):
        TokenStore(tmp_path / "nothing", readonly=True)
    assert not (tmp_path / "nothing").exists()


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
