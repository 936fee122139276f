"""`m3connect evaluate`: what each leg of a model finds on a set with known answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3connect.cli.options import (
    Debug,
    Device,
    Model,
    ModelPrecision,
    check_store,
    load_encoder,
    notes,
    reports_errors,
    results,
)
from m3connect.opening import open_store
from m3connect.store import HybridStore

if TYPE_CHECKING:
    from m3connect.evaluate import Dataset, Evaluation
    from m3connect.evaluate.data import Qrels

__all__ = ["evaluate_command"]


class ModeName(StrEnum):
    """The ways to search."""

    dense = "dense"
    sparse = "sparse"
    multi_vector = "multi_vector"
    dense_sparse = "dense_sparse"
    all = "all"
    rrf = "rrf"


class Missing(StrEnum):
    """What a document scores in a leg that did not find it."""

    exact = "exact"
    zero = "zero"


@reports_errors
def evaluate_command(
    folder: Annotated[Path, typer.Argument(help="A folder in the BEIR layout: corpus.jsonl, queries.jsonl, qrels/.")],
    model: Model = None,
    precision: ModelPrecision = None,
    device: Device = "cpu",
    split: Annotated[
        str | None, typer.Option(help="Whose judgments: qrels/SPLIT.tsv. Default: the only one, or test.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="SPEC", callback=check_store, help="Search in this store. Default: exactly, in memory."),
    ] = None,
    collection: Annotated[str | None, typer.Option(help="In the store. Default: evaluate_ and the set's name.")] = None,
    multi_vector: Annotated[
        bool | None, typer.Option(help="Store token vectors too, where the store can.", show_default=False)
    ] = None,
    mode: Annotated[list[ModeName] | None, typer.Option(help="May be repeated. Default: all of them.")] = None,
    measure: Annotated[
        list[str] | None, typer.Option(help="As ir-measures names it; may be repeated. Default: nDCG@10, Recall@100.")
    ] = None,
    weights: Annotated[tuple[float, float, float], typer.Option(help="Of dense, sparse and multi-vector scores.")] = (
        1.0,
        0.3,
        1.0,
    ),
    depth: Annotated[int, typer.Option(min=1, help="How many documents dense and sparse each find.")] = 1000,
    rerank_depth: Annotated[int, typer.Option(min=1, help="How many of dense's best are reranked.")] = 200,
    missing: Annotated[
        Missing,
        typer.Option(help="The score in a leg that did not find a document: exact, or zero as the paper has it."),
    ] = Missing.exact,
    dev_split: Annotated[str | None, typer.Option(help="Tune weights on this split, too.")] = None,
    dev_share: Annotated[
        float | None, typer.Option(help="Tune weights on this share of the queries; the others alone are reported.")
    ] = None,
    run: Annotated[list[Path] | None, typer.Option(help="A TREC run of another system, measured beside ours.")] = None,
    run_folder: Annotated[Path | None, typer.Option(help="Write TREC runs and values by query here.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw a chart into this .png, .svg or .pdf.")] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Read at most this many tokens of a text.")] = None,
    mcls: Annotated[
        int | None, typer.Option(min=1, help="Average a <s> every so many tokens as dense vector: 256 for long texts.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Measure what dense, sparse, multi-vector and their sums find on a set with known answers.

    Rows as in the paper: Dense and Sparse search, Multi-vec and All rerank the best of Dense, Dense+Sparse orders what
    either found. Equal scores count against the system. A star marks a p-value below 0.05.

    Example: `m3connect evaluate scifact --model BAAI/bge-m3 --run-folder runs`
    """
    from m3connect.evaluate import Protocol, evaluate, read_dataset, read_run
    from m3connect.evaluate.metrics import MEASURES

    protocol = Protocol(depth, min(rerank_depth, depth), missing.value)
    dataset, dev = _split(read_dataset(folder, split=split), folder, dev_split, dev_share)
    others = {path.name.removesuffix(".gz").removesuffix(".run"): read_run(path) for path in run or []}
    encoder = load_encoder(model, precision=precision, device=device, mcls=mcls)
    with _opened(store, collection or _collection_for(dataset.name), encoder.dim, multi_vector) as opened:
        evaluation = evaluate(
            encoder,
            dataset,
            store=opened,
            modes=[name.value for name in mode or ModeName],
            measures=measure or MEASURES,
            weights=weights,
            protocol=protocol,
            dev=dev,
            max_length=max_length,
            runs=others,
            progress=sys.stderr.isatty(),
        )
    _show(evaluation, run_folder, chart, as_json)


def _split(
    dataset: Dataset, folder: Path, dev_split: str | None, dev_share: float | None
) -> tuple[Dataset, Qrels | None]:
    from m3connect.evaluate import read_dataset, split_queries

    if dev_split is not None and dev_share is not None:
        raise typer.BadParameter("give --dev-split or --dev-share, not both", param_hint="'--dev-share'")
    if dev_share is not None:
        dev, test = split_queries(dataset.qrels, dev_share)
        return dataset.judged_by(test), dev
    return dataset, None if dev_split is None else read_dataset(folder, split=dev_split).qrels


def _collection_for(name: str) -> str:
    """Return a name that every database takes: letters, digits and underscores."""
    return "evaluate_" + re.sub(r"\W", "_", name, flags=re.ASCII)


@contextmanager
def _opened(spec: str | None, collection: str, dim: int, multi_vector: bool | None) -> Iterator[HybridStore | None]:
    if spec is None:
        yield None
        return
    with open_store(spec, collection, dim=dim, multi_vector=multi_vector) as opened:
        yield opened


def _show(evaluation: Evaluation, run_folder: Path | None, chart: Path | None, as_json: bool) -> None:
    from m3connect.evaluate import report

    if run_folder is not None:
        report.write_folder(evaluation, run_folder)
    if chart is not None:
        report.write_chart(evaluation, chart)
    if as_json:
        typer.echo(json.dumps(report.to_json(evaluation), ensure_ascii=False))
    else:
        results().print(report.value_table(evaluation))
        if evaluation.languages:
            results().print(report.language_table(evaluation))
        if evaluation.tuned:
            results().print(report.tuned_table(evaluation))
        results().print(report.facts_table(evaluation))
    for warning in report.warnings(evaluation):
        notes().print(f"note: {warning}", style="yellow")
