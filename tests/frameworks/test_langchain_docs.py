"""The code of docs/langchain.md runs, and prints what the page says it prints."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
from support import REPOSITORY

PAGE = (REPOSITORY / "docs" / "langchain.md").read_text("utf-8")
PAIRS = re.findall(r"```python\n(.*?)```\n(?:\s*```text\n(.*?)```)?", PAGE, flags=re.DOTALL)


def test_the_page_has_code_and_its_links_lead_somewhere() -> None:
    assert len(PAIRS) == PAGE.count("```python")
    assert PAIRS
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (REPOSITORY / "docs" / target).exists(), target


@pytest.mark.parametrize(("code", "output"), PAIRS, ids=range(len(PAIRS)))
def test_code_prints_what_the_page_says(code: str, output: str) -> None:
    for library in ("langchain_core", "qdrant_client", "langchain_qdrant"):
        if library.replace("_core", "_m3connect") in code:
            pytest.importorskip(library)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "langchain.md", "exec"), {"__name__": "page"})
    assert printed.getvalue() == output
