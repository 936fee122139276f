"""What several test modules use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def require(adapter: str, *libraries: str, extra: str) -> None:
    """Skip where an adapter or its library is not there; an adapter that is there and broken must fail."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install 'm3connect[{extra}]'")
    spec = importlib.util.find_spec(adapter)
    if spec is None or spec.origin is None:
        pytest.skip(f"the adapter {adapter} is not there")
