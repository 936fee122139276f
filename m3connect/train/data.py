"""Training examples in FlagEmbedding's jsonl files.

A line is an object: `query`, `pos` (texts), and where there are any `neg` (texts), `pos_scores` and `neg_scores`
(numbers of an outside model), `prompt` (put before the query) and `type`. A file stays on disk: what is kept is where
each line begins and how long its texts are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from m3connect.embeddings import IntArray
from m3connect.encoder.tokenizer import M3Tokenizer

__all__ = ["BadLine", "Example", "Source", "read_source"]

logger = logging.getLogger(__name__)

_TYPES = ("normal", "symmetric_sts", "symmetric_class", "symmetric_clustering", "only_1neg")
_LINES_AT_ONCE = 256
_BAD_LINES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Example:
    """A query with passages that answer it and passages that do not."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    kind: str = "normal"

    @property
    def scored(self) -> bool:
        """Whether an outside model's scores are known."""
        return self.positive_scores is not None and self.negative_scores is not None

    def group_size(self, wanted: int) -> int:
        """Return how many passages the query gets where `wanted` is the common number; 1 without negatives."""
        if not self.negatives:
            return 1
        if self.kind == "only_1neg":
            return min(2, wanted)
        return min(len(self.negatives) + 1, wanted) if self.kind == "symmetric_class" else wanted


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was left out."""

    path: Path
    line: int
    """From 1."""

    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A file of examples; a batch has examples of one source."""

    path: Path

    offsets: IntArray
    """[n] where each example's line begins, in bytes."""

    lengths: IntArray
    """[n, 2] tokens of the query, and of the longest of all its passages."""

    group_sizes: IntArray
    """[n] passages a query gets in a batch."""

    scored: IntArray
    """[n] 1 where an outside model's scores are known."""

    in_batch_negatives: bool
    """False where the file's name ends with `no_in_batch_neg`: only the example's own negatives count."""

    bad_lines: tuple[BadLine, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, rows: Iterable[int]) -> list[Example]:
        """Return some examples."""
        with self.path.open("rb") as file:
            return [_read_at(file, int(self.offsets[row])) for row in rows]


def read_source(
    path: Path, tokenizer: M3Tokenizer, *, max_lengths: tuple[int, int], group_size: int, strict: bool = False
) -> Source:
    """Read a file once, to check its lines and to measure its texts.

    Args:
        path: a jsonl file, or one in a folder whose name ends with `no_in_batch_neg`.
        tokenizer: what counts the tokens.
        max_lengths: the most tokens of a query, and of a passage.
        group_size: passages a query, where it has negatives.
        strict: the first bad line raises; otherwise it is left out, logged and kept in `bad_lines`.

    Raises:
        ValueError: a bad line, with `strict`; or no good one.
    """
    bad: list[BadLine] = []
    offsets: list[int] = []
    facts: list[tuple[int, int]] = []
    lengths: list[IntArray] = []
    lines = _good_lines(path, bad, strict)
    while block := list(islice(lines, _LINES_AT_ONCE)):
        offsets += [offset for offset, _ in block]
        facts += [(example.group_size(group_size), int(example.scored)) for _, example in block]
        lengths.append(_measure([example for _, example in block], tokenizer, max_lengths))
    if not offsets:
        raise ValueError(f"{path} has no good line" + (f"; the first bad one is {bad[0]}" if bad else ""))
    _report(path, bad)
    known = np.array(facts, dtype=np.int64)
    return Source(
        path=path,
        offsets=np.array(offsets, dtype=np.int64),
        lengths=np.concatenate(lengths),
        group_sizes=known[:, 0],
        scored=known[:, 1],
        in_batch_negatives=not (path.stem.endswith("no_in_batch_neg") or path.parent.name.endswith("no_in_batch_neg")),
        bad_lines=tuple(bad),
    )


def _good_lines(path: Path, bad: list[BadLine], strict: bool) -> Iterator[tuple[int, Example]]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if line.strip():
                    yield offset, parse_example(line)
            except ValueError as error:
                found = BadLine(path, number, str(error))
                if strict:
                    raise ValueError(str(found)) from error
                bad.append(found)
            offset += len(line)


def _read_at(file: BinaryIO, offset: int) -> Example:
    file.seek(offset)
    return parse_example(file.readline())


def parse_example(line: bytes) -> Example:
    """Turn a line into an example.

    Raises:
        ValueError: it is no JSON object of the expected fields.
    """
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON in UTF-8: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object, got a {type(fields).__name__}")
    query, kind = fields.get("query"), fields.get("type") or "normal"
    if not isinstance(query, str) or not query.strip():
        raise ValueError("`query` must be a text that is not blank")
    if kind not in _TYPES:
        raise ValueError(f"`type` must be one of {', '.join(_TYPES)}, got {kind!r}")
    positives, negatives = _texts(fields, "pos"), _texts(fields, "neg")
    if not positives:
        raise ValueError("`pos` must have at least one text")
    prompt = fields.get("prompt") or ""
    _check_encodable([query, *positives, *negatives])
    return Example(
        f"{prompt}{query}",
        positives,
        negatives,
        _scores(fields, "pos_scores", len(positives)),
        _scores(fields, "neg_scores", len(negatives)),
        kind,
    )


def _texts(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = fields.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"`{key}` must be a list of texts")
    return tuple(texts)


def _scores(fields: dict[str, Any], key: str, count: int) -> tuple[float, ...] | None:
    scores = fields.get(key)
    if scores is None:
        return None
    numbers = isinstance(scores, list) and all(type(score) in (int, float) and np.isfinite(score) for score in scores)
    if not numbers or len(scores) != count:
        raise ValueError(f"`{key}` must be a list of {count} finite numbers, one a text")
    return tuple(map(float, scores))


def _check_encodable(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text holds half of a surrogate pair") from error


def _measure(examples: Sequence[Example], tokenizer: M3Tokenizer, max_lengths: tuple[int, int]) -> IntArray:
    queries = tokenizer.tokenize([example.query for example in examples], max_lengths[0]).token_ids
    texts = [text for example in examples for text in (*example.positives, *example.negatives)]
    passages = np.array([len(ids) for ids in tokenizer.tokenize(texts, max_lengths[1]).token_ids])
    counts = [len(example.positives) + len(example.negatives) for example in examples]
    longest = np.maximum.reduceat(passages, np.cumsum([0, *counts[:-1]]))
    return np.stack([np.array([len(ids) for ids in queries]), longest], axis=1)


def _report(path: Path, bad: Sequence[BadLine]) -> None:
    for line in bad[:_BAD_LINES_SHOWN]:
        logger.warning("left out %s", line)
    if len(bad) > _BAD_LINES_SHOWN:
        logger.warning("%s: %d bad lines in all were left out", path, len(bad))
