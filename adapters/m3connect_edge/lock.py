"""One owner a folder, told before the library touches it.

A second `EdgeShard.load` of a live shard is refused, but damages the first one: from then on its every flush fails
(qdrant-edge-py 0.9). So the library is never asked before this lock is held. It dies with its process.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from m3connect.errors import M3ConnectError

__all__ = ["LOCK", "OWNER", "FolderLock"]

LOCK = "m3connect.lock"
OWNER = "m3connect.pid"
"""The owner's process id, for messages alone; filelock empties its own file."""


class FolderLock:
    """The right to use a folder, held from construction to `release`.

    Raises:
        M3ConnectError: somebody has it, with the number of the process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Not thread-local: whoever closes the store may be another thread than the one that opened it.
        self._lock = FileLock(path / LOCK, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise M3ConnectError(
                f"the folder {str(path)!r} is in use by {_owner(path)}. Only one EdgeStore at a time can have it "
                "open: close() that one, or share it between threads"
            ) from error
        (path / OWNER).write_text(str(os.getpid()), encoding="ascii")

    def release(self, *, remove: bool = False) -> None:
        """Let others have the folder; `remove` takes away the lock's own files."""
        for name in (OWNER, LOCK) if remove else ():
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                (self._path / name).unlink()
        self._lock.release()


def _owner(path: Path) -> str:
    try:
        pid = (path / OWNER).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        pid = ""
    if pid == str(os.getpid()):
        return "this process, through another EdgeStore"
    return f"process {pid}" if pid else "another process"
