"""Milvus for m3connect: hybrid collections on a Milvus server or in a Milvus Lite file."""

from __future__ import annotations

try:
    import pymilvus  # noqa: F401  # asked here, once, so that its absence has one message
except ModuleNotFoundError as error:
    raise ImportError('m3connect_milvus needs pymilvus: pip install "m3connect[milvus]"') from error

from m3connect.foreign import ForeignLayout
from m3connect_milvus.layouts import LAYOUTS
from m3connect_milvus.settings import PROFILES, MilvusSettings
from m3connect_milvus.store import AsyncMilvusStore, MilvusStore

__all__ = ["LAYOUTS", "PROFILES", "AsyncMilvusStore", "ForeignLayout", "MilvusSettings", "MilvusStore"]
