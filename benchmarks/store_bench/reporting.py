"""Tables of what was measured, and the ratios that count."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

from machine import processor, version
from rich.table import Table

from store_bench.contenders import HAND, OURS, PLAIN, Measured
from store_bench.data import CANDIDATES, KINDS, TOP_K, Kind
from store_bench.measuring import console


def show(size: int, results: Sequence[Measured]) -> None:
    """Print what was measured at one size."""
    table = Table(title=f"{size:,} documents: documents/s; milliseconds a search, median (min .. max)", min_width=100)
    for column in ("backend", "contender"):
        table.add_column(column)
    for column in ("ingest", *KINDS, "MB"):
        table.add_column(column, justify="right")
    for result in results:
        cells = [_spread(result.search[kind]) for kind in KINDS]
        memory = f"{result.memory:,.0f}" if result.memory is not None else ""
        table.add_row(result.backend, result.name, f"{result.rate:,.0f}", *cells, memory)
    console.print(table)


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:.2f} ({low:.2f} .. {high:.2f})"


def ratios(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Compare m3connect's times with those of every other contender of the same backend and size.

    Of searches, the median over rounds of what one round gave: a change in the machine's load hits both sides of it.
    """
    lines: list[dict[str, Any]] = []
    for ours in (result for result in results if result.name == OURS):
        for other in results:
            if other.name == OURS or (other.backend, other.size) != (ours.backend, ours.size):
                continue
            line: dict[str, Any] = {"size": ours.size, "backend": ours.backend, "against": other.name}
            line["ingest"] = other.rate / ours.rate
            batches = len(ours.ingest)
            line["ingest_ms_more_a_batch"] = 1000 * ours.size * (1 / ours.rate - 1 / other.rate) / batches
            for kind in (kind for kind in KINDS if other.search[kind]):
                pairs = list(zip(ours.search[kind], other.search[kind], strict=True))
                line[kind] = _paired(ours, other, kind)
                line[f"{kind}_ms_more"] = 1000 * statistics.median(own - theirs for own, theirs in pairs)
            lines.append(line)
    return lines


def edge_against_local(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Say how many times the time of Edge Qdrant's local mode takes, both through m3connect."""
    found = {(result.backend, result.size): result for result in results if result.name == OURS}
    return [
        {"size": size, "ingest": edge.rate / local.rate} | {kind: _paired(local, edge, kind) for kind in KINDS}
        for (backend, size), edge in found.items()
        if backend == "edge" and (local := found.get(("qdrant-local", size))) is not None
    ]


def _paired(one: Measured, other: Measured, kind: Kind) -> float:
    return statistics.median(a / b for a, b in zip(one.search[kind], other.search[kind], strict=True))


def growth(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Say how m3connect's times grow from the smallest size."""
    ours = [result for result in results if result.name == OURS]
    first = {result.backend: result for result in sorted(ours, key=lambda one: -one.size)}
    return [
        {"backend": result.backend, "documents": result.size / first[result.backend].size}
        | {"ingest": first[result.backend].rate / result.rate}
        | {kind: result.median(kind) / first[result.backend].median(kind) for kind in KINDS}
        for result in ours
        if result.size > first[result.backend].size
    ]


def show_lines(title: str, lines: Sequence[dict[str, Any]]) -> None:
    """Print lines of ratios; in brackets the milliseconds more, where they are known."""
    if not lines:
        return
    table = Table(title=title, min_width=100)
    names = [name for name in lines[0] if "_ms_more" not in name]
    for name in names:
        table.add_column(name, justify="left" if isinstance(lines[0][name], str) else "right")
    for line in lines:
        table.add_row(*(_cell(line, name) for name in names))
    console.print(table)


def _cell(line: dict[str, Any], name: str) -> str:
    value = line.get(name, "-")
    if isinstance(value, float):
        more = line.get(f"{name}_ms_more", line.get(f"{name}_ms_more_a_batch"))
        return f"{value:.2f}" + (f" ({more:+.2f} ms)" if more is not None else "")
    return f"{value:,}" if isinstance(value, int) else value


def about_machine(rounds: int) -> dict[str, Any]:
    """Versions, processor and settings."""
    libraries = ["m3connect", "qdrant-client", "qdrant-edge-py", "pymilvus", "milvus-lite"]
    libraries += ["langchain-qdrant", "langchain-milvus", "numpy"]
    return {
        "processor": processor(),
        "rounds": rounds,
        "load_average_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
    }


def footer(about: dict[str, Any]) -> str:
    """Say what the figures are figures of."""
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
    return (
        f"'{HAND}' stores the fields that m3connect derives, and derives them too; "
        f"'{PLAIN}' stores id, text and metadata.\nlangchain-qdrant takes {TOP_K} candidates a leg, the others "
        f"{CANDIDATES}.\n{about['processor']}, {about['rounds']} rounds, load average "
        f"{about['load_average_before']:.1f} before; {versions}"
    )
