"""How an evaluation is shown: tables for people, JSON for programs, a chart, and a folder of runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from m3connect.evaluate.evaluation import Evaluation, Row
from m3connect.evaluate.runs import write_run

__all__ = [
    "facts_table",
    "language_table",
    "to_json",
    "tuned_table",
    "value_table",
    "warnings",
    "write_chart",
    "write_folder",
]

_MANY_EMPTY = 0.05

_SURE = 0.05
"""A p-value below this is marked."""


def value_table(evaluation: Evaluation) -> Table:
    """Show a row a mode: means, and the difference from Dense with its p-value, in percent."""
    measures = list(evaluation.rows[0].values)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for measure in measures:
        table.add_column(measure, justify="right")
    table.add_column(f"{measures[0]} against Dense", justify="right")
    table.add_column("p", justify="right")
    for row in evaluation.rows:
        test = row.against_dense
        compared = ("", "") if test is None else (f"{100 * test.difference:+.1f}", _p_value(test.p_value))
        table.add_row(Text(row.name), *(f"{100 * value:.1f}" for value in row.means.values()), *compared)
    return table


def language_table(evaluation: Evaluation) -> Table:
    """Show the first measure by language, a row a mode."""
    languages = evaluation.languages
    measure = next(iter(evaluation.rows[0].values))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{measure} by language", title_justify="left")
    table.add_column("")
    for language, queries in languages.items():
        table.add_column(f"{language} ({len(queries)})", justify="right")
    for row in evaluation.rows:
        table.add_row(
            Text(row.name), *(f"{100 * row.means_of(queries)[measure]:.1f}" for queries in languages.values())
        )
    return table


def tuned_table(evaluation: Evaluation) -> Table:
    """Show which weights were chosen, and on how many queries."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="weights tuned on dev queries", title_justify="left")
    for name in ("", "dense", "sparse", "multi-vector", "dev queries", "there"):
        table.add_column(name, justify="right" if name else "left")
    for mode, tuned in evaluation.tuned.items():
        weights = (f"{weight:g}" for weight in tuned.weights)
        table.add_row(mode, *weights, str(tuned.queries), f"{100 * tuned.value:.1f}")
    return table


def facts_table(evaluation: Evaluation) -> Table:
    """Show what was evaluated, and how."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in evaluation.facts.items():
        table.add_row(name, Text(f"{100 * value:.1f} %" if isinstance(value, float) else str(value)))
    return table


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything but the runs as JSON can hold it."""
    languages = evaluation.languages
    return {
        "facts": dict(evaluation.facts),
        "rows": {
            row.name: {
                "means": row.means,
                "against_dense": None if row.against_dense is None else asdict(row.against_dense),
                "by_language": {language: row.means_of(queries) for language, queries in languages.items()},
            }
            for row in evaluation.rows
        },
        "tuned": {mode: asdict(tuned) for mode, tuned in evaluation.tuned.items()},
    }


def warnings(evaluation: Evaluation) -> Iterator[str]:
    """Say what makes figures mean something else than they seem to."""
    facts = evaluation.facts
    empty = facts.get("empty sparse queries", 0.0)
    if empty > _MANY_EMPTY:
        yield f"{100 * empty:.0f} % of the queries have an empty sparse vector: the sparse head may be dead"
    if facts.get("documents in the store", 0) > facts.get("documents", 0):
        yield "the store holds other documents too; they can be found, and count as wrong"
    if facts.get("documents set aside"):
        yield f"{facts['documents set aside']} documents were set aside: they cannot be found"
    if facts.get("documents cut"):
        yield f"{facts['documents cut']} documents were longer than what is read: their ends cannot be found"


def write_folder(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Write a TREC run a row, `per_query.tsv` and `report.json`, so that others can measure again.

    Returns:
        What was written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for row in evaluation.rows:
        name = file_name(row.name)
        written.append(folder / f"{name}.run")
        write_run(written[-1], row.run, name=name)
    written += [folder / "per_query.tsv", folder / "report.json"]
    written[-2].write_text("".join(_per_query_lines(evaluation)), encoding="utf-8")
    written[-1].write_text(json.dumps(to_json(evaluation), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return written


def file_name(name: str) -> str:
    """Turn the name of a row into one for a file.

    Example:
        >>> file_name("Dense+Sparse, tuned")
        'dense-sparse-tuned'
    """
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-")


def write_chart(evaluation: Evaluation, path: str | Path) -> None:
    """Draw the means as bars, a group a measure, into a file whose name says the format (.png, .svg, .pdf).

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('a chart needs matplotlib: pip install "m3connect[train]"') from error
    rows, measures = evaluation.rows, list(evaluation.rows[0].values)
    figure = Figure(figsize=(2 + 0.7 * len(rows) * len(measures), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        lefts = [group + (place - (len(rows) - 1) / 2) * width for group in range(len(measures))]
        bars = axes.bar(lefts, [100 * value for value in row.means.values()], width, label=row.name)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(measures)), measures)
    axes.set_ylim(0, 105)
    axes.set_ylabel("percent")
    axes.set_title(f"{evaluation.facts.get('dataset', '')}: {len(evaluation.dataset.qrels)} queries")
    figure.legend(loc="outside lower center", fontsize=8, ncols=4)
    figure.savefig(path)


def _per_query_lines(evaluation: Evaluation) -> Iterator[str]:
    yield "row\tmeasure\tquery\tvalue\n"
    for row in evaluation.rows:
        yield from _lines_of(row)


def _lines_of(row: Row) -> Iterator[str]:
    for measure, values in row.values.items():
        for query, value in values.items():
            yield f"{row.name}\t{measure}\t{query}\t{value!r}\n"


def _p_value(value: float) -> str:
    shown = "<0.001" if value < 0.001 else f"{value:.3f}"
    return f"{shown} *" if value < _SURE else shown
