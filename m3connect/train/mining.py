"""Hard negatives: texts that a store finds for a query, though they do not answer it.

Rows are those of FlagEmbedding's training files, `{"query": str, "pos": [str], ...}`; mining replaces `neg`, and the
scores where a teacher gives them.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np

from m3connect import scoring
from m3connect.fusion import RRF, Fusion
from m3connect.store import Encoder, Hit, HybridStore

__all__ = ["MiningOptions", "Teacher", "mine", "mine_file", "read_rows", "three_head_teacher"]

Row: TypeAlias = Mapping[str, Any]
Teacher: TypeAlias = Callable[[str, Sequence[str]], Sequence[float]]
"""Scores texts for a query, higher is better; a cross-encoder, say."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MiningOptions:
    """Which negatives are drawn.

    Raises:
        ValueError: a number is out of range.
    """

    negatives: int = 7
    """How many a row gets; fewer where fewer are left."""

    ranks: tuple[int, int] = (10, 210)
    """Drawn from these ranks, counted from 1, both included. The very first hits are often answers nobody marked."""

    fusion: Fusion = RRF()  # noqa: RUF009  # frozen
    """How the store ranks."""

    margin: float | None = None
    """Leave out what scores more than this share of the worst positive, 0.95 say: it may be an answer. Scores are the
    teacher's; without one they are dense + 0.3 sparse."""

    seed: int = 0
    batch_size: int = 64
    """Queries that are encoded and searched together."""

    def __post_init__(self) -> None:
        first, last = self.ranks
        if not 1 <= first <= last:
            raise ValueError(
                f"ranks must be two numbers from 1 on, the first not above the second, but are {self.ranks}"
            )
        if self.negatives < 1 or self.batch_size < 1:
            raise ValueError(f"negatives and batch_size must be at least 1: {self.negatives}, {self.batch_size}")


def mine(
    encoder: Encoder,
    store: HybridStore,
    rows: Iterable[Row],
    *,
    options: MiningOptions = MiningOptions(),
    teacher: Teacher | None = None,
    start: int = 0,
) -> Iterator[dict[str, Any]]:
    """Give each row negatives from the store.

    The row's positives, its query, and texts that read alike but for case and white space are left out.

    Args:
        encoder: the one that filled the store.
        store: the texts to draw from.
        rows: any iterable; it is read `batch_size` rows at a time.
        options: which negatives.
        teacher: where given, `pos_scores` and `neg_scores` are its scores.
        start: the number of the first row, when earlier ones were mined before: each row has a draw of its own.

    Yields:
        The rows, in order, with `neg`.

    Example:
        >>> from m3connect import Document, MemoryStore, ingest
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = MemoryStore(dim=encoder.dim)
        >>> texts = ["red apple", "green apple", "blue sea"]
        >>> report = ingest(encoder, store, [Document(text, text) for text in texts])
        >>> rows = [{"query": "an apple that is red", "pos": ["Red  apple"]}]
        >>> next(mine(encoder, store, rows, options=MiningOptions(negatives=1, ranks=(1, 2))))["neg"]
        ['green apple']
    """
    remaining = iter(rows)
    while batch := [_checked(row) for row in islice(remaining, options.batch_size)]:
        found = _search(encoder, store, batch, options)
        floors = (
            _floors(encoder, batch, options) if teacher is None and options.margin is not None else [None] * len(batch)
        )
        for offset, (row, hits, floor) in enumerate(zip(batch, found, floors, strict=True)):
            candidates = _candidates(row, hits[options.ranks[0] - 1 :], floor)
            order = np.random.default_rng([options.seed, start + offset]).permutation(len(candidates))
            yield _filled(row, [candidates[i] for i in order], options, teacher)
        start += len(batch)


def mine_file(
    encoder: Encoder,
    store: HybridStore,
    source: str | Path,
    target: str | Path,
    *,
    options: MiningOptions = MiningOptions(),
    teacher: Teacher | None = None,
    on_problem: Callable[[int, str], None] | None = None,
    progress: bool = False,
) -> int:
    """Mine a .jsonl file into another; run again with the same options after an interruption, it goes on.

    Args:
        encoder: the one that filled the store.
        store: the texts to draw from.
        source: rows, packed where the name ends in `.gz`; it must not change between runs.
        target: the same rows with negatives, written a batch at a time.
        options: which negatives.
        teacher: see `mine`.
        on_problem: told of each line that is no row and left out; None means a line in the log.
        progress: show a progress bar.

    Returns:
        How many rows the target has.
    """
    from tqdm import tqdm

    target = Path(target)
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the file that is read: write into another one")
    done = _keep_whole_batches(target, options.batch_size)
    rows = islice(read_rows(source, on_problem=on_problem), done, None)
    mined = mine(encoder, store, rows, options=options, teacher=teacher, start=done)
    with target.open("a", encoding="utf-8") as file, tqdm(initial=done, unit="row", disable=not progress) as bar:
        while batch := list(islice(mined, options.batch_size)):
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in batch))
            file.flush()
            done += len(batch)
            bar.update(len(batch))
    return done


def three_head_teacher(encoder: Encoder, *, weights: tuple[float, float, float] = scoring.HYBRID_WEIGHTS) -> Teacher:
    """Return a teacher that scores with all three heads of an M3 model."""

    def score(query: str, texts: Sequence[str]) -> list[float]:
        batch = encoder.encode([query, *texts], multi_vector=True)
        return [float(value) for value in scoring.hybrid(batch[:1], batch[1:], weights=weights)[0]]

    return score


def read_rows(source: str | Path, *, on_problem: Callable[[int, str], None] | None = None) -> Iterator[dict[str, Any]]:
    """Read training rows; a line that is none is reported with its number and left out."""
    report = on_problem or (lambda number, reason: logger.warning("%s, line %d: %s", source, number, reason))
    opener = gzip.open if Path(source).suffix == ".gz" else open
    with cast(IO[str], opener(source, "rt", encoding="utf-8")) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield _checked(json.loads(line))
            except ValueError as error:
                report(number, str(error))


def _checked(row: object) -> dict[str, Any]:
    if not isinstance(row, Mapping) or not isinstance(row.get("query"), str):
        raise ValueError(f'expected {{"query": str, "pos": [str]}}, but got {row!r:.80}')
    positives = row.get("pos")
    if not isinstance(positives, list) or not positives or not all(isinstance(text, str) for text in positives):
        raise ValueError(f'"pos" must be a list of at least one string, but is {positives!r:.80}')
    return dict(row)


def _search(encoder: Encoder, store: HybridStore, batch: Sequence[Row], options: MiningOptions) -> list[list[Hit]]:
    last = options.ranks[1]
    return store.search(
        encoder.encode([row["query"] for row in batch]),
        top_k=last,
        candidates=max(100, last),
        fusion=options.fusion,
        with_scores=options.margin is not None,
    )


def _floors(encoder: Encoder, batch: Sequence[Row], options: MiningOptions) -> list[float | None]:
    """Return above which score a text may be an answer, for each row."""
    texts = [text for row in batch for text in row["pos"]]
    queries, positives = encoder.encode([row["query"] for row in batch]), encoder.encode(texts)
    floors: list[float | None] = []
    place = 0
    for i, row in enumerate(batch):
        own = positives[place : place + len(row["pos"])]
        worst = scoring.hybrid(queries[i], own, weights=(*scoring.HYBRID_WEIGHTS[:2], 0.0)).min()
        floors.append(float(worst) * cast(float, options.margin))
        place += len(row["pos"])
    return floors


def _candidates(row: Row, hits: Sequence[Hit], floor: float | None) -> list[str]:
    taken = {_normal(text) for text in (row["query"], *row["pos"])}
    texts = []
    for hit in hits:
        text = hit.document.text
        if _normal(text) in taken or (floor is not None and _score(hit) > floor):
            continue
        taken.add(_normal(text))
        texts.append(text)
    return texts


def _score(hit: Hit) -> float:
    scores = hit.scores or {}
    return scoring.HYBRID_WEIGHTS[0] * scores["dense"] + scoring.HYBRID_WEIGHTS[1] * scores["sparse"]


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _filled(row: Row, candidates: Sequence[str], options: MiningOptions, teacher: Teacher | None) -> dict[str, Any]:
    """Take negatives in the order drawn; a teacher scores no more of them than it must."""
    filled = {key: value for key, value in row.items() if key not in ("pos_scores", "neg_scores")}
    if teacher is None:
        return filled | {"neg": list(candidates[: options.negatives])}
    positive = [float(score) for score in teacher(row["query"], row["pos"])]
    floor = float("inf") if options.margin is None else options.margin * min(positive)
    kept: list[tuple[str, float]] = []
    for start in range(0, len(candidates), options.negatives):
        group = candidates[start : start + options.negatives]
        scored = zip(group, map(float, teacher(row["query"], group)), strict=True)
        kept += [(text, score) for text, score in scored if score <= floor]
        if len(kept) >= options.negatives:
            break
    kept = kept[: options.negatives]
    return filled | {
        "neg": [text for text, _ in kept],
        "pos_scores": positive,
        "neg_scores": [score for _, score in kept],
    }


def _keep_whole_batches(target: Path, batch_size: int) -> int:
    """Cut what an interruption left of a batch, so that every batch is computed as without it; count the rows."""
    if not target.exists():
        return 0
    ends = [0]
    with target.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                ends.append(ends[-1] + len(line))
    kept = (len(ends) - 1) // batch_size * batch_size
    os.truncate(target, ends[kept])
    return kept
