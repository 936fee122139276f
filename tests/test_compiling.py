"""What is compiled: whether it can be, and how it is kept for the next process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

import pytest

from m3connect.compiling import finding

numba = pytest.importorskip("numba", reason="needs the extra fast")

from m3connect import maxsim_kernel
from m3connect.compiling import functions, keeping, tiles, vectors
from m3connect.encoder import kernels


def test_a_numba_that_does_not_fit_is_left_out_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(name: str) -> None:
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(finding.importlib, "import_module", refuse)
    with caplog.at_level(logging.WARNING):
        assert not finding.has_compiler.__wrapped__()
    assert "numba is not used, and encoding and reranking are slower without it: Numba needs" in caplog.text


def test_a_numba_that_may_not_compile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert not finding.has_compiler.__wrapped__()


@pytest.mark.parametrize(
    "error", [RuntimeError("no locator available"), OSError("disk full"), EOFError(), UnpicklingError()]
)
def test_what_cannot_be_kept_is_compiled_all_the_same(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bool] = []

    def compile_it(*, cache: bool = False) -> Callable[[object], object]:
        asked.append(cache)

        def compile_function(function: object) -> object:
            if cache:
                raise error
            return "compiled"

        return compile_function

    with caplog.at_level(logging.WARNING):
        assert keeping.compile_and_keep(lambda: None, compile_it) == "compiled"
    assert asked == [True, False]
    assert "Name a folder of yours in NUMBA_CACHE_DIR" in caplog.text


needs_int8 = pytest.mark.skipif(not finding.can_compile("int8"), reason="tiles need AVX512-VNNI")


@needs_int8
def test_what_is_kept_is_found_by_the_next_process(tmp_path: Path) -> None:
    script = """if True:
        import sys, numpy as np
        from m3connect import scoring
        from m3connect.token_rows import encode_rows
        rows = np.eye(8, dtype=np.float32)
        assert scoring.multi_vector([rows], encode_rows([rows], "int8"))[0, 0] > 0.99
        from m3connect.maxsim_kernel import _kernel_of
        print(sum(_kernel_of("int8").stats.cache_hits.values()))
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [done.stdout.strip() for done in runs] == ["0", "1"]


@pytest.mark.parametrize("module", [functions, tiles, vectors, kernels])
def test_what_is_kept_is_not_taken_for_other_sources(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before, getsource = keeping.fingerprint(kernels), keeping.inspect.getsource
    monkeypatch.setattr(keeping.inspect, "getsource", lambda one: getsource(one) + "#" * (one is module))
    assert keeping.fingerprint(kernels) != before


@needs_int8
def test_threads_that_score_first_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def compile_slowly(function: object, _: object) -> object:
        time.sleep(0.05)
        compiled.append(function)
        return "compiled"

    monkeypatch.setattr(maxsim_kernel, "compile_and_keep", compile_slowly)
    maxsim_kernel._kernel_of.cache_clear()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(maxsim_kernel.kernel_of, ["int8"] * 3)) == ["compiled"] * 3
    maxsim_kernel._kernel_of.cache_clear()
    assert len(compiled) == 1


@needs_int8
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_that_is_forked_meanwhile_can_compile() -> None:
    script = """if True:
        import os, threading, time
        from m3connect.compiling.keeping import compiling
        from m3connect.maxsim_kernel import kernel_of
        held = threading.Event()
        def hold():
            with compiling:
                held.set()
                time.sleep(0.2)
        threading.Thread(target=hold).start()
        held.wait()
        child = os.fork()
        if not child:
            kernel_of("int8")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        kernel_of("int8")
        print("both")
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "both"
