"""The code of docs/llama_index.md runs from top to bottom, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re

from support import REPOSITORY, require

PAGE = REPOSITORY / "docs" / "llama_index.md"
PAIRS = re.findall(r"```python\n(.*?)```\n\s*```text\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)


def test_the_page_prints_what_it_says() -> None:
    require("llama_index_m3connect", "llama_index", extra="llama-index")
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    assert len(PAIRS) == PAGE.read_text("utf-8").count("```python")
    names: dict[str, object] = {"__name__": "page"}
    for code, output in PAIRS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, PAGE.name, "exec"), names)
        assert printed.getvalue() == output
