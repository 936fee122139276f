"""The bytes of a token store: how documents are named, what an entry holds, and how a store was made."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from m3connect.errors import CollectionMismatchError
from m3connect.store import Document
from m3connect.token_rows import Encoding, TokenRows, encode_rows, row_bytes

__all__ = [
    "SETTINGS_KEY",
    "Settings",
    "content_of",
    "entry_bytes",
    "head_of",
    "is_of",
    "is_whole",
    "key_of",
    "to_entries",
    "to_rows",
]

SETTINGS_KEY = b"m3connect token store"
"""The one key that is no document's: those have 16 bytes."""

_FORMAT = 1

_CONTENT_BYTES = 16

_HEAD = struct.Struct(f"<{_CONTENT_BYTES}sfI")
"""What an entry begins with: content fingerprint, scale, number of rows. The codes of the rows follow."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a store was made, and what it holds."""

    encoding: Encoding = "int8"
    pooling: int = 1
    dim: int | None = None
    """None until something is stored."""

    fingerprint: str | None = None
    """The encoder's; None until one has one."""

    def to_dict(self) -> dict[str, Any]:
        """Return them as they are stored, in plain values."""
        return {"format": _FORMAT, **asdict(self)}

    def to_bytes(self) -> bytes:
        """Return them as they are stored, in JSON."""
        return json.dumps(self.to_dict()).encode()

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Settings:
        """Read what `to_dict` made.

        Raises:
            CollectionMismatchError: another version of m3connect made it.
        """
        known = dict(stored)
        if known.pop("format") != _FORMAT:
            raise CollectionMismatchError(
                "this token store was filled by a version of m3connect that keeps it otherwise: fill a new one"
            )
        return cls(**known)

    @classmethod
    def from_bytes(cls, stored: bytes | memoryview) -> Settings:
        """Read what `to_bytes` made; errors as for `from_dict`."""
        return cls.from_dict(json.loads(bytes(stored)))


def key_of(name: str) -> bytes:
    """Return the key of a document, 16 bytes; LMDB's have at most 511, ids any number."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def content_of(document: Document, fingerprint: str | None) -> bytes:
    """Return the fingerprint of an entry: of this text, read by the encoder of this fingerprint."""
    content = json.dumps([fingerprint, document.text]).encode()
    return hashlib.blake2b(content, digest_size=_CONTENT_BYTES).digest()


def head_of(entry: bytes | memoryview) -> bytes:
    """Return the content fingerprint that an entry begins with."""
    return bytes(entry[:_CONTENT_BYTES])


def entry_bytes(rows: int, dim: int, encoding: Encoding) -> int:
    """Return the bytes of an entry.

    Example:
        >>> entry_bytes(120, 1024, "int8") - 120 * 1024
        24
    """
    return _HEAD.size + rows * row_bytes(dim, encoding)


def is_of(entry: bytes | memoryview, content: bytes) -> bool:
    """Say whether an entry has this content fingerprint."""
    return entry[: len(content)] == content


def is_whole(entry: bytes | memoryview, settings: Settings) -> bool:
    """Say whether an entry has as many bytes as its rows take in this encoding and dimension; if not, it is of others.

    Example:
        >>> rows = encode_rows([np.eye(2, dtype=np.float32)], "int8")
        >>> (entry,) = to_entries(rows, [bytes(16)])
        >>> is_whole(entry, Settings("int8", dim=2)), is_whole(entry, Settings("float16", dim=2))
        (True, False)
    """
    if settings.dim is None or len(entry) < _HEAD.size:
        return False
    _, _, count = _HEAD.unpack_from(entry)
    return len(entry) == entry_bytes(count, settings.dim, settings.encoding)


def to_entries(rows: TokenRows, contents: Sequence[bytes]) -> list[bytes]:
    """Return what is stored of each document."""
    codes = np.split(rows.codes, np.cumsum(rows.lengths)[:-1])
    parts = zip(contents, rows.scales.tolist(), rows.lengths.tolist(), codes, strict=True)
    return [_HEAD.pack(content, scale, count) + part.tobytes() for content, scale, count, part in parts]


def to_rows(entries: Sequence[bytes | memoryview], settings: Settings) -> TokenRows:
    """Copy entries, all of them whole, into one array."""
    heads = [_HEAD.unpack_from(entry) for entry in entries]
    rows = encode_rows([], settings.encoding, dim=settings.dim or 0)
    width, dtype = rows.codes.shape[1], rows.codes.dtype
    codes = np.empty((sum(count for _, _, count in heads), width), dtype)
    start = 0
    for (_, _, count), entry in zip(heads, entries, strict=True):
        codes[start : start + count] = np.frombuffer(entry, dtype, offset=_HEAD.size).reshape(count, width)
        start += count
    lengths = np.array([count for _, _, count in heads], np.int64)
    return TokenRows(rows.encoding, rows.dim, codes, lengths, np.array([scale for _, scale, _ in heads], np.float32))
