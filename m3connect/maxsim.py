"""MaxSim of many queries with many documents, at the speed of the machine's matrix products.

Document tokens go by in blocks that stay in the processor's cache; each block is multiplied with the tokens of several
queries, and only the best of each document is kept. What is stored in 8 bits or in 1 is multiplied as it is, in
integers. This module says how; what the numbers mean says `m3connect.scoring`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from m3connect.device_rows import DeviceRows, device_maxsims
from m3connect.embeddings import FloatArray, IntArray
from m3connect.token_rows import TokenRows

__all__ = ["Matrices", "mean_maxsims"]

Matrices: TypeAlias = Sequence[FloatArray] | TokenRows

_Array: TypeAlias = npt.NDArray[Any]
_Product: TypeAlias = Callable[[int, int], _Array]
"""Inner products [stop - start, m] of the document tokens from start to stop with m query tokens."""

_ROWS = 2048
"""Document tokens in a product: 8 MB in float32 at BGE-M3's size, 2 MB in int8."""

_COLUMNS = 512
"""Query tokens in a product, unless one query alone has more."""

_STEP = 64
_LANES = 8
"""oneDNN compiles code for each new shape, which takes as long as a product: shapes are rounded up to these."""


def mean_maxsims(queries: Sequence[FloatArray], documents: Matrices | DeviceRows) -> FloatArray:
    """Return [q, n] scores; `m3connect.scoring.multi_vector` says of what."""
    if isinstance(documents, DeviceRows):
        return device_maxsims(queries, documents)
    lengths = documents.lengths if isinstance(documents, TokenRows) else np.array([len(rows) for rows in documents])
    scores = np.zeros((len(queries), len(lengths)), np.float32)
    filled = np.flatnonzero(lengths)
    for group in _groups(queries) if len(filled) else ():
        tokens = np.concatenate([queries[i] for i in group])
        counts = np.array([len(queries[i]) for i in group])
        best = _best_products(tokens, documents, lengths[filled])
        if isinstance(documents, TokenRows):
            best = best * documents.scales[filled, None]
        sums = np.add.reduceat(best, np.cumsum(counts) - counts, axis=1, dtype=np.float64)
        scores[np.array(group)[:, None], filled] = (sums / counts).T
    return scores


def _groups(queries: Sequence[FloatArray]) -> Iterator[list[int]]:
    """Put queries that have tokens together, as long as they fit into one product."""
    group: list[int] = []
    total = 0
    for i, query in enumerate(queries):
        if group and total + len(query) > _COLUMNS:
            yield group
            group, total = [], 0
        if len(query):
            group.append(i)
            total += len(query)
    if group:
        yield group


def _best_products(queries: FloatArray, documents: Matrices, lengths: IntArray) -> FloatArray:
    """For each document and query token the largest product, [n, m], without the documents' scales."""
    queries = np.asarray(queries, np.float32)
    width = documents.dim if isinstance(documents, TokenRows) else documents[0].shape[1]
    if queries.shape[1] != width:
        raise ValueError(f"the query's token vectors have dimension {queries.shape[1]}, the documents' have {width}")
    if not isinstance(documents, TokenRows):
        return _segment_maxima(_float_product(queries, _copied(documents)), lengths)
    integers = documents.encoding != "float16" and width > 1  # of width 1, PyTorch 2.13 computes nonsense
    torch = _torch_with_fast_integers() if integers else None
    if torch is None:
        return _segment_maxima(_float_product(queries, _decoded(documents)), lengths)
    scales = np.maximum(np.abs(queries).max(axis=1), 1e-30) / np.float32(127)
    codes = np.rint(queries / scales[:, None]).astype(np.int8)
    best = _segment_maxima(_integer_product(torch, codes, documents), lengths)
    if documents.encoding == "1-bit":  # the codes 0 and 1 stand for -1 and +1
        best = 2 * best - codes.sum(axis=1, dtype=np.int32)
    return np.asarray(best * scales, np.float32)


def _segment_maxima(product: _Product, lengths: IntArray) -> _Array:
    """The largest products [n, m] among the tokens of each document, which may lie in several blocks."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    best: _Array | None = None
    for start in range(0, int(ends[-1]), _ROWS):
        stop = min(start + _ROWS, int(ends[-1]))
        products = product(start, stop)
        if best is None:
            least = -np.inf if products.dtype.kind == "f" else np.iinfo(products.dtype).min
            best = np.full((len(lengths), products.shape[1]), least, products.dtype)
        first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, stop, side="left")
        found = np.maximum.reduceat(products, np.maximum(starts[first:last], start) - start, axis=0)
        np.maximum(best[first:last], found, out=best[first:last])
    if best is None:
        raise ValueError("documents without tokens have no products")
    return best


# Where rows come from: each function gives a reader that fills an array with the tokens from start to stop.

_Reader: TypeAlias = Callable[[int, int, FloatArray], None]


def _copied(documents: Sequence[FloatArray]) -> _Reader:
    """Copy from arrays of their own; one block after the other, a copy costs less than the reading itself."""
    filled = [rows for rows in documents if len(rows)]
    starts = np.cumsum([0, *map(len, filled)])

    def read(start: int, stop: int, out: FloatArray) -> None:
        place = int(np.searchsorted(starts, start, side="right")) - 1
        while start < stop:
            rows = filled[place][start - starts[place] : stop - starts[place]]
            out[: len(rows)] = rows
            out, start, place = out[len(rows) :], start + len(rows), place + 1

    return read


def _decoded(documents: TokenRows) -> _Reader:
    torch = _torch_with_fast_floats() if documents.encoding == "float16" else None

    def read(start: int, stop: int, out: FloatArray) -> None:
        if torch is None:
            documents.numbers(slice(start, stop), out=out)
        else:  # numpy converts halves one by one
            torch.from_numpy(out).copy_(torch.from_numpy(np.require(documents.codes[start:stop], requirements="W")))

    return read


# How rows are multiplied.


def _float_product(queries: FloatArray, read: _Reader) -> _Product:
    torch = _torch_with_fast_floats()
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


def _torch_with_fast_floats() -> ModuleType | None:
    """Return PyTorch where it is loaded already and its oneDNN is faster than numpy."""
    return _torch_with_onednn() if "torch" in sys.modules else None


@cache
def _torch_with_onednn() -> ModuleType | None:
    import torch

    ready = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    return torch if ready and torch.backends.cpu.get_cpu_capability().startswith("AVX512") else None


@cache
def _torch_with_fast_integers() -> ModuleType | None:
    """Return PyTorch where it multiplies 8-bit integers by instructions made for that; loads it."""
    try:
        import torch
    except ImportError:
        return None
    supported = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    ready = torch.backends.mkldnn.is_available() and hasattr(torch, "_int_mm") and supported()  # type: ignore[no-untyped-call]
    return torch if ready else None
