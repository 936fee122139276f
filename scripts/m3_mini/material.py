"""The training text as token ids, and which passages are like which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder import M3Encoder

from .corpus import Corpus
from .lsa import encode

WINDOW = 256
"""Tokens of a piece of a long text."""

NEIGHBOURS = 24

QUESTION = ("?", "\uff1f", "\u061f", "\u055e", ";")
"""What questions end with."""

FEWEST = 100
"""Languages with fewer everyday sentences make no passages of them."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Passages and the questions they answer."""

    passages: list[IntArray]

    questions: list[list[IntArray]]
    """At least one for each passage."""

    neighbours: IntArray
    """[p, k] numbers of the passages most like each, the likest first: hard negatives."""


@dataclass(frozen=True, slots=True)
class Material:
    """Arrays of token ids without `<s>` and `</s>`."""

    languages: list[str]
    rows: dict[str, list[IntArray]]
    """NTREX rows by language, aligned."""

    documents: list[list[int]]
    """Rows of each NTREX document."""

    everyday: list[list[IntArray]]
    """Each distinct English sentence of Tatoeba, then its translations."""

    by_language: list[list[tuple[int, int]]]
    """Where in `everyday` the sentences of a language are, English first: numbers of the group and in the group."""

    same_language: Answered
    """Questions and passages in Chinese, Japanese and Arabic."""

    across: Answered
    """Questions in eight African languages, passages in English and French."""

    abstracts: Answered

    windows: list[IntArray]
    """Pieces of English stories."""

    asked: list[list[int]]
    """Which sentences of each of `by_language` are questions."""

    rarity: FloatArray
    """[v] of each piece, from 0 for the most frequent."""

    other_case: IntArray
    """[v] the piece that differs only in being written with a capital, or without; else the piece itself."""


def read_material(corpus: Corpus, tokenizer: Tokenizer, initial: Path) -> Material:
    """Turn the text into token ids.

    Args:
        corpus: the text.
        tokenizer: the model's.
        initial: the folder of the model before training, which says which passages are alike.
    """
    encoder = M3Encoder.from_pretrained(initial)
    same = [(q.query, q.passage) for q in corpus.questions if q.query_language == q.passage_language]
    across = [(q.query, q.passage) for q in corpus.questions if q.query_language != q.passage_language]
    flat = encode(tokenizer, (text for english, foreign in corpus.tatoeba.items() for text in (english, *foreign)))
    ends = np.cumsum([1 + len(foreign) for foreign in corpus.tatoeba.values()]).tolist()
    sizes = [1 + len(foreign) for foreign in corpus.tatoeba.values()]
    by_language = _by_language(corpus)
    texts = [(english, *foreign) for english, foreign in corpus.tatoeba.items()]
    return Material(
        languages=list(corpus.train),
        rows={language: encode(tokenizer, texts) for language, texts in corpus.train.items()},
        documents=corpus.documents,
        everyday=[flat[end - size : end] for end, size in zip(ends, sizes, strict=True)],
        by_language=by_language,
        asked=[
            [number for number, (group, place) in enumerate(rows) if texts[group][place].rstrip().endswith(QUESTION)]
            for rows in by_language
        ],
        rarity=_rarity(flat, tokenizer.get_vocab_size()),
        other_case=_other_case(tokenizer),
        same_language=_answered(same, tokenizer, encoder),
        across=_answered(across, tokenizer, encoder),
        abstracts=_answered(corpus.abstracts, tokenizer, encoder),
        windows=[part for story in encode(tokenizer, corpus.stories) for part in _cut(story)],
    )


def _rarity(texts: list[IntArray], vocabulary: int) -> FloatArray:
    counts = np.bincount(np.concatenate(texts), minlength=vocabulary)
    return np.asarray(np.log((1 + counts.max()) / (1 + counts)), np.float32)


def _other_case(tokenizer: Tokenizer) -> IntArray:
    vocabulary = tokenizer.get_vocab()
    swapped = np.arange(tokenizer.get_vocab_size())
    for piece, number in vocabulary.items():
        mark, word = piece[:1], piece[1:]
        if mark == "\u2581" and word.istitle():
            other = vocabulary.get(mark + word.lower())
            if other is not None:
                swapped[[number, other]] = other, number
    return swapped


def _by_language(corpus: Corpus) -> list[list[tuple[int, int]]]:
    places: dict[str, list[tuple[int, int]]] = {}
    for group, languages in enumerate(corpus.tatoeba_languages.values()):
        for number, language in enumerate(["eng", *languages]):
            places.setdefault(language, []).append((group, number))
    return [rows for rows in places.values() if len(rows) >= FEWEST]


def _answered(pairs: list[tuple[str, str]], tokenizer: Tokenizer, encoder: M3Encoder) -> Answered:
    questions: dict[str, list[str]] = {}
    for query, passage in pairs:
        questions.setdefault(passage, []).append(query)
    dense = encoder.encode(list(questions)).dense
    similarity = dense @ dense.T
    np.fill_diagonal(similarity, -1)
    return Answered(
        passages=encode(tokenizer, questions),
        questions=[encode(tokenizer, group) for group in questions.values()],
        neighbours=np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS],
    )


def _cut(ids: IntArray) -> list[IntArray]:
    return [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW // 2, WINDOW)]
