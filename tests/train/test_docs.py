"""The page on training keeps its word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import REPOSITORY


def test_the_pages_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "docs/training.md", "exec"), {})
    assert len(blocks) == 1
    assert "(1, 256)" in capsys.readouterr().out
