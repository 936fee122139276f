"""What `index` does around `ingest`: windows of long documents, ids that are taken, and what goes out of date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar

from m3connect.base import Store
from m3connect.chunking import remove_old_windows, window_id
from m3connect.cli.show import Problem
from m3connect.document_checks import document_problem
from m3connect.filters import Or, field
from m3connect.ingestion import IngestReport, ingest
from m3connect.readers import ORIGIN, OnProblem, origin_of, place_of, read_documents
from m3connect.store import Document, Encoder, TokenSink, delete_documents

__all__ = ["Cut", "Indexed", "Intake", "batches", "index_files", "prune"]

_T = TypeVar("_T")

Cut: TypeAlias = Callable[[Document], list[Document]]
"""Makes windows of a document that is too long, and leaves others as they are."""

_TOGETHER = 256
"""Documents that the store is asked about at a time."""


@dataclass(slots=True)
class Indexed:
    """What an `index` did."""

    report: IngestReport
    problems: list[Problem]
    """What was set aside, in files and by the store."""

    count: int
    """What the collection holds afterwards."""

    outdated: int
    """Windows of older versions that were removed."""

    pruned: int | None
    """What the files no longer have and was removed; None where that was not asked for."""

    displaced: Counter[str]
    """By file: documents that gave way to ones with the same id from other files."""


def index_files(
    encoder: Encoder,
    store: Store,
    paths: Sequence[Path],
    *,
    cut: Cut,
    pruning: bool = False,
    batch_size: int = 256,
    progress: bool = False,
    token_store: TokenSink | None = None,
) -> Indexed:
    """Read files, store what is new in them, and remove what is out of date.

    Args:
        encoder: the model.
        store: where documents go.
        paths: files and folders.
        cut: makes windows of long documents.
        pruning: remove what was indexed from the same paths earlier and is no longer in the files.
        batch_size: documents that are encoded and stored together.
        progress: show a progress bar.
        token_store: where token vectors go too; what is removed from the store is removed there.
    """
    problems: list[Problem] = []
    intake = Intake(
        store, cut=cut, on_problem=lambda *problem: problems.append(Problem(*problem)), token_store=token_store
    )
    read = read_documents(paths, on_problem=lambda *problem: problems.append(Problem(*problem)), origins=True)
    documents = intake.documents(read)
    report = ingest(encoder, store, documents, batch_size=batch_size, progress=progress, token_store=token_store)
    outdated = intake.remove_outdated(rejected.document for rejected in report.rejected)
    pruned = None
    if pruning:
        troubled = [problem.source for problem in problems]
        pruned = prune(store, paths, ids=intake.ids, troubled=troubled, token_store=token_store)
    problems += [Problem(f"document {rejected.document.id!r}", 0, rejected.reason) for rejected in report.rejected]
    return Indexed(report, problems, store.count(), outdated, pruned, intake.displaced)


class Intake:
    """Documents on their way from files into a store, and what is learnt about the store on that way.

    Args:
        store: where they go.
        cut: makes windows.
        on_problem: told of a document that is set aside because another file has its id.
        token_store: where token vectors are; what is out of date is deleted there too.
    """

    def __init__(self, store: Store, *, cut: Cut, on_problem: OnProblem, token_store: TokenSink | None = None) -> None:
        self._store = store
        self._token_store = token_store
        self._cut = cut
        self._on_problem = on_problem
        self.displaced: Counter[str] = Counter()
        """By file: documents that gave way to ones with the same id from other files."""
        self._held: dict[str, list[str]] = {}
        """The ids of each document's windows, or its own if whole; where an id comes twice, of the last one."""
        self._outdated: set[str] = set()
        """Documents of which something is stored that they have no longer."""

    def documents(self, read: Iterable[Document]) -> Iterator[Document]:
        """Give what is to be stored, each long document as its windows."""
        for batch in batches(read, _TOGETHER):
            # Whoever stores a document says what is wrong with it; nothing is asked about it here.
            parts = [None if document_problem(document) else self._cut(document) for document in batch]
            stored = self._stored({one.id: _windows(cut) for one, cut in zip(batch, parts, strict=True) if cut})
            for document, cut in zip(batch, parts, strict=True):
                if cut is None:
                    yield document
                elif self._admit(document, stored):
                    self._note(document.id, cut, stored)
                    yield from cut

    @property
    def ids(self) -> set[str]:
        """Of everything that the files hold, windows included."""
        return {part for parts in self._held.values() for part in parts}

    def remove_outdated(self, rejected: Iterable[Document]) -> int:
        """Delete windows that older versions of the documents had and the new ones lack, and nothing that files hold.

        Args:
            rejected: what did not go in; of these the older version stays whole.

        Returns:
            How many were deleted.
        """
        kept, ids = {name for document in rejected for name in (document.id, document.parent_id)}, self.ids
        counts = ((name, _windows(self._held[name])) for name in self._outdated if name not in kept)
        groups = map(dict, batches(counts, _TOGETHER))
        return sum(remove_old_windows(self._store, group, token_store=self._token_store, keep=ids) for group in groups)

    def _stored(self, counts: Mapping[str, int]) -> dict[str, Document]:
        """Return what is stored of documents: themselves, their first windows, and the first that they lack now."""
        wanted = dict.fromkeys(
            part for name, count in counts.items() for part in (name, window_id(name, 0), window_id(name, count))
        )
        return {document.id: document for document in self._store.get(list(wanted))}

    def _note(self, name: str, cut: Sequence[Document], stored: Container[str]) -> None:
        count = _windows(cut)
        if name in self._held or window_id(name, count) in stored or (count and name in stored):
            self._outdated.add(name)
        self._held[name] = [part.id for part in cut]

    def _admit(self, document: Document, stored: Mapping[str, Document]) -> bool:
        """Set a document aside whose name is that of another file's; take note where a given id is."""
        older = stored.get(document.id) or stored.get(window_id(document.id, 0))
        ours, theirs = origin_of(document), origin_of(older) if older else None
        if ours is None or theirs is None or ours[1] == theirs[1] or document.id in self._held:
            return True
        if _is_named_by_file(document.id, *ours) and Path(theirs[1]).exists():
            reason = f"its id {document.id!r} is taken by {theirs[1]}: index the folder that holds both files, or use"
            self._on_problem(ours[1], 0, f"{reason} another --collection")
            return False
        self.displaced[theirs[1]] += 1
        return True


def prune(
    store: Store,
    paths: Iterable[Path],
    *,
    ids: Container[str],
    troubled: Iterable[str],
    token_store: TokenSink | None = None,
) -> int:
    """Delete what was indexed from the same paths earlier and is no longer in the files, and nothing else.

    Args:
        store: where it is.
        paths: what was read.
        ids: of everything that the files hold now.
        troubled: files and folders that could not be read whole; what came from them stays.
        token_store: where token vectors are.

    Returns:
        How many were deleted.
    """
    unread = {PurePosixPath(place_of(path)) for path in troubled}
    scopes = []
    for path in paths:
        here = field(ORIGIN).contains(place_of(path))
        scopes.append(here if path.is_dir() else here & field(ORIGIN).contains(place_of(path.parent)))
    gone = []
    for document in store.scroll(Or(tuple(scopes)) if len(scopes) > 1 else scopes[0]):
        origin = origin_of(document)
        if document.id in ids or origin is None:
            continue
        file = PurePosixPath(origin[1])
        if unread.isdisjoint((file, *file.parents)):
            gone.append(document.id)
    for group in batches(gone, _TOGETHER):
        delete_documents(store, group, token_store=token_store)
    return len(gone)


def _windows(cut: Sequence[object]) -> int:
    """Count the windows of a document, or of a whole one none."""
    return len(cut) if len(cut) > 1 else 0


def _is_named_by_file(name: str, folder: str, file: str) -> bool:
    """Tell an id that the reader made from one that stands in the file."""
    path = PurePosixPath(file).relative_to(folder).as_posix()
    return name == path or name.startswith(f"{path}:")


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Give items in lists of a size; the last may be shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
