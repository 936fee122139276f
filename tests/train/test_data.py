"""Reading FlagEmbedding's files: what is taken, what is left out, and how that is said."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.train.data import Example, Source, parse_example, read_source

GOOD = {"query": "q", "pos": ["p"]}


def read(path: Path, tokenizer: M3Tokenizer, **options: Any) -> Source:
    return read_source(path, tokenizer, **{"max_lengths": (16, 32), "group_size": 4} | options)


def test_a_full_line_becomes_an_example() -> None:
    line = {
        "query": "bees?",
        "pos": ["a", "b"],
        "neg": ["c"],
        "pos_scores": [2, 1.5],
        "neg_scores": [-1],
        "prompt": "Answer: ",
        "type": "only_1neg",
        "more": "is ignored",
    }
    assert parse_example(json.dumps(line).encode()) == Example(
        "Answer: bees?", ("a", "b"), ("c",), (2.0, 1.5), (-1.0,), "only_1neg"
    )


@pytest.mark.parametrize("neg", [[], None, "absent"])
def test_an_example_without_negatives_has_its_positive_alone(neg: Any) -> None:
    line = GOOD if neg == "absent" else {**GOOD, "neg": neg}
    example = parse_example(json.dumps(line).encode())
    assert example.negatives == ()
    assert example.group_size(8) == 1


@pytest.mark.parametrize(
    ("kind", "size"), [("normal", 8), ("symmetric_sts", 8), ("symmetric_class", 4), ("only_1neg", 2), (None, 8)]
)
def test_the_type_says_how_many_passages_a_query_gets(kind: str | None, size: int) -> None:
    example = parse_example(json.dumps({**GOOD, "neg": ["x", "y", "z"], "type": kind}).encode())
    assert example.group_size(8) == size


BAD = {
    b"{": "no JSON in UTF-8",
    b'{"query": "\xff", "pos": ["p"]}': "no JSON in UTF-8",
    b"[1]": "expected an object, got a list",
    b'{"query": " ", "pos": ["p"]}': "`query` must be a text",
    b'{"query": 3, "pos": ["p"]}': "`query` must be a text",
    b'{"query": "q"}': "`pos` must have at least one text",
    b'{"query": "q", "pos": "p"}': "`pos` must be a list of texts",
    b'{"query": "q", "pos": ["p"], "neg": [1]}': "`neg` must be a list of texts",
    b'{"query": "q", "pos": ["p"], "pos_scores": [1, 2]}': "`pos_scores` must be a list of 1 finite numbers",
    b'{"query": "q", "pos": ["p"], "pos_scores": [NaN]}': "`pos_scores` must be a list of 1 finite numbers",
    b'{"query": "q", "pos": ["p"], "type": "odd"}': "`type` must be one of normal",
    b'{"query": "\\ud800", "pos": ["p"]}': "half of a surrogate pair",
}


@pytest.mark.parametrize(("line", "reason"), BAD.items(), ids=lambda value: str(value)[:40])
def test_a_bad_line_says_what_is_wrong(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_example(line)


def test_bad_lines_are_left_out_and_named(
    tmp_path: Path, tokenizer: M3Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps(GOOD).encode()
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b"\n".join([good, *BAD, b"", good]))
    with caplog.at_level(logging.WARNING):
        source = read(path, tokenizer)
    assert len(source) == 2
    assert [line.line for line in source.bad_lines] == list(range(2, 2 + len(BAD)))
    assert f"{path}:2: no JSON" in caplog.text
    assert source.read([0, 1]) == [Example("q", ("p",))] * 2


def test_a_bad_line_stops_a_strict_reader(tmp_path: Path, tokenizer: M3Tokenizer) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(GOOD) + "\n{\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: no JSON"):
        read(path, tokenizer, strict=True)


@pytest.mark.parametrize("content", ["", "\n\n", "{\n"])
def test_a_file_without_a_good_line_is_refused(tmp_path: Path, tokenizer: M3Tokenizer, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="no good line"):
        read(path, tokenizer)


def test_lengths_are_those_of_the_query_and_of_the_longest_passage(tmp_path: Path, tokenizer: M3Tokenizer) -> None:
    path = tmp_path / "lengths.jsonl"
    texts = {"query": "bees", "pos": ["a", "honey bees make honey"], "neg": ["rain " * 100]}
    path.write_text(json.dumps(texts) + "\n" + json.dumps({**texts, "neg": []}) + "\n", encoding="utf-8")
    query, positive = (len(ids) for ids in tokenizer.tokenize(["bees", "honey bees make honey"], 32).token_ids)
    assert read(path, tokenizer).lengths.tolist() == [[query, 32], [query, positive]]


def test_the_name_of_a_file_or_its_folder_turns_in_batch_negatives_off(tmp_path: Path, tokenizer: M3Tokenizer) -> None:
    for name, wanted in (("a.jsonl", True), ("a_no_in_batch_neg.jsonl", False), ("b_no_in_batch_neg/a.jsonl", False)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(GOOD), encoding="utf-8")
        assert read(path, tokenizer).in_batch_negatives is wanted
