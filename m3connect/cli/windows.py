"""How `index` cuts long documents, and which of its options go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from m3connect.chunking import chunk as chunked
from m3connect.cli.indexing import Cut
from m3connect.opening import check_spec

if TYPE_CHECKING:
    from m3connect.encoder import M3Encoder

__all__ = ["SHORTEST_WINDOW", "check_index_options", "cut_windows"]

SHORTEST_WINDOW = 16
"""Tokens; shorter windows say nothing."""


def check_index_options(store: str | None, chunk: int | None, overlap: int | None, multi_vector: bool | None) -> None:
    """Raise a usage error for options of `index` that contradict each other, or the store."""
    if overlap is not None and chunk is None:
        raise typer.BadParameter("there are no windows without --chunk", param_hint="'--overlap'")
    if overlap is not None and chunk is not None and overlap > chunk // 2:
        raise typer.BadParameter(f"{overlap} is more than half of --chunk {chunk}", param_hint="'--overlap'")
    if multi_vector and store is not None and check_spec(store)[0] == "milvus":
        raise typer.BadParameter(
            "Milvus cannot store token vectors; `search --rerank` works without them, it encodes its candidates again",
            param_hint="'--multi-vector'",
        )


def cut_windows(encoder: M3Encoder, size: int | None, overlap: int | None) -> Cut:
    """Return what makes windows of a document of more than `size` tokens; None leaves all documents whole."""
    if size is None:
        return lambda document: [document]
    if size > encoder.max_length:
        raise typer.BadParameter(f"the model reads at most {encoder.max_length} tokens", param_hint="'--chunk'")
    shared = size // 8 if overlap is None else overlap
    return lambda document: list(chunked([document], encoder.token_spans, max_tokens=size, overlap=shared))
