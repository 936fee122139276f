"""Worker threads: for whom they work, what they leave as it was, and what becomes of them after a fork.

Each test has a process of its own, since what PyTorch remembers about threads belongs to the process.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import REPOSITORY

from m3connect import maxsim

pytest.importorskip("torch")

START = """
import os, signal, threading, time
import numpy as np
import torch
from m3connect import EncoderPool, maxsim, scoring
from m3connect.embeddings import M3Embeddings, SparseRows
from m3connect.encoder.scheduler import Scheduler, Sizes
from m3connect.testing import FakeEncoder

torch.set_num_threads(3)
maxsim._ROWS = 16

def rerank():
    rows = np.eye(64, dtype=np.float32)
    return scoring.multi_vector([rows[:4]], [rows[:40], rows[2:60], rows]).tolist()

def pack(token_ids, multi_vector):
    return M3Embeddings(np.ones((len(token_ids), 1), np.float32), SparseRows.empty(len(token_ids)))

def encode(scheduler):
    return len(scheduler.run([np.ones(900, np.int64)] * 5, multi_vector=False))

def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]
"""

SCORES = "[[1.0, 0.5, 1.0]]"


def run(code: str) -> str:
    """Run code after what all have in common, and return what it prints."""
    if "rerank()" in code and maxsim.torch_with_fast_floats() is None:
        pytest.skip("MaxSim has threads where the processor has AVX-512")
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("work", "result"),
    [
        ("rerank()", SCORES),
        (
            "len(EncoderPool([FakeEncoder(), FakeEncoder()]).encode(['many words ' * 99 + str(i) for i in range(40)]))",
            "40",
        ),
    ],
)
def test_a_thread_is_served_after_the_main_thread_has_returned(work: str, result: str) -> None:
    code = f"""
def serve():
    threading.main_thread().join()
    print({work})
threading.Thread(target=serve).start()
"""
    assert run(code) == result


def test_two_that_hire_at_once_leave_the_number_of_threads_as_it_was() -> None:
    code = """
real, window, other_hires, first_done = torch.set_num_threads, *[threading.Event() for _ in range(3)]

def slow(threads):
    real(threads)
    name = threading.current_thread().name
    if name.startswith("m3connect-maxsim") and not window.is_set():
        window.set()
        other_hires.wait(0.5)  # in vain, if that one waits for its turn
    if name.startswith("m3connect-encoder"):
        other_hires.set()
        first_done.wait(20)
torch.set_num_threads = slow

def first():
    rerank()
    first_done.set()

def second():
    window.wait(20)
    encode(Scheduler(pack, Sizes(1024, 256, workers=2)))
threads = [threading.Thread(target=work) for work in (first, second)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(in_thread(torch.get_num_threads))
"""
    assert run(code) == "3"


@pytest.mark.parametrize(
    ("work", "result"), [("rerank()", SCORES), ("encode(scheduler)", "5")], ids=["MaxSim", "encoder"]
)
def test_where_no_thread_can_be_started_the_call_fails_and_the_next_one_works(work: str, result: str) -> None:
    code = f"""
scheduler = Scheduler(pack)
real, begun = threading.Thread.start, []

def start(thread):
    begun.append(thread)
    if len(begun) == 2:
        raise RuntimeError("can't start new thread")
    real(thread)
threading.Thread.start = start
try:
    {work}
except RuntimeError as error:
    print(error)
print(in_thread(torch.get_num_threads), len(scheduler._waiting))
print({work})
"""
    assert run(code).splitlines() == ["can't start new thread", "3 0", result]


INTERRUPTS = {
    "while it waits": "interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)",
    "while it starts one": """
interrupt = lambda: None
def start(thread):
    real_start(thread)
    raise KeyboardInterrupt
threading.Thread.start = start
""",
}


@pytest.mark.parametrize("interrupt", INTERRUPTS.values(), ids=INTERRUPTS)
def test_an_interrupt_while_workers_are_hired_leaves_numbers_and_workers_as_they_should_be(interrupt: str) -> None:
    code = f"""
scheduler = Scheduler(pack)
signal.signal(signal.SIGINT, signal.default_int_handler)
real, real_start, done = torch.set_num_threads, threading.Thread.start, threading.Event()
{interrupt}
def slow(threads):
    if threading.current_thread() is threading.main_thread():
        return real(threads)
    interrupt()
    time.sleep(0.5)  # until the other thread has noticed
    real(threads)
    done.set()
torch.set_num_threads = slow
try:
    encode(scheduler)
except KeyboardInterrupt:
    torch.set_num_threads, threading.Thread.start = real, real_start
done.wait(20)
hired = [thread for thread in threading.enumerate() if thread.name == "m3connect-encoder"]
print(in_thread(torch.get_num_threads), len(hired), scheduler._workers == set(hired))
print(encode(scheduler), len(scheduler._workers))
"""
    assert run(code).splitlines() == ["3 1 True", "5 3"]


def test_a_forked_process_scores_with_workers_of_its_own() -> None:
    code = """
import warnings
from m3connect import threads
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: this process has several threads
rerank()
with threads._hiring:  # as if another thread were hiring
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # where it hangs
        print(rerank(), len(maxsim._crew), flush=True)
        os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    assert run(code).splitlines() == [f"{SCORES} 3", "0"]
