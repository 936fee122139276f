"""Threads that compute one thing together: those of OpenMP that PyTorch keeps for its own operations.

They wait for each other in less than a microsecond, as for a moment they do not sleep.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from llvmlite import binding
from numba.core import types

__all__ = ["has_teams", "place_in_team", "run_in_team", "size_of_team", "wait_for_team"]

wait_for_team = types.ExternalFunction("m3connect_wait", types.void())
"""In a compiled function that a team runs: wait until all others are here."""

place_in_team = types.ExternalFunction("m3connect_place", types.int32())
"""There: this thread's number, from 0 on."""

size_of_team = types.ExternalFunction("m3connect_size", types.int32())
"""There: how many threads there are."""

_OPENMP = {
    "m3connect_wait": "GOMP_barrier",
    "m3connect_place": "omp_get_thread_num",
    "m3connect_size": "omp_get_num_threads",
}

_Alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def has_teams() -> bool:
    """Whether PyTorch brought an OpenMP with the entries of GNU's, as its builds for Linux do."""
    return _start_team is not None


def run_in_team(function: int, data: int, threads: int) -> None:
    """Have threads run a compiled function together, and wait for them; other Python threads go on.

    Args:
        function: the address of a function that takes one pointer.
        data: that pointer.
        threads: how many at most, the calling one among them; where there are no teams, it works alone. Only in a team
            may the function ask for it.
    """
    if threads > 1 and _start_team is not None:
        _start_team(function, data, threads, 0)
    else:
        _Alone(function)(data)


def _find_openmp() -> Callable[[int, int, int, int], None] | None:
    """Return the function that starts a team, or None; and tell the compiler where those are that a team calls."""
    folder = Path(torch.__file__).parent / "lib"
    try:
        library = ctypes.CDLL(str(folder / "libtorch_cpu.so"))  # it is loaded already, and OpenMP with it
        functions = {name: getattr(library, theirs) for name, theirs in _OPENMP.items()}
        start = library.GOMP_parallel
        start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    except (OSError, AttributeError):
        start, functions = None, dict.fromkeys(_OPENMP, ctypes.pythonapi.Py_IsInitialized)  # named, but not called
    for name, function in functions.items():
        binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value or 0)
    return start


_start_team = _find_openmp()
