"""One folder with one shard: its lock, its marker, and every call to the library."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from qdrant_edge import CountRequest, EdgeShard, PayloadSchemaType, UpdateOperation

from m3connect.errors import CollectionMismatchError, M3ConnectError
from m3connect.flows import Call
from m3connect.store import check_fingerprint
from m3connect_edge import schema
from m3connect_edge.convert import FILTER_TOKENS
from m3connect_edge.filters import foreign_points, number_fields
from m3connect_edge.lock import LOCK, OWNER, FolderLock

__all__ = ["Folder", "Wanted", "open_folder"]

_MARKER = "m3connect.json"
_SHARD = "shard"
_MAKING = "shard.making"
_DROPPED = "shard.dropped"
_OURS = {_MARKER, "m3connect.new", _SHARD, _MAKING, _DROPPED, LOCK, OWNER}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a folder is expected to hold, or made with."""

    dim: int | None
    create: bool
    multi_vector: bool | None
    adopt: str | None
    number_keys: Sequence[str]
    """Metadata keys that get an index to order by."""


def open_folder(path: Path, wanted: Wanted) -> Folder:
    """Open a folder, making the collection where it is not there and may be.

    Raises:
        M3ConnectError: another store has the folder open; the library has not been asked then.
        CollectionNotFoundError: there is no collection, and none may be made; nothing was written.
        CollectionMismatchError: the folder holds another layout, or what m3connect did not make.
    """
    if not (path / _SHARD).is_dir():
        schema.creatable_dim(path, wanted.dim, create=wanted.create)
        _require_empty(path)
        path.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(path)
    try:
        if not (path / _SHARD).is_dir():
            _make(path, wanted)
        shutil.rmtree(path / _DROPPED, ignore_errors=True)
        marker, marked = _marker_of(path, wanted.adopt)
        schema.check_marker(path, marker, dim=wanted.dim, multi_vector=wanted.multi_vector)
        check_fingerprint(marker.fingerprint, wanted.adopt, name=str(path))
        folder = Folder(path, lock, marker)
    except BaseException:
        lock.release()
        raise
    try:
        if not marked:
            folder.check_points()
        folder.index([FILTER_TOKENS], PayloadSchemaType.Keyword)
        folder.index([name for key in wanted.number_keys for name in number_fields(key)], PayloadSchemaType.Float)
        if not marked or (wanted.adopt is not None and marker.fingerprint is None):
            folder.write_fingerprint(wanted.adopt)
    except BaseException:
        folder.close()
        raise
    return folder


class Folder:
    """An open folder, ours alone until `close`; every call may come from any thread.

    Args:
        path: of the folder.
        lock: held.
        marker: what the folder holds.
    """

    def __init__(self, path: Path, lock: FolderLock, marker: schema.Marker) -> None:
        self.path = path
        self.marker = marker
        self._lock = lock
        self._guard = threading.Lock()
        self._process = os.getpid()
        self._shard: EdgeShard | None = _translated(path, lambda: EdgeShard.load(str(path / _SHARD)))

    def perform(self, call: Call) -> Any:  # noqa: ANN401  # the library's answer
        """Do a call of the marker's or the folder's, or pass it on to the shard."""
        methods: dict[str, Callable[..., Any]] = {
            "read_fingerprint": self.read_fingerprint,
            "write_fingerprint": self.write_fingerprint,
            "drop": self.drop,
        }
        own = methods.get(call.method)
        return self.ask(call.method, **call.arguments) if own is None else own(**call.arguments)

    def ask(self, method: str, **arguments: Any) -> Any:  # noqa: ANN401  # by method
        """Call the shard."""
        shard = self._open_shard()
        return _translated(self.path, lambda: getattr(shard, method)(**arguments))

    def index(self, fields: Sequence[str], kind: PayloadSchemaType) -> None:
        """Index payload fields that have no index yet; without one a filter reads every document."""
        known = self.ask("info").payload_schema if fields else {}
        for field in fields:
            if field not in known:
                self.ask("update", operation=UpdateOperation.create_field_index(field, kind))

    def check_points(self) -> None:
        """Refuse to adopt a shard with points that are not as ours are."""
        foreign = self.ask("count", count=CountRequest(exact=True, filter=foreign_points()))
        if foreign:
            raise CollectionMismatchError(
                f"the shard in {str(self.path)!r} cannot be adopted: {foreign} of its points lack the id, text or "
                "fingerprint that m3connect keeps in the payload. Index the documents into a new folder"
            )

    def read_fingerprint(self) -> str | None:
        """Return the fingerprint in the marker."""
        self._open_shard()
        return self.marker.fingerprint

    def write_fingerprint(self, fingerprint: str | None) -> None:
        """Put the fingerprint into the marker; of two writers with different ones the later is refused."""
        with self._guard:
            self._open_shard()
            check_fingerprint(self.marker.fingerprint, fingerprint, name=str(self.path))
            self.marker = replace(self.marker, fingerprint=fingerprint)
            schema.write_marker(self.path / _MARKER, self.marker)

    def close(self) -> None:
        """Flush, and let others have the folder; closing twice is no mistake."""
        with self._guard:
            shard, self._shard = self._shard, None
            if shard is None:
                return
            try:
                _translated(self.path, shard.flush)
            finally:
                shard.close()
                self._lock.release()

    def drop(self) -> None:
        """Delete the collection, and the folder if nothing else is in it.

        A process that is killed meanwhile leaves the whole collection or an empty folder.
        """
        with self._guard:
            self._open_shard().close()
            self._shard = None
            (self.path / _SHARD).rename(self.path / _DROPPED)
            (self.path / _MARKER).unlink(missing_ok=True)
            shutil.rmtree(self.path / _DROPPED)
            self._lock.release(remove=True)
            with suppress(OSError):  # somebody else's files are in it
                self.path.rmdir()

    def _open_shard(self) -> EdgeShard:
        if self._shard is None:
            raise M3ConnectError(f"the EdgeStore of {str(self.path)!r} is closed: open a new one")
        if self._process != os.getpid():
            raise M3ConnectError(
                f"the EdgeStore of {str(self.path)!r} belongs to process {self._process}, from which this one was "
                "forked: use it there only, or close it before forking and open it afterwards"
            )
        return self._shard


def _require_empty(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"{str(path)!r} is a file: EdgeStore takes a folder")
    others = sorted({entry.name for entry in path.iterdir()} - _OURS) if path.is_dir() else []
    if others:
        raise CollectionMismatchError(
            f"the folder {str(path)!r} holds no m3connect collection but other files ({', '.join(others[:3])}): give a "
            "new folder"
        )


def _make(path: Path, wanted: Wanted) -> None:
    """Make the shard beside its place and move it there, so that what is there is whole."""
    dim = schema.creatable_dim(path, wanted.dim, create=wanted.create)
    marker = schema.Marker(dim, bool(wanted.multi_vector), wanted.adopt)
    making = path / _MAKING
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    _translated(path, lambda: EdgeShard.create(str(making), schema.config(marker))).close()
    schema.write_marker(path / _MARKER, marker)
    making.rename(path / _SHARD)
    schema.sync_names(path)


def _marker_of(path: Path, adopt: str | None) -> tuple[schema.Marker, bool]:
    """Return the marker, and whether it is there or had to be deduced from the shard."""
    marker = schema.read_marker(path / _MARKER)
    if marker is not None:
        return marker, True
    if adopt is None:
        raise CollectionMismatchError(
            f"the folder {str(path)!r} has a shard but no m3connect marker ({_MARKER}). If m3connect filled it, pass "
            "adopt_fingerprint= with the fingerprint of the encoder that did; if not, give another folder"
        )
    return schema.layout_of(path, path / _SHARD), False


def _translated(path: Path, ask: Callable[[], _T]) -> _T:
    """Give the library's errors, which are bare `Exception`s, a family and the name of the folder."""
    try:
        return ask()
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise M3ConnectError(f"Qdrant Edge, in {str(path)!r}: {error}") from error
