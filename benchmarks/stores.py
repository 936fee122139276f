"""Stores of the databases here: m3connect against the client library by hand and against LangChain.

All contenders get the same vectors in one process and take turns, batch by batch and query by query.

    python benchmarks/stores.py --sizes 1000 --sizes 10000 --json stores.json
    python benchmarks/stores.py --large                       # 50,000 documents too: an hour or more
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from machine import write_report
from store_bench.contenders import HAND, OURS, Measured
from store_bench.measuring import BACKENDS, PEERS, console, is_installed, measure, memory_of
from store_bench.recall import measure_recall
from store_bench.reporting import about_machine, edge_against_local, footer, growth, ratios, show, show_lines


def choose(wanted: Sequence[str]) -> list[str]:
    """Return the backends that are installed, saying what is not.

    Raises:
        typer.BadParameter: there is no such backend.
    """
    unknown = sorted(set(wanted) - set(BACKENDS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(BACKENDS)}")
    chosen = []
    for backend in dict.fromkeys(wanted or BACKENDS):
        missing = [module for module in BACKENDS[backend] if not is_installed(module)]
        if missing:
            console.print(f"[yellow]{backend} is left out: {', '.join(missing)} is not installed.[/]")
            continue
        chosen.append(backend)
        peer = PEERS.get(backend)
        if peer is not None and not is_installed(peer):
            package = peer.replace("_", "-")
            console.print(f"[yellow]{package} is not installed: {backend} is compared with its client alone.[/]")
    return chosen


def main(
    sizes: Annotated[list[int], typer.Option(min=10, help="How many documents; give it once for each size.")] = [  # noqa: B006  # typer copies it
        1000,
        10000,
    ],
    backends: Annotated[list[str], typer.Option(help="Give it once for each; all by default.")] = [],  # noqa: B006  # typer copies it
    rounds: Annotated[int, typer.Option(min=3, help="How often each searches; the median counts.")] = 21,
    settle: Annotated[float, typer.Option(help="Seconds between filling and searching.")] = 5.0,
    memory: Annotated[bool, typer.Option(help="Fill each once more, in a process of its own.")] = True,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    large: Annotated[bool, typer.Option("--large", help="50,000 documents too: an hour or more.")] = False,
    recall: Annotated[int, typer.Option(help="Documents for recall@10 of indexes; 0 leaves it out.")] = 10_000,
    quick: Annotated[bool, typer.Option("--quick", help="Few documents and rounds: shows that it runs.")] = False,
) -> None:
    """Measure stores: m3connect against client libraries by hand and LangChain, taking turns in one process."""
    logging.getLogger("milvus_lite").setLevel(logging.ERROR)
    chosen = choose(backends)
    sizes = sorted({*sizes, 50_000} if large else {*sizes})
    if quick:
        sizes, rounds, settle, recall = [200, 400], 3, 0.0, min(recall, 400)
    about = about_machine(rounds)
    results: list[Measured] = []
    for size in sizes:
        measured = measure(chosen, size, rounds, settle)
        for result in measured:
            if memory and result.name in (OURS, HAND):
                result.memory = memory_of(result.backend, result.name, size)
        show(size, measured)
        results += measured
    summary = {"ratios": ratios(results), "edge_against_local": edge_against_local(results), "growth": growth(results)}
    summary["recall"] = measure_recall(chosen, recall, settle) if recall else []
    show_lines("m3connect's time over the other's; in brackets what is more, ingest by batch", summary["ratios"])
    show_lines("Qdrant's local mode over Edge, both through m3connect", summary["edge_against_local"])
    show_lines("growth: m3connect's time over its time at the smallest size", summary["growth"])
    show_lines("recall@10 against the exact store, documents in groups that resemble each other", summary["recall"])
    console.print(footer(about))
    if json_path is not None:
        figures = [
            {
                "backend": result.backend,
                "contender": result.name,
                "size": result.size,
                "documents_per_second": result.rate,
                "ingest_seconds": result.ingest,
                "finish_seconds": result.finish,
                "search_seconds": result.search,
                "overlap": result.overlap,
                "memory_mb": result.memory,
            }
            for result in results
        ]
        write_report(json_path, {**about, **summary, "figures": figures})


if __name__ == "__main__":
    typer.run(main)
