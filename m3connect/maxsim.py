"""MaxSim of many queries with many documents, at the speed of the machine's matrix products.

Document tokens go by in blocks; each block is multiplied with the tokens of several queries, and only the best of each
document is kept. What is stored in 8 bits or in 1 is multiplied as it is, in integers. Each thread takes blocks of its
own: threads that meet after each operation wait for whatever else the processor does. `maxsim_kernel` multiplies where
numba is installed, `maxsim_products` elsewhere; what the numbers mean says `m3connect.scoring`.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

from m3connect.compiling.finding import can_compile
from m3connect.device_rows import DeviceRows, device_maxsims, query_groups
from m3connect.embeddings import FloatArray, IntArray
from m3connect.maxsim_products import (
    Block,
    MakeMaxima,
    Matrices,
    Maxima,
    find_integer_maxima,
    float_maxima,
    torch_with_fast_floats,
)
from m3connect.threads import hire, torch_threads
from m3connect.token_rows import TokenRows

__all__ = ["Matrices", "mean_maxsims"]

_Array: TypeAlias = npt.NDArray[Any]

_ROWS = 1024
"""Document tokens in a block of floats, 4 MB at BGE-M3's size. Twice as many integers."""

_MOST_THREADS = 16

_COLUMNS = 512
"""Query tokens in a product, unless one query alone has more."""


def mean_maxsims(queries: Sequence[FloatArray], documents: Matrices | DeviceRows) -> FloatArray:
    """Return [q, n] scores; `m3connect.scoring.multi_vector` says of what."""
    if isinstance(documents, DeviceRows):
        return device_maxsims(queries, documents)
    lengths = documents.lengths if isinstance(documents, TokenRows) else np.array([len(rows) for rows in documents])
    scores = np.zeros((len(queries), len(lengths)), np.float32)
    filled = np.flatnonzero(lengths)
    stored = documents if isinstance(documents, TokenRows) else [rows for rows in documents if len(rows)]
    for group in query_groups(queries, _COLUMNS) if len(filled) else ():
        tokens = np.concatenate([queries[i] for i in group])
        counts = np.array([len(queries[i]) for i in group])
        best = _best_products(tokens, stored, lengths[filled])
        if isinstance(documents, TokenRows):
            best = best * documents.scales[filled, None]
        sums = np.add.reduceat(best, np.cumsum(counts) - counts, axis=1, dtype=np.float64)
        scores[np.array(group)[:, None], filled] = (sums / counts).T
    return scores


def _best_products(queries: FloatArray, documents: Matrices, lengths: IntArray) -> FloatArray:
    """For each document and query token the largest product, [n, m], without the documents' scales."""
    queries = np.asarray(queries, np.float32)
    _check_shapes(queries, documents)
    if not queries.shape[1]:
        return np.zeros((len(lengths), len(queries)), np.float32)
    compiled = _find_compiled(documents)
    if _holds_codes(documents):
        make = compiled or find_integer_maxima(documents.dim)
        if make is not None:
            return _best_products_of_codes(make, queries, documents, lengths)
    threads = _threads() if compiled or torch_with_fast_floats() else 1  # numpy has threads of its own
    return _segment_maxima(partial(compiled or float_maxima, queries, documents), lengths, threads, rows=_ROWS)


def _check_shapes(queries: FloatArray, documents: Matrices) -> None:
    """Refuse what has no inner product; a compiled function would read what is not theirs."""
    shapes = {(documents.dim,)} if isinstance(documents, TokenRows) else {rows.shape[1:] for rows in documents}
    for shape in shapes - {queries.shape[1:]}:
        given, found = (" x ".join(map(str, one)) for one in (queries.shape[1:], shape))
        raise ValueError(f"the query's token vectors have dimension {given}, the documents' have {found}")


def _holds_codes(documents: Matrices) -> TypeGuard[TokenRows]:
    """Whether documents are kept as integers, which are multiplied as they are."""
    return isinstance(documents, TokenRows) and documents.encoding != "float16"


def _best_products_of_codes(
    make: MakeMaxima, queries: FloatArray, documents: TokenRows, lengths: IntArray
) -> FloatArray:
    """Round query tokens to 8 bits, and multiply in integers."""
    scales = np.maximum(np.abs(queries).max(axis=1), 1e-30) / np.float32(127)
    codes = np.rint(queries / scales[:, None]).astype(np.int8)
    best = _segment_maxima(partial(make, codes, documents), lengths, _threads(), rows=2 * _ROWS)
    if documents.encoding == "1-bit":  # the codes 0 and 1 stand for -1 and +1
        best = 2 * best - codes.sum(axis=1, dtype=np.int32)
    return np.asarray(best * scales, np.float32)


def _find_compiled(documents: Matrices) -> MakeMaxima | None:
    """Return what numba compiles for documents in this form, if it can.

    Numba takes a while to load. So floats wait until PyTorch is there, which makes sure that more is done than scoring.
    Integers are compiled where the processor has AMX too: nobody has measured yet whether oneDNN is faster there.
    """
    integers = _holds_codes(documents)
    if not (integers or "torch" in sys.modules) or not can_compile("int8" if integers else "float32"):
        return None
    from m3connect.maxsim_kernel import compiled_maxima, fits

    return compiled_maxima if fits(documents) else None


def _threads() -> int:
    """How many threads share the work: as many as PyTorch's operations have, where it is loaded."""
    return min(torch_threads(), _MOST_THREADS) if "torch" in sys.modules else 1


def _segment_maxima(make: Callable[[], Maxima], lengths: IntArray, threads: int, *, rows: int) -> _Array:
    """The largest products [n, m] among the tokens of each document, block after block."""
    ends = np.cumsum(lengths)
    starts = iter(range(0, int(ends[-1]), rows))  # shared by all threads

    def work() -> list[tuple[slice, _Array]]:
        maxima = make()
        return [(block.documents, maxima(block)) for block in (_block(ends, start, rows) for start in starts)]

    if threads == 1 or ends[-1] <= rows:
        found = work()
    else:
        try:
            found = [block for part in _on_threads(work, threads) for block in part]
        finally:
            deque(starts, maxlen=0)  # after an error or an interrupt nobody waits for what is left
    return _joined(found, len(lengths))


def _block(ends: IntArray, start: int, rows: int) -> Block:
    """Return the block that begins here; `ends` says where each document ends."""
    stop = min(start + rows, int(ends[-1]))
    first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left") + 1
    cuts = np.concatenate([[start], ends[first : last - 1]]) - start
    before = start - int(ends[first - 1]) if first else start
    return Block(start, stop, slice(int(first), int(last)), cuts, before)


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
