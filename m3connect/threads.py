"""Worker threads that give PyTorch's operations few threads each, while everybody else's keep theirs.

What a thread sets with `torch.set_num_threads` becomes the default of all threads that run their first operation
afterwards. So whoever hires takes that back, and meanwhile nobody else of this package may hire, or ask how many there
are: that is what the lock is for. A thread that runs its first operation at that very moment without asking, as one
that loads a model may, keeps a worker's number: it is slower then, and its results are the same. PyTorch is imported
where it is used, so that importing the package stays light.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial

__all__ = ["hire", "torch_threads"]

_hiring = threading.Lock()

_STARTING_SECONDS = 5.0
"""How long an interrupted thread waits for the worker that it was starting."""


def torch_threads() -> int:
    """Return how many threads PyTorch's operations have in the calling thread."""
    import torch

    with _hiring:  # a thread keeps what it reads first, which must not be a worker's setting
        return torch.get_num_threads()


def hire(
    workers: set[threading.Thread], wanted: int, work: Callable[[], object], *, name: str, torch_threads: int
) -> None:
    """Start the workers that are missing; a thread that ended, or died with a fork, does not count.

    Workers are daemon threads: a program may end while they wait, and they still serve other threads when its main
    thread has returned, unlike those of an executor.

    Args:
        workers: those hired before; the new ones are added. Only one thread may change it at a time, but for this
            function's calls, which wait for each other.
        wanted: how many there shall be.
        work: what each runs, once.
        name: of the threads.
        torch_threads: how many threads PyTorch's operations have in each of them.

    Raises:
        RuntimeError: the system starts no more threads; those that did start are among `workers`.
    """
    import torch

    with _hiring:
        workers.difference_update([worker for worker in workers if not worker.is_alive()])
        if len(workers) >= wanted:
            return
        before = torch.get_num_threads()
        try:
            while len(workers) < wanted:
                ready = threading.Event()
                run = partial(_run, work, torch_threads, ready)
                worker = threading.Thread(target=run, name=name, daemon=True)
                workers.add(worker)  # first, so that it is known after an interrupt too
                _start(worker, ready)
        finally:
            torch.set_num_threads(before)


def _run(work: Callable[[], object], torch_threads: int, ready: threading.Event) -> None:
    import torch

    try:
        torch.get_num_threads()  # without it the first operation would take the process-wide setting again
        torch.set_num_threads(torch_threads)
    finally:
        ready.set()
    work()


def _start(worker: threading.Thread, ready: threading.Event) -> None:
    """Start a worker and wait until it has its number of threads: only then can that be taken back for the others."""
    try:
        worker.start()
        ready.wait()
    except RuntimeError:  # it cannot be started
        raise
    except BaseException:  # an interrupt, but the worker may be there
        ready.wait(_STARTING_SECONDS)
        raise


def _after_fork() -> None:
    """The thread that held the lock is not there any more."""
    global _hiring
    _hiring = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
