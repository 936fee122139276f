"""What errors say, in the words of the command line: its options instead of Python's arguments."""

from __future__ import annotations

import re

__all__ = ["message_of"]

_IN_OPTIONS = [
    (
        r"If (another )?m3connect filled it, pass adopt_fingerprint= .*; if not, give another (collection name|folder)",
        "Name another --collection",
    ),
    (r"Use another collection name; or, if its rows .*adopt_fingerprint=\S+", "Name another --collection"),
    (r"remove it and open the folder with adopt_fingerprint=", "name another --collection"),
    (r"lower top_k, or pass candidates=\d+", "lower --top-k"),
    (
        r"Use the encoder that filled it, or another collection\b",
        "Use the --model that filled it, or another --collection",
    ),
    (r"(use|give|into) (another|a new) (collection name|collection|folder)\b", r"\1 another --collection"),
]
"""Advice of the library that the command line gives otherwise."""


def message_of(error: Exception) -> str:
    """Return what an error says in one line, without the trappings of Python and of its libraries."""
    message = " ".join(_plain(error).split()) or type(error).__name__
    for pattern, replacement in _IN_OPTIONS:
        message = re.sub(pattern, replacement, message)
    return message


def _plain(error: Exception) -> str:
    module = type(error).__module__.partition(".")[0]
    if module.startswith("pydantic"):
        told: list[dict[str, object]] = getattr(error, "errors", list)()
        return "; ".join(str(one["msg"]).removeprefix("Value error, ") for one in told) or str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(getattr(error, "message", None) or error) if module == "pymilvus" else str(error)
