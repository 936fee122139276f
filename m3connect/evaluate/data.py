"""Evaluation sets in the BEIR layout: a corpus, queries, and which documents answer them (qrels)."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

from m3connect.store import Document

__all__ = ["Dataset", "Qrels", "open_text", "read_dataset", "read_qrels"]

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""By query, the relevance of each judged document; above 0 is relevant."""

logger = logging.getLogger(__name__)

_PARTS = {"train", "dev", "val", "valid", "validation", "test"}
_HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A corpus with judged queries.

    Raises:
        ValueError: a judged query has no text, a document's id comes twice, or nothing is judged.
    """

    name: str
    documents: tuple[Document, ...]
    queries: Mapping[str, str]
    """Texts by id."""

    qrels: Qrels
    languages: Mapping[str, str]
    """By query, where the file says it."""

    def __post_init__(self) -> None:
        if not self.qrels:
            raise ValueError(f"{self.name}: no query is judged")
        unknown = [query for query in self.qrels if query not in self.queries]
        if unknown:
            raise ValueError(f"{self.name}: {len(unknown)} judged queries have no text, the first is {unknown[0]!r}")
        ids = {document.id for document in self.documents}
        if len(ids) < len(self.documents):
            raise ValueError(f"{self.name}: {len(self.documents) - len(ids)} documents have an id that is taken")

    def judged_by(self, qrels: Qrels) -> Dataset:
        """Return the same corpus and queries with other judgments, for instance those of a dev split."""
        return replace(self, qrels=qrels)


def read_dataset(folder: str | Path, *, split: str | None = None) -> Dataset:
    """Read a folder in the BEIR layout; every file may end in `.gz`.

    `corpus.jsonl` has `{"_id", "title", "text"}` a line, and the text of a document is title and text with a space
    between them; a list `turns` may stand for `text`, and is joined by newlines. `queries.jsonl` has `{"_id", "text"}`
    and may have `lang` (or `language`), at the top or in `metadata`. Judgments lie in `qrels/SPLIT.tsv` or `qrels.tsv`.

    Args:
        folder: where the files are.
        split: whose judgments to read; None means the only ones, or those called test.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a line is wrong (named with its file), or the split must be chosen.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give one in the BEIR layout, with corpus.jsonl")
    corpus, queries = _find(folder, "corpus.jsonl"), _find(folder, "queries.jsonl")
    judged = read_qrels(_find_qrels(folder, split))
    documents = tuple(_to_document(record, where) for where, record in _records(corpus))
    texts, languages = {}, {}
    for where, record in _records(queries):
        name = _string(record, "_id", where)
        if name in texts:
            raise ValueError(f"{where}: the query id {name!r} comes twice")
        texts[name] = _string(record, "text", where)
        language = _language(record)
        if language:
            languages[name] = language
    known = {document.id for document in documents}
    lost = sum(name not in known for relevant in judged.values() for name in relevant)
    if lost:
        logger.warning("%s: %d judged documents are not in the corpus; they count as not found", folder, lost)
    return Dataset(_name_of(folder), documents, texts, judged, languages)


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Read judgments: three columns between tabs as BEIR has them, or the four of TREC (`query 0 document score`).

    Raises:
        ValueError: a line has neither form.
    """
    qrels: dict[str, dict[str, int]] = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.rstrip("\r\n").split("\t")
            cells = line.split() if len(cells) == 1 else cells
            if not cells or (number == 1 and cells == _HEADER):
                continue
            try:
                query, document, score = cells if len(cells) == 3 else (cells[0], cells[2], cells[3])
                qrels.setdefault(query, {})[document] = int(score)
            except (IndexError, ValueError) as error:
                raise ValueError(
                    f"{path}:{number}: expected query, document and a whole number between tabs, but got {line!r:.80}"
                ) from error
    return qrels


def open_text(path: str | Path, mode: str = "r") -> IO[str]:
    """Open a text file in UTF-8, packed where its name ends in `.gz`."""
    if Path(path).suffix == ".gz":
        return cast(IO[str], gzip.open(path, f"{mode}t", encoding="utf-8"))
    return cast(IO[str], open(path, mode, encoding="utf-8"))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} has no {name}: expected the BEIR layout (corpus.jsonl, queries.jsonl, qrels/)")


def _find_qrels(folder: Path, split: str | None) -> Path:
    single = [folder / name for name in ("qrels.tsv", "qrels.tsv.gz") if (folder / name).is_file()]
    if single and split is None:
        return single[0]
    splits = {path.name.partition(".")[0]: path for path in sorted(folder.glob("qrels/*.tsv*"))}
    if split is None and len(splits) > 1:
        split = "test" if "test" in splits else None
    elif split is None and splits:
        split = next(iter(splits))
    if split in splits:
        return splits[split]
    if not splits:
        raise FileNotFoundError(
            f"{folder} has neither qrels.tsv nor {f'qrels/{split}.tsv' if split else 'qrels/*.tsv'}"
        )
    raise ValueError(
        f"{folder} has the splits {', '.join(splits)}: name one of them" + (f", not {split!r}" if split else "")
    )


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where}: this is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise ValueError(f"{where}: expected a JSON object, but got {type(record).__name__}")
            yield where, record


def _to_document(record: Mapping[str, Any], where: str) -> Document:
    turns = record.get("turns")
    if "text" not in record and isinstance(turns, list) and all(isinstance(turn, str) for turn in turns):
        text = "\n".join(turns)
    else:
        text = _string(record, "text", where)
    title = record.get("title") or ""
    return Document(_string(record, "_id", where), f"{title} {text}".strip())


def _string(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if key == "_id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or (key == "_id" and not value):
        raise ValueError(f'{where}: "{key}" must be a string, but is {value!r:.40}')
    return value


def _language(record: Mapping[str, Any]) -> str | None:
    metadata = record.get("metadata")
    for source in (record, metadata if isinstance(metadata, dict) else {}):
        for key in ("lang", "language"):
            if isinstance(source.get(key), str) and source[key]:
                return str(source[key])
    return None


def _name_of(folder: Path) -> str:
    folder = folder.resolve()
    return f"{folder.parent.name}-{folder.name}" if folder.name in _PARTS else folder.name
