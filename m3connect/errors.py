"""What can go wrong in the world around m3connect.

A caller's mistake is a `ValueError`; a missing library is an `ImportError` that names the extra to install. What is
neither lies in the family of `M3ConnectError`.
"""

__all__ = [
    "CheckpointError",
    "CollectionMismatchError",
    "CollectionNotFoundError",
    "DocumentNotFoundError",
    "FilterTooBroadError",
    "M3ConnectError",
]


class M3ConnectError(Exception):
    """The base of every error that is not a caller's mistake."""


class CheckpointError(M3ConnectError):
    """A model folder lacks a file, a head or a tensor, or holds one of the wrong shape."""


class CollectionMismatchError(M3ConnectError, ValueError):
    """A collection was made for another model, dimension or layout than the one at hand."""


class CollectionNotFoundError(M3ConnectError, ValueError):
    """There is no collection of this name, and none may be made."""


class DocumentNotFoundError(M3ConnectError, KeyError):
    """An id that was asked for by name is not in the store."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class FilterTooBroadError(M3ConnectError):
    """A filter that the database cannot express leaves more documents than we are ready to read one by one."""
