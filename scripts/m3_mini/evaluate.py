"""What the saved folder finds on rows that it did not learn from, by mode, and beside BM25."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .bm25 import bm25_scores
from .corpus import Corpus, Question
from .folder import SCORES, FolderModel

LEGS = ("dense", "sparse", "multi_vector")
PAPER_WEIGHTS = {"dense + sparse": (1.0, 0.3, 0.0), "all": (1.0, 0.3, 1.0)}
GRID = [(1.0, sparse, multi) for sparse, multi in product((0.1, 0.3, 1.0, 2.0, 4.0, 8.0), (0.3, 1.0, 3.0, 10.0))]
"""Weights that are tried on other rows: dense has 1."""

INTO_ENGLISH = (
    *("deu", "fra", "rus", "zho-CN", "arb", "hin", "tha", "jpn", "swa", "tur", "fin", "kor"),
    *("zul", "amh", "tam", "spa", "por", "vie", "ind", "ben", "fas", "kat", "yor", "khm"),
)
NOT_ENGLISH = (
    *(("arb", "heb"), ("deu", "rus"), ("zho-CN", "jpn"), ("fra", "swa")),
    *(("kor", "zho-CN"), ("ukr", "tur"), ("ind", "tha"), ("hin", "tam")),
)
EVERYDAY = Path(__file__).with_name("everyday.tsv")
"""Short English sentences, written for this, and what says about the same in other words."""

PAIRS = (*((language, "eng") for language in INTO_ENGLISH), *NOT_ENGLISH)

Measure = Callable[[Tensor, Tensor], Tensor]
"""From [q, n] scores and [q] gold documents to [q] figures between 0 and 1."""

Scores = dict[str, Tensor]
"""[q, n] by leg, and "bm25"."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One set of queries in all modes."""

    figures: dict[str, float]
    """Percent by mode."""

    best_leg: str
    p_value: float
    """Of the difference between "all, fitted" and the best single leg."""

    weights: list[tuple[float, float, float]]
    """Fitted on one half of the rows and used on the other, for both halves."""


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one model, in percent."""

    into_english: dict[str, dict[str, float]]
    """Accuracy@1 by language and leg."""

    pairs: Comparison
    """Accuracy@1 over all of `PAIRS` together."""

    each_pair: dict[str, dict[str, float]]
    """Accuracy@1 by pair and mode."""

    one_language: Comparison
    """nDCG@10 of questions to passages in their language."""

    across: Comparison
    """nDCG@10 of questions to passages in another language."""

    everyday: dict[str, float]
    """Accuracy@1 by leg over `EVERYDAY`, and as "unrelated" 100 times the mean cosine of all other pairs."""


def report(model: FolderModel, corpus: Corpus) -> Report:
    """Measure everything on rows that were not trained on."""
    pairs, each_pair = translation_pairs(model, corpus)
    same, other = split_by_language(corpus.held_out)
    questions = passages(model, same), passages(model, other)
    return Report(into_english(model, corpus), pairs, each_pair, *questions, everyday(model))


def split_by_language(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Questions whose passages are in their own language, and the others."""
    same = [question for question in questions if question.query_language == question.passage_language]
    return same, [question for question in questions if question.query_language != question.passage_language]


def gold_ranks(scores: Tensor, gold: Tensor) -> Tensor:
    """[q] the rank of each query's gold document, from 1; ties count against it."""
    gold_score = scores.gather(1, gold[:, None])
    return (scores >= gold_score).sum(1)


def accuracy(scores: Tensor, gold: Tensor) -> Tensor:
    """[q] 1 where the gold document comes first."""
    return (gold_ranks(scores, gold) == 1).float()


def ndcg(scores: Tensor, gold: Tensor) -> Tensor:
    """[q] nDCG@10 with one right document."""
    ranks = gold_ranks(scores, gold)
    return torch.where(ranks <= 10, 1 / torch.log2(ranks + 1.0), 0.0)


def combine(scores: Scores, weights: tuple[float, float, float]) -> Tensor:
    """[q, n] weighted sum of the three legs."""
    return sum((weight * scores[leg] for leg, weight in zip(LEGS, weights, strict=True)), torch.zeros(1))


def into_english(model: FolderModel, corpus: Corpus) -> dict[str, dict[str, float]]:
    """Percent of development sentences whose English translation comes first, by language and leg."""
    english, gold = model.encode(corpus.dev["eng"]), torch.arange(len(corpus.dev["eng"]))
    found: dict[str, dict[str, float]] = {}
    for language in corpus.dev.keys() - {"eng"}:
        views = model.encode(corpus.dev[language])
        found[language] = {
            leg: 100 * accuracy(score(views, english), gold).mean().item() for leg, score in SCORES.items()
        }
    return dict(sorted(found.items()))


def translation_pairs(model: FolderModel, corpus: Corpus) -> tuple[Comparison, dict[str, dict[str, float]]]:
    """Accuracy@1 over `PAIRS`: all together, and pair by pair."""
    encode = cache(lambda language: model.encode(corpus.dev[language]))
    tokenizer = model.tokenizer.backend_tokenizer
    sets = []
    for source, target in PAIRS:
        scores = {leg: score(encode(source), encode(target)) for leg, score in SCORES.items()}
        scores["bm25"] = bm25_scores(tokenizer, corpus.dev[source], corpus.dev[target])
        sets.append(scores)
    gold = torch.arange(len(corpus.dev["eng"]))
    halves = gold % 2  # odd rows are judged with weights fitted on even ones
    together = {name: torch.cat([scores[name] for scores in sets]) for name in sets[0]}
    comparison = compare(together, gold.repeat(len(sets)), halves.repeat(len(sets)), accuracy)
    single = {f"{a}-{b}": modes(scores, gold, accuracy) for (a, b), scores in zip(PAIRS, sets, strict=True)}
    return comparison, single


def passages(model: FolderModel, questions: Sequence[Question]) -> Comparison:
    """nDCG@10 of finding the one right passage among the distinct passages of `questions`."""
    numbers = {passage: number for number, passage in enumerate(dict.fromkeys(q.passage for q in questions))}
    texts = [question.query for question in questions], list(numbers)
    views = model.encode(texts[0]), model.encode(texts[1])
    scores = {leg: score(*views) for leg, score in SCORES.items()}
    scores["bm25"] = bm25_scores(model.tokenizer.backend_tokenizer, *texts)
    gold = torch.tensor([numbers[question.passage] for question in questions])
    return compare(scores, gold, gold % 2, ndcg)


def everyday(model: FolderModel) -> dict[str, float]:
    """Find each sentence of `EVERYDAY` among all by its other wording; see `Report.everyday`."""
    lines = [line.split("\t") for line in EVERYDAY.read_text(encoding="utf-8").splitlines()]
    first, second = (model.encode(sentences) for sentences in zip(*lines, strict=True))
    gold = torch.arange(len(lines))
    found = {leg: 100 * accuracy(score(first, second), gold).mean().item() for leg, score in SCORES.items()}
    others = SCORES["dense"](first, second)[~torch.eye(len(lines), dtype=torch.bool)]
    return found | {"unrelated": 100 * others.mean().item()}


def modes(scores: Scores, gold: Tensor, measure: Measure) -> dict[str, float]:
    """Percent by mode, the paper's weights for the sums."""
    found = {leg: scores[leg] for leg in LEGS} | {name: combine(scores, w) for name, w in PAPER_WEIGHTS.items()}
    return {
        name: 100 * measure(matrix, gold).mean().item() for name, matrix in [*found.items(), ("bm25", scores["bm25"])]
    }


def compare(scores: Scores, gold: Tensor, halves: Tensor, measure: Measure) -> Comparison:
    """All modes; the fitted weights of each half of the queries come from the other half.

    Args:
        scores: by leg, and "bm25".
        gold: [q] the right document of each query.
        halves: [q] 0 or 1.
        measure: of each query.
    """
    fitted, weights = torch.zeros(len(gold)), []
    for half in (0, 1):
        here, there = halves == half, halves != half
        weights.append(fit({name: matrix[there] for name, matrix in scores.items()}, gold[there], measure))
        fitted[here] = measure(combine({leg: scores[leg][here] for leg in LEGS}, weights[-1]), gold[here])
    figures = modes(scores, gold, measure)
    best = max(LEGS, key=lambda leg: figures[leg])
    difference = (fitted - measure(scores[best], gold)).double().numpy()
    figures["all, fitted"] = 100 * fitted.mean().item()
    return Comparison(figures, best, randomisation_test(difference), weights)


def fit(scores: Scores, gold: Tensor, measure: Measure) -> tuple[float, float, float]:
    """The weights of `GRID` that find most."""
    return max(GRID, key=lambda weights: measure(combine(scores, weights), gold).mean().item())


def randomisation_test(difference: np.ndarray, *, trials: int = 10_000) -> float:
    """Two-sided p-value of a mean difference: how often random signs give one as large."""
    random = np.random.default_rng(0)
    kept = difference[difference != 0]
    sums = np.array([random.choice((-1, 1), len(kept)) @ kept for _ in range(trials)])
    return float((1 + (np.abs(sums) >= abs(kept.sum()) - 1e-9).sum()) / (trials + 1))
