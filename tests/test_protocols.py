"""The protocols of store.py, the classes of base.py and every backend's stores have one surface."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
from support import require

from m3connect import AsyncHybridStore, AsyncStore, HybridStore, MemoryStore, ThreadedStore
from m3connect.base import Store

ADAPTERS = {
    "m3connect_qdrant": ("qdrant_client", "qdrant", ["QdrantStore", "AsyncQdrantStore"]),
    "m3connect_edge": ("qdrant_edge", "qdrant-edge", ["EdgeStore"]),
    "m3connect_milvus": ("pymilvus", "milvus", ["MilvusStore", "AsyncMilvusStore"]),
}
CORE = [Store, MemoryStore, AsyncStore, ThreadedStore]


def public(cls: type) -> dict[str, Any]:
    members = inspect.getmembers_static(cls)
    return {name: member for name, member in members if not name.startswith("_")}


def signature(member: Any) -> inspect.Signature:
    return inspect.signature(member.fget if isinstance(member, property) else member)


def protocol_of(cls: type) -> type:
    return AsyncHybridStore if issubclass(cls, AsyncStore) else HybridStore


def assert_satisfies(cls: type) -> None:
    """Every member of the protocol is there, of the same kind, with the same parameters, defaults and types."""
    members = public(cls)
    for name, wanted in public(protocol_of(cls)).items():
        assert name in members, f"{cls.__name__} lacks {name}"
        found = members[name]
        assert isinstance(found, property) == isinstance(wanted, property), name
        assert signature(found) == signature(wanted), f"{cls.__name__}.{name}"
        if name != "scroll":  # the protocol says what it returns, the class is a generator
            assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(wanted), name


@pytest.mark.parametrize("cls", CORE, ids=lambda cls: cls.__name__)
def test_stores_of_the_core_satisfy_their_protocol(cls: type) -> None:
    assert_satisfies(cls)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_stores_of_the_adapters_satisfy_their_protocol(adapter: str) -> None:
    library, extra, names = ADAPTERS[adapter]
    require(adapter, library, extra=extra)
    for name in names:
        assert_satisfies(getattr(importlib.import_module(adapter), name))


def test_the_protocols_leave_nothing_out() -> None:
    assert public(HybridStore).keys() == public(Store).keys()
    assert public(AsyncHybridStore).keys() == public(AsyncStore).keys()


def test_the_async_protocol_is_the_sync_one_awaited() -> None:
    sync, awaited = public(HybridStore), public(AsyncHybridStore)
    assert sync.keys() == awaited.keys()
    for name in sync.keys() - {"scroll"}:
        assert signature(sync[name]) == signature(awaited[name]), name
    assert signature(sync["scroll"]).parameters == signature(awaited["scroll"]).parameters


def test_a_parameter_that_drifts_is_noticed() -> None:
    class Drifted(MemoryStore):
        def count(self, condition: Any = None) -> int:
            return 0

    with pytest.raises(AssertionError, match=r"Drifted\.count"):
        assert_satisfies(Drifted)


def test_stores_are_instances_of_their_protocol() -> None:
    store = MemoryStore(dim=4)
    assert isinstance(store, HybridStore)
    assert isinstance(ThreadedStore(store), AsyncHybridStore)
