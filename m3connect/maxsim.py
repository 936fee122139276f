"""MaxSim of many queries with many documents, at the speed of the machine's matrix products.

Document tokens go by in blocks that stay in the processor's cache; each block is multiplied with the tokens of several
queries, and only the best of each document is kept. What is stored in 8 bits or in 1 is multiplied as it is, in
integers. With PyTorch each thread takes blocks of its own: copying and taking maxima are a third of the work, and
threads that meet after each operation wait for whatever else the processor does. This module says how; what the
numbers mean says `m3connect.scoring`.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from queue import SimpleQueue
from threading import Thread
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from m3connect.device_rows import DeviceRows, device_maxsims, query_groups
from m3connect.embeddings import FloatArray, IntArray
from m3connect.threads import hire, torch_threads
from m3connect.token_rows import TokenRows

__all__ = ["Matrices", "mean_maxsims"]

Matrices: TypeAlias = Sequence[FloatArray] | TokenRows

_Array: TypeAlias = npt.NDArray[Any]
_Product: TypeAlias = Callable[[int, int], _Array]
"""Inner products [stop - start, m] of the document tokens from start to stop with m query tokens."""

_MakeProduct: TypeAlias = Callable[[], _Product]
"""Returns a product with a buffer of its own, so that several threads may each have one."""

_ROWS = 1024
"""Document tokens in a product of floats, 4 MB at BGE-M3's size: fresh memory costs time. Twice as many integers."""

_MOST_THREADS = 16

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
    for group in query_groups(queries, _COLUMNS) if len(filled) else ():
        tokens = np.concatenate([queries[i] for i in group])
        counts = np.array([len(queries[i]) for i in group])
        best = _best_products(tokens, documents, lengths[filled])
        if isinstance(documents, TokenRows):
            best = best * documents.scales[filled, None]
        sums = np.add.reduceat(best, np.cumsum(counts) - counts, axis=1, dtype=np.float64)
        scores[np.array(group)[:, None], filled] = (sums / counts).T
    return scores


def _best_products(queries: FloatArray, documents: Matrices, lengths: IntArray) -> FloatArray:
    """For each document and query token the largest product, [n, m], without the documents' scales."""
    queries = np.asarray(queries, np.float32)
    width = documents.dim if isinstance(documents, TokenRows) else documents[0].shape[1]
    if queries.shape[1] != width:
        raise ValueError(f"the query's token vectors have dimension {queries.shape[1]}, the documents' have {width}")
    if not isinstance(documents, TokenRows):
        return _float_maxima(queries, _copied(documents), lengths)
    integers = documents.encoding != "float16" and width > 1  # of width 1, PyTorch 2.13 computes nonsense
    torch = _torch_with_fast_integers() if integers else None
    if torch is None:
        return _float_maxima(queries, _decoded(documents), lengths)
    scales = np.maximum(np.abs(queries).max(axis=1), 1e-30) / np.float32(127)
    codes = np.rint(queries / scales[:, None]).astype(np.int8)
    best = _segment_maxima(lambda: _integer_product(torch, codes, documents), lengths, torch, rows=2 * _ROWS)
    if documents.encoding == "1-bit":  # the codes 0 and 1 stand for -1 and +1
        best = 2 * best - codes.sum(axis=1, dtype=np.int32)
    return np.asarray(best * scales, np.float32)


def _float_maxima(queries: FloatArray, read: _Reader, lengths: IntArray) -> FloatArray:
    torch = _torch_with_fast_floats()
    return _segment_maxima(lambda: _float_product(torch, queries, read), lengths, torch, rows=_ROWS)


def _segment_maxima(make_product: _MakeProduct, lengths: IntArray, torch: ModuleType | None, *, rows: int) -> _Array:
    """The largest products [n, m] among the tokens of each document; with PyTorch on as many threads as that has."""
    ends = np.cumsum(lengths)
    blocks = iter(range(0, int(ends[-1]), rows))  # shared by all threads

    def work() -> list[tuple[slice, _Array]]:
        product = make_product()
        return [_block_maxima(product, ends, start, rows) for start in blocks]

    threads = min(torch_threads() if torch is not None else 1, _MOST_THREADS)
    if threads == 1 or ends[-1] <= rows:
        found = work()
    else:
        try:
            found = [block for part in _on_threads(work, threads) for block in part]
        finally:
            deque(blocks, maxlen=0)  # after an error or an interrupt nobody waits for what is left
    return _joined(found, len(lengths))


def _block_maxima(product: _Product, ends: IntArray, start: int, rows: int) -> tuple[slice, _Array]:
    """Which documents have tokens in the block that begins here, and their largest products."""
    stop = min(start + rows, int(ends[-1]))
    first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left") + 1
    cuts = np.concatenate([[start], ends[first : last - 1]]) - start
    return slice(int(first), int(last)), np.maximum.reduceat(product(start, stop), cuts, axis=0)


def _joined(found: Sequence[tuple[slice, _Array]], n: int) -> _Array:
    """Put the largest products of blocks together; a document that lies in several has the largest of them."""
    dtype = found[0][1].dtype
    least = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
    best = np.full((n, found[0][1].shape[1]), least, dtype)
    for documents, maxima in found:
        np.maximum(best[documents], maxima, out=best[documents])
    return best


_Found = TypeVar("_Found")

_crew: set[Thread] = set()
_tasks: SimpleQueue[Callable[[], object]] = SimpleQueue()
"""What the crew works through; whoever put it there waits for the results."""


def _on_threads(work: Callable[[], _Found], threads: int) -> list[_Found]:
    """Run this on so many threads at once, where PyTorch's operations have one thread each.

    Raises:
        Exception: what one of them raised.
        RuntimeError: the system starts no more threads.
    """
    tasks, results = _tasks, SimpleQueue[_Found | BaseException]()
    hire(_crew, threads, partial(_serve, tasks), name="m3connect-maxsim", torch_threads=1)
    for _ in range(threads):
        tasks.put(partial(_report, work, results))
    found: list[_Found] = []
    for _ in range(threads):
        result = results.get()
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


def _serve(tasks: SimpleQueue[Callable[[], object]]) -> None:
    while True:
        tasks.get()()  # without a name, which would keep the last task's arrays alive


def _report(work: Callable[[], _Found], results: SimpleQueue[_Found | BaseException]) -> None:
    try:
        results.put(work())
    except BaseException as error:  # noqa: BLE001  # it is raised where somebody waits for this
        results.put(error)


def _after_fork() -> None:
    """A forked process has none of its parent's threads, and what these were waiting for may be locked."""
    global _crew, _tasks
    _crew, _tasks = set(), SimpleQueue()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


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
