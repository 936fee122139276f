"""`TokenStore`: the token vectors of documents on disk, for reranking without encoding again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from m3connect.errors import CollectionMismatchError
from m3connect.token_base import Entry, Prepared, TokenStoreBase, TokenStoreStats, asked_settings
from m3connect.token_entries import SETTINGS_KEY, Settings, key_of
from m3connect.token_file import TokenFile
from m3connect.token_rows import Encoding

if TYPE_CHECKING:
    from lmdb import Transaction

__all__ = ["TokenStore", "TokenStoreStats"]

_T = TypeVar("_T")

_LARGEST_ENTRY = 2**32 - 1
"""Bytes; LMDB keeps the size of a value in 32 bits."""


class TokenStore(TokenStoreBase):
    """The token vectors of documents in an LMDB folder: filled by `ingest`, read by `HybridRetriever`.

    An entry belongs to a document's id, its text and the encoder: after a change of any of them it counts as absent, is
    made again where it is needed, and takes the old one's place. Threads may share one `TokenStore`; several processes
    may open the folder, and one writes at a time while all others read. A batch goes in whole or not at all, and what
    `put` returned from outlives `kill -9`.

    Args:
        path: the folder, made where it is not there.
        encoding: "float16", "int8" or "1-bit"; fixed when the folder is made. None means the folder's own, int8 for a
            new one.
        pooling: of this many token vectors one is kept (`pool_rows`); fixed likewise, 1 (all) for a new folder.
        readonly: never write; the folder must be there.

    Raises:
        CollectionMismatchError: the folder was made with other settings.
        CollectionNotFoundError: there is nothing, and `readonly` forbids to make it.
        M3ConnectError: the folder cannot be used, or is open in this process already.

    Example:
        >>> import tempfile
        >>> from m3connect import Document
        >>> from m3connect.testing import FakeEncoder
        >>> documents = [Document("a", "red apple"), Document("b", "blue sea")]
        >>> with TokenStore(tempfile.mkdtemp(), encoding="int8") as tokens:
        ...     tokens.put(documents, FakeEncoder().encode(["red apple", "blue sea"], multi_vector=True))
        ...     found = tokens.get([Document("a", "red apple"), Document("b", "green sea")])
        ...     len(tokens), list(found.places)
        (2, ['a'])
    """

    def __init__(
        self, path: str | Path, *, encoding: Encoding | None = None, pooling: int | None = None, readonly: bool = False
    ) -> None:
        asked = asked_settings(encoding, pooling)
        super().__init__(str(path))
        self._file = TokenFile(path, readonly=readonly)
        try:
            settings = self._file.read(self._found)
            if settings is None and not readonly:
                settings = self._file.write(lambda transaction: _made(transaction, asked))
            self._take(settings or asked, encoding, pooling)
        except BaseException:
            self._file.close()
            raise

    @property
    def path(self) -> Path:
        """The folder."""
        return self._file.path

    @property
    def readonly(self) -> bool:
        """Whether `put` and `delete` are refused."""
        return self._file.readonly

    def __len__(self) -> int:
        return self._file.read(lambda transaction: int(transaction.stat()["entries"])) - 1

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}, encoding={self._encoding!r}, pooling={self._pooling})"

    def close(self) -> None:
        """Close the folder when what is under way is done."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read(
        self, names: Sequence[str], work: Callable[[Settings, Mapping[str, Entry]], _T], *, heads: bool = False
    ) -> _T:
        def read(transaction: Transaction) -> _T:
            entries = {name: transaction.get(key_of(name)) for name in names}
            return work(_settings(transaction), {name: one for name, one in entries.items() if one is not None})

        return self._file.read(read)

    def _write(self, prepare: Callable[[Settings], Prepared]) -> None:
        def write(transaction: Transaction) -> None:
            settings = _settings(transaction)
            known, entries = prepare(settings)
            if known != settings:
                transaction.put(SETTINGS_KEY, known.to_bytes())
            for name, entry in entries.items():
                transaction.put(key_of(name), entry)

        self._file.write(write)

    def _delete(self, names: Sequence[str]) -> None:
        keys = [key_of(name) for name in names]
        self._file.write(lambda transaction: [transaction.delete(key) for key in keys])

    def _too_large(self, name: str, size: int) -> str | None:
        if size <= _LARGEST_ENTRY:
            return None
        return f"which take {size / 2**30:.1f} GB, but LMDB takes 4 GB a document: split the text (m3connect.chunking)"

    def _used_bytes(self) -> int:
        return self._file.used_bytes()

    def _found(self, transaction: Transaction) -> Settings | None:
        if transaction.get(SETTINGS_KEY) is not None:
            return _settings(transaction)
        if transaction.stat()["entries"]:
            raise CollectionMismatchError(f"{self.path} holds a database of something else: choose another folder")
        return None


def _made(transaction: Transaction, asked: Settings) -> Settings:
    if transaction.get(SETTINGS_KEY) is None:  # or another process was faster
        transaction.put(SETTINGS_KEY, asked.to_bytes())
    return _settings(transaction)


def _settings(transaction: Transaction) -> Settings:
    stored = transaction.get(SETTINGS_KEY)
    return Settings() if stored is None else Settings.from_bytes(stored)
