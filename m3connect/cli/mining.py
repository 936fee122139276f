"""`m3connect mine`: hard negatives for training files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from m3connect.cli.commands import FusionName
from m3connect.cli.options import (
    EXIT_SET_ASIDE,
    Collection,
    Debug,
    Model,
    check_store,
    load_encoder,
    notes,
    reports_errors,
    results,
)
from m3connect.cli.show import Problem, problems_table
from m3connect.fusion import RRF, Dense, Fusion, Sparse, Weighted
from m3connect.ingestion import ingest
from m3connect.memory import MemoryStore
from m3connect.opening import open_store
from m3connect.readers import read_documents
from m3connect.store import Document, Encoder, HybridStore

__all__ = ["mine_command"]

_FUSIONS: dict[str, Fusion] = {"rrf": RRF(), "weighted": Weighted(), "dense": Dense(), "sparse": Sparse()}


@reports_errors
def mine_command(
    rows: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help='Rows of {"query", "pos": [...]}, .jsonl.')],
    output: Annotated[
        Path, typer.Argument(dir_okay=False, help="The same rows with negatives; an interrupted run goes on.")
    ],
    store: Annotated[
        str | None,
        typer.Option(metavar="SPEC", callback=check_store, help="Draw from this store. Default: from --corpus."),
    ] = None,
    collection: Collection = "docs",
    corpus: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="Draw from these files, in memory. Default: the positives of all rows."),
    ] = None,
    model: Model = None,
    negatives: Annotated[int, typer.Option(min=1, help="How many a row gets.")] = 7,
    ranks: Annotated[tuple[int, int], typer.Option(help="Draw from these ranks, both included.")] = (10, 210),
    fusion: Annotated[FusionName, typer.Option(help="How the store ranks.")] = FusionName.rrf,
    margin: Annotated[
        float | None, typer.Option(help="Leave out what scores above this share of the worst positive, 0.95 say.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Write pos_scores and neg_scores of this M3 model's three heads."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    debug: Debug = False,
) -> None:
    """Give training rows hard negatives: texts that are found for the query, but do not answer it.

    Lines that are no rows are left out, and exit code 3 says so.

    Example: `m3connect mine pairs.jsonl mined.jsonl --store edge:index --collection notes --margin 0.95`
    """
    from m3connect.train.mining import MiningOptions, mine_file, three_head_teacher

    options = MiningOptions(negatives=negatives, ranks=ranks, fusion=_FUSIONS[fusion.value], margin=margin, seed=seed)
    if store is not None and corpus:
        raise typer.BadParameter("give --store or --corpus, not both", param_hint="'--corpus'")
    encoder = load_encoder(model)
    problems: list[Problem] = []
    with _opened(store, collection, corpus, rows, encoder) as opened:
        count = mine_file(
            encoder,
            opened,
            rows,
            output,
            options=options,
            teacher=None if teacher is None else three_head_teacher(load_encoder(teacher)),
            on_problem=lambda number, reason: problems.append(Problem(str(rows), number, reason)),
            progress=sys.stderr.isatty(),
        )
    results().print(f"{output} holds {count:,} rows with negatives.")
    if problems:
        notes().print(problems_table(problems))
        raise typer.Exit(EXIT_SET_ASIDE)


@contextmanager
def _opened(
    spec: str | None, collection: str, corpus: list[Path] | None, rows: Path, encoder: Encoder
) -> Iterator[HybridStore]:
    if spec is not None:
        with open_store(spec, collection, create=False, multi_vector=None) as opened:
            yield opened
        return
    memory = MemoryStore(dim=encoder.dim)
    ingest(encoder, memory, read_documents(corpus) if corpus else _positives(rows), progress=sys.stderr.isatty())
    yield memory


def _positives(rows: Path) -> Iterator[Document]:
    from m3connect.train.mining import read_rows

    texts = dict.fromkeys(text for row in read_rows(rows, on_problem=lambda *_: None) for text in row["pos"])
    return (Document(f"positive-{number}", text) for number, text in enumerate(texts))
