"""Products of stored token vectors with a query's, block after block, as PyTorch and numpy compute them.

Rows are copied or decoded into a buffer that stays in the processor's cache; what is stored in 8 bits or in 1 is
multiplied as it is, in integers. PyTorch is imported where it is used, so that importing the package stays light.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from m3connect.embeddings import FloatArray, IntArray
from m3connect.token_rows import TokenRows

__all__ = [
    "Block",
    "MakeMaxima",
    "Matrices",
    "Maxima",
    "find_integer_maxima",
    "float_maxima",
    "torch_with_fast_floats",
    "torch_with_fast_integers",
]

Matrices: TypeAlias = Sequence[FloatArray] | TokenRows

_Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Block:
    """Document tokens that are multiplied at once: those from `start` to `stop` of all, counted from 0."""

    start: int
    stop: int
    documents: slice
    """Which documents have tokens in it; all of them have some."""

    cuts: IntArray
    """Where each of these begins, counted from the block's start; the first may have begun before it."""

    before: int
    """How many tokens the first one has before the block."""

    @property
    def lengths(self) -> IntArray:
        """How many tokens each document has in it."""
        return np.diff(self.cuts, append=self.stop - self.start)


Maxima: TypeAlias = Callable[[Block], _Array]
"""Returns for each document of a block its largest products [k, m] with m query tokens.

It may have a buffer of its own, so each thread needs one.
"""

MakeMaxima: TypeAlias = Callable[[_Array, Matrices], Maxima]
"""Takes query tokens [m, d], float32 or codes of int8, and documents; arrays without tokens are left out."""

_Product: TypeAlias = Callable[[int, int], _Array]
"""Inner products [stop - start, m] of the document tokens from start to stop with m query tokens."""

_STEP = 64
_LANES = 8
"""oneDNN compiles code for each new shape, which takes as long as a product: shapes are rounded up to these."""


# Where rows come from: each function gives a reader that fills an array with the tokens from start to stop.

_Reader: TypeAlias = Callable[[int, int, FloatArray], None]


def _copied(documents: Sequence[FloatArray]) -> _Reader:
    """Copy from arrays of their own; one block after the other, a copy costs less than the reading itself."""
    starts = np.cumsum([0, *map(len, documents)])

    def read(start: int, stop: int, out: FloatArray) -> None:
        place = int(np.searchsorted(starts, start, side="right")) - 1
        while start < stop:
            rows = documents[place][start - starts[place] : stop - starts[place]]
            out[: len(rows)] = rows
            out, start, place = out[len(rows) :], start + len(rows), place + 1

    return read


def _decoded(documents: TokenRows) -> _Reader:
    torch = torch_with_fast_floats() if documents.encoding == "float16" else None

    def read(start: int, stop: int, out: FloatArray) -> None:
        if torch is None:
            documents.numbers(slice(start, stop), out=out)
        else:  # numpy converts halves one by one
            torch.from_numpy(out).copy_(torch.from_numpy(np.require(documents.codes[start:stop], requirements="W")))

    return read


# How rows are multiplied.


def float_maxima(queries: FloatArray, documents: Matrices) -> Maxima:
    """Multiply numbers of any type or encoding as float32."""
    read = _decoded(documents) if isinstance(documents, TokenRows) else _copied(documents)
    return _maxima_of(_float_product(torch_with_fast_floats(), queries, read))


def find_integer_maxima(dim: int) -> MakeMaxima | None:
    """Return what multiplies codes of int8, or of 1-bit as 0 and 1; None where numbers are faster. Loads PyTorch."""
    torch = torch_with_fast_integers() if dim > 1 else None  # of dimension 1, PyTorch 2.13 computes nonsense
    if torch is None:
        return None

    def integer_maxima(queries: _Array, documents: Matrices) -> Maxima:
        if not isinstance(documents, TokenRows):
            raise TypeError(f"codes are multiplied with those of TokenRows, not with {type(documents).__name__}")
        return _maxima_of(_integer_product(torch, queries, documents))

    return integer_maxima


def _maxima_of(product: _Product) -> Maxima:
    return lambda block: np.maximum.reduceat(product(block.start, block.stop), block.cuts, axis=0)


def _float_product(torch: ModuleType | None, queries: FloatArray, read: _Reader) -> _Product:
    buffer = np.zeros((0, queries.shape[1]), np.float32)
    if torch is not None:
        padded = np.zeros((_rounded(len(queries), _LANES), queries.shape[1]), np.float32)
        padded[: len(queries)] = queries
        weight = torch.from_numpy(padded)

    def product(start: int, stop: int) -> _Array:
        nonlocal buffer
        if len(buffer) < stop - start:
            buffer = np.zeros((_rounded(stop - start, _STEP), queries.shape[1]), np.float32)
        read(start, stop, buffer[: stop - start])
        if torch is None:
            return np.asarray(buffer[: stop - start] @ queries.T)
        rows = torch.from_numpy(buffer[: _rounded(stop - start, _STEP)])
        products = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
        return np.asarray(products.numpy()[: stop - start, : len(queries)])

    return product


def _integer_product(torch: ModuleType, queries: npt.NDArray[np.int8], documents: TokenRows) -> _Product:
    weight = torch.from_numpy(np.ascontiguousarray(queries.T))

    def product(start: int, stop: int) -> _Array:
        block = slice(start, stop)
        rows = documents.bits(block) if documents.encoding == "1-bit" else documents.codes[block]
        writable = np.require(rows, requirements=["C", "W"])  # PyTorch warns of others
        return np.asarray(torch._int_mm(torch.from_numpy(writable), weight).numpy())

    return product


def _rounded(n: int, step: int) -> int:
    return -(-n // step) * step


def torch_with_fast_floats() -> ModuleType | None:
    """Return PyTorch where it is loaded already and its oneDNN is faster than numpy."""
    return _torch_with_onednn() if "torch" in sys.modules else None


@cache
def _torch_with_onednn() -> ModuleType | None:
    import torch

    ready = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return torch if ready and torch.backends.cpu.get_cpu_capability().startswith("AVX512") else None


@cache
def torch_with_fast_integers() -> ModuleType | None:
    """Return PyTorch where it multiplies 8-bit integers by instructions made for that; loads it."""
    try:
        import torch
    except ImportError:
        return None
    supported = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    ready = torch.backends.mkldnn.is_available() and hasattr(torch, "_int_mm") and supported()
    return torch if ready else None
