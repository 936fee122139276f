"""One model and one memory of its passes for all classes that use the same encoder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from weakref import WeakValueDictionary

from m3connect.embeddings import M3Embeddings
from m3connect.encoding import AsyncEncoder, LazyEncoder, SharedPass
from m3connect.store import Encoder

__all__ = ["Sharing", "share", "share_named"]

_AWAITED = 4 * 2**30
"""Bytes of token vectors that may wait for their store: 2,048 nodes, LlamaIndex's usual batch, of 500 BGE-M3 tokens."""


class Sharing:
    """An encoder with the rows it made last, so that each text costs one forward pass, whoever asks for it.

    Made by `share` and `share_named`, which give all holders of one encoder the same object.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.passes = encoder if isinstance(encoder, SharedPass) else SharedPass(encoder)
        self._sized = isinstance(encoder, SharedPass)
        """Whether somebody else has said how much is remembered."""
        self._awaited = AsyncEncoder(self.passes)

    def encode(self, texts: Sequence[str], *, multi_vector: bool, max_length: int | None) -> M3Embeddings:
        """Encode here and now."""
        return self.passes.encode(texts, multi_vector=multi_vector, max_length=max_length)

    async def aencode(self, texts: Sequence[str], *, multi_vector: bool, max_length: int | None) -> M3Embeddings:
        """Encode in a thread, of which up to 32 call the encoder at a time; the event loop goes on."""
        return await self._awaited.encode(texts, multi_vector=multi_vector, max_length=max_length)

    def expect_tokens(self) -> None:
        """Remember more until `settle`: token vectors come that a store will ask for."""
        if not self._sized:
            self.passes.expect(_AWAITED)

    def settle(self) -> None:
        """Remember as much as usual: a store has what waited for it."""
        self.passes.settle()

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Stay behind when a component is pickled; it finds its encoder again where it arrives."""
        return _nothing, ()

    def __deepcopy__(self, memo: object) -> Sharing:
        return self


def _nothing() -> None:
    return None


_shared: WeakValueDictionary[Hashable, Sharing] = WeakValueDictionary()
_lock = threading.Lock()


def share(encoder: Encoder) -> Sharing:
    """Return the sharing of an encoder; a `SharedPass` is used as it is."""
    return _find(id(encoder), lambda: encoder)  # an id is not used again as long as its sharing holds the encoder


def share_named(name: str, *, revision: str | None, local_files_only: bool) -> Sharing:
    """Return the sharing of `M3Encoder.from_pretrained(name, ...)`, which is loaded at its first use."""

    def load() -> Encoder:
        from m3connect.encoder import M3Encoder

        return M3Encoder.from_pretrained(name, revision=revision, local_files_only=local_files_only)

    return _find((name, revision, local_files_only), lambda: LazyEncoder(load))


def _find(key: Hashable, make: Callable[[], Encoder]) -> Sharing:
    with _lock:
        sharing = _shared.get(key)
        if sharing is None:
            sharing = _shared[key] = Sharing(make())
        return sharing
