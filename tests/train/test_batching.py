"""Which examples meet in a batch, and what that saves."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from training import SMALL, example, write_jsonl

from m3connect.embeddings import IntArray
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.train import PAPER_BATCH_SIZES, Batch, SourceBatches, TrainConfig, read_source
from m3connect.train.batching import measure_padding, plan_batches, random_batches


def open_batches(
    paths: Sequence[Path], tokenizer: M3Tokenizer, config: TrainConfig = SMALL, world_size: int = 1
) -> SourceBatches:
    sources = [
        read_source(path, tokenizer, max_lengths=(16, 32), group_size=config.group_size) for path in sorted(paths)
    ]
    return SourceBatches(sources, tokenizer, config, max_length=512, world_size=world_size)


def plan(lengths: IntArray, config: TrainConfig, *, world_size: int = 1, seed: int = 0) -> list[IntArray]:
    random = np.random.default_rng(seed)
    return plan_batches(lengths, group_size=1, config=config, world_size=world_size, random=random)


def same(left: Batch, right: Batch) -> bool:
    pairs = [(left.queries, right.queries), (left.passages, right.passages)]
    return all(len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)) for a, b in pairs)


def lognormal(n: int, seed: int = 0) -> IntArray:
    """[n, 2] lengths like those of sentences and their translations."""
    random = np.random.default_rng(seed)
    size = random.lognormal(3.5, 0.5, (n, 1)) * random.lognormal(0, 0.3, (n, 2))
    return np.maximum(3, size).astype(np.int64)


def test_a_batch_is_a_function_of_the_step(examples: Path, tokenizer: M3Tokenizer) -> None:
    forwards, backwards = open_batches([examples], tokenizer), open_batches([examples], tokenizer)
    steps = range(2 * forwards.steps_in(1) + 1)
    seen = {step: forwards.batch(step, rank=0, world_size=1) for step in steps}
    assert all(same(backwards.batch(step, rank=0, world_size=1), seen[step]) for step in reversed(steps))
    assert not same(seen[0], seen[forwards.steps_in(1)])


def test_an_epoch_has_every_example_once(examples: Path, tokenizer: M3Tokenizer) -> None:
    batches = open_batches([examples], tokenizer)
    rows = np.concatenate([place.rows for place in batches.plan(0)])
    assert sorted(rows.tolist()) == list(range(48))


def test_ranks_share_one_batch_of_like_lengths(examples: Path, tokenizer: M3Tokenizer) -> None:
    two = open_batches([examples], tokenizer, world_size=2)
    for step in range(two.steps_in(1)):
        parts = [two.batch(step, rank=rank, world_size=2) for rank in (0, 1)]
        assert len(parts[0].queries) == len(parts[1].queries)
        assert not {ids.tobytes() for ids in parts[0].passages[::3]} & {ids.tobytes() for ids in parts[1].passages[::3]}


def test_a_batch_never_mixes_sources(tmp_path: Path, tokenizer: M3Tokenizer) -> None:
    paths = [
        write_jsonl(tmp_path / f"{name}.jsonl", [{"query": f"{name} {i}", "pos": [name]} for i in range(20)])
        for name in ("honey", "tower_no_in_batch_neg")
    ]
    batches = open_batches(paths, tokenizer)
    kinds = {"honey": tokenizer.tokenize(["honey"], 16).token_ids[0].tobytes()}
    for step in range(batches.steps_in(1)):
        batch = batches.batch(step, rank=0, world_size=1)
        assert {ids.tobytes() == kinds["honey"] for ids in batch.passages} == {batch.in_batch_negatives}


def test_examples_with_and_without_negatives_have_batches_of_their_own(tmp_path: Path, tokenizer: M3Tokenizer) -> None:
    rows = [example(i, negatives=i % 3) for i in range(30)]
    batches = open_batches([write_jsonl(tmp_path / "a.jsonl", rows)], tokenizer)
    sizes = [batches.batch(step, rank=0, world_size=1).group_size for step in range(batches.steps_in(1))]
    assert set(sizes) == {1, 3}  # one negative is drawn twice


def test_teacher_scores_go_with_their_passages(tmp_path: Path, tokenizer: M3Tokenizer) -> None:
    texts = ["honey", "tower", "river", "piano"]
    ids = [row.tobytes() for row in tokenizer.tokenize(texts, 16).token_ids]
    row = {"query": "q", "pos": texts[:2], "neg": texts[2:], "pos_scores": [0, 1], "neg_scores": [2, 3]}
    path = write_jsonl(tmp_path / "a.jsonl", [row] * 8)
    batches = open_batches([path], tokenizer, TrainConfig(teacher="kl", group_size=3, tokens_per_batch=200))
    batch = batches.batch(0, rank=0, world_size=1)
    assert batch.teacher is not None
    assert [ids.index(passage.tobytes()) for passage in batch.passages] == batch.teacher.flatten().tolist()
    assert open_batches([path], tokenizer).batch(0, rank=0, world_size=1).teacher is None


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_batch_keeps_the_budget_of_tokens(world_size: int) -> None:
    lengths = lognormal(2000)
    batches = plan(lengths, TrainConfig(tokens_per_batch=1000), world_size=world_size)
    assert all(lengths[rows].sum() <= 1000 * world_size for rows in batches)
    assert all(len(rows) % world_size == 0 for rows in batches)
    assert 2000 - sum(map(len, batches)) < world_size


def test_short_texts_have_large_batches() -> None:
    lengths = lognormal(2000)
    sizes = sorted((lengths[rows].mean(), len(rows)) for rows in plan(lengths, TrainConfig(tokens_per_batch=1000))[:-1])
    assert sizes[0][1] > 3 * sizes[-1][1]


def test_an_example_above_the_budget_is_a_batch_alone() -> None:
    lengths = np.array([[400, 700], [3, 3]])
    assert sorted(rows.tolist() for rows in plan(lengths, TrainConfig(tokens_per_batch=100))) == [[0], [1]]


def test_the_papers_table_gives_the_batch_sizes() -> None:
    lengths = np.stack([np.full(400, 20), np.repeat([400, 900, 8000, 9000], 100)], axis=1)
    batches = plan(lengths, TrainConfig(batch_sizes=PAPER_BATCH_SIZES))
    largest = {bound: max(len(rows) for rows in batches if lengths[rows[0], 1] == bound) for bound in (400, 900, 8000)}
    assert largest == {400: 48, 900: 32, 8000: 8}
    assert all(len({min(lengths[row, 1], 8000) for row in rows}) == 1 for rows in batches)


def test_padding_is_counted_by_hand() -> None:
    lengths = np.array([[2, 10], [4, 6], [1, 1], [1, 1]])
    padding = measure_padding([np.array([0, 1]), np.array([2, 3])], lengths)
    assert (padding.real, padding.padded, padding.straggling) == (26, 2 * (4 + 10) + 4, 1)
    assert measure_padding([np.array([0, 2])], lengths, world_size=2).straggling == pytest.approx(12 / 7)


def test_grouping_by_length_leaves_little_padding() -> None:
    lengths = lognormal(50_000)
    grouped = measure_padding(plan(lengths, TrainConfig(tokens_per_batch=4096), world_size=2), lengths, world_size=2)
    size = round(len(lengths) * 2 * 4096 / lengths.sum())
    mixed = measure_padding(random_batches(len(lengths), size, np.random.default_rng(0)), lengths, world_size=2)
    assert grouped.ratio < 1.25 < 1.8 < mixed.ratio
    assert grouped.straggling < 1.03 < mixed.straggling


def test_all_languages_of_ntrex_need_little_padding(tokenizer: M3Tokenizer, open_data: Path) -> None:
    """Every language with its English sentences; a model that pads would compute this much."""
    folder = open_data / "ntrex128"
    texts = {
        path.name.removesuffix(".txt.gz"): gzip.open(path, "rt", encoding="utf-8").read().splitlines()
        for path in sorted(folder.glob("*.txt.gz"))
    }
    counts = {name: [len(ids) for ids in tokenizer.tokenize(lines, 512).token_ids] for name, lines in texts.items()}
    lengths = np.concatenate(
        [np.stack([rows, counts["eng"]], axis=1) for name, rows in counts.items() if name != "eng"]
    )
    grouped = measure_padding(plan(lengths, TrainConfig(), world_size=2), lengths, world_size=2)
    size = round(len(lengths) * 2 * 8192 / lengths.sum())
    mixed = measure_padding(random_batches(len(lengths), size, np.random.default_rng(0)), lengths, world_size=2)
    print(f"{len(lengths):,} pairs, {grouped.real:,} tokens; padded over real, slowest of two ranks over their mean:")
    print(
        f"by length {grouped.ratio:.3f}, {grouped.straggling:.3f}; at random {mixed.ratio:.3f}, {mixed.straggling:.3f}"
    )
    assert len(texts) == 129
    assert grouped.ratio <= 1.1 < mixed.ratio
