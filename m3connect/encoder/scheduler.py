"""Who computes what, and when: texts of concurrent calls share packs, and packs share the processor.

A pack runs on few threads, and several packs run side by side: that keeps more of the processor busy than one pack on
all threads, since nothing waits for the slowest thread after every operation. A call that is alone and fits one pack
takes all threads, because then nothing else would use them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np

from m3connect.embeddings import IntArray, M3Embeddings
from m3connect.threads import hire, torch_threads

__all__ = ["GPU", "PROCESSOR", "Pending", "Scheduler", "Sizes"]

EncodePack: TypeAlias = Callable[[Sequence[IntArray], bool], M3Embeddings]

_MOST_WORKERS = 16
_IDLE_SECONDS = 5.0
"""After which a worker ends, so that a forgotten encoder's memory is given back."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large packs are, and how many are computed side by side; it depends on what computes them."""

    tokens_per_pack: int
    """At most, unless one text alone has more."""

    fewest_tokens: int
    """What a call is cut into is not smaller, as long as there is enough."""

    workers: int | None
    """How many packs are computed side by side; None means as many as PyTorch has threads."""


PROCESSOR = Sizes(tokens_per_pack=1024, fewest_tokens=256, workers=None)
"""Enough to keep a core's matrix unit busy, and small enough for its caches; with fewer tokens the weights would be
read more often than they are worth."""

GPU = Sizes(tokens_per_pack=16384, fewest_tokens=4096, workers=2)
"""Enough to fill a GPU, and two texts of 8,192 tokens; while it computes one pack, the other worker prepares the next
or takes results apart. At BGE-M3's size a pack needs 0.44 GB beside the weights in bfloat16, and 0.74 GB in float32
(added up from shapes)."""


@dataclass(eq=False, slots=True)
class _Call:
    """Texts that somebody waits for, longest first."""

    token_ids: Sequence[IntArray]
    multi_vector: bool
    budget: int
    taken: int = 0
    results: SimpleQueue[tuple[int, M3Embeddings | BaseException]] = field(default_factory=SimpleQueue)
    """What became of some of the texts, with the place of the first of them."""

    @property
    def next_length(self) -> int:
        return len(self.token_ids[self.taken])

    def take(self, room: int, most: int) -> _Slice | None:
        """Take the next texts with as nearly as possible `room` tokens, and not above `most`."""
        start = self.taken
        while self.taken < len(self.token_ids) and self.next_length <= min(most, 2 * room):
            room -= self.next_length
            most -= self.next_length
            self.taken += 1
        return _Slice(self, start, self.taken) if self.taken > start else None


@dataclass(frozen=True, slots=True)
class _Slice:
    """Texts `start` to `stop` of a call."""

    call: _Call
    start: int
    stop: int

    @property
    def token_ids(self) -> Sequence[IntArray]:
        return self.call.token_ids[self.start : self.stop]


class Pending:
    """Texts that a scheduler computes; made by `Scheduler.submit`, and ended by one `result` or `cancel`."""

    def __init__(self, call: _Call, withdraw: Callable[[_Call], None]) -> None:
        self._call = call
        self._withdraw = withdraw

    def result(self, on_done: Callable[[int], object] = lambda n: None) -> M3Embeddings:
        """Wait for all texts, as `Scheduler.run` does."""
        parts: dict[int, M3Embeddings] = {}
        missing = len(self._call.token_ids)
        try:
            while missing:
                start, result = self._call.results.get()
                if isinstance(result, BaseException):
                    raise result
                parts[start] = result
                missing -= len(result)
                on_done(len(result))
        finally:
            self.cancel()
        return M3Embeddings.concatenate([parts[start] for start in sorted(parts)])

    def cancel(self) -> None:
        """Compute no more of these texts; what is under way is finished, and thrown away."""
        self._withdraw(self._call)


class Scheduler:
    """Computes the texts of all calls of one model, from any number of threads.

    Calls take turns, pack by pack, so that a short one does not wait for a long one; what is left of a pack is filled
    with texts of others. Texts longer than a pack never occupy all workers at once, if there is more than one.

    Args:
        encode_pack: computes texts that come longest first; called from several threads.
        sizes: of packs.
    """

    def __init__(self, encode_pack: EncodePack, sizes: Sizes = PROCESSOR) -> None:
        self._encode_pack = encode_pack
        self._sizes = sizes
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._workers: set[threading.Thread] = set()
        self._running = 0
        self._running_long = 0

    def run(
        self, token_ids: Sequence[IntArray], *, multi_vector: bool, on_done: Callable[[int], object] = lambda n: None
    ) -> M3Embeddings:
        """Compute texts, row i being text i; returns when all of them are done.

        Args:
            token_ids: [t_i] the tokens of each text, longest first.
            multi_vector: compute token vectors too.
            on_done: told how many texts were finished, in the caller's thread.

        Raises:
            Exception: what `encode_pack` raised for one of these texts; the others are not computed any more.
        """
        if not self._start_alone(token_ids):
            return self.submit(token_ids, multi_vector=multi_vector).result(on_done)
        try:
            batch = self._encode_pack(token_ids, multi_vector)
        finally:
            with self._changed:
                self._running -= 1
        on_done(len(batch))
        return batch

    def submit(self, token_ids: Sequence[IntArray], *, multi_vector: bool) -> Pending:
        """Have texts computed by others, as `run` does, while the caller does something else."""
        threads, workers = torch_threads(), self._most_workers()
        call = _Call(token_ids, multi_vector, self._budget(token_ids))
        with self._changed:
            each = max(1, threads // workers)
            hire(self._workers, workers, self._work, name="m3connect-encoder", torch_threads=each)
            self._waiting.append(call)
            self._changed.notify_all()
        return Pending(call, self._withdraw)

    def _most_workers(self) -> int:
        return self._sizes.workers or min(torch_threads(), _MOST_WORKERS)

    def _budget(self, token_ids: Sequence[IntArray]) -> int:
        share = sum(map(len, token_ids)) // (2 * self._most_workers())
        return min(self._sizes.tokens_per_pack, max(self._sizes.fewest_tokens, share))

    def _start_alone(self, token_ids: Sequence[IntArray]) -> bool:
        small = len(token_ids) <= 1 or sum(map(len, token_ids)) <= self._budget(token_ids)
        with self._changed:
            alone = small and not self._running and not self._waiting
            self._running += alone
        return alone

    def _work(self) -> None:
        while slices := self._next_pack():
            try:
                self._finish(slices, self._encode_together(slices))
            except BaseException as error:  # noqa: BLE001  # it is raised where somebody waits for these texts
                self._finish(slices, [error] * len(slices))

    def _next_pack(self) -> list[_Slice]:
        """Wait for work; nothing means that there was none for a while, and the worker is dismissed."""
        with self._changed:
            while not (slices := self._choose()):
                if not self._changed.wait(_IDLE_SECONDS) and not self._waiting:
                    self._workers.discard(threading.current_thread())
                    return []
            self._running += 1
            self._running_long += self._is_long(slices)
            return slices

    def _choose(self) -> list[_Slice]:
        """Take the next texts of the call whose turn it is, and of others where there is room."""
        slices: list[_Slice] = []
        room = most = 0
        for call in list(self._waiting):
            if not slices:
                room = max(call.budget, call.next_length)
                most = max(self._sizes.tokens_per_pack, call.next_length)
                if room > self._sizes.tokens_per_pack and self._running_long >= max(1, len(self._workers) - 1):
                    continue
            elif call.multi_vector != slices[0].call.multi_vector:
                continue
            if taken := call.take(room, most):
                slices.append(taken)
                tokens = sum(map(len, taken.token_ids))
                room, most = room - tokens, most - tokens
                self._waiting.remove(call)
                if call.taken < len(call.token_ids):
                    self._waiting.append(call)
        return slices

    def _finish(self, slices: Sequence[_Slice], results: Sequence[M3Embeddings | BaseException]) -> None:
        with self._changed:
            self._running -= 1
            self._running_long -= self._is_long(slices)
            self._changed.notify_all()
        for one, result in zip(slices, results, strict=True):
            if isinstance(result, BaseException):
                self._withdraw(one.call)
            one.call.results.put((one.start, result))

    def _encode_together(self, slices: Sequence[_Slice]) -> Sequence[M3Embeddings]:
        if len(slices) == 1:
            return [self._encode_pack(slices[0].token_ids, slices[0].call.multi_vector)]
        token_ids = [ids for one in slices for ids in one.token_ids]
        order = np.argsort([-len(ids) for ids in token_ids], kind="stable")
        batch = self._encode_pack([token_ids[i] for i in order], slices[0].call.multi_vector)
        places = np.argsort(order)
        stops = np.cumsum([one.stop - one.start for one in slices])
        return [batch.take(rows) for rows in np.split(places, stops[:-1])]

    def _is_long(self, slices: Sequence[_Slice]) -> bool:
        """Whether a pack holds a text that is longer than a pack should be."""
        return len(slices[0].token_ids[0]) > self._sizes.tokens_per_pack

    def _withdraw(self, call: _Call) -> None:
        """Compute no more of a call."""
        with self._changed:
            if call in self._waiting:
                self._waiting.remove(call)
