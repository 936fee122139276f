"""Long documents: dense search with and without MCLS (a `<s>` every 256 tokens, averaged), on the same sets.

    python benchmarks/mcls.py DATA/qmsum_long/val DATA/squality_long/dev --model BAAI/bge-m3 --json mcls.json

Both ways read the same tokens of a document but for the few that make room for the inserted `<s>`. See
benchmarks/README.md.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from machine import processor, version, write_report
from rich import box
from rich.console import Console
from rich.table import Table

from m3connect import M3Encoder
from m3connect.evaluate import Dataset, Row, evaluate, paired_test, read_dataset

MEASURE = "nDCG@10"
PLAIN = "one <s>"

console = Console(width=100)


def dense_row(dataset: Dataset, model: str, every: int | None, max_length: int | None) -> tuple[Row, float]:
    """Return what dense finds, and the seconds that everything took."""
    encoder = M3Encoder.from_pretrained(model, mcls=every)
    started = time.perf_counter()
    evaluation = evaluate(
        encoder, dataset, modes=["dense"], measures=[MEASURE, "Recall@5"], max_length=max_length, progress=True
    )
    return evaluation["Dense"], time.perf_counter() - started


def compare(dataset: Dataset, model: str, everies: list[int], max_length: int | None) -> dict[str, Any]:
    """Measure one set each way; differences are from the plain way, on the same queries."""
    plain, seconds = dense_row(dataset, model, None, max_length)
    ways: dict[str, Any] = {PLAIN: {"means": plain.means, "seconds": seconds}}
    for every in everies:
        row, seconds = dense_row(dataset, model, every, max_length)
        test = paired_test(row.values[MEASURE], plain.values[MEASURE])
        ways[f"every {every}"] = {"means": row.means, "seconds": seconds, "against": asdict(test)}
    return ways


def table(results: dict[str, dict[str, Any]]) -> Table:
    """Show a row a set and way."""
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("set", "way", MEASURE, "Recall@5", "+/-", "p", "up/down", "s"):
        shown.add_column(name, justify="left" if name in ("set", "way") else "right")
    for name, ways in results.items():
        for way, found in ways.items():
            test = found.get("against")
            compared = ("", "", "")
            if test:
                compared = (
                    f"{100 * test['difference']:+.1f}",
                    f"{test['p_value']:.4f}",
                    f"{test['better']}/{test['worse']}",
                )
            means = (f"{100 * value:.1f}" for value in found["means"].values())
            shown.add_row(name, way, *means, *compared, f"{found['seconds']:.0f}")
    return shown


def main(
    folders: Annotated[list[Path], typer.Argument(help="Sets of long documents, in the BEIR layout.")],
    model: Annotated[str, typer.Option(help="A hub name, a folder, or m3-mini.")] = "m3-mini",
    every: Annotated[list[int] | None, typer.Option(help="Tokens a <s> stands for; may be repeated.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Read at most this many tokens.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Compare dense search with and without MCLS."""
    load, results = os.getloadavg()[0], dict[str, dict[str, Any]]()
    for folder in folders:
        dataset = read_dataset(folder)
        console.print(f"{dataset.name}: {len(dataset.documents)} documents, {len(dataset.qrels)} queries")
        results[dataset.name] = compare(dataset, model, every or [256], max_length)
    console.print(table(results))
    if json_path is not None:
        versions = {name: version(name) for name in ("m3connect", "torch", "transformers", "numpy")}
        about = {"processor": processor(), "load_average_before": load, "versions": versions, "model": model}
        write_report(json_path, {**about, "sets": results})


if __name__ == "__main__":
    typer.run(main)
