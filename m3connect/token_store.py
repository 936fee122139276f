"""`TokenStore`: the token vectors of documents on disk, for reranking without encoding again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.errors import CollectionMismatchError
from m3connect.store import Document, check_count, check_fingerprint, check_ids
from m3connect.token_entries import SETTINGS_KEY, Settings, content_of, is_of, key_of, to_entries, to_rows
from m3connect.token_file import TokenFile
from m3connect.token_rows import ENCODINGS, Encoding, NamedRows, TokenRows, encode_rows, pool_rows

if TYPE_CHECKING:
    from lmdb import Transaction

__all__ = ["TokenStore", "TokenStoreStats"]


@dataclass(frozen=True, slots=True)
class TokenStoreStats:
    """What can be said about a token store."""

    documents: int
    bytes: int
    """In pages that hold something; the file may have free ones too."""

    encoding: Encoding
    pooling: int
    dim: int | None
    """None until something is stored."""

    fingerprint: str | None


class TokenStore:
    """The token vectors of documents in an LMDB folder: filled by `ingest`, read by `HybridRetriever`.

    An entry belongs to a document's id, its text and the encoder: after a change of any of them it counts as absent, is
    made again where it is needed, and takes the old one's place. Threads may share one `TokenStore`; several processes
    may open the folder, and one writes at a time while all others read. What `put` returned from outlives `kill -9`.

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
        if encoding is not None and encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, but is {encoding!r}")
        if pooling is not None:
            check_count("pooling", pooling)
        self._file = TokenFile(path, readonly=readonly)
        try:
            settings = self._file.read(self._found)
            if settings is None and not readonly:
                settings = self._file.write(lambda transaction: self._made(transaction, encoding, pooling))
            self._check(settings, encoding, pooling)
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

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the encoder that filled it; None until one has."""
        return self._file.read(_settings).fingerprint

    def stats(self) -> TokenStoreStats:
        """Say how much is stored, and how."""
        settings = self._file.read(_settings)
        told = settings.encoding, settings.pooling, settings.dim, settings.fingerprint
        return TokenStoreStats(len(self), self._file.used_bytes(), *told)

    def __len__(self) -> int:
        return self._file.read(lambda transaction: int(transaction.stat()["entries"])) - 1

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}, encoding={self._encoding!r}, pooling={self._pooling})"

    def put(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store the token vectors of documents, all or none; what was stored under their ids is replaced.

        Args:
            documents: n documents; of several with one id the last stays.
            embeddings: n rows with token vectors; no text is too long.

        Raises:
            ValueError: there are no token vectors, not as many as documents, or not only finite numbers.
            CollectionMismatchError: they come from another encoder, or have another dimension, than those stored.
        """
        matrices = embeddings.require_multi_vector()
        if len(documents) != len(matrices):
            raise ValueError(f"{len(documents)} documents came with {len(matrices)} rows of embeddings: give one each")
        ids = check_ids(document.id for document in documents)
        for name, matrix in zip(ids, matrices, strict=True):
            if not np.isfinite(matrix).all():
                raise ValueError(f"the token vectors of document {name!r} have a value that is not finite")
        if documents:
            self.put_rows(documents, self.encode(matrices), fingerprint=embeddings.fingerprint)

    def put_rows(self, documents: Sequence[Document], rows: TokenRows, *, fingerprint: str | None) -> None:
        """Store what `encode` made; see `put`."""

        def write(transaction: Transaction) -> None:
            settings = _settings(transaction)
            self._check_model(settings, fingerprint, rows.dim)
            known = replace(settings, dim=rows.dim, fingerprint=settings.fingerprint or fingerprint)
            if known != settings:
                transaction.put(SETTINGS_KEY, known.to_bytes())
            contents = [content_of(document, known.fingerprint) for document in documents]
            for document, entry in zip(documents, to_entries(rows, contents), strict=True):
                transaction.put(key_of(document.id), entry)

        self._file.write(write)

    def encode(self, matrices: Sequence[FloatArray]) -> TokenRows:
        """Return what would be stored of token vectors, pooled and encoded.

        Args:
            matrices: n arrays [t_i, d] of unit rows, at least one of them.
        """
        return encode_rows([pool_rows(matrix, self._pooling) for matrix in matrices], self._encoding)

    def get(self, documents: Sequence[Document], *, fingerprint: str | None = None) -> NamedRows:
        """Read the token vectors of documents, as they are stored.

        Args:
            documents: whose; those of another text than the stored one are left out, as are those that are not there.
            fingerprint: of the encoder that they must come from; None means the one that filled the store.

        Raises:
            CollectionMismatchError: another encoder filled it.
        """

        def read(transaction: Transaction) -> NamedRows:
            settings = _settings(transaction)
            found = self._entries(transaction, settings, documents, fingerprint)
            return NamedRows({name: i for i, name in enumerate(found)}, to_rows(list(found.values()), settings))

        return self._file.read(read)

    def missing(self, documents: Sequence[Document], *, fingerprint: str | None = None) -> list[Document]:
        """Return those documents that `get` would leave out."""

        def read(transaction: Transaction) -> list[Document]:
            found = self._entries(transaction, _settings(transaction), documents, fingerprint)
            return [document for document in documents if document.id not in found]

        return self._file.read(read)

    def check_writable(self, fingerprint: str | None) -> None:
        """Refuse what `put` would refuse of every batch of an encoder.

        Raises:
            ValueError: the store is read-only.
            CollectionMismatchError: another encoder filled it.
        """
        self._file.check_writable()
        check_fingerprint(self.fingerprint, fingerprint, name=str(self.path))

    def delete(self, ids: Iterable[str]) -> None:
        """Remove entries, where they are; deleting a document from its store does not."""
        keys = [key_of(name) for name in check_ids(ids)]
        self._file.write(lambda transaction: [transaction.delete(key) for key in keys])

    def close(self) -> None:
        """Close the folder when what is under way is done."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _entries(
        self, transaction: Transaction, settings: Settings, documents: Sequence[Document], fingerprint: str | None
    ) -> dict[str, bytes | memoryview]:
        """Find the entries of documents that are not stale, by id; they live as long as the transaction."""
        check_fingerprint(settings.fingerprint, fingerprint, name=str(self.path))
        found = {}
        for document in documents:
            entry = transaction.get(key_of(document.id))
            if entry is not None and is_of(entry, content_of(document, fingerprint or settings.fingerprint)):
                found[document.id] = entry
        return found

    def _found(self, transaction: Transaction) -> Settings | None:
        if transaction.get(SETTINGS_KEY) is not None:
            return _settings(transaction)
        if transaction.stat()["entries"]:
            raise CollectionMismatchError(f"{self.path} holds a database of something else: choose another folder")
        return None

    def _made(self, transaction: Transaction, encoding: Encoding | None, pooling: int | None) -> Settings:
        if transaction.get(SETTINGS_KEY) is None:  # or another process was faster
            transaction.put(SETTINGS_KEY, Settings(encoding or "int8", pooling or 1).to_bytes())
        return _settings(transaction)

    def _check(self, settings: Settings | None, encoding: Encoding | None, pooling: int | None) -> None:
        settings = settings or Settings(encoding or "int8", pooling or 1)  # nothing was ever written
        made, asked = (settings.encoding, settings.pooling), (encoding, pooling)
        if any(given not in (None, kept) for given, kept in zip(asked, made, strict=True)):
            raise CollectionMismatchError(
                f"the token store at {self.path} was made with encoding={made[0]!r} and pooling={made[1]}, and that "
                "stays: leave these arguments out, or fill another folder"
            )
        self._encoding, self._pooling = made

    def _check_model(self, settings: Settings, fingerprint: str | None, dim: int) -> None:
        check_fingerprint(settings.fingerprint, fingerprint, name=str(self.path))
        if settings.dim not in (None, dim):
            raise CollectionMismatchError(
                f"the token store at {self.path} holds vectors of dimension {settings.dim}, but these have {dim}: use "
                "the encoder that filled it, or another folder"
            )


def _settings(transaction: Transaction) -> Settings:
    stored = transaction.get(SETTINGS_KEY)
    return Settings() if stored is None else Settings.from_bytes(stored)
