"""How the demonstration looks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from m3connect.cli.show import hits_table, snippet
from m3connect.demo import WAYS, Corpus, Outcome, Question, Trial, choose
from m3connect.store import Hit

__all__ = ["own_files", "print_outcome"]

_HITS_SHOWN = 3
_TITLES = {"qdrant": "Qdrant", "milvus": "Milvus"}
_MEANING = {
    "dense": "one vector a text",
    "sparse": "shared word pieces",
    "RRF": "ranks of the two",
    "weighted": "dense + 0.3 sparse",
    "reranked": "RRF, then all legs",
}
_EXPLANATION = (
    "Same-language: a passage in the question's language answers it, and all passages are searched. Cross-language: "
    "no passage in the question's language does, and a filter searches the other languages alone. A question counts "
    "where its very first hit is an answer; chance is what a blind pick would find."
)


def print_outcome(outcome: Outcome, console: Console, *, shown: int = 8) -> None:
    """Print some questions with their hits, what was found first, where the time went, and what to do next."""
    corpus, questions = outcome.corpus, choose(outcome.corpus.questions, shown)
    languages = len({passage.metadata["lang"] for passage in corpus.passages})
    names = " and ".join(_TITLES[trial.name] for trial in outcome.trials)
    console.print(
        f"[bold]{len(corpus.passages)} passages in {languages} languages, {len(corpus.questions)} questions, in "
        f"embedded {names}[/bold]"
    )
    if questions:
        console.print(Rule(f"{len(questions)} questions: the best hits, reranked", align="left"))
    for question in questions:
        position = corpus.questions.index(question)
        _print_question(console, question, outcome.trials[0].hits["reranked"][position][:_HITS_SHOWN])
    _print_answered_across(console, outcome.trials[0], corpus)
    console.print()
    console.print(Rule("How many answers were found first", align="left"))
    console.print(_EXPLANATION, markup=False)
    for trial in outcome.trials:
        console.print(_summary(trial, corpus))
    _print_facts(outcome, console)
    console.print()
    console.print(Rule("The same with your own files", align="left"))
    console.print(own_files(), markup=False, soft_wrap=True)


def _print_question(console: Console, question: Question, hits: Sequence[Hit]) -> None:
    asked = snippet(question.text, 200)
    asked.no_wrap, asked.overflow = False, "fold"
    console.print(Text.assemble("\n", (f"{question.lang}, {question.kind}: ", "dim"), asked), style="bold")
    console.print(hits_table(hits, answers=question.answers))


def _print_answered_across(console: Console, trial: Trial, corpus: Corpus) -> None:
    """Print every question that a passage in another language answers first, with how many there are."""
    asked = corpus.of_kind("cross-language")
    pairs = [
        (question, hits[0])
        for question, hits in zip(corpus.questions, trial.hits["reranked"], strict=True)
        if question in asked and hits and hits[0].document.id in question.answers
    ]
    if not asked:
        return
    console.print()
    console.print(Rule(f"Answered first from another language: {len(pairs)} of {len(asked)} questions", align="left"))
    for question, hit in pairs:
        console.print(Text.assemble("\n", (f"{question.lang}: ", "dim"), snippet(question.text, 200)), style="bold")
        console.print(Text.assemble((f"{hit.document.id}: ", "dim"), snippet(hit.document.text, 200)))


def _summary(trial: Trial, corpus: Corpus) -> Table:
    questions = corpus.questions
    kinds = list(dict.fromkeys(question.kind for question in questions))
    table = Table(box=box.SIMPLE_HEAD, title=f"{_TITLES[trial.name]} (embedded)", title_justify="left", pad_edge=False)
    table.add_column("searched by")
    table.add_column("which is", style="dim")
    for kind in kinds:
        table.add_column(kind.replace("-", "-\n"), justify="right", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    table.add_column("ms each", justify="right", style="dim", no_wrap=True)
    for way in WAYS:
        found = ((trial.found_first(way, questions, kind), len(corpus.of_kind(kind))) for kind in [*kinds, None])
        cells = [f"{right} of {asked}" for right, asked in found]
        per_question = 1000 * trial.seconds[way] / max(1, len(questions))
        table.add_row(way, _MEANING[way], *cells, f"{per_question:.1f}")
    chances = (f"{corpus.chance(kind):.1f} of {len(corpus.of_kind(kind))}" for kind in [*kinds, None])
    table.add_row("chance", "a blind pick", *chances, "", style="dim")
    return table


def _print_facts(outcome: Outcome, console: Console) -> None:
    rate = outcome.passes / outcome.seconds_encoding if outcome.seconds_encoding else 0
    console.print(
        f"Encoding: {outcome.passes} texts, one forward pass each for all three views and every search above, in "
        f"{outcome.seconds_encoding:.1f} s ({rate:.0f} a second). The demonstration keeps token vectors in memory for "
        "reranking; `search --rerank` computes those of its 50 candidates again, unless `index --multi-vector` stored "
        "them (Qdrant).",
        markup=False,
    )
    for trial in outcome.trials:
        searching = sum(trial.seconds.values())
        asked = len(WAYS) * len(outcome.corpus.questions)
        console.print(
            f"{_TITLES[trial.name]}: {trial.report.stored} passages stored in {trial.report.seconds_storing:.1f} s, "
            f"{asked} searches in {searching:.1f} s."
        )
    if len(outcome.trials) > 1:
        console.print(_agreement(outcome))
    console.print(f"Everything together, without loading the model: {outcome.seconds:.1f} s.")


def _agreement(outcome: Outcome) -> str:
    different = outcome.disagreements()
    searches = len(WAYS) * len(outcome.corpus.questions)
    if not different:
        return f"Both databases gave the same documents in the same order in all {searches} searches."
    named = ", ".join(f"{way} {outcome.corpus.questions[i].id}" for way, i in different[:5])
    more = " and others" if len(different) > 5 else ""
    return f"{len(different)} of {searches} searches gave other documents or another order: {named}{more}."


def own_files() -> str:
    """Return the commands that index a folder and search it."""
    program = _program()
    return (
        "  # FOLDER holds .txt, .md, .jsonl or .csv files\n"
        f"  {program} index FOLDER --store qdrant:my-index\n"
        f'  {program} search "your question" --store qdrant:my-index --rerank\n'
        "  # milvus:my-index.db works the same way\n"
        "  # real work adds --model BAAI/bge-m3 to both"
    )


def _program() -> str:
    """Return how this program can be called from here: by its name, or by its path where it is not on PATH."""
    if shutil.which("m3connect") or os.path.basename(sys.argv[0]) != "m3connect":
        return "m3connect"
    return os.path.relpath(sys.argv[0])
