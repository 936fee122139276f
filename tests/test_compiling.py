"""What is compiled: whether it can be, and how it is kept for the next process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

import pytest

from m3connect.compiling import finding

numba = pytest.importorskip("numba", reason="needs the extra fast")

from m3connect.compiling import functions, keeping, tiles  # noqa: E402  # only where numba is installed
from m3connect.encoder import kernels  # noqa: E402  # as above


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


@pytest.mark.parametrize("module", [functions, tiles, kernels])
def test_what_is_kept_is_not_taken_for_other_sources(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before, getsource = keeping.fingerprint(kernels), keeping.inspect.getsource
    monkeypatch.setattr(keeping.inspect, "getsource", lambda one: getsource(one) + "#" * (one is module))
    assert keeping.fingerprint(kernels) != before
