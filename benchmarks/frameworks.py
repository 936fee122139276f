"""Documents added and hybrid questions answered through LangChain and LlamaIndex: their own stores against m3connect's.

All contenders have the same encoder, texts and database in one process, and take turns. See benchmarks/README.md.

    python benchmarks/frameworks.py --json frameworks.json
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Annotated

import typer
from framework_bench.contenders import TOP_K
from framework_bench.encoders import draw_texts
from framework_bench.measuring import PHASES, Load, Workload, console, measure, sides
from framework_bench.reporting import about_run, footer, report, show
from machine import write_report


def workloads(rounds: int, *, quick: bool) -> list[Workload]:
    """The two workloads; `quick` makes their models so small that the figures mean nothing."""
    if quick:
        return [Workload("quick, 2 x 64", 2, 64, 2, PHASES), Workload("quick, 1 x 128", 1, 128, 1, ("ask",))]
    return [
        Workload("small model, 6 x 384", 6, 384, rounds, PHASES),
        Workload("BGE-M3's size, 24 x 1024", 24, 1024, 1, ("ask",)),
    ]


def main(
    documents: Annotated[int, typer.Option(min=TOP_K, help="How many are added in each round.")] = 150,
    questions: Annotated[int, typer.Option(min=1, help="How many are asked in each round.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="How often everybody starts anew with the small model.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and of the tokenizers.")] = 2,
    only: Annotated[str, typer.Option(help="Run only workloads whose name holds this, e.g. 'small'.")] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny models: shows that it runs, says nothing else.")] = False,
) -> None:
    """Measure LangChain and LlamaIndex: their own stores against m3connect's, same encoder, taking turns."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    quieten()
    documents, questions = (20, 3) if quick else (documents, questions)
    load = Load(draw_texts(documents, median=90, seed=0), draw_texts(questions, median=12, seed=1))
    about, chosen, figures = about_run(load, threads), sides(), []
    for workload in workloads(rounds, quick=quick):
        if only not in workload.name:
            continue
        for group in measure(workload, chosen, load):
            show(group, workload, documents)
            figures += report(group, workload)
    console.print(footer(about))
    if json_path is not None:
        write_report(json_path, {**about, "contenders": figures})


def quieten() -> None:
    """Silence what the peers say about themselves in every call."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # Lite sends away clients that ask too often whether it lives
    logging.disable(logging.ERROR)  # langchain-milvus asks Milvus Lite for what it does not have, and Lite logs it
    warnings.filterwarnings("ignore", "The 'ranker_type'", DeprecationWarning)
    warnings.filterwarnings("ignore", "Payload indexes have no effect", UserWarning)


if __name__ == "__main__":
    typer.run(main)
