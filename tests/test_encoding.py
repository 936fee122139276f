"""Encoders that are loaded late, shared and awaited."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from m3connect import Encoder
from m3connect.encoding import AsyncEncoder, LazyEncoder, SharedPass
from m3connect.testing import FakeEncoder

PATIENCE = 10
"""Seconds after which a test that would hang fails instead."""


class WaitingEncoder(FakeEncoder):
    """Encodes only once somebody has set `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.go = threading.Event(), threading.Event()
        self.threads: set[str] = set()

    def encode(self, texts, *, multi_vector=False, max_length=None):
        self.threads.add(threading.current_thread().name)
        self.started.set()
        if not self.go.wait(PATIENCE):
            raise TimeoutError("nobody set the event: the event loop was blocked")
        return super().encode(texts, multi_vector=multi_vector, max_length=max_length)


class FailingOnce(FakeEncoder):
    def encode(self, texts, *, multi_vector=False, max_length=None):
        batch = super().encode(texts, multi_vector=multi_vector, max_length=max_length)
        if len(self.calls) == 1:
            raise OSError("the disk is gone")
        return batch


def same(one, other):
    assert np.array_equal(one.dense, other.dense)
    assert one.sparse.to_dicts() == other.sparse.to_dicts()
    assert one.truncated.tolist() == other.truncated.tolist()
    assert one.fingerprint == other.fingerprint
    assert (one.multi_vector is None) == (other.multi_vector is None)
    for left, right in zip(one.multi_vector or (), other.multi_vector or (), strict=True):
        assert np.array_equal(left, right)


async def test_the_loop_goes_on_while_texts_are_encoded():
    waiting = WaitingEncoder()
    encoder = AsyncEncoder(waiting)

    async def let_go():
        waiting.go.set()

    batch, _ = await asyncio.gather(encoder.encode(["red apple"]), let_go())
    same(batch, FakeEncoder().encode(["red apple"]))


async def test_tasks_are_with_the_encoder_together_in_threads_of_its_own():
    waiting = WaitingEncoder()
    encoder = AsyncEncoder(waiting, threads=3)

    async def let_go_when_three_wait():
        while len(waiting.threads) < 3:
            await asyncio.sleep(0.001)
        waiting.go.set()

    await asyncio.wait_for(
        asyncio.gather(let_go_when_three_wait(), *(encoder.encode([f"text {i}"]) for i in range(5))), 20
    )
    assert len(waiting.calls) == 5
    assert len(waiting.threads) == 3
    assert all(name.startswith("m3connect-async") for name in waiting.threads)


async def test_the_encoder_sees_the_context_of_the_task():
    variable = contextvars.ContextVar("variable", default="unset")

    class Looking(FakeEncoder):
        def encode(self, texts, *, multi_vector=False, max_length=None):
            seen.append(variable.get())
            return super().encode(texts, multi_vector=multi_vector, max_length=max_length)

    seen: list[str] = []
    variable.set("set by the task")
    await AsyncEncoder(Looking()).encode(["red"])
    assert seen == ["set by the task"]


async def test_an_error_of_the_encoder_reaches_the_task():
    with pytest.raises(OSError, match="the disk is gone"):
        await AsyncEncoder(FailingOnce()).encode(["red"])


def test_an_async_encoder_works_in_one_loop_after_the_other():
    encoder = AsyncEncoder(FakeEncoder())
    for _ in range(2):
        same(asyncio.run(encoder.encode(["red"])), FakeEncoder().encode(["red"]))


async def test_a_cancelled_task_that_waits_costs_no_pass():
    waiting = WaitingEncoder()
    encoder = AsyncEncoder(waiting, threads=1)
    first = asyncio.create_task(encoder.encode(["first"]))
    second = asyncio.create_task(encoder.encode(["second"]))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    waiting.go.set()
    await first
    await encoder.encode(["third"])
    assert waiting.calls == [["first"], ["third"]]


def test_two_askers_of_the_same_texts_cost_one_pass():
    counting = FakeEncoder()
    shared = SharedPass(counting)
    texts = ["red apple", "blue sea"]
    same(shared.encode(texts), shared.encode(texts))
    assert counting.calls == [texts]


@pytest.mark.parametrize("multi_vector", [False, True])
def test_rows_come_in_the_order_asked_whatever_is_remembered(multi_vector):
    shared = SharedPass(FakeEncoder())
    shared.encode(["c", "a b"], multi_vector=True)
    shared.encode(["d e f"], multi_vector=True)
    texts = ["x", "a b", "x", "d e f", "c", "new one", "a b"]
    wanted = FakeEncoder().encode(texts, multi_vector=multi_vector, max_length=None)
    same(shared.encode(texts, multi_vector=multi_vector), wanted)


def test_only_texts_that_are_not_remembered_are_encoded_and_each_once():
    counting = FakeEncoder()
    shared = SharedPass(counting)
    shared.encode(["a", "b"])
    shared.encode(["b", "c", "c", "a"])
    assert counting.calls == [["a", "b"], ["c"]]


def test_token_vectors_asked_for_later_cost_a_pass_and_serve_everybody_then():
    counting = FakeEncoder()
    shared = SharedPass(counting)
    assert shared.encode(["a b"]).multi_vector is None
    same(shared.encode(["a b"], multi_vector=True), FakeEncoder().encode(["a b"], multi_vector=True))
    assert shared.encode(["a b"]).multi_vector is None
    assert len(counting.calls) == 2


def test_a_cut_text_is_another_text():
    shared = SharedPass(FakeEncoder())
    whole, cut = shared.encode(["a b c"]), shared.encode(["a b c"], max_length=2)
    assert (whole.truncated.tolist(), cut.truncated.tolist()) == ([0], [1])


def test_askers_at_the_same_time_share_a_pass():
    waiting = WaitingEncoder()
    shared = SharedPass(waiting)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(shared.encode, ["a", "b"])
        assert waiting.started.wait(PATIENCE)
        second = threads.submit(shared.encode, ["b", "a"])
        waiting.go.set()
        same(second.result(PATIENCE), first.result(PATIENCE)[::-1])
    assert waiting.calls == [["a", "b"]]


def test_askers_of_overlapping_texts_do_not_wait_for_each_other_for_ever():
    shared = SharedPass(FakeEncoder())
    texts = [f"text {i}" for i in range(50)]
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(shared.encode, texts[i:] + texts[:i]) for i in range(0, 50, 5)]
        for i, answer in zip(range(0, 50, 5), answers, strict=True):
            same(answer.result(PATIENCE), FakeEncoder().encode(texts[i:] + texts[:i]))


def test_an_error_goes_to_its_asker_and_others_try_for_themselves():
    class FailingFirst(WaitingEncoder):
        def encode(self, texts, *, multi_vector=False, max_length=None):
            batch = super().encode(texts, multi_vector=multi_vector, max_length=max_length)
            if "bad" in texts:
                raise OSError("the disk is gone")
            return batch

    failing = FailingFirst()
    shared = SharedPass(failing)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(shared.encode, ["bad", "good"])
        assert failing.started.wait(PATIENCE)
        second = threads.submit(shared.encode, ["good"])
        failing.go.set()
        with pytest.raises(OSError, match="the disk is gone"):
            first.result(PATIENCE)
        same(second.result(PATIENCE), FakeEncoder().encode(["good"]))


def test_a_failed_pass_is_not_remembered():
    shared = SharedPass(FailingOnce())
    with pytest.raises(OSError, match="the disk is gone"):
        shared.encode(["a"])
    same(shared.encode(["a"]), FakeEncoder().encode(["a"]))


def test_the_oldest_passes_are_forgotten_first():
    counting = FakeEncoder()
    row = 16 * 4 + 12 + 1  # dense, one weight, one letter
    shared = SharedPass(counting, max_bytes=2 * row)
    for text in ["a", "b", "c"]:
        shared.encode([text])
    shared.encode(["b", "c"])
    shared.encode(["a"])
    assert counting.calls == [["a"], ["b"], ["c"], ["a"]]


def test_the_latest_passes_stay_however_many_there_were():
    counting = FakeEncoder()
    shared = SharedPass(counting, max_bytes=3 * (16 * 4 + 12 + 1))
    for letter in "abcdefghijklm":
        shared.encode([letter])
    counting.calls.clear()
    shared.encode(["k", "l", "m"])
    assert counting.calls == []
    shared.encode(["j"])
    assert counting.calls == [["j"]]


def test_of_a_pass_that_is_too_large_as_much_is_remembered_as_may_be():
    counting = FakeEncoder()
    shared = SharedPass(counting, max_bytes=3 * (16 * 4 + 12 + 1))
    shared.encode(["a", "b", "c", "d", "e"])
    shared.encode(["a", "b", "c", "d", "e"])
    assert counting.calls == [["a", "b", "c", "d", "e"], ["d", "e"]]


def test_what_is_expected_is_remembered_until_it_is_settled():
    counting = FakeEncoder()
    encoder = SharedPass(counting, max_bytes=0)
    encoder.expect(2**20)
    for _ in range(2):
        encoder.encode(["red apple"], multi_vector=True)
    assert counting.calls == [["red apple"]]
    encoder.settle()
    encoder.encode(["red apple"])
    assert len(counting.calls) == 2


def test_without_memory_every_call_is_a_pass():
    counting = FakeEncoder()
    shared = SharedPass(counting, max_bytes=0)
    same(shared.encode(["a"]), shared.encode(["a"]))
    assert len(counting.calls) == 2


@pytest.mark.parametrize("texts", ["one string", [], [3]])
def test_what_is_no_list_of_texts_is_left_to_the_encoder(texts):
    class Strict(FakeEncoder):
        def encode(self, texts, *, multi_vector=False, max_length=None):
            raise ValueError(f"the encoder's own words about {texts!r}")

    with pytest.raises(ValueError, match="the encoder's own words"):
        SharedPass(Strict()).encode(texts)


def test_a_lazy_encoder_is_loaded_once_by_many_threads():
    loads = []

    def load():
        loads.append(1)
        return FakeEncoder()

    encoder = LazyEncoder(load)
    assert not encoder.loaded
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(encoder.encode, [["a"]] * 20))
    assert (len(loads), encoder.loaded, encoder.fingerprint) == (1, True, "fake-encoder")


def test_a_load_that_failed_is_tried_again():
    answers = iter([OSError("no network"), FakeEncoder()])

    def load():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    encoder = LazyEncoder(load)
    with pytest.raises(OSError, match="no network"):
        encoder.encode(["a"])
    assert encoder.dim == 16


def test_both_wrappers_are_encoders_themselves():
    assert isinstance(SharedPass(FakeEncoder()), Encoder)
    assert isinstance(LazyEncoder(FakeEncoder), Encoder)
