"""What Edge accepts and should not, or would give back changed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edge_helpers import one
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_checks import random_embeddings

from m3connect import Document, Sparse, SparseRows
from m3connect.filters import field, matches
from m3connect.store import LARGEST_TOKEN_ID

pytest.importorskip("qdrant_edge")

from m3connect_edge import EdgeStore, exact


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs"


# -- what Edge accepts and should not ---------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


def test_metadata_too_deep_to_be_read_back_is_refused(path: Path) -> None:
    """Edge would store it, and could then neither read it nor open the folder again."""
    with EdgeStore(path, dim=16) as store:
        store.upsert(one(metadata={"fine": nested(63)}), random_embeddings(1, seed=1))
        with pytest.raises(ValueError, match="nested more than 64"):
            store.upsert(one(name="b", metadata={"deep": nested(64)}), random_embeddings(1, seed=1))
        assert store.count() == 1
    with EdgeStore(path) as store:
        assert store.get(["a"])[0].metadata == {"fine": nested(63)}


def test_the_largest_token_id_survives(path: Path) -> None:
    batch = replace(random_embeddings(1, seed=1), sparse=SparseRows.from_dicts([{LARGEST_TOKEN_ID: 0.5}]))
    with EdgeStore(path, dim=16) as store:
        store.upsert(one(), batch)
        assert store.get_embeddings(["a"]).sparse.to_dicts() == [{LARGEST_TOKEN_ID: 0.5}]
        assert store.search(batch, fusion=Sparse())[0][0].score == pytest.approx(0.25)


HARD_FLOATS = [0.9452706955539223, 0.1 + 0.2, 1 / 3 * 1e-7, 1e300, -1e300, 5e-324, 1e23, 2.0**53 - 1, 123456.789]


def test_floats_that_qdrant_would_change_come_back_as_they_were(path: Path) -> None:
    metadata = {"list": HARD_FLOATS, "deep": {"x": HARD_FLOATS}}
    document = Document("a", "text", metadata)
    with EdgeStore(path, dim=16) as store:
        store.upsert([document], random_embeddings(1, seed=1))
        assert store.get(["a"]) == list(store.scroll()) == [document]
        assert store.get(["a"])[0].fingerprint == document.fingerprint


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(first=st.floats(allow_nan=False, allow_infinity=False), second=st.floats(allow_nan=False, allow_infinity=False))
def test_halves_order_as_the_floats_do(first: float, second: float) -> None:
    assert (exact.halves(first) < exact.halves(second)) == (first < second)
    assert (exact.halves(first) == exact.halves(second)) == (first == second)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store with hard numbers and their neighbours, half of it with an index."""
    numbers = [
        neighbour
        for value in [*HARD_FLOATS, 0.0, 0.3, -1.5, 1990, 7]
        for neighbour in (value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf))
        if math.isfinite(neighbour) and abs(neighbour) < 1e308
    ]
    documents = [Document(f"n{i}", "text", {"x": value, "y": value}) for i, value in enumerate(numbers)]
    with EdgeStore(tmp_path_factory.mktemp("ordered"), dim=16, filter_fields=["y"]) as store:
        store.upsert(documents, random_embeddings(len(documents), seed=1))
        yield store, documents


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_numbers_are_ordered_to_the_last_bit(ordered: Any, data: st.DataObject) -> None:
    store, documents = ordered
    bound = data.draw(st.sampled_from([document.metadata["x"] for document in documents]))
    for key in ("x", "y"):
        for condition in (field(key) < bound, field(key) <= bound, field(key) > bound, field(key) >= bound):
            expected = {document.id for document in documents if matches(condition, document.metadata)}
            assert {document.id for document in store.scroll(condition)} == expected, (key, condition)
