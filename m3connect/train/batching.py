"""Batches of texts of like lengths, a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.train.config import TrainConfig
from m3connect.train.data import Example, Source

__all__ = ["Batch", "Batches", "Padding", "SourceBatches", "measure_padding", "plan_batches", "random_batches"]

_STRIP = 1.05
"""Lengths within this factor count as equal, so that who meets whom in a batch changes from epoch to epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one rank learns from in one step: B queries with G passages each."""

    queries: Sequence[IntArray]
    """B arrays of token ids, `<s>` first and `</s>` last."""

    passages: Sequence[IntArray]
    """B * G such arrays; those of query i begin at i * G, its positive first."""

    teacher: FloatArray | None = None
    """[B, G] scores of an outside model."""

    in_batch_negatives: bool = True
    """Whether passages of other queries count as negatives, those of other ranks included."""

    def __post_init__(self) -> None:
        if not len(self.queries) or len(self.passages) % len(self.queries):
            raise ValueError(
                f"every query needs the same number of passages, got {len(self.queries)} and {len(self.passages)}"
            )

    @property
    def group_size(self) -> int:
        """How many passages a query has."""
        return len(self.passages) // len(self.queries)


class Batches(Protocol):
    """What `train` learns from. The same arguments must always give the same batch: resuming depends on it."""

    def batch(self, step: int, *, rank: int, world_size: int) -> Batch:
        """Return a rank's part of a step's batch, steps counted from 0; all ranks have as many queries and passages."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """A batch of the plan: rows of one source."""

    source: int
    rows: IntArray


class SourceBatches:
    """Batches from files, grouped by length; each epoch has another order.

    Args:
        sources: the files; a batch never mixes them.
        tokenizer: the model's.
        config: batch sizes, lengths and the seed.
        max_length: the model's own limit.
        world_size: how many ranks share a batch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: M3Tokenizer,
        config: TrainConfig,
        *,
        max_length: int,
        world_size: int = 1,
    ) -> None:
        self._sources = sources
        self._tokenizer = tokenizer
        self._config = config
        self._max_lengths = min(config.max_query_length, max_length), min(config.max_passage_length, max_length)
        self._world_size = world_size
        self._starts = [0]
        self._planned: tuple[int, list[_Place]] = (-1, [])

    def steps_in(self, epochs: int) -> int:
        """Return how many steps the first epochs have."""
        while len(self._starts) <= epochs:
            self._starts.append(self._starts[-1] + len(self.plan(len(self._starts) - 1)))
        return self._starts[epochs]

    def plan(self, epoch: int) -> list[_Place]:
        """Return the batches of an epoch, in their order."""
        if self._planned[0] != epoch:
            self._planned = epoch, self._make_plan(epoch)
        return self._planned[1]

    def batch(self, step: int, *, rank: int, world_size: int) -> Batch:
        """Return a rank's part of a step's batch: every `world_size`-th of its examples, which come by length."""
        epoch = 0
        while self.steps_in(epoch + 1) <= step:
            epoch += 1
        place = self.plan(epoch)[step - self.steps_in(epoch)]
        rows = place.rows[rank::world_size].tolist()
        source = self._sources[place.source]
        size = int(source.group_sizes[rows[0]])
        drawn = [
            _draw(example, size, np.random.default_rng([self._config.seed, epoch, place.source, row]))
            for row, example in zip(rows, source.read(rows), strict=True)
        ]
        taught = self._config.teacher is not None and bool(source.scored[rows[0]])
        return Batch(
            queries=self._tokenize([query for query, _, _ in drawn], 0),
            passages=self._tokenize([passage for _, passages, _ in drawn for passage in passages], 1),
            teacher=np.array([scores for _, _, scores in drawn], dtype=np.float32) if taught else None,
            in_batch_negatives=source.in_batch_negatives,
        )

    def _tokenize(self, texts: list[str], side: int) -> list[IntArray]:
        return self._tokenizer.tokenize(texts, self._max_lengths[side]).token_ids

    def _make_plan(self, epoch: int) -> list[_Place]:
        random = np.random.default_rng([self._config.seed, epoch])
        places: list[_Place] = []
        for number, source in enumerate(self._sources):
            taught = source.scored * (self._config.teacher is not None)
            kinds = source.group_sizes * 2 + taught
            for kind in np.unique(kinds):
                rows = np.flatnonzero(kinds == kind)
                parts = plan_batches(
                    source.lengths[rows],
                    group_size=int(kind) // 2,
                    config=self._config,
                    world_size=self._world_size,
                    random=random,
                )
                places += [_Place(number, rows[part]) for part in parts]
        if not places:
            raise ValueError(f"{self._world_size} ranks need at least {self._world_size} examples of one kind")
        return [places[i] for i in random.permutation(len(places))]


def _draw(example: Example, group_size: int, random: np.random.Generator) -> tuple[str, list[str], list[float]]:
    """Draw one positive and the negatives, each negative again only where there are too few."""
    positive = int(random.integers(len(example.positives)))
    chosen: list[int] = []
    while len(chosen) < group_size - 1:
        chosen += random.permutation(len(example.negatives)).tolist()
    chosen = chosen[: group_size - 1]
    scores: list[float] = []
    if example.positive_scores is not None and example.negative_scores is not None:
        scores = [example.positive_scores[positive], *(example.negative_scores[i] for i in chosen)]
    return example.query, [example.positives[positive], *(example.negatives[i] for i in chosen)], scores


def plan_batches(
    lengths: IntArray, *, group_size: int, config: TrainConfig, world_size: int, random: np.random.Generator
) -> list[IntArray]:
    """Cut examples into batches of like lengths, each a multiple of the ranks; the few that are left over wait.

    Args:
        lengths: [n, 2] tokens of the query and of the longest passage.
        group_size: passages a query.
        config: its `batch_sizes` or `tokens_per_batch`, which is for one rank.
        world_size: how many ranks share a batch.
        random: decides who meets whom.

    Returns:
        Rows of `lengths` for each batch, in the order of their lengths.
    """
    shuffled = random.permutation(len(lengths))
    if config.batch_sizes is not None:
        return list(_bucket_batches(lengths, shuffled, config.batch_sizes, world_size))
    strips = np.floor(np.log(lengths[shuffled]) / np.log(_STRIP)).astype(np.int64)
    longest = strips.max(1)
    # Each strip of like longest texts is walked through by the other length, up and down in turn.
    other = strips.min(1) * np.where(longest % 2, -1, 1)
    order = shuffled[np.lexsort((strips.argmax(1), other, longest))]
    return list(_budget_batches(lengths, order, group_size, config.tokens_per_batch, world_size))


def _budget_batches(
    lengths: IntArray, order: IntArray, group_size: int, tokens_per_batch: int, world_size: int
) -> Iterator[IntArray]:
    costs = lengths[order, 0] + group_size * lengths[order, 1]
    total = np.cumsum(costs)
    start = 0
    while len(order) - start >= world_size:
        used = int(total[start - 1]) if start else 0
        fits = int(np.searchsorted(total, used + tokens_per_batch * world_size, side="right")) - start
        size = max(world_size, fits // world_size * world_size)
        yield order[start : start + size]
        start += size


def _bucket_batches(
    lengths: IntArray, shuffled: IntArray, batch_sizes: tuple[tuple[int, int], ...], world_size: int
) -> Iterator[IntArray]:
    longest = lengths[shuffled].max(1)
    low = 0
    for number, (high, size) in enumerate(batch_sizes):
        if number == len(batch_sizes) - 1:
            high = int(longest.max()) + 1
        rows = shuffled[(longest >= low) & (longest < high)]
        low = high
        for start in range(0, len(rows), size * world_size):
            part = rows[start : start + size * world_size]
            part = part[: len(part) // world_size * world_size]
            if len(part):
                yield part[np.argsort(lengths[part].sum(1), kind="stable")]


def random_batches(rows: int, size: int, random: np.random.Generator) -> list[IntArray]:
    """Return batches of one size without regard to length, to compare with."""
    shuffled = random.permutation(rows)
    return [shuffled[start : start + size] for start in range(0, rows, size)]


@dataclass(frozen=True, slots=True)
class Padding:
    """What batches cost a model that pads; ours does not, but its ranks wait for each other as well."""

    real: int
    """Tokens of all texts."""

    padded: int
    """Tokens when each rank pads its queries to the longest of them, and its passages likewise."""

    straggling: float
    """How much longer than the mean the slowest rank of a step computes, on average, tokens being its time."""

    @property
    def ratio(self) -> float:
        """Padded tokens over real ones, at least 1."""
        return self.padded / self.real


def measure_padding(batches: Sequence[IntArray], lengths: IntArray, *, world_size: int = 1) -> Padding:
    """Say what batches cost, `lengths` [n, 2] being the tokens of each example's query and passage."""
    real = padded = 0
    straggling = []
    for rows in batches:
        parts = [lengths[rows[rank::world_size]] for rank in range(world_size)]
        costs = [len(part) * int(part.max(0).sum()) if len(part) else 0 for part in parts]
        real += int(lengths[rows].sum())
        padded += sum(costs)
        straggling.append(max(costs) / (sum(costs) / world_size))
    return Padding(real, padded, float(np.mean(straggling)))
