"""The code of docs/reranking.md runs, and prints what the page says; its sizes are those of the encodings."""

from __future__ import annotations

import contextlib
import io
import math
import re

import numpy as np
import pytest
from support import REPOSITORY, require

from m3connect import Document, M3Embeddings, SparseRows
from m3connect.token_entries import entry_bytes
from m3connect.token_rows import ENCODINGS, row_bytes

PAGE = (REPOSITORY / "docs" / "reranking.md").read_text("utf-8")


def test_the_page_prints_what_it_says() -> None:
    pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'm3connect[rerank]'")
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    pairs = re.findall(r"```python\n(.*?)```\n\s*```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(pairs) == PAGE.count("```python") == 2
    page = {"__name__": "page"}
    for code, output in pairs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "reranking.md", "exec"), page)
        assert printed.getvalue() == output


def test_the_page_has_the_right_sizes() -> None:
    for encoding in ENCODINGS:
        for pooling in (1, 2):
            rows = 120 // pooling
            size = rows * row_bytes(1024, encoding) + 4
            text = 4 * -(-entry_bytes(rows, 1024, encoding) // 3)
            how = rf"\| `{encoding}`" + (", `pooling=2` " if pooling == 2 else "[^`]*")
            expected = rf"^{how}\| {size:,} \| {text:,} \|"
            assert re.search(expected, PAGE, flags=re.MULTILINE), (encoding, pooling, size, text)


def test_the_page_has_the_right_sizes_of_what_qdrant_sends() -> None:
    a_token = [f"{math.ceil(4 / 3 * row_bytes(1024, encoding)):,}" for encoding in ENCODINGS]
    assert f"{a_token[0]}, {a_token[1]} or {a_token[2]}; half of it pooled" in PAGE
    assert f"{entry_bytes(200, 1024, 'int8') * 4 / 3 / 1e6:.2f} MB for 200 tokens in `int8`" in PAGE
    candidates = re.search(r"50 candidates of\s+280 tokens in `int8` are (\d+) MB", PAGE)
    assert candidates is not None
    assert int(candidates[1]) == round(50 * entry_bytes(280, 1024, "int8") * 4 / 3 / 1e6)


def test_the_page_says_what_fits_a_request() -> None:
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")
    from m3connect_qdrant import QdrantTokenStore
    from qdrant_client import QdrantClient

    tokens = QdrantTokenStore(QdrantClient(":memory:"), "tokens", encoding="float16")
    for rows, fits in ((12_287, True), (12_288, False)):
        matrix = np.broadcast_to(np.float32(0), (rows, 1024))
        embeddings = M3Embeddings(np.ones((1, 1024), np.float32), SparseRows.empty(1), (matrix,))
        assert (tokens.problems([Document("a", "text")], embeddings) == {}) == fits
    assert "more than 12,287 tokens in `float16`" in PAGE
