"""One LMDB database, for threads and processes at once: transactions, a map that grows by itself, and clear errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from m3connect.errors import CollectionNotFoundError, M3ConnectError

try:
    import lmdb
except ImportError as error:
    raise ImportError("token stores need LMDB: pip install 'm3connect[rerank]'") from error

__all__ = ["TokenFile"]

_T = TypeVar("_T")

_FIRST_MAP = 2**30
"""Bytes of address space; the file has only what was written."""

_READERS = 1024
"""Transactions that may read at a time, in all processes together."""


class TokenFile:
    """An open LMDB environment.

    Args:
        path: its folder, made where it is not there.
        readonly: never write; the folder must be there.

    Raises:
        CollectionNotFoundError: nothing is there to be read.
        M3ConnectError: the place cannot be used: it is no folder, may not be written to, holds something else, or is
            open in this process already.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False) -> None:
        self.path = Path(path)
        self.readonly = readonly
        self._gate = _Gate()
        self._process = os.getpid()
        if readonly and not (self.path / "data.mdb").is_file():
            raise CollectionNotFoundError(
                f"there is no token store at {self.path}: fill one with ingest(..., token_store=TokenStore(path)), or "
                "correct the path"
            )
        try:
            if not readonly:
                self.path.mkdir(parents=True, exist_ok=True)
            self._environment: lmdb.Environment | None = lmdb.open(
                str(self.path), map_size=_FIRST_MAP, max_readers=_READERS, readonly=readonly
            )
            self._environment.reader_check()  # frees what killed processes held
        except (OSError, lmdb.Error) as error:
            raise M3ConnectError(f"cannot open a token store at {self.path}: {_remedy(error)}") from error

    def read(self, work: Callable[[lmdb.Transaction], _T]) -> _T:
        """Run a function on one state of the database; it must copy what it keeps, and may be run again."""
        return self._run(work, write=False)

    def write(self, work: Callable[[lmdb.Transaction], _T]) -> _T:
        """Run a function whose changes all become durable together, or none of them; it may be run again.

        Waits for other writers, those of other processes included.

        Raises:
            ValueError: the file was opened to be read.
        """
        self.check_writable()
        return self._run(work, write=True)

    def check_writable(self) -> None:
        """Raise a ValueError where the file was opened to be read."""
        if self.readonly:
            raise ValueError(f"the token store at {self.path} was opened with readonly=True: open it without to write")

    def used_bytes(self) -> int:
        """Return the bytes of the pages that hold something."""
        stat = self._run(lambda transaction: transaction.stat(), write=False)
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages * stat["psize"])

    def close(self) -> None:
        """Close it when what is under way is done; again changes nothing."""
        with self._gate.alone():
            if self._environment is not None and os.getpid() == self._process:
                self._environment.close()
            self._environment = None

    def _run(self, work: Callable[[lmdb.Transaction], _T], *, write: bool) -> _T:
        while True:
            size = 0
            try:
                with self._gate.shared():
                    environment = self._require_open()
                    size = environment.info()["map_size"]
                    with environment.begin(write=write, buffers=True) as transaction:
                        return work(transaction)
            except lmdb.MapFullError:
                self._resize(size, 2 * size)
            except lmdb.MapResizedError:
                self._resize(size, 0)  # another process let it grow: take its size
            except lmdb.Error as error:
                raise M3ConnectError(f"the token store at {self.path} failed: {error}") from error

    def _resize(self, seen: int, size: int) -> None:
        """Change the size of the map, unless another thread did; a map must not move under a transaction."""
        with self._gate.alone():
            environment = self._require_open()
            if environment.info()["map_size"] != seen:
                return
            try:
                environment.set_mapsize(size)
            except (lmdb.Error, OSError) as error:
                raise M3ConnectError(f"the token store at {self.path} cannot grow: {error}") from error

    def _require_open(self) -> lmdb.Environment:
        if self._environment is None:
            raise M3ConnectError(f"the token store at {self.path} is closed: open a new one")
        if os.getpid() != self._process:
            raise M3ConnectError(
                f"the token store at {self.path} was opened before this process was forked: open one in each process"
            )
        return self._environment


class _Gate:
    """Many may be inside at a time, or one alone, who goes before those that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._inside)
                yield
            finally:
                self._waiting -= 1
                self._changed.notify_all()


def _remedy(error: Exception) -> str:
    if "already open in this process" in str(error):
        return "it is open in this process already; share that TokenStore, which all threads may use"
    if isinstance(error, lmdb.InvalidError | lmdb.VersionMismatchError | lmdb.CorruptedError):
        return f"what is there is no token store ({error}); choose another folder"
    return f"{error}; choose a folder that can be written to, or readonly=True for one that was filled"
