"""What `m3-mini` learns from at each step: pairs of ten kinds, a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from m3connect.embeddings import IntArray
from m3connect.train import Batch

from .material import Answered, Material

START, END = 0, 2
Pairs = list[tuple[IntArray, IntArray]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How often each kind comes, and how large its batches are."""

    shares: Mapping[str, float] = field(
        default_factory=lambda: {
            "translations": 0.37,
            "everyday": 0.20,
            "gathered": 0.0,
            "questions": 0.16,
            "questions_across": 0.09,
            "quotes": 0.08,
            "news": 0.08,
            "abstracts": 0.02,
            "sketches": 0.0,
            "asked": 0.0,
        }
    )
    later_from: int = 1_200
    """The step from which on `later_shares` hold."""

    later_shares: Mapping[str, float] = field(
        default_factory=lambda: {
            "translations": 0.32,
            "everyday": 0.20,
            "gathered": 0.15,
            "questions": 0.14,
            "questions_across": 0.07,
            "quotes": 0.06,
            "news": 0.05,
            "abstracts": 0.01,
            "sketches": 0.0,
            "asked": 0.0,
        }
    )
    sizes: Mapping[str, int] = field(
        default_factory=lambda: {
            "translations": 96,
            "everyday": 192,
            "gathered": 64,
            "questions": 32,
            "questions_across": 32,
            "quotes": 32,
            "news": 32,
            "abstracts": 24,
            "sketches": 192,
            "asked": 96,
        }
    )
    dropped: float = 0.15
    """The share of tokens that each text loses."""

    passage_tokens: int = 256
    """Longer passages are cut."""

    seed: int = 0


SECOND_STAGE = (
    Settings(
        seed=1,
        later_from=0,
        later_shares={
            "translations": 0.36,
            "everyday": 0.18,
            "gathered": 0.12,
            "questions": 0.10,
            "questions_across": 0.06,
            "quotes": 0.04,
            "news": 0.05,
            "abstracts": 0.01,
            "sketches": 0.08,
        },
    ),
    Settings(
        seed=1,
        later_from=0,
        later_shares={
            "translations": 0.30,
            "everyday": 0.15,
            "gathered": 0.09,
            "questions": 0.08,
            "questions_across": 0.05,
            "quotes": 0.03,
            "news": 0.04,
            "abstracts": 0.01,
            "sketches": 0.08,
            "asked": 0.18,
        },
    ),
)
"""What the two runs of the second stage learn from: the first one finds more translations, the other one more answers
to short questions. The mean of their weights does both as well as the better one, or nearly."""


class Mix:
    """Batches for `m3connect.train`."""

    def __init__(self, material: Material, settings: Settings) -> None:
        self._material = material
        self._settings = settings
        self._kinds: dict[str, Callable[[int, np.random.Generator], Pairs]] = {
            "translations": self._translations,
            "everyday": self._everyday,
            "gathered": self._gathered,
            "questions": lambda size, random: self._questions(material.same_language, size, random),
            "questions_across": lambda size, random: self._questions(material.across, size, random),
            "quotes": self._quotes,
            "news": self._news,
            "abstracts": lambda size, random: self._questions(material.abstracts, size, random),
            "sketches": self._sketches,
            "asked": self._asked,
        }

    def batch(self, step: int, *, rank: int, world_size: int) -> Batch:
        """Return a rank's part of a step's batch."""
        random = np.random.default_rng([self._settings.seed, step])
        table = self._settings.shares if step < self._settings.later_from else self._settings.later_shares
        names, shares = list(table), np.array(list(table.values()))
        name = names[int(random.choice(len(names), p=shares / shares.sum()))]
        pairs = self._kinds[name](self._settings.sizes[name], random)
        texts = [(self._finish(query, random), self._finish(passage, random)) for query, passage in pairs]
        mine = texts[rank::world_size]
        return Batch(queries=[query for query, _ in mine], passages=[passage for _, passage in mine])

    def _finish(self, ids: IntArray, random: np.random.Generator) -> IntArray:
        """Cut a text, drop some of its tokens, and put it between `<s>` and `</s>`."""
        ids = ids[: self._settings.passage_tokens]
        kept = ids[random.random(len(ids)) >= self._settings.dropped]
        return np.concatenate([[START], kept if len(kept) else ids, [END]])

    def _translations(self, size: int, random: np.random.Generator) -> Pairs:
        """NTREX rows: any language to any, a fifth into English; half the batches from few documents."""
        rows = self._rows(size, random, hard=random.random() < 0.5)
        common = self._language(random) if random.random() < 0.3 else None
        return [self._translation(row, common, random) for row in rows]

    def _rows(self, size: int, random: np.random.Generator, *, hard: bool) -> list[int]:
        documents = self._material.documents
        if not hard:
            total = sum(map(len, documents))
            return [int(row) for row in random.choice(total, size, replace=False)]
        rows: list[int] = []
        for number in random.permutation(len(documents)):
            rows += documents[number]
            if len(rows) >= size:
                break
        return rows[:size]

    def _language(self, random: np.random.Generator) -> str:
        languages = self._material.languages
        return "eng" if random.random() < 0.2 else languages[int(random.integers(len(languages)))]

    def _translation(self, row: int, common: str | None, random: np.random.Generator) -> tuple[IntArray, IntArray]:
        source, target = self._language(random), common or self._language(random)
        if source == target:
            source = self._material.languages[int(random.integers(len(self._material.languages)))]
        if common is None and random.random() < 0.15:
            source = target
        query, passage = self._material.rows[source][row], self._material.rows[target][row]
        if source == target or random.random() < 0.3:
            query = _crop(query, 0.3, random)
        return query, passage

    def _everyday(self, size: int, random: np.random.Generator) -> Pairs:
        """Tatoeba: either direction, or between two translations of an English sentence."""
        groups = random.choice(len(self._material.everyday), size, replace=False)
        pairs = []
        for number in groups:
            group = self._material.everyday[number]
            first, second = random.choice(len(group), 2, replace=False)
            pairs.append((group[first], group[second]))
        return pairs

    def _sketches(self, size: int, random: np.random.Generator) -> Pairs:
        """Some words of a short sentence to most of it, in one language: English in half of the batches."""
        language = self._material.by_language[0] if random.random() < 0.5 else self._spoken(random)
        pairs = []
        for place in random.choice(len(language), min(size, len(language)), replace=False):
            group, number = language[place]
            sentence = self._material.everyday[group][number]
            pairs.append((_thin(sentence, 0.5, random), _thin(sentence, 0.8, random)))
        return pairs

    def _asked(self, size: int, random: np.random.Generator) -> Pairs:
        """Questions made of how a question begins and of rare words of a passage, English in most batches.

        A quarter are real questions to themselves, so that what all questions share leads nowhere.
        """
        number = 0 if random.random() < 0.6 else int(random.integers(len(self._material.by_language)))
        language, asked = self._material.by_language[number], self._material.asked[number]
        texts = [self._material.everyday[group][place] for group, place in language]
        pairs = []
        for _ in range(size):
            question = texts[asked[int(random.integers(len(asked)))]] if asked else texts[0][:0]
            if asked and random.random() < 0.25:
                pairs.append((_thin(question, 0.6, random), question))
                continue
            passage = self._passage(texts, random, english=number == 0)
            begin = question[: int(random.integers(1, 5))]
            words = self._rare_words(passage, random)
            pairs.append((np.concatenate([begin, *words, question[-1:]]), passage))
        return pairs

    def _passage(self, texts: list[IntArray], random: np.random.Generator, *, english: bool) -> IntArray:
        """A part of an English story or of news, or one to three everyday sentences of a language."""
        kind = random.random() if english else 1.0
        if kind < 0.25:
            window = self._material.windows[int(random.integers(len(self._material.windows)))]
            start = int(random.integers(len(window) - 48))
            return window[start : start + int(random.integers(24, 128))]
        if kind < 0.5:
            document = self._material.documents[int(random.integers(len(self._material.documents)))]
            start, count = int(random.integers(len(document))), int(random.integers(1, 4))
            return np.concatenate([self._material.rows["eng"][row] for row in document[start : start + count]])
        return np.concatenate([texts[int(random.integers(len(texts)))] for _ in range(int(random.integers(1, 4)))])

    def _rare_words(self, passage: IntArray, random: np.random.Generator) -> list[IntArray]:
        """One to four short pieces of a passage in any order, rare ones more often, some with other capitals."""
        chances = self._material.rarity[passage].astype(np.float64) ** 2 + 1e-3
        count = min(int(random.integers(1, 5)), len(passage))
        starts = random.choice(len(passage), count, replace=False, p=chances / chances.sum())
        words = [passage[start : start + int(random.integers(1, 4))] for start in starts]
        return [self._material.other_case[word] if random.random() < 0.3 else word for word in words]

    def _gathered(self, size: int, random: np.random.Generator) -> Pairs:
        """A sentence of Tatoeba to a passage of a few sentences, one of which is its translation."""
        common = self._spoken(random) if random.random() < 0.5 else None
        pairs = []
        for _ in range(size):
            language = common or self._spoken(random)
            chosen = random.choice(len(language), int(random.integers(3, 8)), replace=False)
            places = [language[number] for number in chosen]
            group, number = places[int(random.integers(len(places)))]
            others = [text for i, text in enumerate(self._material.everyday[group]) if i != number]
            passage = np.concatenate([self._material.everyday[group][number] for group, number in places])
            pairs.append((others[int(random.integers(len(others)))], passage))
        return pairs

    def _spoken(self, random: np.random.Generator) -> list[tuple[int, int]]:
        languages = self._material.by_language
        return languages[0 if random.random() < 0.35 else int(random.integers(len(languages)))]

    def _questions(self, source: Answered, size: int, random: np.random.Generator) -> Pairs:
        """Questions to passages; each passage comes with its likest ones, so that they are hard negatives."""
        chosen: dict[int, None] = {}
        while len(chosen) < size:
            first = int(random.integers(len(source.passages)))
            near = random.choice(source.neighbours[first], 7, replace=False)
            chosen |= dict.fromkeys([first, *near.tolist()])
        pairs = []
        for number in list(chosen)[:size]:
            group = source.questions[number]
            pairs.append((group[int(random.integers(len(group)))], source.passages[number]))
        return pairs

    def _quotes(self, size: int, random: np.random.Generator) -> Pairs:
        """A few words of a passage to the passage, in half of the cases without these words."""
        passages = self._material.windows if random.random() < 0.4 else self._material.same_language.passages
        if passages is not self._material.windows and random.random() < 0.3:
            passages = self._material.across.passages
        pairs = []
        for number in random.choice(len(passages), size, replace=False):
            passage = passages[number]
            length = int(random.integers(4, 17))
            start = int(random.integers(max(1, len(passage) - length)))
            begin = max(0, start - int(random.integers(self._settings.passage_tokens - length)))
            window = passage[begin : begin + self._settings.passage_tokens]
            place = start - begin
            if random.random() < 0.5 and len(window) > 2 * length:
                window = np.delete(window, slice(place, place + length))
            pairs.append((passage[start : start + length], window))
        return pairs

    def _news(self, size: int, random: np.random.Generator) -> Pairs:
        """A part of a sentence to a passage of several sentences around its translation."""
        pairs = []
        for number in random.choice(len(self._material.documents), size, replace=False):
            document = self._material.documents[number]
            place = int(random.integers(len(document)))
            count = int(random.integers(2, 6))
            begin = max(0, place - int(random.integers(count)))
            source, target = self._language(random), self._language(random)
            passage = np.concatenate([self._material.rows[target][row] for row in document[begin : begin + count]])
            pairs.append((_crop(self._material.rows[source][document[place]], 0.3, random), passage))
        return pairs


def _crop(ids: IntArray, least: float, random: np.random.Generator) -> IntArray:
    """A random part of a text, of at least that share of it."""
    length = max(min(4, len(ids)), int(len(ids) * random.uniform(least, 1)))
    start = int(random.integers(len(ids) - length + 1))
    return ids[start : start + length]


def _thin(ids: IntArray, kept: float, random: np.random.Generator) -> IntArray:
    """A text without some of its tokens: each stays with that probability."""
    chosen = ids[random.random(len(ids)) < kept]
    return chosen if len(chosen) else ids
