"""What all token stores do alike: pooling, encoding, which entry is stale, and what is refused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np

from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.errors import CollectionMismatchError
from m3connect.store import Document, check_count, check_fingerprint, check_ids, raise_problems
from m3connect.token_entries import Settings, content_of, entry_bytes, is_of, is_whole, to_entries, to_rows
from m3connect.token_rows import ENCODINGS, Encoding, NamedRows, TokenRows, encode_rows, pool_rows, pooled_length

__all__ = ["Entry", "Prepared", "TokenStoreBase", "TokenStoreStats", "asked_settings"]

_T = TypeVar("_T")

Entry: TypeAlias = bytes | memoryview
"""What is stored of a document (token_entries.py)."""

Prepared: TypeAlias = tuple[Settings, dict[str, bytes]]
"""Settings and entries, by id, as they shall be stored."""


@dataclass(frozen=True, slots=True)
class TokenStoreStats:
    """What can be said about a token store."""

    documents: int
    bytes: int | None
    """In pages of a file that hold something, of which there may be free ones too; None where a database has it."""

    encoding: Encoding
    pooling: int
    dim: int | None
    """None until something is stored."""

    fingerprint: str | None


class TokenStoreBase(ABC):
    """A token store without the place where its entries are.

    Args:
        place: what the store is called in errors.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._encoding: Encoding = "int8"
        self._pooling = 1

    @property
    @abstractmethod
    def readonly(self) -> bool:
        """Whether `put` and `delete` are refused."""

    @abstractmethod
    def __len__(self) -> int:
        """How many documents have an entry."""

    @abstractmethod
    def _read(
        self, names: Sequence[str], work: Callable[[Settings, Mapping[str, Entry]], _T], *, heads: bool = False
    ) -> _T:
        """Run a function on settings and the entries of documents, which it must copy where it keeps them.

        Args:
            names: whose; those that are not there are left out.
            work: may be run again.
            heads: entries may end after their content fingerprint.
        """

    @abstractmethod
    def _write(self, prepare: Callable[[Settings], Prepared]) -> None:
        """Store what a function makes of the settings that are stored; it may be run again."""

    @abstractmethod
    def _delete(self, names: Sequence[str]) -> None:
        """Remove entries, where they are."""

    @abstractmethod
    def _too_large(self, name: str, size: int) -> str | None:
        """Say why an entry of so many bytes does not go in, and what to do; None where it does."""

    def is_transient(self, error: BaseException) -> bool:
        """Say whether an error may pass by itself, so that trying again makes sense."""
        return False

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the encoder that filled it; None until one has."""
        return self._settings().fingerprint

    def stats(self) -> TokenStoreStats:
        """Say how much is stored, and how."""
        settings = self._settings()
        told = settings.encoding, settings.pooling, settings.dim, settings.fingerprint
        return TokenStoreStats(len(self), self._used_bytes(), *told)

    def put(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store the token vectors of documents; what was stored under their ids is replaced.

        Args:
            documents: n documents; of several with one id the last stays.
            embeddings: n rows with token vectors.

        Raises:
            ValueError: there are no token vectors, not as many as documents, not only finite numbers, or too many
                (`problems`); nothing was written.
            CollectionMismatchError: they come from another encoder, or have another dimension, than those stored.
        """
        check_ids(document.id for document in documents)
        raise_problems(self.problems(documents, embeddings), documents)
        if documents:
            rows = self.encode(embeddings.require_multi_vector())
            self.put_rows(documents, rows, fingerprint=embeddings.fingerprint)

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Say what `put` would refuse: reasons by position, empty where all is well.

        Raises:
            ValueError: there are no token vectors, or not as many as documents.
        """
        matrices = embeddings.require_multi_vector()
        if len(documents) != len(matrices):
            raise ValueError(f"{len(documents)} documents came with {len(matrices)} rows of embeddings: give one each")
        lengths = [pooled_length(len(matrix), self._pooling) for matrix in matrices]
        reasons = self._size_problems(documents, lengths, embeddings.dim)
        finite = (i for i, matrix in enumerate(matrices) if i not in reasons and not np.isfinite(matrix).all())
        return reasons | dict.fromkeys(finite, "its token vectors have a value that is not finite")

    def put_rows(self, documents: Sequence[Document], rows: TokenRows, *, fingerprint: str | None) -> None:
        """Store what `encode` made; see `put`."""
        raise_problems(self._size_problems(documents, rows.lengths.tolist(), rows.dim), documents)

        def prepare(settings: Settings) -> Prepared:
            self._take(settings, rows.encoding, self._pooling)
            self._check_model(settings, fingerprint, rows.dim)
            known = replace(settings, dim=rows.dim, fingerprint=settings.fingerprint or fingerprint)
            entries = to_entries(rows, [content_of(document, known.fingerprint) for document in documents])
            return known, {document.id: entry for document, entry in zip(documents, entries, strict=True)}

        self._write(prepare)

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

        def rows_of(settings: Settings, entries: Mapping[str, Entry]) -> NamedRows:
            fresh = self._fresh(settings, entries, documents, fingerprint)
            found = {name: entry for name, entry in fresh.items() if is_whole(entry, settings)}
            return NamedRows({name: i for i, name in enumerate(found)}, to_rows(list(found.values()), settings))

        return self._read([document.id for document in documents], rows_of)

    def missing(self, documents: Sequence[Document], *, fingerprint: str | None = None) -> list[Document]:
        """Return those documents that have no entry, or one of another text or encoder.

        It reads the beginnings of entries alone. `get` leaves out too what is not whole, as after two programs filled a
        new collection with different settings at the same moment.
        """

        def absent(settings: Settings, entries: Mapping[str, Entry]) -> list[Document]:
            found = self._fresh(settings, entries, documents, fingerprint)
            return [document for document in documents if document.id not in found]

        return self._read([document.id for document in documents], absent, heads=True)

    def check_writable(self, fingerprint: str | None) -> None:
        """Refuse what `put` would refuse of every batch of an encoder.

        Raises:
            ValueError: the store is read-only.
            CollectionMismatchError: another encoder filled it.
        """
        self._check_not_readonly()
        check_fingerprint(self.fingerprint, fingerprint, name=self._place)

    def delete(self, ids: Iterable[str]) -> None:
        """Remove entries, where they are; deleting a document from its store does not."""
        names = check_ids(ids)
        self._check_not_readonly()
        self._delete(names)

    def _used_bytes(self) -> int | None:
        return None

    def _settings(self) -> Settings:
        return self._read([], lambda settings, _: settings)

    def _check_not_readonly(self) -> None:
        if self.readonly:
            raise ValueError(
                f"the token store at {self._place} was opened with readonly=True: open it without to write"
            )

    def _size_problems(self, documents: Sequence[Document], lengths: Sequence[int], dim: int) -> dict[int, str]:
        sizes = [entry_bytes(length, dim, self._encoding) for length in lengths]
        told = {i: self._too_large(document.id, sizes[i]) for i, document in enumerate(documents)}
        return {i: f"it has {lengths[i]} token vectors, {reason}" for i, reason in told.items() if reason is not None}

    def _fresh(
        self,
        settings: Settings,
        entries: Mapping[str, Entry],
        documents: Sequence[Document],
        fingerprint: str | None,
    ) -> dict[str, Entry]:
        """Return the entries of documents that are not stale, by id."""
        check_fingerprint(settings.fingerprint, fingerprint, name=self._place)
        found = {}
        for document in documents:
            entry = entries.get(document.id)
            if entry is not None and is_of(entry, content_of(document, fingerprint or settings.fingerprint)):
                found[document.id] = entry
        return found

    def _take(self, settings: Settings, encoding: Encoding | None, pooling: int | None) -> None:
        """Go by the settings of the store, which those asked for must not contradict."""
        made, asked = (settings.encoding, settings.pooling), (encoding, pooling)
        if any(given not in (None, kept) for given, kept in zip(asked, made, strict=True)):
            raise CollectionMismatchError(
                f"the token store at {self._place} was made with encoding={made[0]!r} and pooling={made[1]}, and that "
                "stays: leave these arguments out, or fill another one"
            )
        self._encoding, self._pooling = made

    def _check_model(self, settings: Settings, fingerprint: str | None, dim: int) -> None:
        check_fingerprint(settings.fingerprint, fingerprint, name=self._place)
        if settings.dim not in (None, dim):
            raise CollectionMismatchError(
                f"the token store at {self._place} holds vectors of dimension {settings.dim}, but these have {dim}: "
                "use the encoder that filled it, or fill another one"
            )


def asked_settings(encoding: Encoding | None, pooling: int | None) -> Settings:
    """Return the settings of a new store; None means int8 and 1.

    Raises:
        ValueError: there is no such encoding or pooling.
    """
    if encoding is not None and encoding not in ENCODINGS:
        raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, but is {encoding!r}")
    if pooling is not None:
        check_count("pooling", pooling)
    return Settings(encoding or "int8", pooling or 1)
