"""Several encoders as one: the same results, shared work, and errors that come back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from m3connect import Document, Encoder, EncoderPool, M3Embeddings, M3Encoder, MemoryStore, ingest
from m3connect.testing import FakeEncoder

WAIT = 20.0
"""Seconds after which a test that hangs fails."""

LONG = [f"text {i} {'of many words ' * (i % 50)}" for i in range(400)]


class Device(FakeEncoder):
    """An encoder that waits where it is told to, and fails for some texts."""

    def __init__(self, *, fails: str | None = None) -> None:
        super().__init__()
        self.fails = fails
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        self.entered.release()
        assert self.gate.wait(WAIT)
        if self.fails is not None and self.fails in texts:
            raise MemoryError("the device has no memory left")
        return super().encode(texts, multi_vector=multi_vector, max_length=max_length)

    @property
    def texts(self) -> list[str]:
        return [text for call in self.calls for text in call]


def assert_same(one: M3Embeddings, other: M3Embeddings, *, rtol: float = 0.0) -> None:
    np.testing.assert_allclose(one.dense, other.dense, rtol=rtol, atol=rtol)
    np.testing.assert_array_equal(one.sparse.indices, other.sparse.indices)
    np.testing.assert_allclose(one.sparse.values, other.sparse.values, rtol=rtol, atol=rtol)
    assert one.truncated.tolist() == other.truncated.tolist()
    assert one.fingerprint == other.fingerprint
    assert (one.multi_vector is None) == (other.multi_vector is None)
    for mine, its in zip(one.multi_vector or (), other.multi_vector or (), strict=True):
        np.testing.assert_allclose(mine, its, rtol=rtol, atol=rtol)


def pool_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("m3connect-pool")]


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("texts", [[], [""], ["one"], LONG[:3], [*LONG, *LONG[:50], ""]], ids=len)
@pytest.mark.parametrize("options", [{}, {"multi_vector": True, "max_length": 9}], ids=str)
def test_a_pool_gives_what_one_encoder_gives(devices: int, texts: list[str], options: dict[str, Any]) -> None:
    pool = EncoderPool([FakeEncoder() for _ in range(devices)])
    assert_same(pool.encode(texts, **options), FakeEncoder().encode(texts, **options))


def test_two_real_models_give_what_one_gives(mini: M3Encoder) -> None:
    pool = EncoderPool([mini, M3Encoder.from_pretrained("m3-mini")])
    texts = LONG[:120]
    assert_same(pool.encode(texts, multi_vector=True), mini.encode(texts, multi_vector=True), rtol=1e-4)
    assert (pool.dim, pool.fingerprint) == (mini.dim, mini.fingerprint)


def test_all_encoders_share_a_large_call_and_no_text_is_encoded_twice() -> None:
    devices = [Device(), Device(), Device()]
    for device in devices:
        device.gate.clear()
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(EncoderPool(devices).encode, [*LONG, *LONG])
        assert all(device.entered.acquire(timeout=WAIT) for device in devices)
        for device in devices:
            device.gate.set()
        call.result(WAIT)
    assert all(device.calls for device in devices)
    assert sorted(text for device in devices for text in device.texts) == sorted(LONG)


def test_a_slow_encoder_gets_less() -> None:
    slow, fast = Device(), Device()
    slow.gate.clear()
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(EncoderPool([slow, fast]).encode, LONG)
        while len(fast.calls) < 6:
            assert fast.entered.acquire(timeout=WAIT)
        slow.gate.set()
        call.result(WAIT)
    assert len(slow.texts) < len(fast.texts)


def test_small_calls_of_several_threads_go_to_different_encoders() -> None:
    devices = [Device(), Device()]
    pool = EncoderPool(devices)
    for device in devices:
        device.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.encode, ["one"])
        assert devices[0].entered.acquire(timeout=WAIT)
        second = threads.submit(pool.encode, ["two"])
        assert devices[1].entered.acquire(timeout=WAIT)
        for device in devices:
            device.gate.set()
        first.result(WAIT)
        second.result(WAIT)
    assert [device.texts for device in devices] == [["one"], ["two"]]


def test_a_text_that_comes_several_times_in_a_small_call_is_encoded_once() -> None:
    device = Device()
    batch = EncoderPool([device]).encode(["one", "two", "one"], multi_vector=True)
    assert device.calls == [["one", "two"]]
    assert_same(batch, FakeEncoder().encode(["one", "two", "one"], multi_vector=True))


class Meeting:
    """A lock: each of two threads that has given it back the first time waits for the other to do so too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._both = threading.Barrier(2, timeout=WAIT)
        self._met = threading.local()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not hasattr(self._met, "done"):
            self._met.done = True
            self._both.wait()


def test_two_small_calls_at_the_same_moment_go_to_different_encoders() -> None:
    devices = [Device(), Device()]
    pool = EncoderPool(devices)
    pool._changed = Meeting()  # type: ignore[assignment]
    with ThreadPoolExecutor(2) as threads:
        for call in [threads.submit(pool.encode, [text]) for text in ("one", "two")]:
            call.result(WAIT)
    assert [len(device.calls) for device in devices] == [1, 1]


def test_an_error_of_one_encoder_reaches_the_caller_and_nothing_hangs() -> None:
    worst = max(LONG, key=len)
    devices = [Device(fails=worst), Device(fails=worst)]  # whichever takes it
    pool = EncoderPool(devices)
    with ThreadPoolExecutor(1) as thread, pytest.raises(MemoryError, match="no memory left"):
        thread.submit(pool.encode, LONG).result(WAIT)
    assert sum(len(device.calls) for device in devices) < 4
    assert pool_threads() == []
    for device in devices:
        device.fails = None
    assert_same(pool.encode(LONG), FakeEncoder().encode(LONG))
    assert pool._busy == [0, 0]


def test_a_broken_encoder_stops_the_call_and_the_others_live_on() -> None:
    class Broken(Device):
        def encode(self, texts: Sequence[str], **_: object) -> M3Embeddings:
            raise RuntimeError("device 1 was lost")

    good = Device()
    pool = EncoderPool([good, Broken()])
    with pytest.raises(RuntimeError, match="device 1 was lost"):
        pool.encode(LONG)
    assert pool_threads() == []
    assert len(pool.encode(["short"])) == 1  # the first has the least to do


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_caller_leaves_no_thread_behind() -> None:
    devices = [Device(), Device()]
    for device in devices:
        device.gate.clear()

    def interrupt() -> None:
        assert all(device.entered.acquire(timeout=WAIT) for device in devices)
        threading.Event().wait(0.3)  # until the caller waits: Python can miss a signal that comes just before that
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        threading.Event().wait(0.5)  # the caller is told first
        for device in devices:
            device.gate.set()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        EncoderPool(devices).encode(LONG)
    assert pool_threads() == []
    assert sum(len(device.calls) for device in devices) < 8


def test_ingest_fills_a_store_through_a_pool() -> None:
    devices = [Device(), Device()]
    store = MemoryStore(dim=16)
    report = ingest(EncoderPool(devices), store, [Document(str(i), text) for i, text in enumerate(LONG)])
    assert (report.stored, store.count()) == (400, 400)
    assert pool_threads() == []


def test_a_pool_is_an_encoder_of_one_model() -> None:
    assert isinstance(EncoderPool([FakeEncoder()]), Encoder)
    with pytest.raises(ValueError, match="expected encoders of one model, but got none"):
        EncoderPool([])
    with pytest.raises(ValueError, match="dimension 16, fingerprint fake-encoder; dimension 8"):
        EncoderPool([FakeEncoder(), FakeEncoder(8)])
    with pytest.raises(ValueError, match="fingerprint other: load the same model"):
        EncoderPool([FakeEncoder(), FakeEncoder(fingerprint="other")])


def test_wrong_texts_are_named_by_their_place() -> None:
    pool = EncoderPool([FakeEncoder(), FakeEncoder()])
    with pytest.raises(ValueError, match="encode takes a list of strings"):
        pool.encode("text")
    with pytest.raises(ValueError, match="text 400 must be a string, but is int"):
        pool.encode([*LONG, 7])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="text 400 holds half of a surrogate pair at character 1"):
        pool.encode([*LONG, "x\ud800"])
