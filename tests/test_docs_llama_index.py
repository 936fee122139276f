"""The code of docs/llama_index.md runs from top to bottom, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import pairwise
from typing import Any

from support import REPOSITORY, require

PAGE = REPOSITORY / "docs" / "llama_index.md"
PAIRS = re.findall(r"```python\n(.*?)```\n\s*```text\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)


def require_all() -> None:
    require("llama_index_m3connect", "llama_index", extra="llama-index")
    require("m3connect_qdrant", "qdrant_client", extra="qdrant")


def test_the_first_answer_is_no_tie() -> None:
    """A tie is broken by ids, and those of nodes are random."""
    require_all()
    code = PAIRS[0][0]
    names: dict[str, Any] = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, PAGE.name, "exec"), names)
    (question,) = re.findall(r'\.retrieve\("(.*?)"\)', code)
    retriever = names["index"].as_retriever(vector_store_query_mode="hybrid", similarity_top_k=3)
    scores = [found.score for found in retriever.retrieve(question)]
    assert all(better - worse > 1e-4 for better, worse in pairwise(scores)), scores


def test_the_page_prints_what_it_says() -> None:
    require_all()
    assert len(PAIRS) == PAGE.read_text("utf-8").count("```python")
    names: dict[str, object] = {"__name__": "page"}
    for code, output in PAIRS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, PAGE.name, "exec"), names)
        assert printed.getvalue() == output
