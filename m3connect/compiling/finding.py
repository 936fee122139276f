"""Whether anything can be compiled here; this module alone can be imported without numba."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from importlib.util import find_spec

__all__ = ["can_compile", "has_compiler"]

logger = logging.getLogger(__name__)


@cache
def can_compile(precision: str) -> bool:
    """Whether products of float32, bfloat16 or int8 can be compiled for this processor; loads numba."""
    if not has_compiler():
        return False
    from m3connect.compiling.tiles import can_multiply

    return can_multiply(precision)


@cache
def has_compiler() -> bool:
    """Whether numba is installed and works; it refuses a newer numpy, for instance."""
    if find_spec("numba") is None:
        return False
    try:
        importlib.import_module("m3connect.compiling.functions")
        return not importlib.import_module("numba").config.DISABLE_JIT
    except (ImportError, OSError) as error:
        logger.warning("numba is not used, and encoding and reranking are slower without it: %s", error)
        return False
