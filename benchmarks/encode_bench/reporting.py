"""Tables of what was measured, and the same as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from machine import processor, version
from rich.table import Table

from encode_bench.contenders import DEFAULT, FLAG, OURS
from encode_bench.loading import console
from encode_bench.measuring import Result

_DEFAULT = f"{FLAG}, {DEFAULT}"
_PACKAGES = ("m3connect", "FlagEmbedding", "transformers", "onnxruntime", "onnx", "openvino", "m3serve")
_OTHERS = ("torch", "numba", "tokenizers", "numpy")


def show(result: Result) -> None:
    """Print a workload's table, and the share of the machine's peak where that was measured."""
    workload = result.workload
    table = Table(title=f"{workload.name}: {len(workload.texts):,} texts, {workload.tokens:,} tokens", min_width=100)
    table.add_column("text to dense + sparse")
    for column in ("tokens/s", "ms, median", "min .. max", "cosine"):
        table.add_column(column, justify="right")
    for precision in result.ours:
        table.add_column(f"/ {precision}", justify="right")
    for row in rows(result):
        table.add_row(
            row["contender"],
            f"{row['tokens_per_second']:,.0f}",
            f"{1000 * row['median_seconds']:,.1f}",
            f"{1000 * row['min_seconds']:,.1f} .. {1000 * row['max_seconds']:,.1f}",
            f"{row['lowest_cosine']:.5f}",
            *(f"{ratio:.2f}" for ratio in row["ratio_to_ours"].values()),
        )
    console.print(table)
    console.print(f"  [dim]took {result.elapsed:,.0f} s, choosing settings included[/]")
    for precision, fraction in result.fraction_of_peak.items():
        peak = statistics.median(result.peak_flops[precision]) / 1e9
        console.print(
            f"  m3connect's linears alone: {fraction:.0%} of this machine's {precision} matrix product "
            f"({peak:,.0f} GFLOP/s in the same rounds)"
        )


def rows(result: Result) -> list[dict[str, Any]]:
    """One row for each contender of a workload, ours last, slower ones first."""
    ordered = sorted(result.seconds, key=lambda name: (result.contenders[name].package == OURS, -result.median(name)))
    return [_row(result, name) for name in ordered]


def _row(result: Result, name: str) -> dict[str, Any]:
    workload, contender, seconds = result.workload, result.contenders[name], result.seconds[name]
    median = statistics.median(seconds)
    return {
        "workload": workload.name,
        "texts": len(workload.texts),
        "tokens": workload.tokens,
        "contender": name,
        "package": contender.package,
        "precision": contender.precision,
        "setting": contender.setting,
        "rounds": len(seconds),
        "median_seconds": median,
        "min_seconds": min(seconds),
        "max_seconds": max(seconds),
        "tokens_per_second": workload.tokens / median,
        "ratio_to_ours": {precision: median / ours for precision, ours in result.ours.items()},
        **result.agreement[name],
    }


def show_memory(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print how much memory our precisions needed."""
    table = Table(title="m3connect's peak memory less that after the imports, MB", min_width=100)
    table.add_column("precision")
    for column in (
        "model",
        "tokens",
        "peak",
        "loading",
        "loaded",
        "weights",
        "weights + 300",
        "within",
        "with mapped files",
    ):
        table.add_column(column, justify="right")
    for line in lines:
        figures = [
            f"{line[key]:,.0f}" for key in ("peak_mb", "peak_loading_mb", "loaded_mb", "weights_mb", "allowance_mb")
        ]
        within = "yes" if line["within"] else "NO"
        whole = f"{line['peak_with_files_mb']:,.0f}"
        table.add_row(line["precision"], line["model"], f"{line['tokens']:,}", *figures, within, whole)
    console.print(table)


def report(results: Sequence[Result], memory: Sequence[Mapping[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, for --json; benchmarks/README.md describes it."""
    return {
        **about,
        "rows": [row for result in results for row in rows(result)],
        "workloads": [_workload(result) for result in results],
        "memory": list(memory),
    }


def _workload(result: Result) -> dict[str, Any]:
    workload = result.workload
    shape = workload.shape
    return {
        "name": workload.name,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "texts": len(workload.texts),
        "tokens": workload.tokens,
        "seconds": result.seconds,
        "trial_seconds": result.trial_seconds,
        "tokens_per_second": {name: workload.tokens / result.median(name) for name in result.seconds},
        "times_faster_than_default": result.times_faster(_DEFAULT),
        "times_faster_than_best": result.times_faster(result.best_peer),
        "best_peer": result.best_peer,
        "agreement": result.agreement,
        "cosines": {one.precision: result.agreement[name]["lowest_cosine"] for name, one in _ours(result)},
        "gemm_flops": result.peak_flops,
        "fraction_of_gemm": result.fraction_of_peak,
        "left_out": result.left_out,
        "elapsed_seconds": result.elapsed,
    }


def _ours(result: Result) -> list[tuple[str, Any]]:
    return [(name, one) for name, one in result.contenders.items() if one.package == OURS]


def about_machine(threads: int, rounds: int) -> dict[str, Any]:
    """Versions, processor and settings."""
    return {
        "processor": processor(),
        "threads": threads,
        "rounds": rounds,
        "load_average_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in (*_PACKAGES, *_OTHERS)},
    }


def footer(about: Mapping[str, Any]) -> str:
    """Say what the figures are figures of."""
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
    settings = (
        f"{about['threads']} threads, {about['rounds']} rounds, load average {about['load_average_before']:.1f} before"
    )
    return (
        "/ int8: the contender's median time over that of m3connect in int8, and so on; cosine: the lowest of a text's "
        f"dense vector to that of m3connect in float32\n{about['processor']}, {settings}; {versions}"
    )
