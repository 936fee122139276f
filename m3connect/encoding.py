"""Ways to hold an encoder: loaded when first used, shared by several askers, and awaited off the event loop.

Each wraps any `Encoder`, and they stack: `AsyncEncoder(SharedPass(LazyEncoder(load)))`.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from m3connect.embeddings import M3Embeddings
from m3connect.store import Encoder, check_count

__all__ = ["AsyncEncoder", "LazyEncoder", "SharedPass"]


class LazyEncoder:
    """An encoder that is loaded when it is first used, once, by whichever thread comes first.

    Args:
        load: makes the encoder; called again only if it raised.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = LazyEncoder(FakeEncoder)
        >>> encoder.loaded, encoder.dim, encoder.loaded
        (False, 16, True)
    """

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self._encoder: Encoder | None = None
        self._lock = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether it has been used."""
        return self._encoder is not None

    @property
    def encoder(self) -> Encoder:
        """The encoder itself; loads it."""
        if self._encoder is None:
            with self._lock:
                if self._encoder is None:
                    self._encoder = self._load()
        return self._encoder

    @property
    def dim(self) -> int:
        """The dimension of dense and token vectors; loads the encoder."""
        return self.encoder.dim

    @property
    def fingerprint(self) -> str | None:
        """What makes the numbers (`Encoder.fingerprint`); loads the encoder."""
        return self.encoder.fingerprint

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode texts; loads the encoder."""
        return self.encoder.encode(texts, multi_vector=multi_vector, max_length=max_length)


class AsyncEncoder:
    """An encoder whose `encode` is awaited: it runs in threads of its own, and the event loop goes on meanwhile.

    Calls that are with the encoder at the same time share forward passes where it can, as `M3Encoder` does; the others
    wait, at no cost if their task is cancelled meanwhile. A pass that has begun is finished. The loop's default threads
    stay free. Belongs to no event loop.

    Args:
        encoder: any `Encoder`; it may go on being used as it is.
        threads: how many calls are with the encoder at a time; 1 for an encoder that does not allow several threads.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = AsyncEncoder(FakeEncoder())
        >>> len(asyncio.run(encoder.encode(["red apple", "blue sea"])))
        2
    """

    def __init__(self, encoder: Encoder, *, threads: int = 32) -> None:
        check_count("threads", threads)
        self.encoder = encoder
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="m3connect-async")  # starts them when needed

    async def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode texts, row i being text i; errors as the encoder's own."""
        work = partial(self.encoder.encode, texts, multi_vector=multi_vector, max_length=max_length)
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One forward pass: which text is in which row, and the rows once they are there."""

    rows: dict[str, int]
    max_length: int | None
    multi_vector: bool
    result: Future[M3Embeddings] = field(default_factory=Future)


class _PassFailedError(Exception):
    """Tells those who wait for a pass that it failed; who ran it got the error itself."""


class SharedPass:
    """An encoder that gives several askers of the same text the same row, from one forward pass.

    Frameworks ask for the dense vectors and for the sparse weights of the same texts in two calls; with both calls
    behind one `SharedPass` the second costs nothing. Calls at the same time share too: the later one waits for the
    earlier one's rows. Where only the later one wants token vectors, its texts are encoded once more. Safe to use from
    several threads if the encoder is.

    Args:
        encoder: what encodes the texts that are not remembered.
        max_bytes: how much is remembered; the oldest passes go first. A row of BGE-M3 takes about 5 KB, and with token
            vectors 4 KB a token more.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> counting = FakeEncoder()
        >>> encoder = SharedPass(counting)
        >>> dense = encoder.encode(["red apple"]).dense
        >>> weights = encoder.encode(["red apple"]).sparse
        >>> counting.calls
        [['red apple']]
    """

    def __init__(self, encoder: Encoder, *, max_bytes: int = 64 * 2**20) -> None:
        self.encoder = encoder
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int | None], _Pass] = {}
        self._kept: dict[_Pass, int] = {}
        """Finished passes with their bytes, oldest first."""
        self._bytes = 0
        """Their sum."""
        self._limit = max_bytes

    @property
    def dim(self) -> int:
        """The dimension of dense and token vectors."""
        return self.encoder.dim

    @property
    def fingerprint(self) -> str | None:
        """What makes the numbers (`Encoder.fingerprint`)."""
        return self.encoder.fingerprint

    def expect(self, max_bytes: int) -> None:
        """Remember up to so many bytes until `settle`, for rows that are sure to be asked for once more."""
        with self._lock:
            self._limit = max(self._limit, max_bytes)

    def settle(self) -> None:
        """Remember `max_bytes` at most again, and forget the oldest passes above them."""
        with self._lock:
            self._limit = self.max_bytes
            self._make_room()

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Return the rows of texts, row i being text i; only texts that are not remembered are encoded."""
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            return self.encoder.encode(texts, multi_vector=multi_vector, max_length=max_length)  # says what is wrong
        with self._lock:
            passes, own = self._claim(texts, multi_vector, max_length)
        if own.rows:
            self._run(own)
        try:
            return _assemble(texts, passes, multi_vector)
        except _PassFailedError:  # another asker's, maybe for a text that is not ours
            return self.encode(texts, multi_vector=multi_vector, max_length=max_length)

    def _claim(
        self, texts: Iterable[str], multi_vector: bool, max_length: int | None
    ) -> tuple[dict[str, _Pass], _Pass]:
        """Find the pass of each text, made or being made, and put the others into one of our own."""
        own = _Pass({}, max_length, multi_vector)
        passes: dict[str, _Pass] = {}
        for text in dict.fromkeys(texts):
            known = self._known.get((text, max_length))
            if known is None or known.multi_vector < multi_vector:
                known = self._known[text, max_length] = own
                own.rows[text] = len(own.rows)
            passes[text] = known
        return passes, own

    def _run(self, own: _Pass) -> None:
        """Encode the texts of a pass for all who wait for it."""
        try:
            batch = self.encoder.encode(list(own.rows), multi_vector=own.multi_vector, max_length=own.max_length)
        except BaseException as error:
            with self._lock:
                self._forget(own)
            own.result.set_exception(_PassFailedError(str(error)))
            raise
        own.result.set_result(batch)
        with self._lock:
            self._keep(own, batch)

    def _keep(self, own: _Pass, batch: M3Embeddings) -> None:
        """Remember a pass, or as much of it as may be, and forget the oldest."""
        size = _bytes_of(batch) + sum(map(len, own.rows))
        if size > self._limit:
            self._forget(own)
            return self._keep_part(own, batch, int(len(batch) * self._limit / size))
        self._kept[own] = size
        self._bytes += size
        return self._make_room()

    def _make_room(self) -> None:
        while self._bytes > self._limit:
            oldest = next(iter(self._kept))
            self._bytes -= self._kept.pop(oldest)
            self._forget(oldest)

    def _keep_part(self, own: _Pass, batch: M3Embeddings, n: int) -> None:
        rows = {text: i for text, i in own.rows.items() if i < n and (text, own.max_length) not in self._known}
        if rows:
            part = replace(own, rows=rows, result=Future())
            part.result.set_result(batch[:n])
            self._known.update(((text, own.max_length), part) for text in rows)
            self._keep(part, batch[:n])

    def _forget(self, one: _Pass) -> None:
        for text in one.rows:
            if self._known.get((text, one.max_length)) is one:
                del self._known[text, one.max_length]


def _assemble(texts: Sequence[str], passes: Mapping[str, _Pass], multi_vector: bool) -> M3Embeddings:
    """Put the rows of passes in the order of texts, waiting for those that are being made."""
    parts: list[M3Embeddings] = []
    places: dict[str, int] = {}
    texts_of: dict[_Pass, list[str]] = {}
    for text, one in passes.items():
        texts_of.setdefault(one, []).append(text)
    for one, mine in texts_of.items():
        rows = [one.rows[text] for text in mine]
        batch = one.result.result()
        parts.append(batch if rows == list(range(len(batch))) else batch.take(rows))
        places |= {text: len(places) + i for i, text in enumerate(mine)}
    if not multi_vector:
        parts = [replace(part, multi_vector=None) for part in parts]
    whole = parts[0] if len(parts) == 1 else M3Embeddings.concatenate(parts)
    order = [places[text] for text in texts]
    return whole if order == list(range(len(whole))) else whole.take(order)


def _bytes_of(batch: M3Embeddings) -> int:
    tokens = sum(matrix.nbytes for matrix in batch.multi_vector or ())
    return batch.dense.nbytes + batch.sparse.indices.nbytes + batch.sparse.values.nbytes + tokens
