"""What self-knowledge distillation does: the same training with and without it, several seeds, held-out passages.

    python benchmarks/distillation.py --pairs DATA/qa_train/train.jsonl.gz --model WORK/initial --json distillation.json

See benchmarks/README.md; `scripts/build_m3_mini.py` leaves the untrained model in WORK/initial.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from machine import processor, version, write_report
from rich.console import Console
from rich.table import Table

from m3connect import Document, M3Encoder
from m3connect.evaluate import Dataset, evaluate
from m3connect.evaluate.metrics import mean, paired_test
from m3connect.evaluate.modes import Mode
from m3connect.train import TrainConfig, train

SELF, JOINT = "self-distillation", "joint"
MEASURE = "nDCG@10"
MODES: tuple[Mode, ...] = ("dense", "sparse", "multi_vector", "dense_sparse", "all")
BASE = TrainConfig(
    steps=100,
    tokens_per_batch=8_192,
    max_passage_length=256,
    learning_rate=1e-3,
    betas=(0.9, 0.98),
    precision="bfloat16",
    maxsim_tokens=12,
    save_every=10_000,
    log_every=50,
)
ARMS: dict[str, TrainConfig] = {
    SELF: BASE,
    JOINT: replace(BASE, objective="joint"),
    "independent heads": replace(BASE, objective="independent"),
    f"{SELF}, lambda2 = 1": replace(BASE, lambdas=(1.0, 1.0, 1.0)),
    f"{JOINT}, lambda2 = 1": replace(BASE, objective="joint", lambdas=(1.0, 1.0, 1.0)),
    f"{SELF}, no clipping": replace(BASE, clip=None),
    f"{JOINT}, no clipping": replace(BASE, objective="joint", clip=None),
}
"""The two last pairs are controls: does distillation only give the sparse head more weight, or a larger gradient?"""

Scores = dict[str, dict[str, float]]
"""By mode, the measure of each query."""

console = Console()


def read_pairs(path: Path) -> list[dict[str, str]]:
    """Read rows with `query`, `pos` and `lang`."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        return [json.loads(line) for line in file]


def split(rows: Sequence[dict[str, str]], *, share: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Hold out every `share`-th distinct passage with all its questions."""
    order = {passage: number for number, passage in enumerate(dict.fromkeys(row["pos"] for row in rows))}
    held = [row for row in rows if order[row["pos"]] % share == 0]
    return [row for row in rows if order[row["pos"]] % share], held


def write_sources(rows: Sequence[dict[str, str]], folder: Path) -> list[Path]:
    """Write a training file a language, since a batch should not mix them."""
    paths = []
    for language in sorted({row["lang"] for row in rows}):
        lines = [json.dumps({"query": row["query"], "pos": [row["pos"]]}) for row in rows if row["lang"] == language]
        paths.append(folder / f"{language}.jsonl")
        paths[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def held_out_set(rows: Sequence[dict[str, str]]) -> Dataset:
    """The held-out passages, and their questions."""
    names = {passage: f"p{number}" for number, passage in enumerate(dict.fromkeys(row["pos"] for row in rows))}
    return Dataset(
        name="held-out passages",
        documents=tuple(Document(name, passage) for passage, name in names.items()),
        queries={f"q{number}": row["query"] for number, row in enumerate(rows)},
        qrels={f"q{number}": {names[row["pos"]]: 1} for number, row in enumerate(rows)},
        languages={f"q{number}": row["lang"] for number, row in enumerate(rows)},
    )


def measure(model: Path, dataset: Dataset) -> Scores:
    """Evaluate a model in the five modes of the paper."""
    found = evaluate(M3Encoder.from_pretrained(model), dataset, modes=MODES, measures=[MEASURE])
    return {row.name: dict(row.values[MEASURE]) for row in found.rows}


def run_arm(model: Path, sources: Sequence[Path], dataset: Dataset, config: TrainConfig) -> Scores:
    """Train once, with one thread, and evaluate."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return measure(train(model, sources, folder, config=config), dataset)


def average(runs: Sequence[Scores]) -> Scores:
    """Average each query over seeds."""
    return {
        mode: {query: statistics.mean(run[mode][query] for run in runs) for query in scores}
        for mode, scores in runs[0].items()
    }


def compare(one: Sequence[Scores], other: Sequence[Scores]) -> dict[str, dict[str, float]]:
    """By mode, the difference of two arms over queries (averaged over seeds), and in how many seeds it is positive."""
    found = {}
    left, right = average(one), average(other)
    for mode in left:
        test = paired_test(left[mode], right[mode])
        seeds = [mean(a[mode]) - mean(b[mode]) for a, b in zip(one, other, strict=True)]
        found[mode] = {
            "difference": test.difference,
            "p": test.p_value,
            "seeds_better": float(sum(difference > 0 for difference in seeds)),
            "seed_deviation": statistics.stdev(seeds) if len(seeds) > 1 else 0.0,
        }
    return found


def show(before: Scores, runs: Mapping[str, Sequence[Scores]]) -> None:
    """Print the means and deviations over seeds, in percent."""
    table = Table(title=f"{MEASURE}, percent: mean over seeds (deviation)", min_width=100)
    table.add_column("training")
    for mode in before:
        table.add_column(mode, justify="right")
    table.add_row("none", *(f"{100 * mean(scores):.1f}" for scores in before.values()))
    for arm, found in runs.items():
        cells = []
        for mode in before:
            values = [100 * mean(run[mode]) for run in found]
            deviation = f" ({statistics.stdev(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{deviation}")
        table.add_row(arm, *cells)
    console.print(table)


def show_comparisons(comparisons: Mapping[str, dict[str, dict[str, float]]], seeds: int) -> None:
    """Print the differences of pairs of arms, with what chance makes of them."""
    for title, modes in comparisons.items():
        table = Table(title=title, min_width=80)
        for column in ("mode", "points", "deviation over seeds", "seeds better", "p over queries"):
            table.add_column(column, justify="left" if column == "mode" else "right")
        for mode, found in modes.items():
            table.add_row(
                mode,
                f"{100 * found['difference']:+.2f}",
                f"{100 * found['seed_deviation']:.2f}",
                f"{found['seeds_better']:.0f} of {seeds}",
                f"{found['p']:.4f}",
            )
        console.print(table)


def main(
    pairs: Annotated[Path, typer.Option(help='Rows {"query", "pos", "lang"}, .jsonl or .jsonl.gz.')],
    model: Annotated[Path, typer.Option(help="The folder of the model that every run begins with.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a run.")] = 100,
    share: Annotated[int, typer.Option(min=2, help="One passage in so many is held out.")] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time, of one thread each.")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Train by self-knowledge distillation, by the joint loss and by each head's own, and compare what comes out."""
    training, held = split(read_pairs(pairs), share=share)
    dataset = held_out_set(held)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
    ):
        sources = write_sources(training, Path(folder))
        started = {  # all arms of a seed see the same batches
            (arm, seed): pool.submit(run_arm, model, sources, dataset, replace(config, seed=seed, steps=steps))
            for seed in range(seeds)
            for arm, config in ARMS.items()
        }
        before = measure(model, dataset)
        for done, _ in enumerate(as_completed(started.values()), 1):
            console.print(f"[dim]{done} of {len(started)} runs[/]")
        runs = {arm: [started[arm, seed].result() for seed in range(seeds)] for arm in ARMS}
    show(before, runs)
    comparisons = {
        f"{arm} against {other}": compare(runs[arm], runs[other])
        for arm, other in (
            (SELF, JOINT),
            (SELF, "independent heads"),
            (f"{SELF}, lambda2 = 1", f"{JOINT}, lambda2 = 1"),
            (f"{SELF}, no clipping", f"{JOINT}, no clipping"),
        )
    }
    show_comparisons(comparisons, seeds)
    about: dict[str, Any] = {
        "processor": processor(),
        "versions": {name: version(name) for name in ("m3connect", "torch")},
        "training pairs": len(training),
        "held-out passages": len(dataset.documents),
        "held-out questions": len(dataset.queries),
        "seeds": seeds,
        "steps": steps,
    }
    console.print(about)
    if json_path is not None:
        means = {arm: [{mode: mean(scores) for mode, scores in run.items()} for run in runs[arm]] for arm in runs}
        report = {**about, "before": {mode: mean(scores) for mode, scores in before.items()}}
        report |= {"runs": means, "comparisons": comparisons}
        write_report(json_path, report)


if __name__ == "__main__":
    typer.run(main)
