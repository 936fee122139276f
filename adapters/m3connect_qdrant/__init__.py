"""M3 hybrid collections in Qdrant, on a server or in qdrant-client's local mode.

from qdrant_client import QdrantClient
from m3connect_qdrant import QdrantStore
store = QdrantStore(QdrantClient(path="my-folder"), "docs", dim=1024)
"""

from __future__ import annotations

try:
    import qdrant_client  # noqa: F401  # here, so that its absence is told once and says what to install
except ImportError as error:
    raise ImportError('m3connect_qdrant needs qdrant-client: pip install "m3connect[qdrant]"') from error

from m3connect.foreign import ForeignLayout
from m3connect_qdrant.layouts import LAYOUTS
from m3connect_qdrant.settings import PROFILES, QdrantSettings, VectorSettings
from m3connect_qdrant.store import AsyncQdrantStore, QdrantStore
from m3connect_qdrant.tokens import QdrantTokenStore

__all__ = [
    "LAYOUTS",
    "PROFILES",
    "AsyncQdrantStore",
    "ForeignLayout",
    "QdrantSettings",
    "QdrantStore",
    "QdrantTokenStore",
    "VectorSettings",
]
