"""The example of docs/evaluation.md runs and prints what the page says, figures of the model aside."""

from __future__ import annotations

import contextlib
import io
import re

from support import REPOSITORY

PAGE = (REPOSITORY / "docs" / "evaluation.md").read_text("utf-8")


def test_the_example_prints_what_the_page_says():
    ((code, output),) = re.findall(r"```python\n(.*?)```\n\s*```text\n(.*?)```", PAGE, flags=re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "evaluation.md", "exec"), {"__name__": "evaluation"})
    shapes = [[re.sub(r"\d+", "0", line) for line in text.splitlines()] for text in (printed.getvalue(), output)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 6
