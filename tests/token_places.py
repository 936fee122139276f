"""Places where token stores are, for tests of what all of them do alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from support import require

from m3connect import Document, M3Embeddings
from m3connect.testing import FakeEncoder
from m3connect.token_base import TokenStoreBase
from m3connect.token_rows import Encoding

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

TEXTS = {"a": "a red apple on the old table", "b": "the deep blue sea", "empty": ""}
DOCUMENTS = [Document(name, text) for name, text in TEXTS.items()]


class Folder:
    """An LMDB folder."""

    def __init__(self, path: Path) -> None:
        pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")
        self.path = path

    @contextmanager
    def open(
        self, *, encoding: Encoding | None = None, pooling: int | None = None, readonly: bool = False
    ) -> Iterator[TokenStoreBase]:
        from m3connect.token_store import TokenStore

        with TokenStore(self.path, encoding=encoding, pooling=pooling, readonly=readonly) as tokens:
            yield tokens


class Collection:
    """A Qdrant collection; in local mode where no client is given."""

    def __init__(self, client: QdrantClient | None = None) -> None:
        require("m3connect_qdrant", "qdrant_client", extra="qdrant")
        from qdrant_client import QdrantClient

        self.client = client or QdrantClient(":memory:")

    @contextmanager
    def open(
        self, *, encoding: Encoding | None = None, pooling: int | None = None, readonly: bool = False
    ) -> Iterator[TokenStoreBase]:
        from m3connect_qdrant import QdrantTokenStore

        yield QdrantTokenStore(self.client, "docs-tokens", encoding=encoding, pooling=pooling, readonly=readonly)


Place: TypeAlias = Folder | Collection
"""Opens one token store, again and again."""


def make_place(kind: str, folder: Path) -> Place:
    return Folder(folder / "new" / "tokens") if kind == "folder" else Collection()


def encoded(documents: list[Document], *, dim: int = 16, fingerprint: str | None = "fake-encoder") -> M3Embeddings:
    texts = [document.text for document in documents]
    return FakeEncoder(dim, fingerprint=fingerprint).encode(texts, multi_vector=True)
