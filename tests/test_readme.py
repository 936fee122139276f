"""The README's code runs, and prints what the README says it prints."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
PAIRS = re.findall(r"```python\n(.*?)```\n(?:\s*```text\n(.*?)```)?", README.read_text("utf-8"), flags=re.DOTALL)


def test_the_first_40_lines_hold_two_commands_and_a_quickstart_with_its_output() -> None:
    head = "\n".join(README.read_text("utf-8").splitlines()[:40])
    assert "make demo" in head
    assert "make test" in head
    assert re.search(r"```python\n.*?```\n\s*```text\n.+?```", head, flags=re.DOTALL)


@pytest.mark.parametrize(("code", "output"), PAIRS, ids=range(len(PAIRS)))
def test_code_prints_what_the_readme_says(
    code: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("qdrant_client", "pymilvus"):
        if library in code:
            pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert printed.getvalue() == output
