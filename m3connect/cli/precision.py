"""`m3connect compare-precision`: what bfloat16 and int8 change on one's own model and texts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from m3connect.agreement import LEGS, Agreement, Spread, agreement
from m3connect.cli.options import Debug, Model, Precision, load_encoder, notes, reports_errors, results
from m3connect.readers import read_documents

if TYPE_CHECKING:
    from m3connect.embeddings import M3Embeddings

__all__ = ["compare_precision"]


class Lower(StrEnum):
    """What is compared with float32."""

    bfloat16 = "bfloat16"
    int8 = "int8"


@dataclass(frozen=True, slots=True)
class _Compared:
    """A precision, its time over that of float32, and how nearly it agrees."""

    precision: str
    time: float
    agreement: Agreement


@reports_errors
def compare_precision(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files or folders of .txt, .md, .jsonl and .csv.")],
    model: Model = None,
    precision: Annotated[list[Lower] | None, typer.Option(help="May be repeated. Default: both.")] = None,
    limit: Annotated[int, typer.Option(min=2, help="Read at most this many texts.")] = 300,
    top_k: Annotated[int, typer.Option(min=1, help="How many best texts are compared.")] = 10,
    max_length: Annotated[int | None, typer.Option(min=2, help="Read at most this many tokens of a text.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Say how nearly bfloat16 and int8 agree with float32, on a model and texts of yours.

    Cosines of dense and token vectors, mean and lowest; the overlap of sparse weights; and for each score the share of
    the best texts that stay the best, where the first hundred texts are asked for among all others. Time is that of the
    processor, over that of float32.

    Example: `m3connect compare-precision notes/ --model BAAI/bge-m3`
    """
    texts = [document.text for document in islice(read_documents(paths), limit)]
    if len(texts) < 2:
        raise typer.BadParameter("at least 2 texts are needed", param_hint="'PATHS'")
    reference, seconds = _encode(model, Precision.float32, texts, max_length)
    compared = []
    for name in dict.fromkeys(precision or Lower):
        batch, taken = _encode(model or "m3-mini", Precision(name), texts, max_length)
        compared.append(_Compared(name, taken / seconds, agreement(reference, batch, k=top_k)))
    if as_json:
        typer.echo(json.dumps(_to_json(len(texts), compared)))
    else:
        results().print(_table(len(texts), compared))


def _encode(
    model: str | None, precision: Precision, texts: list[str], max_length: int | None
) -> tuple[M3Embeddings, float]:
    """Encode in a precision, and return the processor's seconds too; the model goes when this returns."""
    encoder = load_encoder(model, precision=precision)
    encoder.encode(texts[:1])
    if sys.stderr.isatty():
        notes().print(f"encoding {len(texts):,} texts in {precision}", style="dim")
    start = time.process_time()
    batch = encoder.encode(texts, multi_vector=True, max_length=max_length)
    return batch, time.process_time() - start


def _table(n: int, compared: Iterable[_Compared]) -> Table:
    table = Table(title=f"{n:,} texts, against float32", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    columns = []
    for one in compared:
        table.add_column(one.precision, justify="right")
        found = one.agreement
        ranks = {f"same best {found.k}, {leg}": f"{100 * found.ranks[leg]:.1f} %" for leg in LEGS}
        columns.append(
            {
                "cosine of dense vectors, mean / lowest": _spread(found.dense),
                "cosine of token vectors, mean / lowest": _spread(found.tokens),
                "overlap of sparse weights, mean / lowest": _spread(found.sparse),
                **ranks,
                "processor time": f"{one.time:.2f}",
            }
        )
    for row in columns[0]:
        table.add_row(row, *(column[row] for column in columns))
    return table


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.5f} / {spread.least:.5f}"


def _to_json(n: int, compared: Iterable[_Compared]) -> dict[str, Any]:
    return {
        "texts": n,
        "precisions": {one.precision: {**asdict(one.agreement), "time": one.time} for one in compared},
    }
