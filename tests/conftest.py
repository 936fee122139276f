"""Fixtures that every test may use: an encoder without a model, the stores under test, and the optional open data."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, require
from typer.testing import CliRunner, Result

from m3connect import HybridStore, M3Encoder, MemoryStore
from m3connect.cli import app
from m3connect.testing import FakeEncoder

DATA = Path(os.environ.get("M3CONNECT_DATA") or REPOSITORY.parent / "shared" / "data")

_numbers = itertools.count()


class MemoryBackend:
    """Has no collections: every store is new."""

    names: frozenset[str] = frozenset()

    def open(self, name: str | None = None, **options: Any) -> HybridStore:
        return MemoryStore(**{"dim": 16} | options)

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        """Nothing to do: a store goes with its test."""


class QdrantBackend:
    """Collections of one local client, in memory or in a folder."""

    def __init__(self, **where: Any) -> None:
        self._where = where
        self._opened: set[str] = set()
        self._connect()

    def _connect(self) -> None:
        import qdrant_client

        self._client = qdrant_client.QdrantClient(**self._where)

    def open(self, name: str | None = None, **options: Any) -> HybridStore:
        import m3connect_qdrant

        name = name or fresh_name()
        self._opened.add(name)
        return m3connect_qdrant.QdrantStore(self._client, name, **{"dim": 16} | options)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._opened)

    def has(self, name: str) -> bool:
        return self._client.collection_exists(name)

    def reopen(self) -> None:
        self._client.close()
        self._connect()

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        for name in self._opened - kept:
            self._client.delete_collection(name)
        self._opened &= kept

    def close(self) -> None:
        self._client.close()


class MilvusBackend:
    """Collections of one Milvus Lite database."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._opened: set[str] = set()
        self._connect()

    def _connect(self) -> None:
        import pymilvus

        self._client = pymilvus.MilvusClient(self._path)

    def open(self, name: str | None = None, **options: Any) -> HybridStore:
        import m3connect_milvus

        name = name or fresh_name()
        self._opened.add(name)
        return m3connect_milvus.MilvusStore(self._client, name, **{"dim": 16} | options)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._opened)

    def has(self, name: str) -> bool:
        return bool(self._client.has_collection(name))

    def reopen(self) -> None:
        self.close()
        self._connect()

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        for name in self._opened - kept:
            self._client.drop_collection(name)
        self._opened &= kept

    def close(self) -> None:
        from milvus_lite.server_manager import server_manager_instance

        self._client.close()
        server_manager_instance.release_server(self._path)  # close() alone leaves the server and its memory running


class EdgeBackend:
    """Folders in a folder. A name that is open is shared, since only one store at a time can have a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[str, tuple[dict[str, Any], Any]] = {}

    def open(self, name: str | None = None, **options: Any) -> HybridStore:
        import m3connect_edge

        name = name or fresh_name()
        known, store = self._open.pop(name, (None, None))
        if known != options:
            if store is not None:
                store.close()
            store = m3connect_edge.EdgeStore(self._path / name, **{"dim": 16} | options)
        self._open[name] = options, store
        return store

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._open)

    def has(self, name: str) -> bool:
        return (self._path / name).exists()

    def reopen(self) -> None:
        for _, store in self._open.values():
            store.close()
        self._open.clear()

    def drop(self, kept: frozenset[str] = frozenset()) -> None:
        for name in self.names - kept:
            self._open.pop(name)[1].drop()

    def close(self) -> None:
        self.reopen()


def fresh_name() -> str:
    return f"docs_{next(_numbers)}"


def make_backend(kind: str, folder: Path, *, on_disk: bool = False) -> Any:
    if kind == "memory":
        return MemoryBackend()
    if kind == "qdrant-local":
        require("m3connect_qdrant", "qdrant_client", extra="qdrant")
        return QdrantBackend(path=str(folder / "qdrant")) if on_disk else QdrantBackend(location=":memory:")
    if kind == "edge":
        require("m3connect_edge", "qdrant_edge", "filelock", extra="qdrant-edge")
        return EdgeBackend(folder / "edge")
    require("m3connect_milvus", "pymilvus", "milvus_lite", extra="milvus")
    return MilvusBackend(folder / "milvus.db")


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="session")
def mini() -> M3Encoder:
    """The bundled model, loaded once."""
    return M3Encoder.from_pretrained("m3-mini")


@pytest.fixture
def run(mini: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line; beside the bundled model it knows three that need no loading."""
    known = {
        "m3-mini": mini,
        "fake": FakeEncoder(),
        "other": FakeEncoder(fingerprint="other-encoder"),
        "wide": FakeEncoder(32),
    }
    monkeypatch.setattr(M3Encoder, "from_pretrained", known.__getitem__)

    def invoke(*arguments: object, text: str | bytes | None = None, columns: int | None = 100) -> Result:
        runner = CliRunner(env={"COLUMNS": None if columns is None else str(columns)})
        return runner.invoke(app, [str(argument) for argument in arguments], input=text)

    return invoke


@pytest.fixture(scope="session", params=["memory", "qdrant-local", "edge", "milvus-lite"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One database a kind for the whole session: starting Milvus Lite takes half a second."""
    backend = make_backend(request.param, tmp_path_factory.mktemp("database"))
    yield backend
    if request.param != "memory":
        backend.close()


@pytest.fixture
def store_factory(backend: Any) -> Iterator[Callable[..., HybridStore]]:
    """Opens a new empty store of 16 dimensions, unless told otherwise; its collection goes with the test."""
    kept = backend.names  # collections that wider fixtures share
    yield backend.open
    backend.drop(kept)


@pytest.fixture
def store(store_factory: Callable[..., HybridStore]) -> HybridStore:
    return store_factory()


@pytest.fixture(params=["qdrant-local", "edge", "milvus-lite"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A database in a folder of its own: `disk.open(name)`, `disk.reopen()`, `disk.has(name)`."""
    backend = make_backend(request.param, tmp_path, on_disk=True)
    yield backend
    backend.close()


@pytest.fixture(params=["memory", "qdrant-local", "edge"])
def token_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HybridStore]:
    """A store that keeps token vectors."""
    backend = make_backend(request.param, tmp_path)
    yield backend.open(multi_vector=True)
    if request.param != "memory":
        backend.close()


@pytest.fixture(scope="session")
def open_data() -> Path:
    """The folder with the project's open data, which is not part of the repository."""
    if not DATA.is_dir():
        pytest.skip("no open data here: set M3CONNECT_DATA to its folder")
    return DATA


REASONS = {
    "slow": "takes long: run with -m slow",
    "gpu": "needs a GPU: run with -m gpu",
    "network": "downloads from the hub: run with -m network",
    "server": "needs a server: set QDRANT_URL or MILVUS_URI and run with -m server",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what the machine may not have, unless a marker expression asks for it."""
    asked = config.getoption("markexpr")
    for item in items:
        for marker, reason in REASONS.items():
            if marker in item.keywords and marker not in asked:
                item.add_marker(pytest.mark.skip(reason=reason))
