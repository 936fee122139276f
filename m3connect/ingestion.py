"""The write path: documents stream in, are checked, encoded in batches and stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from itertools import islice

from m3connect.embeddings import M3Embeddings
from m3connect.errors import CollectionMismatchError
from m3connect.store import Document, Encoder, HybridStore, check_fingerprint, document_problem

__all__ = ["IngestReport", "Rejected", "ingest"]

logger = logging.getLogger(__name__)


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

    unchanged: int = 0
    """Already there with the same content, so neither encoded nor written."""

    replaced_in_batch: int = 0
    """Superseded by a later document with the same id in the same batch, whatever became of that one."""

    truncated: int = 0
    """Stored, but longer than the encoder reads: its end cannot be found."""

    rejected: list[Rejected] = field(default_factory=list)
    seconds_encoding: float = 0.0
    seconds_storing: float = 0.0

    @property
    def total(self) -> int:
        """How many documents came."""
        return self.stored + self.unchanged + self.replaced_in_batch + len(self.rejected)


def ingest(
    encoder: Encoder,
    store: HybridStore,
    documents: Iterable[Document],
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> IngestReport:
    """Encode documents and store them; run again after an interruption, it goes on where it stopped.

    A document that is already stored with the same text, metadata and parent is passed over, so a second run over the
    same documents encodes nothing. A bad document is set aside with its reason, and the rest goes in.

    Args:
        encoder: what turns texts into embeddings.
        store: where they go; token vectors are made where it keeps them.
        documents: any iterable; it is read `batch_size` documents at a time and never held whole.
        batch_size: how many documents are encoded and written together.
        progress: show a progress bar.

    Returns:
        What became of every document.

    Raises:
        CollectionMismatchError: the store was filled by another encoder, or has another dimension; nothing was read.

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

    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but is {batch_size}")
    check_fingerprint(store.fingerprint, encoder.fingerprint, name="to fill")
    if store.dim != encoder.dim:
        raise CollectionMismatchError(f"the store has dimension {store.dim}, but the encoder makes {encoder.dim}")
    report = IngestReport()
    with tqdm(total=_length(documents), unit="doc", disable=not progress) as bar:
        for batch in _batches(documents, batch_size):
            _ingest_batch(encoder, store, batch, report)
            bar.update(len(batch))
    started = time.perf_counter()
    store.flush()
    report.seconds_storing += time.perf_counter() - started
    if report.truncated:
        logger.warning("%d documents are longer than the encoder reads; their ends cannot be found", report.truncated)
    if report.rejected:
        logger.warning("%d documents were set aside, the first: %s", len(report.rejected), report.rejected[0].reason)
    return report


def _ingest_batch(
    encoder: Encoder, store: HybridStore, batch: Sequence[tuple[int, Document]], report: IngestReport
) -> None:
    latest: dict[str, tuple[int, Document]] = {}
    for position, document in batch:
        reason = document_problem(document)
        if reason:
            report.rejected.append(Rejected(position, document, reason))
            continue
        report.replaced_in_batch += document.id in latest
        latest[document.id] = position, document
    known = store.fingerprints(list(latest)) if latest else {}
    changed = [entry for name, entry in latest.items() if known.get(name) != entry[1].fingerprint]
    report.unchanged += len(latest) - len(changed)
    if changed:
        _encode_and_store(encoder, store, changed, report)


def _encode_and_store(
    encoder: Encoder, store: HybridStore, entries: Sequence[tuple[int, Document]], report: IngestReport
) -> None:
    started = time.perf_counter()
    documents = [document for _, document in entries]
    embeddings = encoder.encode([document.text for document in documents], multi_vector=store.multi_vector)
    encoded = time.perf_counter()
    problems = store.problems(documents, embeddings)
    report.rejected += [Rejected(entries[i][0], documents[i], reason) for i, reason in sorted(problems.items())]
    good = [i for i in range(len(documents)) if i not in problems]
    if good:
        _store(store, [documents[i] for i in good], embeddings.take(good) if problems else embeddings, report)
    report.seconds_encoding += encoded - started
    report.seconds_storing += time.perf_counter() - encoded


def _store(store: HybridStore, documents: Sequence[Document], embeddings: M3Embeddings, report: IngestReport) -> None:
    store.upsert(documents, embeddings)
    report.stored += len(documents)
    report.truncated += int((embeddings.truncated > 0).sum())


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[tuple[int, Document]]]:
    stream = enumerate(documents)
    while batch := list(islice(stream, size)):
        yield batch


def _length(documents: Iterable[Document]) -> int | None:
    return len(documents) if isinstance(documents, Sized) else None
