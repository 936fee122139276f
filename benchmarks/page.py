"""Writes docs/performance.md from what the benchmarks left as JSON; a benchmark without JSON is named with its command.

python benchmarks/page.py                                        # benchmarks/results -> docs/performance.md
python benchmarks/page.py --results build/bench --out build/bench/performance.md
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import page_tables
import typer
from page_tables import Report

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = Path("benchmarks/results"), Path("docs/performance.md")

INTRODUCTION = """\
# Performance

Written by `python benchmarks/page.py` from the JSON files in `benchmarks/results`: change those, by running the
benchmarks again, and not this page. `make bench` runs what fits ten minutes, `make bench-all` the rest too, and both
write this page anew. [benchmarks/README.md](../benchmarks/README.md) says what is compared and how.

"x float32" and the like say how many times the time of that contender a row takes, both measured in the same run, in
turns. Ratios belong to the machine too; the load average before the start tells how idle it was.
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page."""

    name: str
    """Of the JSON file, without its ending."""

    title: str
    about: str
    show: Callable[[Report], list[str]]
    script: str
    """What runs it, `--json` left out."""

    def command(self, report: Report) -> str:
        """What wrote the JSON, or would write one, where the report does not tell."""
        return f"python benchmarks/{report.get('command', self.script)} --json {RESULTS}/{self.name}.json"


SECTIONS = (
    Section(
        "encode",
        "Encoding: text to dense vectors and sparse weights",
        "The same checkpoint of random weights, texts and threads; a row's time over each of m3connect's precisions.",
        page_tables.encode,
        "encode.py",
    ),
    Section(
        "encode_query",
        "Encoding, one short query",
        "The part of `encode.py` that takes seconds.",
        page_tables.encode,
        "encode.py --only query",
    ),
    Section(
        "encode_memory",
        "Loading and encoding: memory",
        "The part of `encode.py` that loads a model of BGE-M3's width in each precision.",
        page_tables.encode,
        "encode.py --only memory",
    ),
    Section(
        "gpu",
        "Encoding on a GPU",
        "In bfloat16, at BGE-M3's size, random weights; a row's time over each of m3connect's. Token vectors come too "
        "in all views; tokenising is a part of both.",
        page_tables.gpu,
        "gpu.py",
    ),
    Section(
        "search",
        "Search: a question in, reranked hits out",
        "A peer's time over ours, then where the time goes. By hand is FlagEmbedding with Qdrant Edge's client: no "
        "token vectors are kept, so the candidates' texts are encoded for each question.",
        page_tables.search,
        "search.py",
    ),
    Section(
        "rerank",
        "MaxSim over token vectors in memory",
        "`colbert_score` is FlagEmbedding's, `maxsim` sentence-transformers', and local mode qdrant-client's.",
        page_tables.rerank,
        "rerank.py",
    ),
    Section(
        "sparse",
        "Token weights to sparse rows",
        "The loop is FlagEmbedding's way: a dict a text, filled token by token.",
        page_tables.sparse,
        "sparse.py",
    ),
    Section(
        "concurrency",
        "Many clients, one encoder",
        "Each client asks its next query when the last one is answered. Above 1: more queries a second.",
        page_tables.concurrency,
        "concurrency.py",
    ),
    Section(
        "stores",
        "Stores against their client libraries",
        "m3connect's time over the other's, so below 1 we are faster; in brackets the milliseconds more.",
        page_tables.stores,
        "stores.py",
    ),
    Section(
        "frameworks",
        "LangChain and LlamaIndex",
        "A row's time over m3connect's, all with m3connect's encoder. Passes: how often a text went through the model.",
        page_tables.frameworks,
        "frameworks.py",
    ),
    Section(
        "training_memory",
        "Memory of a training step",
        "The peak of the process less weights and gradients.",
        page_tables.training_memory,
        "training_memory.py",
    ),
    Section(
        "mcls",
        "Long documents, with and without MCLS",
        "Quality and not speed: dense search with one `<s>` a document, or with one every so many tokens.",
        page_tables.mcls,
        "mcls.py DATA/qmsum_long/val DATA/squality_long/dev",
    ),
)


def page(results: Path) -> str:
    """Return the whole page.

    Args:
        results: the folder with the JSON files; one that is missing, or says only why nothing was measured, gives
            lines that say how to make it.
    """
    lines = [INTRODUCTION]
    for section in SECTIONS:
        path = results / f"{section.name}.json"
        lines += [f"## {section.title}", "", section.about, ""]
        report: Report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not report or "skipped" in report:
            lines += ["Not measured yet. What measures it:", "", "```", section.command({}), "```", ""]
            lines += [f"The last run was {report['skipped']}.", ""] if report else []
            continue
        lines += [*section.show(report), *circumstances(section, report), ""]
    return "\n".join(lines).rstrip() + "\n"


def circumstances(section: Section, report: Report) -> list[str]:
    """Say with what, where and when something was measured; what a report does not tell is left out."""
    said = [f"`{section.command(report)}`"]
    said += [f"{name}: {report[name]}" for name in ("rounds", "threads", "clock", "model") if name in report]
    said += [str(report[name]) for name in ("date", "processor", "gpu") if name in report]
    if "load_average_before" in report:
        said.append(f"load average {report['load_average_before']:.1f} before")
    versions = [f"{name} {version}" for name, version in report.get("versions", {}).items() if version]
    return [", ".join(said) + (f"; {', '.join(versions)}" if versions else "") + "."]


def main(
    results: Annotated[Path, typer.Option(help="The folder with the benchmarks' JSON.")] = ROOT / RESULTS,
    out: Annotated[Path, typer.Option(help="The page.")] = ROOT / PAGE,
) -> None:
    """Write the page of what was measured."""
    out.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
