from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from backends import SYNC, make_backend


@pytest.fixture(scope="session", params=SYNC)
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One database of each kind: how a store is awaited changes nothing for the classes of a framework."""
    backend = make_backend(request.param, tmp_path_factory.mktemp("database"))
    yield backend
    backend.close()
