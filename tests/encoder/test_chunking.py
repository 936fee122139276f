"""Windows of long documents, by the tokens of a real tokenizer."""

from __future__ import annotations

import numpy as np
import pytest

from m3connect import Document, M3Encoder, MemoryStore, ingest
from m3connect.chunking import chunk, windows

TEXTS = [
    " ".join(f"Bee number {i} carries pollen to flower {i} and makes honey." for i in range(60)),
    "".join(f"第{i}只蜜蜂从一朵花飞到另一朵花，为冬天酿蜜{i}。" for i in range(60)),
    " ".join(f"النحلة {i} تصنع العسل من رحيق الأزهار {i}." for i in range(60)),
    "".join(f"no{i}spaces{i}" for i in range(200)),
    " ".join(f"🐝{i}" for i in range(300)),
]
"""Numbered, so that every window has one place in its text."""


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("max_tokens", "overlap"), [(16, 0), (64, 8), (128, 100)])
def test_no_window_is_cut_and_nothing_of_the_text_is_lost(
    encoder: M3Encoder, text: str, max_tokens: int, overlap: int
) -> None:
    parts = windows(text, encoder.token_spans, max_tokens=max_tokens, overlap=overlap)
    assert len(parts) > 1
    assert not encoder.encode(parts, max_length=max_tokens).truncated.any()
    place = 0
    for part in parts:
        found = text.find(part, max(0, place - len(part) + 1))  # the first place that reaches further
        assert text[place : max(place, found)].strip() == "", "something between two windows is in none"
        place = found + len(part)
    assert text[place:].strip() == ""


def test_a_short_document_passes_as_it_is(encoder: M3Encoder) -> None:
    documents = [Document("a", "short", {"x": 1}), Document("b", "")]
    assert list(chunk(documents, encoder.token_spans)) == documents


def test_windows_know_their_parent_and_hits_come_back_as_one(encoder: M3Encoder) -> None:
    documents = [Document(f"d{i}", text, {"i": i}) for i, text in enumerate(TEXTS)]
    store = MemoryStore(dim=encoder.dim)
    parts = list(chunk(documents, encoder.token_spans, max_tokens=64, overlap=8))
    assert ingest(encoder, store, parts).truncated == 0
    assert [part.id for part in parts[:2]] == ["d0#0", "d0#1"]
    assert parts[0].metadata == {"i": 0}
    (hits,) = store.search(encoder.encode(["honey for the winter"]), top_k=5, group_by_parent=True)
    assert sorted(hit.document.parent_id or "" for hit in hits) == [f"d{i}" for i in range(5)]


@pytest.mark.parametrize("overlap", [-1, 510, 600])
def test_an_overlap_without_room_for_more_is_refused(encoder: M3Encoder, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap must be from 0 to 509"):
        list(chunk([Document("a", "text")], encoder.token_spans, overlap=overlap))


def test_spans_are_places_in_the_text(encoder: M3Encoder) -> None:
    text = "Bees make honey."
    spans = encoder.token_spans(text)
    assert np.all(spans[:, 0] <= spans[:, 1])
    assert "".join(text[start:stop] for start, stop in spans).replace(" ", "") == text.replace(" ", "")
