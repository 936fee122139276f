"""Fixtures that every test may use: an encoder without a model, the stores under test, and the optional open data."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import ASYNC, SYNC, THREADED, make_backend
from support import REPOSITORY
from typer.testing import CliRunner, Result

from m3connect import HybridStore, M3Encoder
from m3connect.cli import app
from m3connect.testing import FakeEncoder

DATA = Path(os.environ.get("M3CONNECT_DATA") or REPOSITORY.parent / "shared" / "data")


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
    monkeypatch.setattr(M3Encoder, "from_pretrained", lambda name, **_: known[name])

    def invoke(*arguments: object, text: str | bytes | None = None, columns: int | None = 100) -> Result:
        runner = CliRunner(env={"COLUMNS": None if columns is None else str(columns)})
        return runner.invoke(app, [str(argument) for argument in arguments], input=text)

    return invoke


@pytest.fixture(scope="session", params=[*SYNC, *ASYNC, *THREADED])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One database a kind for the whole session: starting Milvus Lite takes half a second."""
    backend = make_backend(request.param, tmp_path_factory.mktemp("database"))
    yield backend
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


@pytest.fixture(params=[kind for kind in [*SYNC, *ASYNC, *THREADED] if not kind.startswith("memory")])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A database in a folder of its own: `disk.open(name)`, `disk.reopen()`, `disk.has(name)`."""
    backend = make_backend(request.param, tmp_path, on_disk=True)
    yield backend
    backend.close()


@pytest.fixture(params=[kind for kind in [*SYNC, *ASYNC, *THREADED] if not kind.startswith("milvus")])
def token_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HybridStore]:
    """A store that keeps token vectors."""
    backend = make_backend(request.param, tmp_path)
    yield backend.open(multi_vector=True)
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
            if item.get_closest_marker(marker) and marker not in asked:  # keywords hold the names of folders too
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, which a shell switches off for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
