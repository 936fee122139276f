"""Documents from files: .txt and .md (one a file), .jsonl (one a line) and .csv (one a row), streamed."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from m3connect.store import Document

__all__ = ["ORIGIN", "SUFFIXES", "OnProblem", "origin_of", "place_of", "read_documents"]

ORIGIN = "indexed_from"
"""The metadata key that says where a document was read, where that is asked for: `[folder, file]`, absolute paths."""

OnProblem: TypeAlias = Callable[[str, int, str], None]
"""Called with the file, the line (0 where the whole file is meant) and the reason."""

logger = logging.getLogger(__name__)

_BLANK = "its text is blank"
_LONGEST_CELL = 2**30
_LARGEST_INT = 2**53
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_OWN_KEYS = {"id", "_id", "text", "metadata", "parent_id"}


class _BadRecordError(ValueError):
    """A line or row that is no document; its message is the reason."""


def read_documents(
    paths: Iterable[str | Path], *, on_problem: OnProblem | None = None, origins: bool = False
) -> Iterator[Document]:
    """Read documents from files and folders, one at a time.

    What a file gives:

    - .txt, .md: one document. Its id is the path relative to the given folder, with forward slashes (of a file given
      by itself its name), and its metadata is `{"source": id}`.
    - .jsonl: a document a line, `{"id"?, "text", "metadata"?, "parent_id"?}`; other keys at the top join the metadata,
      and so does `source`, the file's name. Lines of BEIR, `{"_id", "title", "text"}`, get title and text.
    - .csv: a document a row, from the column `text` and, where they exist, `id` and `parent_id`; other columns become
      metadata, plain numbers as numbers, empty cells are left out, and `source` is added.

    A line without an id gets the file's path, a colon and the line number. A text that is blank is set aside. Files
    must be UTF-8. Folders are read recursively in sorted order; hidden files, hidden folders and other kinds of files
    are passed over.

    Args:
        paths: files and folders.
        on_problem: told of every file or line that is set aside; None means a line in the log.
        origins: add `indexed_from` to the metadata: the folder that was given (of a file given by itself the one it is
            in) and the file, as absolute paths.

    Yields:
        Documents as they are read; only .txt and .md files are held whole.
    """
    report = on_problem or _log_problem
    taken: dict[str, Path] = {}
    for path, root, name in _files(paths, report):
        first = taken.setdefault(name, path)
        if first is not path and first.samefile(path):
            continue
        if first is not path:
            report(str(path), 0, f"its name {name!r} is taken by {first}: give the folder that holds both")
            continue
        origin = {ORIGIN: [place_of(root), place_of(path)]} if origins else {}
        try:
            for document in _READERS[path.suffix.lower()](path, name, report):
                yield replace(document, metadata={**document.metadata, **origin})
        except OSError as error:
            report(str(path), 0, error.strerror or str(error))


def place_of(path: str | Path) -> str:
    """Return a path as origins have it: absolute, links among its folders followed, with forward slashes."""
    path = Path(path)
    return path.resolve().as_posix() if path.is_dir() else (path.parent.resolve() / path.name).as_posix()


def origin_of(document: Document) -> tuple[str, str] | None:
    """Return folder and file that a document was read from; None where it does not say."""
    match document.metadata.get(ORIGIN):
        case [str(folder), str(file)]:
            return folder, file
    return None


def _log_problem(source: str, line: int, reason: str) -> None:
    logger.warning("%s, line %d: %s", source, line, reason)


def _files(paths: Iterable[str | Path], report: OnProblem) -> Iterator[tuple[Path, Path, str]]:
    """Walk over the files to read, each with its folder and the name that its documents go by there."""
    for path in map(Path, paths):
        if path.is_dir():
            for file in _walk(path, report):
                yield file, path, file.relative_to(path).as_posix()
        elif path.suffix.lower() not in _READERS:
            report(str(path), 0, f"expected one of {', '.join(SUFFIXES)}, but the name ends in {path.suffix!r}")
        else:
            yield path, path.parent, path.name


def _walk(folder: Path, report: OnProblem) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report(str(error.filename), 0, error.strerror or str(error))

    for where, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in _READERS:
                yield Path(where, name)


def _read_text(path: Path, name: str, report: OnProblem) -> Iterator[Document]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report(str(path), 1 + content[: error.start].count(b"\n"), "this is not UTF-8")
        return
    if text.strip():
        yield Document(name, text, {"source": name})
    else:
        report(str(path), 0, _BLANK)


def _read_jsonl(path: Path, name: str, report: OnProblem) -> Iterator[Document]:
    # Bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield _from_json(line, name, number)
            except _BadRecordError as error:
                report(str(path), number, str(error))


def _from_json(line: str, source: str, number: int) -> Document:
    _check_decoded(line)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadRecordError(f"this is not JSON: {_without_line(error)}") from error
    if not isinstance(record, dict):
        raise _BadRecordError(f"expected a JSON object, but got {type(record).__name__}")
    text, metadata = _text_of(record), record.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise _BadRecordError(f'"metadata" must be an object, but is {type(metadata).__name__}')
    prefixed = {"title"} if "_id" in record else set()
    others = {key: value for key, value in record.items() if key not in _OWN_KEYS | prefixed}
    return Document(
        _name_of(record, "_id") or _name_of(record, "id") or f"{source}:{number}",
        text,
        {"source": source, **others, **metadata},
        _name_of(record, "parent_id"),
    )


def _without_line(error: Exception) -> str:
    """Say what a parser says, without its line: for it, every line is the first."""
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"


def _text_of(record: Mapping[str, Any]) -> str:
    text, title = record.get("text"), record.get("title")
    if not isinstance(text, str):
        raise _BadRecordError(
            f'"text" must be a string, but is {type(text).__name__ if "text" in record else "missing"}'
        )
    whole = f"{title} {text}" if "_id" in record and isinstance(title, str) and title else text
    return _check_blank(whole)


def _check_blank(text: str) -> str:
    if not text.strip():
        raise _BadRecordError(_BLANK)
    return text


def _name_of(record: Mapping[str, Any], key: str) -> str | None:
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not (isinstance(value, str) and value):
        raise _BadRecordError(f'"{key}" must be a non-empty string or a whole number, but is {value!r}')
    return value


def _read_csv(path: Path, name: str, report: OnProblem) -> Iterator[Document]:
    csv.field_size_limit(_LONGEST_CELL)  # a setting of the whole process; its default refuses texts of 128 KiB
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        header = next(rows, [])
        if "text" not in header:
            report(str(path), 1, f'expected a column "text", but the columns are {header}')
            return
        while True:
            number = rows.line_num + 1
            try:
                row = next(rows, None)
                if row is None:
                    return
                if row:
                    yield _from_row(header, row, name, number)
            except (csv.Error, _BadRecordError) as error:
                report(str(path), number, str(error))


def _from_row(header: list[str], row: list[str], source: str, number: int) -> Document:
    _check_decoded("".join(row))
    if len(row) != len(header):
        raise _BadRecordError(f"expected {len(header)} cells, but got {len(row)}")
    cells = dict(zip(header, row, strict=True))
    others = {key: _number_or_text(cell) for key, cell in cells.items() if cell and key not in _OWN_KEYS}
    name = cells.get("id") or f"{source}:{number}"
    return Document(name, _check_blank(cells["text"]), {"source": source, **others}, cells.get("parent_id") or None)


def _number_or_text(cell: str) -> str | int | float:
    """Take plain decimals as numbers; what would lose a digit or a leading zero stays text."""
    if not _PLAIN_NUMBER.fullmatch(cell):
        return cell
    if "." not in cell:
        return int(cell) if len(cell) < 20 and abs(int(cell)) < _LARGEST_INT else cell
    return float(cell) if Decimal(cell) == Decimal(repr(float(cell))) else cell


def _check_decoded(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _BadRecordError("this is not UTF-8") from error


_READERS: Mapping[str, Callable[[Path, str, OnProblem], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}
SUFFIXES = tuple(_READERS)
"""The kinds of files that are read."""
