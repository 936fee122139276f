"""Encoding on a processor, from text to dense vectors and sparse weights: m3connect against five other ways.

m3connect runs in each of its precisions; FlagEmbedding, transformers, ONNX Runtime, OpenVINO and m3serve in those they
have, each at the best of several settings. All get the same checkpoint, texts and threads in one process, and take
turns in every round. See benchmarks/README.md.

    python benchmarks/encode.py --json encode.json
    python benchmarks/encode.py --only "mixed lengths" --peer FlagEmbedding
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from encode_bench.loading import PEERS, console, missing_modules
from encode_bench.measuring import Plan, Result, measure
from encode_bench.memory import measure_memory
from encode_bench.reporting import about_machine, footer, report, show, show_memory
from encode_bench.workloads import MINI, TEXTS, workloads
from machine import write_report

if TYPE_CHECKING:
    from m3connect.encoder.precision import Precision


class PrecisionName(StrEnum):
    """What m3connect computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


def choose_peers(wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the peers that are installed, and why others are left out, which is printed too.

    Raises:
        typer.BadParameter: there is no such peer.
    """
    unknown = sorted(set(wanted) - set(PEERS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(PEERS)}")
    chosen, left_out = [], {}
    for peer in dict.fromkeys(wanted or PEERS):
        if missing := missing_modules(peer):
            left_out[peer] = f"{', '.join(missing)} is not installed"
            console.print(f'[yellow]{peer} is left out: {left_out[peer]} (pip install "m3connect\\[bench]").[/]')
        else:
            chosen.append(peer)
    return chosen, left_out


def is_wanted(part: str, only: Sequence[str]) -> bool:
    """Say whether a part's name holds what was asked for."""
    return not only or any(one in part for one in only)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender runs; the median counts.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each library and of the tokenizers.")] = 2,
    texts: Annotated[list[int], typer.Option(min=1, help="How many mixed texts; give it once for each.")] = [*TEXTS],  # noqa: B006  # typer copies it
    only: Annotated[
        list[str], typer.Option(help="Run only parts whose name holds this: mixed, query, long, width, memory.")
    ] = [],  # noqa: B006  # typer copies it
    peer: Annotated[list[str], typer.Option(help="Give it once for each; all by default.")] = [],  # noqa: B006  # typer copies it
    precision: Annotated[
        list[PrecisionName] | None, typer.Option(help="One of m3connect's; may be repeated. All if not given.")
    ] = None,
    tokenizer: Annotated[Path, typer.Option(help="A folder with tokenizer.json.")] = MINI,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny models: shows that it runs, says nothing else.")] = False,
) -> None:
    """Measure encoding: m3connect and its peers, same checkpoint, same texts, taking turns in one process."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    rounds = min(rounds, 2) if quick else rounds
    about = about_machine(threads, rounds)
    precisions: list[Precision] = [name.value for name in PrecisionName if name in (precision or PrecisionName)]
    peers, about["left_out"] = choose_peers(peer)
    plan = Plan(tokenizer, rounds, threads, precisions, peers)
    chosen = [workload for workload in workloads(tokenizer, texts, quick=quick) if is_wanted(workload.name, only)]
    results: list[Result] = []
    for result in measure(chosen, plan):
        results.append(result)
        show(result)
    wanted = precisions if is_wanted("memory", only) else []
    grown = list(measure_memory(tokenizer, wanted, threads, quick=quick))
    if grown:
        show_memory(grown)
    console.print(footer(about))
    if json_path is not None:
        write_report(json_path, report(results, grown, about))


if __name__ == "__main__":
    typer.run(main)
