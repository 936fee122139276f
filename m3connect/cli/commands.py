"""The commands: what each takes, and what it does with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from m3connect._version import __version__
from m3connect.cli.conditions import parse_filters
from m3connect.cli.options import (
    EXIT_SET_ASIDE,
    Collection,
    Debug,
    Filters,
    Model,
    Store,
    check_store,
    choose_store,
    load_encoder,
    notes,
    reports_errors,
    results,
)
from m3connect.cli.show import (
    Problem,
    embeddings_table,
    hit_record,
    hits_table,
    installed_table,
    json_rows,
    problems_table,
    report_table,
)
from m3connect.fusion import RRF, Dense, Fusion, Sparse, Weighted
from m3connect.ingestion import ingest
from m3connect.opening import open_store, size_advice
from m3connect.readers import read_documents
from m3connect.retrieval import HybridRetriever

__all__ = ["app", "main"]

_T = TypeVar("_T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class FusionName(StrEnum):
    """How the legs of a search become one list."""

    rrf = "rrf"
    weighted = "weighted"
    dense = "dense"
    sparse = "sparse"


class Databases(StrEnum):
    """The embedded databases of the demo."""

    both = "both"
    qdrant = "qdrant"
    milvus = "milvus"


_FUSIONS: dict[str, Fusion] = {"rrf": RRF(), "weighted": Weighted(), "dense": Dense(), "sparse": Sparse()}


def main() -> None:
    """Run the command line; a terminal that lacks a character shows its code instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="m3connect")


def _show_version(wanted: bool) -> None:
    if wanted:
        results().print(f"m3connect {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Hybrid search with M3-Embedding: dense, sparse and multi-vectors from one forward pass.

    Start with `m3connect demo`. Results go to standard output, everything else to standard error.

    Exit codes: 0 done; 1 failure, in one line (`--debug` after a command shows more); 2 wrong usage; 3 indexed, but
    some documents were set aside; 130 interrupted.
    """


@app.command(name="index")
@reports_errors
def index_command(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files or folders of .txt, .md, .jsonl and .csv.")],
    store: Store = None,
    collection: Collection = "docs",
    model: Model = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents that are encoded and stored together.")] = 256,
    multi_vector: Annotated[
        bool | None,
        typer.Option(
            help="Store token vectors too (Qdrant): faster reranking, a larger database. Default: as it was made.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Read documents, encode them and store them.

    A .txt or .md file is one document, and its path in the given folder is its id. A line of .jsonl is one:
    `{"text": ..., "id": ..., "metadata": {...}}`, other keys join the metadata. A row of .csv is one: columns `text`
    and `id`, the others are metadata. A document whose id is taken replaces the old one.

    Run it again after a change or an interruption: what is already stored is not encoded again. What was deleted from
    the files stays in the store.

    Exit code 3 says that it is done, but some documents were set aside; they are listed with their reasons.

    Example: `m3connect index notes/ --store qdrant:index --collection notes`
    """
    store = choose_store(store)
    problems: list[Problem] = []
    documents = read_documents(paths, on_problem=lambda *problem: problems.append(Problem(*problem)))
    encoder = load_encoder(model)
    with open_store(store, collection, dim=encoder.dim, multi_vector=multi_vector) as opened:
        try:
            report = ingest(encoder, opened, documents, batch_size=batch_size, progress=sys.stderr.isatty())
        except KeyboardInterrupt:
            notes().print(
                f"interrupted: {opened.count():,} documents are stored; the same command goes on from there",
                style="yellow",
            )
            raise
        count = opened.count()
    results().print(report_table(report, len(problems)))
    results().print(f"{store} collection {collection!r} holds {count:,} documents.")
    advice = size_advice(store, count)
    if advice:
        notes().print(f"note: {advice}", style="yellow")
    problems += [Problem(f"document {rejected.document.id!r}", 0, rejected.reason) for rejected in report.rejected]
    if problems:
        notes().print(problems_table(problems))
        raise typer.Exit(EXIT_SET_ASIDE)
    if not report.total:
        notes().print("note: no .txt, .md, .jsonl or .csv file was found", style="yellow")


@app.command()
@reports_errors
def search(
    question: Annotated[str, typer.Argument(help="What to look for, in any language.")],
    store: Store = None,
    collection: Collection = "docs",
    model: Model = None,
    top_k: Annotated[int, typer.Option(min=1, help="The most hits to show.")] = 5,
    filter: Filters = None,
    fusion: Annotated[FusionName, typer.Option(help="How the legs become one list.")] = FusionName.rrf,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Order the best 50 by all three scores together.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a hit.")] = False,
    debug: Debug = False,
) -> None:
    """Find the documents that answer a question; the model must be the one that indexed them.

    In a filter, `=` also finds a member of a list, and quotes keep a number a string: `--filter 'code="007"'`.

    Example: `m3connect search "How do bees make honey?" --store qdrant:index --collection notes --filter lang=en`
    """
    if not question.strip():
        raise typer.BadParameter("the question is blank", param_hint="'QUESTION'")
    try:
        condition = parse_filters(filter or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--filter'") from error
    with open_store(choose_store(store), collection, create=False, multi_vector=None) as opened:
        retriever = HybridRetriever(load_encoder(model), opened, rerank=rerank, fusion=_FUSIONS[fusion.value])
        hits = retriever.search(question, top_k=top_k, filter=condition, with_scores=True)
    if as_json:
        for rank, hit in enumerate(hits, start=1):
            typer.echo(json.dumps(hit_record(rank, hit), ensure_ascii=False))
    elif hits:
        results().print(hits_table(hits))
    else:
        notes().print("note: nothing was found", style="yellow")


@app.command()
@reports_errors
def encode(
    file: Annotated[
        typer.FileText, typer.Argument(encoding="utf-8", help="A file with one text a line; - is standard input.")
    ] = "-",  # type: ignore[assignment]  # typer opens it
    model: Model = None,
    multi_vector: Annotated[bool, typer.Option("--multi-vector", help="Print token vectors too.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show pieces of words, heaviest first, for ids.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Lines that are read and encoded together.")] = 64,
    debug: Debug = False,
) -> None:
    """Print the dense vector and the sparse weights of each line as a JSON object.

    Example: `echo "Bees make honey." | m3connect encode --tokens`
    """
    encoder = load_encoder(model)
    lines = (line.rstrip("\r\n") for line in file)
    for texts in _batches(lines, batch_size):
        batch = encoder.encode(texts, multi_vector=multi_vector)
        for row in json_rows(texts, batch, decode=encoder.decode if tokens else None):
            typer.echo(row)


@app.command()
@reports_errors
def info(
    model: Model = None,
    store: Annotated[str | None, typer.Option(metavar="SPEC", callback=check_store, help="A store to look at.")] = None,
    collection: Collection = "docs",
    debug: Debug = False,
) -> None:
    """Show what is installed, the model, and what a store holds.

    Example: `m3connect info --store qdrant:index --collection notes`
    """
    results().print(installed_table())
    encoder = load_encoder(model)
    facts = {"model": encoder.name, "dimension": encoder.dim, "longest text": f"{encoder.max_length:,} tokens"}
    results().print(embeddings_table(facts | {"fingerprint": encoder.fingerprint}))
    if store is None:
        return
    with open_store(store, collection, create=False, multi_vector=None) as opened:
        facts = {"store": store, "collection": collection, "documents": f"{opened.count():,}", "dimension": opened.dim}
        kept = "stored" if opened.multi_vector else "not stored"
        results().print(embeddings_table(facts | {"token vectors": kept, "fingerprint": opened.fingerprint}))
        if opened.fingerprint not in (None, encoder.fingerprint):
            notes().print("note: the collection was filled by another model than this one", style="yellow")


@app.command()
@reports_errors
def demo(
    store: Annotated[Databases, typer.Option(help="Which embedded databases to fill.")] = Databases.both,
    questions: Annotated[int, typer.Option(min=0, help="How many questions to show in full.")] = 8,
    model: Model = None,
    debug: Debug = False,
) -> None:
    """Index the bundled passages in many languages and ask questions about them; needs no network.

    Example: `m3connect demo --store qdrant --questions 3`
    """
    from m3connect.cli.demo_tables import print_outcome
    from m3connect.demo import run_demo

    names = ("qdrant", "milvus") if store is Databases.both else (store.value,)
    encoder = load_encoder(model)
    notes().print(f"note: filling embedded {' and '.join(names)} in a temporary folder ...", style="dim")
    print_outcome(run_demo(encoder, names), results(), shown=questions)


def _batches(items: Iterator[_T], size: int) -> Iterator[list[_T]]:
    while batch := list(islice(items, size)):
        yield batch
