"""M3 hybrid collections in a folder, searched by Qdrant's own engine inside this process (Qdrant Edge).

from m3connect_edge import EdgeStore
with EdgeStore("my-folder", dim=1024) as store: ...
"""

from __future__ import annotations

try:
    import filelock  # noqa: F401  # here, so that their absence is told once and says what to install
    import qdrant_edge  # noqa: F401  # likewise
except ImportError as error:
    raise ImportError('m3connect_edge needs qdrant-edge-py: pip install "m3connect[qdrant-edge]"') from error

from m3connect_edge.store import EdgeStore

__all__ = ["EdgeStore"]
