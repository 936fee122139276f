"""The commands: what each takes, and what it does with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import typer
from rich.text import Text

from m3connect._version import __version__
from m3connect.cli.conditions import parse_fields, parse_filters
from m3connect.cli.indexing import Indexed, batches, index_files
from m3connect.cli.options import (
    EXIT_CODES,
    EXIT_SET_ASIDE,
    EXIT_WRONG,
    Collection,
    Debug,
    Device,
    Filters,
    Model,
    ModelPrecision,
    Store,
    TokenStoreSpec,
    check_store,
    choose_store,
    load_encoder,
    notes,
    reports_errors,
    results,
)
from m3connect.cli.show import (
    displaced_note,
    embeddings_table,
    hit_record,
    hits_table,
    installed_table,
    json_rows,
    problems_table,
    report_table,
    settings_table,
    store_table,
)
from m3connect.cli.stores import check_model, open_for_index, open_tokens
from m3connect.cli.windows import SHORTEST_WINDOW, check_index_options, cut_windows
from m3connect.fusion import RRF, Dense, Fusion, Sparse, Weighted
from m3connect.opening import open_store, size_advice
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


@app.callback(epilog=EXIT_CODES)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Hybrid search with M3-Embedding: dense, sparse and multi-vectors from one forward pass.

    Start with `m3connect demo`. Results go to standard output, everything else to standard error.
    """


@app.command(name="index", epilog=EXIT_CODES)
@reports_errors
def index_command(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files or folders of .txt, .md, .jsonl and .csv.")],
    store: Store = None,
    collection: Collection = "docs",
    model: Model = None,
    precision: ModelPrecision = None,
    device: Device = "cpu",
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Remove what was indexed from these same paths earlier and is no longer in the files, and nothing "
            "else; give the folder, not its files.",
        ),
    ] = False,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=SHORTEST_WINDOW,
            metavar="TOKENS",
            help="Cut longer documents into overlapping windows of this many tokens.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="TOKENS",
            help="Tokens that a window shares with the one before; an eighth of --chunk if not given.",
            show_default=False,
        ),
    ] = None,
    filter_field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:TYPE]",
            help="Metadata that filters will ask for often: str (the default) or number, as in year:number. For a new "
            "collection; makes such filters faster, on Milvus above all. May be repeated.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents that are encoded and stored together.")] = 256,
    multi_vector: Annotated[
        bool | None,
        typer.Option(
            help="Store token vectors too (Qdrant): faster reranking, a larger database. Default: as the collection "
            "was made.",
            show_default=False,
        ),
    ] = None,
    token_store: TokenStoreSpec = None,
    debug: Debug = False,
) -> None:
    """Read documents, encode them and store them.

    A .txt or .md file is one document, and its path in the given folder is its id. A line of .jsonl is one:
    `{"text": ..., "id": ..., "metadata": {...}}`, other keys join the metadata. A row of .csv is one: columns `text`
    and `id`, the others are metadata. A document whose id is taken replaces the old one; but a file whose name is
    that of a file from another folder is set aside. Where a document was read is in its metadata, as `indexed_from`.

    Run it again after a change or an interruption: what is already stored is not encoded again. What was deleted from
    the files stays in the store, unless `--prune` is given.

    Example: `m3connect index notes/ --store qdrant:index --collection notes --prune`
    """
    fields = _usage("--filter-field", lambda: parse_fields(filter_field or []))
    check_index_options(store, chunk, overlap, multi_vector)
    store = choose_store(store)
    encoder = load_encoder(model, precision=precision, device=device)
    cut = cut_windows(encoder, chunk, overlap)
    with (
        open_for_index(store, collection, encoder, multi_vector=multi_vector, filter_fields=fields) as opened,
        open_tokens(token_store, collection) as tokens,
    ):
        try:
            done = index_files(
                encoder,
                opened,
                paths,
                cut=cut,
                pruning=prune,
                batch_size=batch_size,
                progress=sys.stderr.isatty(),
                token_store=tokens,
            )
        except KeyboardInterrupt:
            notes().print(
                f"interrupted: {opened.count():,} documents are stored; the same command goes on from there",
                style="yellow",
            )
            raise
    _print_indexed(done, store, collection)


def _usage(option: str, parse: Callable[[], _T]) -> _T:
    """Parse the value of an option; what is wrong with it is wrong usage."""
    try:
        return parse()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=f"'{option}'") from error


def _print_indexed(done: Indexed, store: str, collection: str) -> None:
    report, problems = done.report, done.problems
    table = report_table(report, set_aside=len(problems), outdated=done.outdated, pruned=done.pruned)
    results().print(table)
    plural = "" if done.count == 1 else "s"
    results().print(f"{store} collection {collection!r} holds {done.count:,} document{plural}.", soft_wrap=True)
    hints = [displaced_note(done.displaced), size_advice(store, done.count)]
    if not report.total and not problems:
        hints.append("no .txt, .md, .jsonl or .csv file was found")
    for hint in filter(None, hints):
        notes().print(f"note: {hint}", style="yellow", markup=False)
    if problems:
        notes().print(problems_table(problems))
        raise typer.Exit(EXIT_SET_ASIDE)


@app.command(epilog=EXIT_CODES)
@reports_errors
def search(
    question: Annotated[str, typer.Argument(help="What to look for, in any language.")],
    store: Store = None,
    collection: Collection = "docs",
    model: Model = None,
    precision: ModelPrecision = None,
    device: Device = "cpu",
    top_k: Annotated[int, typer.Option(min=1, help="The most hits to show.")] = 5,
    filter: Filters = None,
    fusion: Annotated[FusionName, typer.Option(help="How the legs become one list.")] = FusionName.rrf,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Order the best 50 by all three scores together.")
    ] = False,
    group: Annotated[
        bool,
        typer.Option("--group/--no-group", help="Show the best window of a long document, or every one that is found."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a hit.")] = False,
    token_store: TokenStoreSpec = None,
    debug: Debug = False,
) -> None:
    """Find the documents that answer a question; the model must be the one that indexed them.

    Filters: `=` and `!=` compare text, numbers and true or false, and look into lists; `>`, `>=`, `<` and `<=` compare
    numbers; `~` finds a part of a text, in upper or lower case. Double quotes keep a number a string:
    `--filter 'code="007"'`. Put a filter into quotes, or your shell takes `<`, `>` and `!` for itself.

    Example: `m3connect search "How do bees make honey?" --store qdrant:index --collection notes --where lang=en
    --where "year>=1990"`
    """
    if not question.strip():
        raise typer.BadParameter("the question is blank", param_hint="'QUESTION'")
    if token_store is not None and not rerank:
        raise typer.BadParameter("only --rerank reads token vectors", param_hint="'--token-store'")
    condition = _usage("--filter", lambda: parse_filters(filter or []))
    with (
        open_store(choose_store(store), collection, create=False, multi_vector=None) as opened,
        open_tokens(token_store, collection, readonly=True) as tokens,
    ):
        encoder = load_encoder(model, precision=precision, device=device)
        check_model(opened, encoder, collection=collection)
        how = _FUSIONS[fusion.value]
        retriever = HybridRetriever(encoder, opened, rerank=rerank, fusion=how, token_store=tokens)
        hits = retriever.search(question, top_k=top_k, filter=condition, with_scores=True, group_by_parent=group)
    if as_json:
        for rank, hit in enumerate(hits, start=1):
            typer.echo(json.dumps(hit_record(rank, hit), ensure_ascii=False))
    elif hits:
        results().print(hits_table(hits))
    else:
        notes().print("note: nothing was found", style="yellow")


@app.command(epilog=EXIT_CODES)
@reports_errors
def encode(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(help="A file with one text a line, in UTF-8; - is standard input.")
    ] = "-",  # type: ignore[assignment]  # typer opens it
    model: Model = None,
    precision: ModelPrecision = None,
    device: Device = "cpu",
    multi_vector: Annotated[bool, typer.Option("--multi-vector", help="Print token vectors too.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show pieces of words, heaviest first, for ids.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Lines that are read and encoded together.")] = 64,
    debug: Debug = False,
) -> None:
    """Print the dense vector and the sparse weights of each line as a JSON object.

    Lines that are not UTF-8 are left out and named at the end; the exit code is 2 then.

    Example: `echo "Bees make honey." | m3connect encode --tokens`
    """
    encoder = load_encoder(model, precision=precision, device=device)
    bad: list[int] = []
    for texts in batches(_utf8_lines(file, bad), batch_size):
        batch = encoder.encode(texts, multi_vector=multi_vector)
        for row in json_rows(texts, batch, decode=encoder.decode if tokens else None):
            typer.echo(row)
    if bad:
        named = f"line {bad[0]} is" if len(bad) == 1 else f"lines {', '.join(map(str, bad[:10]))} are"
        more = f" ({len(bad) - 10:,} more)" if len(bad) > 10 else ""
        notes().print(f"error: {named} not UTF-8{more}; all other lines were encoded", style="red")
        raise typer.Exit(EXIT_WRONG)


def _utf8_lines(file: BinaryIO, bad: list[int]) -> Iterator[str]:
    """Give lines without their ends, and collect the numbers of those that are not UTF-8."""
    # Bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the file.
    lines = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(lines, start=1):
        if any("\ud800" <= char <= "\udfff" for char in line):
            bad.append(number)
        else:
            yield line.rstrip("\r\n")
    lines.detach()  # whoever opened the file closes it


@app.command(epilog=EXIT_CODES)
@reports_errors
def info(
    model: Model = None,
    store: Annotated[str | None, typer.Option(metavar="SPEC", callback=check_store, help="A store to look at.")] = None,
    collection: Collection = "docs",
    debug: Debug = False,
) -> None:
    """Show what is installed, the model, and what a store holds and how it is set up.

    Example: `m3connect info --store qdrant:index --collection notes`
    """
    results().print(installed_table())
    encoder = load_encoder(model)
    facts = {"model": encoder.name, "dimension": encoder.dim, "longest text": f"{encoder.max_length:,} tokens"}
    results().print(embeddings_table(facts | {"fingerprint": encoder.fingerprint}))
    if store is None:
        return
    with open_store(store, collection, create=False, multi_vector=None) as opened:
        told = opened.info()
        results().print(store_table(store, collection, told))
        results().print(Text("\nsettings", style="dim"), settings_table(told), sep="\n")
        if opened.fingerprint not in (None, encoder.fingerprint):
            notes().print("note: the collection was filled by another model than the one above", style="yellow")


@app.command(epilog=EXIT_CODES)
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
