"""What is encoded: shapes of models, and texts of drawn lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import m3connect

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MINI = Path(m3connect.__file__).parent / "assets" / "m3-mini"
QUERY = "how do rivers change their course when the snow melts"
TEXTS = (256, 1, 32, 1000)
"""How many texts a workload has, the one that has the issue's targets first."""

TRIAL_TEXTS = 256
"""A larger workload takes the settings that are best for so many of its texts."""

_QUERY_CALLS = 20
_LARGE_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a model."""

    layers: int
    hidden: int
    heads: int
    intermediate: int

    @property
    def linear_flops(self) -> int:
        """Floating-point operations of the layers' linears for one token; attention and heads are not counted."""
        return 2 * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)


SMALL, WIDE, WHOLE = Shape(6, 384, 12, 1536), Shape(4, 1024, 16, 4096), Shape(24, 1024, 16, 4096)
TINY, TINY_WIDE = Shape(2, 64, 4, 128), Shape(1, 128, 4, 512)


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts for one model."""

    name: str
    shape: Shape
    texts: list[str]
    tokens: int
    trial: list[str]
    """The texts that settings are chosen with."""

    calls: int = 1
    """How often each contender encodes the texts in a round; times are divided by it."""

    most_rounds: int | None = None
    """Fewer rounds than asked for, where one takes minutes."""

    long: bool = False
    """One text is so long that nothing may be padded to it."""

    peak: bool = False
    """Whether to measure the machine's matrix product too, at this model's sizes."""


def token_counts(n: int, *, seed: int = 0) -> list[int]:
    """Draw n text lengths in tokens: log-normal, median 90, sigma 0.8, clipped to 8..512.

    Of more texts the first have the same lengths.
    """
    drawn = np.random.default_rng(seed).lognormal(math.log(90), 0.8, n)
    return [int(count) for count in np.clip(np.rint(drawn), 8, 512)]


def make_texts(tokenizer_folder: Path, counts: Sequence[int], *, seed: int = 0) -> list[str]:
    """Write texts of exactly these token counts, from words that are one token each, the frequent ones more often.

    Raises:
        ValueError: the tokenizer cuts a text otherwise.
    """
    tokenizer = _tokenizer(tokenizer_folder)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [piece[1:] for piece, _ in by_id if piece[0] == "▁" and len(piece) > 2 and piece[1:].isalpha()]
    encoded = tokenizer.encode_batch(words, add_special_tokens=False)
    words = [word for word, encoding in zip(words, encoded, strict=True) if len(encoding.ids) == 1]
    chances = 1 / np.arange(10, len(words) + 10)
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(words, count - 2, p=chances / chances.sum())) for count in counts]
    found = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    if found != list(counts):
        raise ValueError("the tokenizer joins words into one token: give another --tokenizer")
    return texts


def _tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def workloads(tokenizer_folder: Path, sizes: Sequence[int], *, quick: bool) -> list[Workload]:
    """All workloads; `quick` makes them so small that their figures mean nothing."""
    sizes = [max(1, size // 16) for size in sizes] if quick else sizes
    small, longest = (TINY, 512) if quick else (SMALL, 8192)
    trial = TRIAL_TEXTS // 16 if quick else TRIAL_TEXTS
    counts = token_counts(max([trial, *sizes]))
    texts = make_texts(tokenizer_folder, counts)
    found = [_mixed(small, texts[:size], counts[:size], trial) for size in dict.fromkeys(sizes) if size > 1]
    if 1 in sizes:
        found.insert(1, _query(tokenizer_folder, small, calls=2 if quick else _QUERY_CALLS))
    long = make_texts(tokenizer_folder, [longest], seed=2)
    name = f"one long text, {longest:,} tokens, among {trial}, {_size(small)}"
    tokens = sum(counts[: trial - 1]) + longest
    found.append(
        Workload(name, small, [*texts[: trial - 1], *long], tokens, texts[:trial], most_rounds=_LARGE_ROUNDS, long=True)
    )
    return [*found, _wide(tokenizer_folder, quick=quick)]


def _mixed(shape: Shape, texts: list[str], counts: Sequence[int], trial: int) -> Workload:
    large = len(texts) > trial
    name = "mixed lengths" if len(texts) == trial else f"{len(texts):,} mixed texts"
    return Workload(
        f"{name}, {_size(shape)}",
        shape,
        texts,
        sum(counts),
        texts[:trial],
        most_rounds=_LARGE_ROUNDS if large else None,
    )


def _query(tokenizer_folder: Path, shape: Shape, *, calls: int) -> Workload:
    tokens = len(_tokenizer(tokenizer_folder).encode(QUERY).ids)
    return Workload(f"one short query, {_size(shape)}", shape, [QUERY], tokens, [QUERY], calls=calls)


def _wide(tokenizer_folder: Path, *, quick: bool) -> Workload:
    shape, counts = TINY_WIDE if quick else WIDE, token_counts(4 if quick else 32, seed=1)
    texts = make_texts(tokenizer_folder, counts)
    return Workload(f"BGE-M3's width, {_size(shape)}", shape, texts, sum(counts), texts, peak=True)


def _size(shape: Shape) -> str:
    return f"{shape.layers} x {shape.hidden}"
