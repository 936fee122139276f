"""A question in, reranked hits out: the time of every stage, against FlagEmbedding and a client library by hand.

All contenders answer the same questions over the same documents in one process, in another order each time. See
benchmarks/README.md.

    python benchmarks/search.py --json search.json
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from machine import version, write_report
from search_bench.measuring import Plan, choose, console, measure
from search_bench.reporting import about_run, footer, ratios, report, show, show_ratios


def main(
    sizes: Annotated[list[int], typer.Option(min=100, help="How many documents; give it once for each size.")] = [  # noqa: B006  # typer copies it
        1000,
        10000,
    ],
    depths: Annotated[list[int], typer.Option(min=10, help="How many candidates are reranked; likewise.")] = [30, 100],  # noqa: B006  # typer copies it
    rounds: Annotated[int, typer.Option(min=1, help="How many questions; the median counts.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and of the tokenizers.")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny model: shows that it runs, says nothing else.")
    ] = False,
) -> None:
    """Measure reranked search: m3connect with and without a TokenStore, and FlagEmbedding by hand, taking turns."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # Lite sends away clients that ask too often whether it lives
    logging.getLogger("milvus_lite").setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(threads)
    plan = (
        Plan(2, 64, [100, 200], [10, 20], 2, 0.0)
        if quick
        else Plan(6, 384, sorted({*sizes}), sorted({*depths}), rounds, 5.0)
    )
    about = about_run(plan, threads)
    if version("FlagEmbedding") is None:
        console.print(
            '[yellow]FlagEmbedding is not installed (pip install "m3connect\\[bench]"): m3connect is timed alone[/]'
        )
    results = measure(plan, choose())
    lines = ratios(results)
    show(results)
    show_ratios(lines)
    console.print(footer(about))
    if json_path is not None:
        write_report(json_path, {**about, "results": report(results), "ratios": lines})


if __name__ == "__main__":
    typer.run(main)
