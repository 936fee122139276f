"""The demonstration: passages in many languages, two embedded databases, and questions with known answers."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from m3connect import filters as fields
from m3connect.embeddings import M3Embeddings
from m3connect.filters import Filter
from m3connect.fusion import RRF, Dense, Fusion, Sparse, Weighted
from m3connect.ingestion import IngestReport, ingest
from m3connect.opening import open_store
from m3connect.retrieval import HybridRetriever
from m3connect.store import Document, Encoder, Hit, HybridStore

__all__ = [
    "WAYS",
    "Corpus",
    "EncodeOnce",
    "Outcome",
    "Question",
    "Trial",
    "choose",
    "load_corpus",
    "run_demo",
    "try_store",
]

WAYS: Mapping[str, Fusion | None] = {
    "dense": Dense(),
    "sparse": Sparse(),
    "RRF": RRF(),
    "weighted": Weighted(),
    "reranked": None,
}
"""How the questions are asked; None is RRF, then the hybrid score of all three legs."""

_DEPTH = 10
"""Hits a question gets; the tables show fewer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with the passages that answer it."""

    id: str
    text: str
    lang: str
    kind: str
    """same-language: a passage in the question's language answers it; cross-language: only passages in others do."""

    answers: frozenset[str]

    @property
    def searched(self) -> Filter | None:
        """What is searched for it: everything, or for a cross-language question what is in other languages."""
        return fields.field("lang") != self.lang if self.kind == "cross-language" else None


@dataclass(frozen=True, slots=True)
class Corpus:
    """The passages and the questions of the demonstration."""

    passages: tuple[Document, ...]
    questions: tuple[Question, ...]

    def of_kind(self, kind: str | None) -> list[Question]:
        """Return the questions of one kind, or all."""
        return [question for question in self.questions if kind in (None, question.kind)]

    def chance(self, kind: str | None) -> float:
        """Return how many questions of a kind a blind pick among the passages searched would answer."""
        return sum(len(question.answers) / self._candidates(question) for question in self.of_kind(kind))

    def _candidates(self, question: Question) -> int:
        condition = question.searched
        return sum(condition is None or fields.matches(condition, passage.metadata) for passage in self.passages)


@dataclass(slots=True)
class Trial:
    """What one database did."""

    name: str
    report: IngestReport
    hits: dict[str, list[list[Hit]]] = field(default_factory=dict)
    """By way, one list a question."""

    seconds: dict[str, float] = field(default_factory=dict)
    """By way, for all questions together; encoding is not in it."""

    def found_first(self, way: str, questions: Sequence[Question], kind: str | None = None) -> int:
        """Count the questions, of one kind or all, whose first hit is an answer."""
        pairs = zip(questions, self.hits[way], strict=True)
        asked = [(question, hits) for question, hits in pairs if kind in (None, question.kind)]
        return sum(bool(hits) and hits[0].document.id in question.answers for question, hits in asked)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demonstration did."""

    corpus: Corpus
    trials: tuple[Trial, ...]
    """One a database."""

    passes: int
    """Texts that went through the model, each once, for all databases and ways together."""

    seconds_encoding: float
    seconds: float
    """All of it, loading the model left out."""

    def disagreements(self) -> list[tuple[str, int]]:
        """List way and position of the questions that the databases answer with different documents."""
        firsts, *others = self.trials
        return [
            (way, i)
            for way in WAYS
            for i, hits in enumerate(firsts.hits[way])
            if any(_ids(hits) != _ids(other.hits[way][i]) for other in others)
        ]


class EncodeOnce:
    """An encoder that remembers every text, so that two databases share one forward pass of each.

    Args:
        encoder: what computes; it is asked for all three views at once.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._rows: dict[str, M3Embeddings] = {}
        self.passes = 0
        """Texts that went through the model."""
        self.seconds = 0.0
        self.dim = encoder.dim
        self.fingerprint = encoder.fingerprint

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode what is new and recall the rest; token vectors always come along."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            started = time.perf_counter()
            batch = self._encoder.encode(new, multi_vector=True, max_length=max_length)
            self.seconds += time.perf_counter() - started
            self.passes += len(new)
            self._rows |= {text: batch[i] for i, text in enumerate(new)}
        return M3Embeddings.concatenate([self._rows[text] for text in texts], dim=self.dim)


def load_corpus() -> Corpus:
    """Read the bundled passages and questions."""
    passages = [Document(row["id"], row["text"], row["metadata"]) for row in _rows("passages.jsonl")]
    questions = [
        Question(row["id"], row["text"], row["lang"], row["kind"], frozenset(row["answers"]))
        for row in _rows("questions.jsonl")
    ]
    return Corpus(tuple(passages), tuple(questions))


def _rows(name: str) -> list[dict[str, Any]]:
    content = (files("m3connect") / "assets" / "demo" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in content.splitlines() if line.strip()]


def try_store(name: str, store: HybridStore, encoder: EncodeOnce, corpus: Corpus) -> Trial:
    """Fill a store with the passages and ask it every question in every way."""
    trial = Trial(name, ingest(encoder, store, corpus.passages))
    texts = [question.text for question in corpus.questions]
    encoder.encode(texts)  # before the clock of the first search starts
    for way, fusion in WAYS.items():
        retriever = HybridRetriever(encoder, store, rerank=fusion is None, fusion=fusion or RRF())
        started = time.perf_counter()
        trial.hits[way] = _ask(retriever, corpus.questions)
        trial.seconds[way] = time.perf_counter() - started
    return trial


def _ask(retriever: HybridRetriever, questions: Sequence[Question]) -> list[list[Hit]]:
    """Search for all questions; those that search the same passages go together."""
    groups: dict[Filter | None, list[int]] = defaultdict(list)
    for i, question in enumerate(questions):
        groups[question.searched].append(i)
    hits: dict[int, list[Hit]] = {}
    for condition, positions in groups.items():
        texts = [questions[i].text for i in positions]
        hits |= zip(positions, retriever.search_batch(texts, top_k=_DEPTH, filter=condition), strict=True)
    return [hits[i] for i in range(len(questions))]


def _ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.document.id for hit in hits]


def choose(questions: Sequence[Question], n: int) -> list[Question]:
    """Choose questions to show: both kinds in turn, languages as different as can be, whatever the results."""
    by_kind: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_kind[question.kind].append(question)
    spread = [_languages_in_turn(group, offset) for offset, group in enumerate(by_kind.values())]
    return [question for pair in zip_longest(*spread) for question in pair if question is not None][:n]


def _languages_in_turn(questions: Sequence[Question], offset: int) -> list[Question]:
    """Order questions so that every language comes once before any comes twice."""
    seen: dict[str, int] = defaultdict(int)
    turns = []
    for position, question in enumerate(questions):
        turns.append((seen[question.lang], position))
        seen[question.lang] += 1
    ordered = [questions[position] for _, position in sorted(turns)]
    start = offset * len(seen) // 2
    return ordered[start : len(seen)] + ordered[:start] + ordered[len(seen) :]


def run_demo(encoder: Encoder, names: Sequence[str] = ("qdrant", "milvus")) -> Outcome:
    """Index the passages into embedded databases in a temporary folder, and ask every question in every way.

    Args:
        encoder: the model; for instance m3-mini.
        names: "qdrant" and "milvus", or one of them.

    Returns:
        What each database found, and how long everything took.
    """
    corpus, once = load_corpus(), EncodeOnce(encoder)
    started = time.perf_counter()
    with TemporaryDirectory(prefix="m3connect-demo-", ignore_cleanup_errors=True) as folder:
        trials = tuple(_try_embedded(name, Path(folder), once, corpus) for name in names)
    return Outcome(corpus, trials, once.passes, once.seconds, time.perf_counter() - started)


def _try_embedded(name: str, folder: Path, encoder: EncodeOnce, corpus: Corpus) -> Trial:
    spec = f"{name}:{folder / 'demo'}{'.db' if name == 'milvus' else ''}"
    with open_store(spec, "demo", dim=encoder.dim) as store:
        return try_store(name, store, encoder, corpus)
