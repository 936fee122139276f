"""Functions that are compiled with their types, and kept on disk for the next process."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable
from hashlib import sha256
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

from numba.core.compiler_lock import global_compiler_lock

from m3connect.compiling import functions, tiles, vectors

__all__ = ["compile_and_keep", "compiling", "fingerprint"]

logger = logging.getLogger(__name__)

compiling = global_compiler_lock
"""Hold this to look whether something is compiled and to compile it: then threads that want the same do it once."""

if hasattr(os, "register_at_fork"):  # not on Windows; a child would wait for ever for a thread that it does not have
    os.register_at_fork(before=compiling.acquire, after_in_parent=compiling.release, after_in_child=compiling.release)


def compile_and_keep(function: Any, compile_it: Callable[..., Any], *sources: ModuleType) -> Any:
    """Compile a function, or read what was compiled; what comes out is kept on disk if that can be.

    Args:
        function: its name is changed.
        compile_it: numba's `cfunc` or `njit` with types and options but for `cache`, as it is given that.
        sources: modules that the function uses, beside its own and those of this package.

    Returns:
        What `compile_it` makes of the function.
    """
    try:
        function.__qualname__ = f"{function.__name__}_{fingerprint(*sources)}"
        return compile_it(cache=True)(function)
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        logger.warning(
            "what numba compiled cannot be kept, or read again, and will be compiled anew each time: %s. Name a folder "
            "of yours in NUMBA_CACHE_DIR, or delete what lies there",
            error,
        )
        return compile_it()(function)


def fingerprint(*sources: ModuleType) -> str:
    """Name the sources of all that is compiled: numba keeps it under this name, and looks at the function's file alone.

    Raises:
        OSError: there are no sources.
    """
    return sha256("".join(map(inspect.getsource, (functions, tiles, vectors, *sources))).encode()).hexdigest()[:12]
