"""qdrant-client's local mode: how to tell it, and how to use it from several threads."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from weakref import WeakKeyDictionary

from qdrant_client import AsyncQdrantClient, QdrantClient

__all__ = ["is_local", "lock_of"]

_locks: WeakKeyDictionary[QdrantClient, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


def is_local(client: QdrantClient | AsyncQdrantClient) -> bool:
    """Say whether the client computes by itself (`:memory:` or `path=`) instead of asking a server."""
    options = client.init_options
    return options.get("location") == ":memory:" or options.get("path") is not None


def lock_of(client: QdrantClient) -> AbstractContextManager[object]:
    """Return what every call of this client must hold: one lock a local client, nothing for a server.

    Local mode is not thread-safe: four threads on one client lose points. All stores on one client share its lock.
    """
    if not is_local(client):
        return nullcontext()
    with _guard:
        return _locks.setdefault(client, threading.RLock())
