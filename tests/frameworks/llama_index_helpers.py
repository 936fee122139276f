"""What the tests of llama_index_m3connect share."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from support import require

pytest.importorskip("llama_index.core", reason="pip install 'm3connect[llama-index]'")
require("llama_index_m3connect", "llama_index", extra="llama-index")

from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode  # noqa: E402  # after the skip

from m3connect.testing import FakeEncoder  # noqa: E402

PATIENCE = 20
"""Seconds after which a test that would hang fails instead."""

TEXTS = {
    "apple": "red apple on the table",
    "sea": "deep blue sea",
    "bottle": "seven green bottles",
    "ship": "a ship on the blue sea",
}


class WaitingEncoder(FakeEncoder):
    """Encodes only once somebody has set `go`."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.go = threading.Event()

    def encode(self, texts, *, multi_vector=False, max_length=None):
        if not self.go.wait(PATIENCE):
            raise TimeoutError("nobody set the event: the event loop was blocked")
        return super().encode(texts, multi_vector=multi_vector, max_length=max_length)


def times_encoded(encoder: FakeEncoder, text: str) -> int:
    return sum(call.count(text) for call in encoder.calls)


def nodes_of(texts: dict[str, str] = TEXTS, *, source: str | None = None, **metadata) -> list[TextNode]:
    relations = {} if source is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)}
    return [
        TextNode(id_=name, text=text, metadata=dict(metadata), relationships=relations) for name, text in texts.items()
    ]


def ids(scored: Sequence) -> list[str]:
    return [one.node.node_id for one in scored]
