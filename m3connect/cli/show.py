"""How results look: tables for people, JSON for programs."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple
from unicodedata import bidirectional

from rich import box
from rich.table import Table
from rich.text import Text

from m3connect._version import __version__
from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.ingestion import IngestReport
from m3connect.store import Hit, StoreInfo

__all__ = [
    "Problem",
    "displaced_note",
    "embeddings_table",
    "hit_record",
    "hits_table",
    "installed_table",
    "json_rows",
    "number",
    "problems_table",
    "report_table",
    "settings_table",
    "snippet",
    "store_table",
]

_LIBRARIES = ("numpy", "torch", "transformers")
_EXTRAS = {"qdrant": ("qdrant-client",), "qdrant-edge": ("qdrant-edge-py",), "milvus": ("pymilvus", "milvus-lite")}
_PROBLEMS_SHOWN = 20


class Problem(NamedTuple):
    """Something that was set aside."""

    source: str
    line: int
    reason: str


def snippet(text: str, length: int = 120) -> Text:
    """Return the beginning of a text on one line.

    It belongs at the end of a row. A right-to-left text stands between isolates, so that a terminal that knows its
    direction turns nothing else around.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * length]).split())
    short = line if len(line) <= length else line[: length - 1].rstrip() + "…"
    turned = any(bidirectional(char) in ("R", "AL") for char in short)
    return Text(f"\u2068{short}\u2069" if turned else short, no_wrap=True, overflow="ellipsis")


def number(score: float | None) -> str:
    """Return a score as it stands in tables."""
    return "-" if score is None else f"{score:.3f}"


def _facts() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    return table


def report_table(report: IngestReport, *, set_aside: int, outdated: int, pruned: int | None) -> Table:
    """Show what became of the documents that were indexed.

    Args:
        report: what `ingest` says.
        set_aside: bad documents, in files and by the store.
        outdated: windows of older versions that were removed.
        pruned: what was removed because the files no longer have it; None where that was not asked for.
    """
    table = _facts()
    rate = f", {report.stored / report.seconds:,.0f} documents a second" if report.stored and report.seconds else ""
    older = f", {report.replaced:,} in place of an older version" if report.replaced else ""
    table.add_row("stored", f"{report.stored:,}{older}{rate}")
    table.add_row("unchanged", f"{report.unchanged:,}")
    if report.replaced_in_batch:
        table.add_row("replaced", f"{report.replaced_in_batch:,} by a later document with the same id")
    if pruned is not None:
        table.add_row("removed", f"{pruned:,} that the files no longer have")
    if outdated:
        table.add_row("outdated", f"{outdated:,} windows of older versions, removed")
    table.add_row("set aside", f"{set_aside:,}")
    ends = " (their ends cannot be found; --chunk 512 cuts long documents into windows)" if report.truncated else ""
    table.add_row("truncated", f"{report.truncated:,}{ends}")
    table.add_row("encoding", f"{report.seconds_encoding:.2f} s")
    table.add_row("storing", f"{report.seconds_storing:.2f} s")
    return table


def problems_table(problems: Sequence[Problem]) -> Table:
    """List what was set aside, and why."""
    table = Table(box=box.SIMPLE_HEAD, title=f"set aside: {len(problems):,}", title_justify="left")
    table.add_column("where", overflow="fold")
    table.add_column("line", justify="right")
    table.add_column("why", overflow="fold")
    for source, line, reason in problems[:_PROBLEMS_SHOWN]:
        table.add_row(Text(source), str(line or "-"), Text(reason))
    if len(problems) > _PROBLEMS_SHOWN:
        table.add_row("…", "", f"and {len(problems) - _PROBLEMS_SHOWN:,} more")
    return table


def hits_table(hits: Iterable[Hit], *, answers: Container[str] | None = None) -> Table:
    """Show hits with the score of each leg; where the answers are known, whether each is one."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("#", justify="right", min_width=2)
    for name in ("score", "dense", "sparse", "multi"):
        table.add_column(name, justify="right", min_width=6, no_wrap=True)
    table.add_column("id", min_width=16, max_width=24, overflow="fold")
    table.add_column("text", ratio=1, no_wrap=True, overflow="ellipsis")
    for rank, hit in enumerate(hits, start=1):
        scores = hit.scores or {}
        legs = (number(scores.get(leg)) for leg in ("dense", "sparse", "multi_vector"))
        mark = Text(str(rank)) if answers is None else _mark(hit.document.id in answers)
        table.add_row(mark, number(hit.score), *legs, Text(hit.document.id), snippet(hit.document.text))
    return table


def _mark(right: bool) -> Text:
    return Text("✓", style="bold green") if right else Text("✗", style="red")


def hit_record(rank: int, hit: Hit) -> dict[str, Any]:
    """Return a hit as JSON has it."""
    document = hit.document
    record = {"rank": rank, "id": document.id, "score": hit.score, "scores": dict(hit.scores or {})}
    parent = {} if document.parent_id is None else {"parent_id": document.parent_id}
    return record | {"text": document.text, "metadata": dict(document.metadata)} | parent


def installed_table() -> Table:
    """Show the versions of what is installed, and how to get what is not."""
    table = _facts()
    table.add_row("m3connect", __version__)
    table.add_row("Python", platform.python_version())
    for library in _LIBRARIES:
        table.add_row(library, _version(library) or "not installed")
    for extra, libraries in _EXTRAS.items():
        found = {library: _version(library) for library in libraries}
        missing = f'not installed: pip install "m3connect[{extra}]"'
        named = ", ".join(f"{library} {number}" for library, number in found.items())
        table.add_row(f"extra {extra}", Text(named if all(found.values()) else missing))
    return table


def embeddings_table(facts: Mapping[str, object]) -> Table:
    """Show facts about a model or a store."""
    table = _facts()
    for name, value in facts.items():
        table.add_row(name, Text("-" if value is None else str(value)))
    return table


def store_table(spec: str, collection: str, info: StoreInfo) -> Table:
    """Show what a collection holds."""
    return embeddings_table(
        {
            "store": spec,
            "collection": collection,
            "documents": f"{info.count:,}",
            "dimension": info.dim,
            "token vectors": "stored" if info.multi_vector else "not stored",
            "fingerprint": info.fingerprint,
        }
    )


def settings_table(info: StoreInfo) -> Table:
    """Show how the database has a collection; what is not set is left out, and so are m3connect's own marks."""
    return embeddings_table(
        {
            ".".join(path): value
            for path, value in _leaves(info.details)
            if value not in (None, []) and not path[-1].startswith("m3connect")
        }
    )


def _leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value


def displaced_note(displaced: Mapping[str, int]) -> str | None:
    """Say which documents gave way to others with the same id; None where there are none."""
    if not displaced:
        return None
    first, others = next(iter(displaced)), len(displaced) - 1
    files = f"{first} and {others:,} other file{'s' * (others > 1)}" if others else first
    n = sum(displaced.values())
    return f"{n:,} document{'s' * (n > 1)} replaced one{'s' * (n > 1)} with the same id from {files}"


def json_rows(
    texts: Sequence[str], batch: M3Embeddings, *, decode: Callable[[Iterable[int]], list[str]] | None
) -> Iterator[str]:
    """Return one line of JSON a text; with `decode` the sparse weights go by pieces, heaviest first."""
    for i, (text, weights) in enumerate(zip(texts, batch.sparse.to_dicts(), strict=True)):
        row: dict[str, Any] = {"text": text, "dense": _short(batch.dense[i])}
        short = dict(zip(weights, _short(batch.sparse.row(i)[1]), strict=True))
        row["sparse"] = short if decode is None else _by_piece(short, decode)
        if batch.multi_vector is not None:
            row["multi_vector"] = [_short(vector) for vector in batch.multi_vector[i]]
        if batch.truncated[i]:
            row["truncated"] = int(batch.truncated[i])
        yield json.dumps(row, ensure_ascii=False)


def _by_piece(weights: Mapping[int, float], decode: Callable[[Iterable[int]], list[str]]) -> dict[str, float]:
    """Name the tokens; of two that read alike, at a word's start and inside, the heavier one stays."""
    lightest_first = sorted(weights, key=lambda token: (weights[token], -token))
    named = dict(zip(decode(lightest_first), (weights[token] for token in lightest_first), strict=True))
    return dict(sorted(named.items(), key=lambda item: -item[1]))


def _short(values: FloatArray) -> list[float]:
    """Return the shortest decimals that give back the same float32 values."""
    return [float(str(value)) for value in values]


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
