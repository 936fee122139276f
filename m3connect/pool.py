"""`EncoderPool`: one encoder out of several, for instance one a device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np

from m3connect.embeddings import M3Embeddings
from m3connect.store import Encoder

__all__ = ["EncoderPool"]

_Encode: TypeAlias = Callable[[Encoder, Sequence[str]], M3Embeddings]

_PARTS_EACH = 4
"""How many parts of a large call there are for each encoder: a faster one takes more of them."""

_FEWEST_CHARACTERS = 4096
"""Of a part: below it more is lost by asking than won by sharing."""


class EncoderPool:
    """Several encoders of one model, used as one: texts are shared out among them.

    A small call goes to the encoder that has the least to do, in the caller's thread. A large one is cut into parts,
    longest texts first, and one thread for each encoder works through them; the threads end with the call. So there is
    nothing to close, and calls of several threads meet in the encoders, which merge them where they can, as `M3Encoder`
    does.

    Args:
        encoders: at least one, all of one model, each with a device of its own; each must allow several threads.

    Raises:
        ValueError: there is none, or they differ in dimension or fingerprint.

    Example:
        >>> from m3connect.testing import FakeEncoder
        >>> pool = EncoderPool([FakeEncoder(), FakeEncoder()])
        >>> batch = pool.encode(["red apple", "blue sea"], multi_vector=True)
        >>> batch.dense.shape, pool.dim, pool.fingerprint
        ((2, 16), 16, 'fake-encoder')
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders = tuple(encoders)
        kinds = {(encoder.dim, encoder.fingerprint) for encoder in self.encoders}
        if len(kinds) != 1:
            found = "; ".join(f"dimension {dim}, fingerprint {name}" for dim, name in sorted(kinds, key=str)) or "none"
            raise ValueError(f"expected encoders of one model, but got {found}: load the same model for each device")
        self._changed = threading.Lock()
        self._busy = [0] * len(self.encoders)
        """Calls that each encoder has."""

    @property
    def dim(self) -> int:
        """The dimension of dense and token vectors."""
        return self.encoders[0].dim

    @property
    def fingerprint(self) -> str | None:
        """What makes the numbers (`Encoder.fingerprint`), the same for all."""
        return self.encoders[0].fingerprint

    def __repr__(self) -> str:
        return f"EncoderPool({list(self.encoders)!r})"

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode texts, row i being text i; one that comes several times is encoded once.

        Args:
            texts: n strings.
            multi_vector: return token vectors too.
            max_length: read at most this many tokens of a text; None means all that the encoders can.

        Returns:
            n rows, as one encoder makes them: dense [n, d], and [t_i, d] token vectors of text i where asked for.

        Raises:
            ValueError: `texts` is one string, or holds something else than strings.
            Exception: what an encoder raised; the others finish the part they are at and begin no more.
        """
        listed = _check_texts(texts)
        encode = partial(_encode, multi_vector=multi_vector, max_length=max_length)
        places: dict[str, int] = {}
        rows = np.array([places.setdefault(text, len(places)) for text in listed], np.int64)
        longest_first = sorted(places, key=len, reverse=True)
        parts = list(_cut(longest_first, len(self.encoders)))
        if len(parts) < 2:
            with self._using() as encoder:
                batch = encode(encoder, list(places))
            return batch if len(places) == len(listed) else batch.take(rows)
        batch = M3Embeddings.concatenate(self._share(parts, encode))
        at = {text: i for i, text in enumerate(longest_first)}
        return batch.take(np.array([at[text] for text in places], np.int64)[rows])

    def _share(self, parts: Sequence[Sequence[str]], encode: _Encode) -> list[M3Embeddings]:
        """Let every encoder take parts until none is left, or one has failed."""
        waiting = deque(enumerate(parts))
        done: dict[int, M3Embeddings] = {}
        ends: SimpleQueue[BaseException | None] = SimpleQueue()
        stopped = threading.Event()

        def work(place: int) -> None:
            try:
                with self._using(place) as encoder:
                    while waiting and not stopped.is_set():
                        try:
                            i, texts = waiting.popleft()
                        except IndexError:  # another was faster
                            break
                        done[i] = encode(encoder, texts)
            except BaseException as error:  # noqa: BLE001  # it is raised where the caller waits
                ends.put(error)
            else:
                ends.put(None)

        workers = [
            threading.Thread(target=work, args=[i], name=f"m3connect-pool-{i}") for i in range(len(self.encoders))
        ]
        try:
            _run(workers, ends)
        finally:  # whether all is done, one has failed, or the caller was interrupted
            stopped.set()
            for worker in workers:
                if worker.is_alive():
                    worker.join()
        return [done[i] for i in range(len(parts))]

    @contextmanager
    def _using(self, place: int | None = None) -> Iterator[Encoder]:
        """Count a call of the encoder at this place, or of the one that has the least to do."""
        with self._changed:
            if place is None:
                place = min(range(len(self.encoders)), key=self._busy.__getitem__)
            self._busy[place] += 1
        try:
            yield self.encoders[place]
        finally:
            with self._changed:
                self._busy[place] -= 1


def _run(workers: Sequence[threading.Thread], ends: SimpleQueue[BaseException | None]) -> None:
    """Start threads, and wait until each has said that it ends, or one why it failed.

    An executor would start none once the program's main thread has returned; and a `join` that is interrupted takes
    the thread for ended (Python 3.11).
    """
    for worker in workers:
        worker.start()
    for _ in workers:
        if error := ends.get():
            raise error


def _encode(encoder: Encoder, texts: Sequence[str], *, multi_vector: bool, max_length: int | None) -> M3Embeddings:
    return encoder.encode(texts, multi_vector=multi_vector, max_length=max_length)


def _cut(texts: Sequence[str], encoders: int) -> Iterator[list[str]]:
    """Cut texts into parts of about as many characters each; one encoder gets all as one."""
    total = sum(map(len, texts))
    enough = max(_FEWEST_CHARACTERS, total // (_PARTS_EACH * encoders)) if encoders > 1 else total
    part: list[str] = []
    characters = 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if characters > enough:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _check_texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str | bytes):
        raise ValueError(f"encode takes a list of strings, but got {texts!r:.80}: wrap a single text in a list")
    listed = list(texts)
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            raise ValueError(f"text {i} must be a string, but is {type(text).__name__}")
        try:
            text.encode()  # here, since a part does not know the places of its texts
        except UnicodeEncodeError as error:
            raise ValueError(f"text {i} holds half of a surrogate pair at character {error.start}") from error
    return listed
