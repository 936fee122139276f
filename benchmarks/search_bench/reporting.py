"""Tables of what was measured."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from machine import processor, version
from rich.table import Table

from search_bench.contenders import COMPUTE, HAND, STORED
from search_bench.measuring import Measured, Plan, console
from search_bench.stages import STAGES


def show(results: Sequence[Measured]) -> None:
    """Print a table for every number of documents and of candidates."""
    for documents, depth in dict.fromkeys((one.documents, one.depth) for one in results):
        table = Table(
            title=f"{documents:,} documents, {depth} candidates reranked: ms a question, median", min_width=100
        )
        for column in ("store", "contender"):
            table.add_column(column)
        for column in ("encode", "search", "fetch", "candidates", "rerank", "total", "min .. max", "same 10"):
            table.add_column(column, justify="right", no_wrap=True)
        for one in results:
            if (one.documents, one.depth) == (documents, depth):
                table.add_row(*_cells(one))
        console.print(table)


def _cells(one: Measured) -> list[str]:
    totals = [1000 * seconds["total"] for seconds in one.seconds]
    stages = [f"{1000 * one.median(stage):.1f}" if one.median(stage) else "-" for stage in STAGES]
    spread = f"{statistics.median(totals):.1f}", f"{min(totals):.1f} .. {max(totals):.1f}"
    return [one.backend, one.contender, *stages, *spread, f"{statistics.mean(one.shared):.0%}"]


def ratios(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Say how many times m3connect's time a peer takes: the median over questions, both asked in the same round."""
    lines = []
    for peer in (one for one in results if one.contender in (HAND, COMPUTE)):
        for ours in results:
            same = (ours.documents, ours.depth, ours.backend) == (peer.documents, peer.depth, peer.backend)
            if same and ours.contender not in (HAND, COMPUTE):
                pairs = zip(peer.seconds, ours.seconds, strict=True)
                times = statistics.median(theirs["total"] / own["total"] for theirs, own in pairs)
                line = {"documents": peer.documents, "depth": peer.depth, "backend": peer.backend}
                lines.append({**line, "peer": peer.contender, "contender": ours.contender, "times": times})
    return lines


def show_ratios(lines: Sequence[dict[str, Any]]) -> None:
    """Print how many times our time the peers take."""
    if not lines:
        return
    table = Table(title="a peer's time over m3connect's", min_width=100)
    for column in lines[0]:
        table.add_column(column, justify="left" if isinstance(lines[0][column], str) else "right")
    for line in lines:
        table.add_row(*(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in line.values()))
    console.print(table)


def report(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Everything measured, for --json."""
    return [
        asdict(one) | {"median_seconds": {stage: one.median(stage) for stage in (*STAGES, "total")}} for one in results
    ]


def about_run(plan: Plan, threads: int) -> dict[str, Any]:
    """Versions, processor and settings."""
    libraries = ["m3connect", "FlagEmbedding", "torch", "transformers", "numpy", "lmdb"]
    libraries += ["qdrant-edge-py", "pymilvus", "milvus-lite"]
    return {
        "processor": processor(),
        "threads": threads,
        "rounds": plan.rounds,
        "model": plan.model,
        "load_average_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
    }


def footer(about: dict[str, Any]) -> str:
    """Say what the figures are figures of."""
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
    return (
        f"same 10: how many of the best ten '{STORED}' and the peers share with m3connect's exact ones\n"
        f"{about['processor']}, model {about['model']}, {about['threads']} threads, {about['rounds']} rounds, load "
        f"average {about['load_average_before']:.1f} before; {versions}"
    )
