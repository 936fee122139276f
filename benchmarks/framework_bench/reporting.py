"""Tables of what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from machine import processor, version
from rich.table import Table

from framework_bench.contenders import GROUPS
from framework_bench.measuring import Load, Phase, Side, Workload, console, overlap, ratio

UNITS: dict[Phase, str] = {"add": "documents/s", "ask": "ms/question"}


def show(group: Sequence[Side], workload: Workload, documents: int) -> None:
    """Print what was measured of a group."""
    table = Table(title=f"{group[0].group}; {workload.name}", min_width=100)
    table.add_column("contender")
    for phase in workload.phases:
        for column in (UNITS[phase], "ratio", "passes", "encoder"):
            table.add_column(column, justify="right")
    for side in group:
        cells = [cell for phase in workload.phases for cell in _cells(side, group[0], phase, documents)]
        table.add_row(side.name, *cells)
    console.print(table)


def _cells(side: Side, ours: Side, phase: Phase, documents: int) -> list[str]:
    seconds = side.seconds(phase)
    rate = f"{documents / seconds:,.1f}" if phase == "add" else f"{1000 * seconds:,.1f}"
    return [rate, f"{ratio(side, ours, phase):.2f}", f"{side.passes(phase):.2f}", f"{side.encoder_share(phase):.0%}"]


def report(group: Sequence[Side], workload: Workload) -> list[dict[str, Any]]:
    """Everything measured of a group, for --json."""
    ours = group[0]
    return [
        {"workload": asdict(workload), "group": side.group, "contender": side.name}
        | {"hits_shared_with_m3connect": overlap(ours, side)}
        | {
            phase: {
                "median_seconds": side.seconds(phase),
                "times_ours": ratio(side, ours, phase),
                "passes_per_text": side.passes(phase),
                "encoder_share": side.encoder_share(phase),
                "samples": [asdict(sample) for sample in side.samples[phase]],
            }
            for phase in workload.phases
        }
        for side in group
    ]


def about_run(load: Load, threads: int) -> dict[str, Any]:
    """Versions, processor and settings."""
    libraries = ["m3connect", "torch", "transformers", "numpy"]
    libraries += [name for group in GROUPS for name in (*group.needs, group.peer)]
    return {
        "processor": processor(),
        "threads": threads,
        "documents": len(load.documents),
        "questions": len(load.questions),
        "load_average_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
    }


def footer(about: dict[str, Any]) -> str:
    """Say what the figures are figures of."""
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
    settings = (
        f"{about['documents']} documents, {about['questions']} questions a round, {about['threads']} threads, load "
        f"average {about['load_average_before']:.1f} before"
    )
    return (
        "ratio: a contender's time over m3connect's, median of calls side by side; passes: how often a text went "
        f"through the model; encoder: its share of the time\n{about['processor']}, {settings}; {versions}"
    )
