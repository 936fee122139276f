"""M3-Embedding for vector databases and frameworks: three views of a text from one forward pass.

Importing this package loads numpy and nothing heavier; torch comes with the first use of `M3Encoder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from m3connect._version import __version__
from m3connect.awaiting import ThreadedStore
from m3connect.base import AsyncStore
from m3connect.embeddings import M3Embeddings, SparseRows
from m3connect.fusion import RRF, Dense, Sparse, Weighted
from m3connect.ingestion import IngestReport, ingest
from m3connect.memory import MemoryStore
from m3connect.pool import EncoderPool
from m3connect.retrieval import HybridRetriever
from m3connect.store import AsyncHybridStore, Document, Encoder, Hit, HybridStore

if TYPE_CHECKING:
    from m3connect.encoder import M3Encoder

__all__ = [
    "RRF",
    "AsyncHybridStore",
    "AsyncStore",
    "Dense",
    "Document",
    "Encoder",
    "EncoderPool",
    "Hit",
    "HybridRetriever",
    "HybridStore",
    "IngestReport",
    "M3Embeddings",
    "M3Encoder",
    "MemoryStore",
    "Sparse",
    "SparseRows",
    "ThreadedStore",
    "Weighted",
    "__version__",
    "ingest",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # what it returns depends on the name
    if name == "M3Encoder":
        from m3connect.encoder import M3Encoder

        return M3Encoder
    if name == "TokenStore":  # not in __all__: it needs the extra `rerank`
        from m3connect.token_store import TokenStore

        return TokenStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
