"""The code of docs/reranking.md runs, and prints what the page says; its sizes are those of the encodings."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
from support import REPOSITORY

from m3connect.token_rows import ENCODINGS, row_bytes

PAGE = (REPOSITORY / "docs" / "reranking.md").read_text("utf-8")


def test_the_page_prints_what_it_says() -> None:
    pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")
    pairs = re.findall(r"```python\n(.*?)```\n\s*```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(pairs) == PAGE.count("```python") == 1
    for code, output in pairs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "reranking.md", "exec"), {"__name__": "page"})
        assert printed.getvalue() == output


def test_the_page_has_the_right_sizes() -> None:
    for encoding in ENCODINGS:
        for pooling in (1, 2):
            size = 120 // pooling * row_bytes(1024, encoding) + 4
            how = rf"\| `{encoding}`" + (", `pooling=2` " if pooling == 2 else "[^`]*")
            assert re.search(rf"^{how}\| {size:,} \|", PAGE, flags=re.MULTILINE), (encoding, pooling, size)
