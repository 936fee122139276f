"""The Edge store as a folder: what is made, refused, adopted and dropped, and who may open it."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_helpers import marked, one, run_elsewhere
from store_checks import random_documents, random_embeddings

from m3connect import M3Embeddings, SparseRows
from m3connect.errors import CollectionMismatchError, CollectionNotFoundError, M3ConnectError

pytest.importorskip("qdrant_edge")

from m3connect_edge import EdgeStore
from m3connect_edge.convert import point_id
from qdrant_edge import EdgeShard, Point, UpdateOperation

MARKER = "m3connect.json"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs"


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "m3connect_edge"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    with pytest.raises(ImportError, match=r"pip install \"m3connect\[qdrant-edge\]\""):
        importlib.import_module("m3connect_edge")


# -- the folder -------------------------------------------------------------------------------------------------------


def test_the_marker_beside_the_shard_says_what_the_folder_holds(path: Path) -> None:
    with EdgeStore(path, dim=16, multi_vector=True) as store:
        store.upsert(one(), replace(random_embeddings(1, seed=1, multi_vector=True), fingerprint="one"))
    marker = json.loads((path / MARKER).read_text())
    assert marker == {"m3connect": {"schema": 1, "dim": 16, "multi_vector": True, "fingerprint": "one"}}


def test_a_folder_is_taken_as_it_was_made(path: Path) -> None:
    EdgeStore(path, dim=16, multi_vector=True).close()
    with EdgeStore(path) as store:
        assert (store.dim, store.multi_vector, store.name) == (16, True, str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 8}, "expected dimension 8, found 16"),
        ({"multi_vector": True}, "expected multi_vector=True, found False"),
        ({"adopt_fingerprint": "two"}, r"(?s)one.*two"),
    ],
)
def test_a_folder_of_another_layout_is_refused_and_free_again(
    path: Path, options: dict[str, Any], message: str
) -> None:
    with EdgeStore(path, dim=16) as store:
        store.upsert(one(), marked())
    with pytest.raises(CollectionMismatchError, match=message):
        EdgeStore(path, **options)
    with EdgeStore(path) as store:
        assert store.count() == 1


@pytest.mark.parametrize("options", [{}, {"dim": 16, "create": False}])
def test_a_folder_that_must_exist_is_not_made(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(CollectionNotFoundError, match="docs"):
        EdgeStore(path, **options)
    assert not path.exists()


def test_parent_folders_are_made(path: Path) -> None:
    with EdgeStore(path / "deeper" / "still", dim=16) as store:
        assert store.count() == 0


def test_a_folder_with_other_files_is_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(CollectionMismatchError, match=r"other files \(thesis.txt\)"):
        EdgeStore(path, dim=16)
    assert [file.name for file in path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file"):
        EdgeStore(path / "thesis.txt", dim=16)


def test_a_marker_of_another_version_or_a_damaged_one_is_refused(path: Path) -> None:
    EdgeStore(path, dim=16).close()
    (path / MARKER).write_text(json.dumps({"m3connect": {"schema": 99}}))
    with pytest.raises(CollectionMismatchError, match="schema 99"):
        EdgeStore(path)
    (path / MARKER).write_text('{"m3conn')
    with pytest.raises(M3ConnectError, match=r"damaged.*adopt_fingerprint="):
        EdgeStore(path)


def test_a_shard_that_lost_its_marker_is_adopted_on_request_only(path: Path) -> None:
    with EdgeStore(path, dim=16, multi_vector=True) as store:
        store.upsert(one(), replace(random_embeddings(1, seed=1, multi_vector=True), fingerprint="one"))
    (path / MARKER).unlink()
    with pytest.raises(CollectionMismatchError, match="adopt_fingerprint="):
        EdgeStore(path)
    with EdgeStore(path, adopt_fingerprint="one") as store:
        assert (store.dim, store.multi_vector, store.fingerprint, store.count()) == (16, True, "one", 1)
    with EdgeStore(path) as store:
        assert store.fingerprint == "one"


def test_a_shard_with_points_of_somebody_else_is_not_adopted(path: Path) -> None:
    EdgeStore(path, dim=16).close()
    shard = EdgeShard.load(str(path / "shard"))
    shard.update(UpdateOperation.upsert_points([Point(str(uuid.uuid4()), {"dense": [0.5] * 16}, {"id": "a"})]))
    shard.close()
    (path / MARKER).unlink()
    with pytest.raises(CollectionMismatchError, match="1 of its points lack"):
        EdgeStore(path, adopt_fingerprint="one")
    assert not (path / MARKER).exists()


def test_a_creation_that_was_interrupted_is_begun_again(path: Path) -> None:
    (path / "shard.making" / "segments").mkdir(parents=True)
    (path / MARKER).write_text('{"m3connect": {"schema": 1, "dim": 8, "multi_vector": false, "fingerprint": null}}')
    with pytest.raises(CollectionNotFoundError):
        EdgeStore(path)
    with EdgeStore(path, dim=16) as store:
        assert (store.dim, store.count()) == (16, 0)
    assert not (path / "shard.making").exists()


def test_drop_removes_the_folder_but_no_file_of_others(path: Path) -> None:
    store = EdgeStore(path, dim=16)
    store.upsert(one(), random_embeddings(1, seed=1))
    store.drop()
    assert not path.exists()
    with pytest.raises(M3ConnectError, match="closed"):
        store.count()
    store = EdgeStore(path, dim=16)
    (path / "notes.txt").write_text("mine")
    store.drop()
    assert [file.name for file in path.iterdir()] == ["notes.txt"]


def test_a_closed_store_says_so_and_closes_twice(path: Path) -> None:
    with EdgeStore(path, dim=16) as store:
        store.upsert(one(), random_embeddings(1, seed=1))
    store.close()
    for act in (store.count, store.flush, store.info, lambda: store.search(random_embeddings(1, seed=1))):
        with pytest.raises(M3ConnectError, match="is closed: open a new one"):
            act()


def test_info_names_backend_and_settings(path: Path) -> None:
    with EdgeStore(path, dim=16) as store:
        store.upsert(one(), marked())
        info = store.info()
        assert (info.name, info.count, info.dim, info.multi_vector, info.fingerprint) == (
            str(path),
            1,
            16,
            False,
            "one",
        )
        assert (info.details["backend"], info.details["segments"]) == ("qdrant-edge", 1)


def test_errors_of_the_library_name_the_folder(path: Path) -> None:
    operation = UpdateOperation.upsert_points([Point(str(uuid.uuid4()), {"dense": [0.5]}, {})])
    with EdgeStore(path, dim=16) as store, pytest.raises(M3ConnectError, match=r"Qdrant Edge, in '.*docs'.*dim: 16"):
        store._folder.ask("update", operation=operation)


# -- the lock ---------------------------------------------------------------------------------------------------------


def test_a_second_store_is_refused_before_the_library_touches_the_folder(path: Path) -> None:
    """Without our lock the second load would break every later flush of the first store."""
    with EdgeStore(path, dim=16) as store:
        for start in range(0, 60, 20):
            store.upsert(random_documents(60)[start : start + 20], random_embeddings(60, seed=1)[start : start + 20])
            with pytest.raises(M3ConnectError, match="in use by this process, through another EdgeStore"):
                EdgeStore(path)
        store.flush()
        assert store.count() == 60
    with EdgeStore(path) as store:
        assert store.count() == 60


def test_another_process_is_told_which_one_has_the_folder(path: Path) -> None:
    code = "from m3connect_edge import EdgeStore\nEdgeStore(PATH)"
    with EdgeStore(path, dim=16) as store:
        store.upsert(random_documents(5), random_embeddings(5, seed=1))
        refused = run_elsewhere(path, code)
        assert f"in use by process {os.getpid()}" in refused.stderr
        store.flush()
    assert run_elsewhere(path, code).returncode == 0


def test_the_lock_goes_with_the_store_that_was_forgotten(path: Path) -> None:
    store = EdgeStore(path, dim=16)
    store.upsert(one(), random_embeddings(1, seed=1))
    del store
    with EdgeStore(path) as store:
        assert store.count() == 1


def test_a_store_that_another_thread_opened_can_be_closed(path: Path) -> None:
    opened: list[EdgeStore] = []
    thread = threading.Thread(target=lambda: opened.append(EdgeStore(path, dim=16)))
    thread.start()
    thread.join()
    opened[0].close()
    EdgeStore(path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_to_open_its_own(path: Path) -> None:
    code = """
import os
from m3connect_edge import EdgeStore
store = EdgeStore(PATH, dim=16)
child = os.fork()
if child == 0:
    try:
        store.count()
    except Exception as error:
        os.write(1, str(error).encode())
    os._exit(0)
os.waitpid(child, 0)
os.write(1, f" then {store.count()}".encode())
store.close()
"""
    done = run_elsewhere(path, code)
    assert "from which this one was forked" in done.stdout
    assert done.stdout.endswith("then 0"), done.stderr


def test_a_point_that_lost_its_fingerprint_is_encoded_again_and_stops_nothing(path: Path) -> None:
    with EdgeStore(path, dim=16) as store:
        store.upsert(random_documents(2), random_embeddings(2, seed=1))
        lost = UpdateOperation.delete_payload([point_id("doc-000")], ["fingerprint"])
        store._folder.ask("update", operation=lost)
        assert list(store.fingerprints(["doc-000", "doc-001"])) == ["doc-001"]


def test_more_token_vectors_than_a_server_takes_are_kept(path: Path) -> None:
    """A server refuses 1,024 vectors of 1,024 dimensions (docs/reranking.md)."""
    matrix = np.tile(np.eye(1024, dtype=np.float32), (2, 1))
    long = M3Embeddings(np.eye(1, 1024, dtype=np.float32), SparseRows.empty(1), (matrix,))
    with EdgeStore(path, dim=1024, multi_vector=True) as store:
        store.upsert(one(), long)
        (kept,) = store.get_embeddings([document.id for document in one()]).require_multi_vector()
    np.testing.assert_array_equal(kept, matrix)
