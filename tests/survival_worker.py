"""The process that test_survival.py kills: one ingest that keeps a log of what it does.

Run as `python survival_worker.py KIND PATH LOG VERSION`. Each line of the log is an event with document ids: `begin`
before the store is opened, `encode` before a batch is encoded, `ack` after its upsert returned, `flush` before the
flush at the end, `done` after it. Lines go to the system at once, so they outlive the process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m3connect import Document, HybridStore, M3Embeddings, ingest
from m3connect.testing import FakeEncoder

DIM = 16
NUMBER = 2_000
BATCH = 50


def documents(version: int) -> list[Document]:
    """All documents in one version; each text begins with the id, by which the encoder's log names it."""
    return [
        Document(f"d{i}", f"d{i} version{version} text about topic{i % 13}", {"version": version, "even": i % 2 == 0})
        for i in range(NUMBER)
    ]


@contextmanager
def opened(kind: str, path: Path) -> Iterator[HybridStore]:
    """Open the store of this kind, made where it is not there; on Edge with token vectors."""
    if kind == "edge":
        from m3connect_edge import EdgeStore

        with EdgeStore(path, dim=DIM, multi_vector=True) as store:
            yield store
        return
    from m3connect_milvus import MilvusStore
    from milvus_lite.server_manager import server_manager_instance
    from pymilvus import MilvusClient

    client = MilvusClient(f"{path}.db")
    try:
        yield MilvusStore(client, "docs", dim=DIM)
    finally:
        client.close()
        server_manager_instance.release_server(f"{path}.db")


def main(kind: str, path: str, log: str, version: str) -> None:
    """Ingest all documents."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, ids: Iterable[str] = ()) -> None:
        os.write(file, (" ".join([event, *ids]) + "\n").encode())

    class NotingEncoder(FakeEncoder):
        def encode(self, texts: Sequence[str], **options: Any) -> M3Embeddings:
            note("encode", [text.partition(" ")[0] for text in texts])
            return super().encode(texts, **options)

    if kind == "edge":  # what takes its time before the database is touched
        import m3connect_edge  # noqa: F401
    else:
        import m3connect_milvus  # noqa: F401
    note("begin")
    with opened(kind, Path(path)) as store:
        upsert, flush = store.upsert, store.flush

        def noted_upsert(documents: Sequence[Document], embeddings: M3Embeddings) -> None:
            upsert(documents, embeddings)
            note("ack", [document.id for document in documents])

        def noted_flush() -> None:
            note("flush")
            flush()

        store.upsert, store.flush = noted_upsert, noted_flush  # type: ignore[method-assign]
        ingest(NotingEncoder(DIM), store, documents(int(version)), batch_size=BATCH)
        note("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
