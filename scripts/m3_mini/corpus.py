"""The training text of `m3-mini`, read from the shared data folder; nothing here touches rows kept for tests."""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

VARIANTS = frozenset({"eng-GB", "eng-IN", "eng-US", "fra-CA", "por-BR", "spa-MX", "spa-ref2"})
"""NTREX files that translate into a language another file has too; they would count it twice."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the passage that answers it, and the languages of the two."""

    query: str
    passage: str
    query_language: str
    passage_language: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The text the model is made of, and the development rows it is measured on."""

    train: dict[str, list[str]]
    """NTREX training rows per language, aligned across languages."""

    dev: dict[str, list[str]]
    """NTREX development rows per language, aligned; only for evaluation."""

    tatoeba: dict[str, list[str]]
    """Each distinct English sentence and its translations."""

    tatoeba_languages: dict[str, list[str]]
    """The languages of these translations."""

    questions: list[Question]
    """Question answering pairs for training."""

    held_out: list[Question]
    """Pairs whose passages appear nowhere in `questions`; only for evaluation."""

    claims: list[str]
    """SciFact training claims. Its abstracts are left out: the test queries search the same ones."""

    documents: list[list[int]]
    """The training rows of each NTREX document, in its order."""

    stories: list[str]
    """English stories of the training part of SQuALITY."""

    abstracts: list[tuple[str, str]]
    """PubMedQA's training questions, each with the abstract that answers it; its other abstracts are left out."""


def _read_lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def _read_ids(folder: Path) -> list[list[str]]:
    """Row number, document and split of each NTREX row."""
    return [line.split("\t") for line in (folder / "ids.tsv").read_text(encoding="utf-8").splitlines()[1:]]


def _read_documents(folder: Path) -> list[list[int]]:
    documents: dict[str, list[int]] = {}
    names = [document for _, document, split in _read_ids(folder) if split == "train"]
    for number, name in enumerate(names):
        documents.setdefault(name, []).append(number)
    return list(documents.values())


def _read_ntrex(folder: Path, split: str) -> dict[str, list[str]]:
    wanted = [number for number, row in enumerate(_read_ids(folder)) if row[2] == split]
    languages = {path.name.removesuffix(".txt.gz"): path for path in sorted(folder.glob("*.txt.gz"))}
    texts = {name: _read_lines(path) for name, path in languages.items() if name not in VARIANTS}
    return {name: [lines[number] for number in wanted] for name, lines in texts.items()}


def _read_tatoeba(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    translations: dict[str, list[str]] = {}
    languages: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.tsv.gz")):
        for line in _read_lines(path):
            foreign, english = line.split("\t")
            translations.setdefault(english, []).append(foreign)
            languages.setdefault(english, []).append(path.name.split("-")[0])
    return translations, languages


def _read_questions(path: Path) -> list[Question]:
    rows = [json.loads(line) for line in _read_lines(path)]
    return [Question(row["query"], row["pos"], row["lang"], row["pos_lang"]) for row in rows]


def _read_texts(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in _read_lines(path)]
    return {row["_id"]: f"{row['title']} {row['text']}".strip() for row in rows}


def _read_abstracts(folder: Path) -> list[tuple[str, str]]:
    abstracts = _read_texts(folder / "corpus.jsonl.gz")
    lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    questions = {row["_id"]: row["text"] for row in map(json.loads, lines)}
    judged = (folder / "qrels" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    pairs = [line.split("\t")[:2] for line in judged]
    return [(questions[query], abstracts[abstract]) for query, abstract in pairs]


def _read_claims(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def _hold_out(questions: list[Question], share: int) -> tuple[list[Question], list[Question]]:
    """Split by passage: every `share`-th distinct passage is held out with all its questions."""
    order = {passage: number for number, passage in enumerate(dict.fromkeys(q.passage for q in questions))}
    kept = [q for q in questions if order[q.passage] % share != 0]
    held_out = [q for q in questions if order[q.passage] % share == 0]
    return kept, held_out


def read_corpus(data: Path, *, share: int = 10) -> Corpus:
    """Read the training text and the development rows.

    Args:
        data: The folder with `ntrex128/`, `tatoeba_train/`, `qa_train/`, `scifact/`, `squality_long/` and
            `pubmedqa_l/`.
        share: One passage in `share` of the question answering pairs is held out for evaluation.
    """
    questions, held_out = _hold_out(_read_questions(data / "qa_train" / "train.jsonl.gz"), share)
    tatoeba, languages = _read_tatoeba(data / "tatoeba_train")
    corpus = Corpus(
        train=_read_ntrex(data / "ntrex128", "train"),
        dev=_read_ntrex(data / "ntrex128", "dev"),
        tatoeba=tatoeba,
        tatoeba_languages=languages,
        questions=questions,
        held_out=held_out,
        claims=_read_claims(data / "scifact" / "queries.jsonl"),
        documents=_read_documents(data / "ntrex128"),
        stories=list(_read_texts(data / "squality_long" / "train" / "corpus.jsonl.gz").values()),
        abstracts=_read_abstracts(data / "pubmedqa_l"),
    )
    counts = (len(corpus.train), len(corpus.tatoeba), len(questions), len(held_out))
    logger.info("%d NTREX languages, %d Tatoeba sentences, %d questions and %d held out", *counts)
    return corpus
