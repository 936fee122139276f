"""The write path: documents stream in, are checked, encoded in batches and stored.

Encoding and storing overlap: while a batch is written by another thread, the next one is encoded.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TextIO, TypeVar

from m3connect.blame import BlamingEncoder
from m3connect.chunking import WindowCounter, remove_old_windows
from m3connect.embeddings import M3Embeddings
from m3connect.errors import CollectionMismatchError
from m3connect.prepared import PreparedDocuments, prepare
from m3connect.store import Document, Encoder, HybridStore, TokenSink, check_count, check_fingerprint

__all__ = ["IngestReport", "Rejected", "ingest"]

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that did not go in."""

    position: int
    """Where it stood in the stream, from 0."""

    document: Document
    reason: str


@dataclass(slots=True)
class IngestReport:
    """What became of every document, and where the time went."""

    stored: int = 0
    """Encoded and written, new or changed."""

    replaced: int = 0
    """Of these, how many took the place of an older version."""

    unchanged: int = 0
    """Already there with the same content, so neither encoded nor written."""

    replaced_in_batch: int = 0
    """Superseded by a later document with the same id in the same batch, whatever became of that one."""

    removed: int = 0
    """Windows of an older version, deleted (`chunked=True`)."""

    truncated: int = 0
    """Stored, but longer than the encoder reads: its end cannot be found."""

    rejected: list[Rejected] = field(default_factory=list)
    seconds: float = 0.0
    """From beginning to end. Encoding and storing overlap, so their times may add up to more."""

    seconds_encoding: float = 0.0
    seconds_storing: float = 0.0
    """In the database's client, summed over uploaders."""

    @property
    def total(self) -> int:
        """How many documents came."""
        return self.stored + self.unchanged + self.replaced_in_batch + len(self.rejected)

    @property
    def summary(self) -> str:
        """The figures in a line."""
        return f"{self.stored} stored, {self.unchanged} unchanged, {len(self.rejected)} set aside"


def ingest(
    encoder: Encoder,
    store: HybridStore,
    documents: Iterable[Document],
    *,
    batch_size: int = 256,
    uploaders: int = 1,
    retry_seconds: float = 60,
    rejects: str | Path | None = None,
    progress: bool = False,
    chunked: bool = False,
    report: IngestReport | None = None,
    token_store: TokenSink | None = None,
) -> IngestReport:
    """Encode documents and store them; run again after an interruption, it goes on where it stopped.

    A document that is already stored with the same text, metadata and parent is passed over, so a second run over the
    same documents encodes nothing. A bad document is set aside with its reason, and the rest goes in; so is a text that
    the encoder fails for, as long as it does not fail for all.

    With a token store, batches have their token vectors in memory, 4 KB a token at BGE-M3's size: where texts have
    thousands of tokens, ask for a smaller `batch_size`.

    Args:
        encoder: what turns texts into embeddings.
        store: where they go; token vectors are made where it keeps them.
        documents: any iterable; it is read `batch_size` documents at a time and never held whole.
        batch_size: how many documents are encoded and written together.
        uploaders: how many batches are written at a time; more than 1 helps servers, not embedded stores.
        retry_seconds: how long a write is tried again when the store says that the error will pass
            (`Store.is_transient`), waiting longer each time; 0 never tries again.
        rejects: a file to which every document that was set aside is added with its reason, one JSON object a line.
        progress: show a progress bar.
        chunked: the documents come from `m3connect.chunking.chunk`: what a document left behind that had more windows
            before is deleted. Nothing else may have ids like those of windows.
        report: a new `IngestReport` to be filled while the run goes on, so that it can be read meanwhile, and after an
            error. The error has a note with its figures too.
        token_store: where token vectors go too, from the same pass, before their documents are stored; a stored
            document that it lacks is encoded and stored again, and one with more token vectors than it takes is set
            aside. What `chunked` deletes is deleted there too.

    Returns:
        What became of every document.

    Raises:
        CollectionMismatchError: the store was filled by another encoder.
        Exception: what the encoder, the store or the stream raised in the end; what was stored until then stays.

    Example:
        >>> from m3connect import MemoryStore
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> store = MemoryStore(dim=encoder.dim)
        >>> documents = [Document("a", "red apple"), Document("", "no id")]
        >>> report = ingest(encoder, store, documents)
        >>> report.stored, [rejected.reason for rejected in report.rejected]
        (1, ["its id must be a non-empty string, but is ''"])
    """
    from tqdm import tqdm  # here, so that `import m3connect` loads numpy alone

    if isinstance(documents, Document | str):
        raise ValueError(f"ingest takes documents, but got one {type(documents).__name__}: wrap it in a list")
    check_count("batch_size", batch_size)
    check_count("uploaders", uploaders)
    if not retry_seconds >= 0:
        raise ValueError(f"retry_seconds must be at least 0, but is {retry_seconds}")
    check_fingerprint(store.fingerprint, encoder.fingerprint, name=store.name)
    if store.dim != encoder.dim:
        raise CollectionMismatchError(f"the store has dimension {store.dim}, but the encoder makes {encoder.dim}")
    if token_store is not None:
        token_store.check_writable(encoder.fingerprint)
    started = time.perf_counter()
    opened: AbstractContextManager[TextIO | None] = nullcontext()
    if rejects is not None:
        opened = Path(rejects).open("a", encoding="utf-8")
    report = IngestReport() if report is None else report
    try:
        with opened as file, tqdm(total=_length(documents), unit="doc", disable=not progress) as bar:
            pipeline = _Pipeline(encoder, store, report, _Options(uploaders, retry_seconds, chunked, file, token_store))
            for batch in pipeline.run(_batches(documents, batch_size)):
                bar.update(len(batch))
        flushing = time.perf_counter()
        pipeline.retrying(store.flush)
        report.seconds_storing += time.perf_counter() - flushing
    except BaseException as error:
        error.add_note(f"ingest stopped: {report.summary}; run it again to go on")
        raise
    finally:
        report.seconds = time.perf_counter() - started
        _log(report)
    return report


def _log(report: IngestReport) -> None:
    if report.truncated:
        logger.warning("%d documents are longer than the encoder reads; their ends cannot be found", report.truncated)
    if report.rejected:
        logger.warning("%d documents were set aside, the first: %s", len(report.rejected), report.rejected[0].reason)


_Entries = list[tuple[int, Document]]


@dataclass(frozen=True, slots=True)
class _Options:
    uploaders: int
    retry_seconds: float
    chunked: bool
    rejects: TextIO | None
    token_store: TokenSink | None


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A batch that a thread writes."""

    future: Future[tuple[float, int]]
    names: Mapping[str, str]
    """Fingerprints by id."""

    truncated: int


class _Pipeline:
    """Batches on their way: one is encoded here while others are written by threads."""

    def __init__(self, encoder: Encoder, store: HybridStore, report: IngestReport, options: _Options) -> None:
        self.report = report
        self._encoder = BlamingEncoder(encoder, multi_vector=store.multi_vector or options.token_store is not None)
        self._fingerprint = encoder.fingerprint
        self._store = store
        self._options = options
        self._windows = WindowCounter()
        self._complete: dict[str, int] = {}
        """Documents of which all windows have come, and how many; what they left behind is still to be deleted."""
        self._older: set[str] = set()
        """Documents on their way that replace what is stored."""
        self._under_way: deque[_UnderWay] = deque()

    def run(self, batches: Iterable[_Entries]) -> Iterator[_Entries]:
        """Send batches through, and give each back when it is encoded and on its way into the store."""
        pool = ThreadPoolExecutor(self._options.uploaders, thread_name_prefix="m3connect-upload")
        try:
            for batch in batches:
                self._settle_done()
                self._send(*self._select(batch), pool)
                yield batch
            self._note_windows(self._windows.end())
            self._upload(None, None, pool)
            self._settle(0)
        except BaseException as error:
            store_fails = any(one.future.done() and one.future.exception() is not None for one in self._under_way)
            # what is encoded is written all the same, unless that is what fails, or nobody wants to wait
            pool.shutdown(cancel_futures=store_fails or not isinstance(error, Exception))
            for written in self._under_way:
                failure = None if written.future.cancelled() else written.future.exception()
                if failure not in (None, error):
                    error.add_note(f"another batch could not be written: {failure!r}")
                elif failure is None and not written.future.cancelled():
                    self._count(written)
            raise
        finally:
            pool.shutdown()

    def _select(self, batch: _Entries) -> tuple[_Entries, PreparedDocuments]:
        """Return what must be encoded: sound, the last of its id, and not stored as it is."""
        prepared = prepare([document for _, document in batch])
        latest: dict[str, int] = {}
        for i, (position, document) in enumerate(batch):
            if i in prepared.problems:
                self._reject(position, document, prepared.problems[i])
                continue
            self.report.replaced_in_batch += document.id in latest
            latest[document.id] = i
            if self._options.chunked:
                self._note_windows(self._windows.add(document))
        known = self.retrying(self._store.fingerprints, list(latest)) if latest else {}
        for written in self._under_way:
            known |= {name: fingerprint for name, fingerprint in written.names.items() if name in latest}
        lacking = self._without_tokens([prepared[i] for i in latest.values()])
        changed = [i for name, i in latest.items() if known.get(name) != prepared.fingerprints[i] or name in lacking]
        self.report.unchanged += len(latest) - len(changed)
        self._older |= {name for name in (prepared[i].id for i in changed) if name in known}
        return [batch[i] for i in changed], prepared.take(changed)

    def _without_tokens(self, documents: Sequence[Document]) -> set[str]:
        """Return the ids of documents that the token store lacks, and that are not on their way into it."""
        if self._options.token_store is None:
            return set()
        missing = self.retrying(self._options.token_store.missing, documents, fingerprint=self._fingerprint)
        return {document.id for document in missing}.difference(*(written.names for written in self._under_way))

    def _send(self, entries: _Entries, documents: PreparedDocuments, pool: ThreadPoolExecutor) -> None:
        if not entries:
            self._upload(None, None, pool)
            return
        started = time.perf_counter()
        embeddings, failed = self._encoder.encode([document.text for document in documents])
        self.report.seconds_encoding += time.perf_counter() - started
        entries, documents = self._set_aside(failed, entries, documents)
        problems = self._problems(documents, embeddings)
        if problems:
            embeddings = embeddings.take([i for i in range(len(documents)) if i not in problems])
            entries, documents = self._set_aside(problems, entries, documents)
        self._upload(documents, embeddings, pool)

    def _problems(self, documents: PreparedDocuments, embeddings: M3Embeddings) -> dict[int, str]:
        """Say what the stores would refuse."""
        if not documents:  # none could be encoded, so there are no token vectors to be looked at either
            return {}
        problems = self._store.problems(documents, embeddings)
        if self._options.token_store is not None:
            problems = self._options.token_store.problems(documents, embeddings) | problems
        return problems

    def _set_aside(
        self, reasons: Mapping[int, str], entries: _Entries, documents: PreparedDocuments
    ) -> tuple[_Entries, PreparedDocuments]:
        """Reject some documents, and return the others."""
        if not reasons:
            return entries, documents
        for i, reason in sorted(reasons.items()):
            self._reject(*entries[i], reason)
        good = [i for i in range(len(documents)) if i not in reasons]
        return [entries[i] for i in good], documents.take(good)

    def _upload(
        self, documents: PreparedDocuments | None, embeddings: M3Embeddings | None, pool: ThreadPoolExecutor
    ) -> None:
        """Let a thread write a batch, and then delete what its documents left behind."""
        pairs = zip(documents, documents.fingerprints, strict=True) if documents else ()
        names = {document.id: fingerprint for document, fingerprint in pairs}
        again = any(names.keys() & written.names.keys() for written in self._under_way)
        self._settle(0 if again else self._options.uploaders)  # two versions of a document must not race
        if not names and not self._complete:
            return
        counts, self._complete = self._complete, {}
        truncated = int((embeddings.truncated > 0).sum()) if embeddings is not None else 0
        future = pool.submit(self._write, documents, embeddings, counts)
        self._under_way.append(_UnderWay(future, names, truncated))

    def _write(
        self, documents: PreparedDocuments | None, embeddings: M3Embeddings | None, counts: Mapping[str, int]
    ) -> tuple[float, int]:
        """Return the seconds that it took, and how many old windows were deleted."""
        started = time.perf_counter()
        if documents and embeddings is not None:
            if (tokens := self._options.token_store) is not None:  # first: what is in the store has its token vectors
                rows = tokens.encode(embeddings.require_multi_vector())  # `problems` has looked at them already
                self.retrying(tokens.put_rows, documents, rows, fingerprint=embeddings.fingerprint)
            self.retrying(self._store.upsert, documents, embeddings)
        removed = self._remove_old_windows(counts) if counts else 0
        return time.perf_counter() - started, removed

    def _remove_old_windows(self, counts: Mapping[str, int]) -> int:
        return self.retrying(remove_old_windows, self._store, counts, token_store=self._options.token_store)

    def _is_transient(self, error: BaseException) -> bool:
        token_store = self._options.token_store
        return self._store.is_transient(error) or (token_store is not None and token_store.is_transient(error))

    def _note_windows(self, complete: tuple[str, int] | None) -> None:
        if complete is not None:
            self._complete |= [complete]

    def _settle(self, most: int) -> None:
        """Wait until at most this many batches are under way, and count those that are stored."""
        while len(self._under_way) > most:
            self._under_way[0].future.result()
            self._count(self._under_way.popleft())

    def _count(self, written: _UnderWay) -> None:
        seconds, removed = written.future.result()
        self.report.seconds_storing += seconds
        self.report.stored += len(written.names)
        self.report.replaced += len(written.names.keys() & self._older)
        self._older -= written.names.keys()
        self.report.truncated += written.truncated
        self.report.removed += removed

    def _settle_done(self) -> None:
        """Count what is stored by now, and raise at once what could not be."""
        while self._under_way and self._under_way[0].future.done():
            self._settle(len(self._under_way) - 1)

    def _reject(self, position: int, document: Document, reason: str) -> None:
        self.report.rejected.append(Rejected(position, document, reason))
        if self._options.rejects is not None:
            content = {"position": position, "id": getattr(document, "id", None), "reason": reason}
            content |= {"document": repr(document)[:1000]}
            self._options.rejects.write(json.dumps(content, default=repr) + "\n")
            self._options.rejects.flush()

    def retrying(self, action: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do an action of a store, again where its error will pass, with growing random pauses."""
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

        retrying = Retrying(
            retry=retry_if_exception(self._is_transient),
            wait=wait_random_exponential(multiplier=0.2, max=10),
            stop=stop_after_delay(self._options.retry_seconds),
            reraise=True,
        )
        return retrying(action, *args, **kwargs)


def _batches(documents: Iterable[Document], size: int) -> Iterator[_Entries]:
    stream = enumerate(documents)
    while batch := list(islice(stream, size)):
        yield batch


def _length(documents: Iterable[Document]) -> int | None:
    return len(documents) if isinstance(documents, Sized) else None
