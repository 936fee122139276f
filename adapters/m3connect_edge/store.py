"""A hybrid collection in a folder: dense, sparse and, where asked for, token vectors in one point a document."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from m3connect.base import Store
from m3connect.filters import FilterFields, number_keys
from m3connect.flows import Call
from m3connect_edge.flows import EdgeFlows
from m3connect_edge.folder import Wanted, open_folder

__all__ = ["EdgeStore"]


class EdgeStore(Store):
    """Documents and embeddings in a folder, which is opened, or made where it is not there.

    Qdrant's engine runs inside this process; no server is needed. Everything is kept and compared in float32. What was
    acknowledged survives a killed process; a power cut may take what was not flushed. One store at a time can have a
    folder open, in one process; all of its threads may use it. The library (0.9) keeps Python's lock during a call, so
    calls come one after the other, and a long one lets no other thread move.

    Args:
        path: of the folder, which belongs to this one collection; parents are made too.
        dim: the dimension of dense vectors; None means that the collection exists and has one.
        create: False means that the collection exists.
        multi_vector: keep token vectors too; every batch must then bring them. None takes a collection as it was made,
            and makes a new one without.
        adopt_fingerprint: take over a shard of this layout that lost its marker, as filled by this encoder.
        filter_fields: metadata keys that filters ask for often, each "number" or "str" (a list of keys means numbers);
            numbers get an index to order by, without which `<` and the like read every document. Equality and
            membership are always indexed.
        exact: compare the dense vector of a query with every document that passes, which takes time in proportion.
            False lets the graph that `optimize` builds answer: faster for large collections, and approximate.

    Raises:
        CollectionMismatchError: the collection has another layout, or the folder was not made by m3connect.
        CollectionNotFoundError: there is no collection, and none may be made.
        M3ConnectError: another store has the folder open.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from m3connect import Document
        >>> from m3connect.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> documents = [Document("a", "red apple"), Document("b", "blue sea")]
        >>> with TemporaryDirectory() as folder, EdgeStore(folder, dim=encoder.dim) as store:
        ...     store.upsert(documents, encoder.encode([document.text for document in documents]))
        ...     [[hit.document.id for hit in hits] for hits in store.search(encoder.encode(["apple"]), top_k=1)]
        [['a']]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dim: int | None = None,
        create: bool = True,
        multi_vector: bool | None = None,
        adopt_fingerprint: str | None = None,
        filter_fields: FilterFields = (),
        exact: bool = True,
    ) -> None:
        wanted = Wanted(dim, create, multi_vector, adopt_fingerprint, number_keys(filter_fields))
        self._folder = open_folder(Path(path), wanted)
        marker = self._folder.marker
        super().__init__(
            EdgeFlows(
                str(path),
                marker.dim,
                multi_vector=marker.multi_vector,
                fingerprint=marker.fingerprint,
                exact=exact,
            )
        )

    def _perform(self, call: Call) -> Any:  # noqa: ANN401  # the library's answer
        return self._folder.perform(call)

    def optimize(self) -> bool:
        """Merge segments, clear away what was deleted, and build a graph over dense vectors above some 20 MB of them.

        Edge never does so by itself. It blocks the caller and, in qdrant-edge-py 0.9, every other thread of the process
        until it is done: 24 to 31 seconds were measured for 10,000 documents of 1,024 dimensions on two busy cores. The
        graph is used by a store that was opened with `exact=False`. It finds what it should as far as near documents
        resemble each other: of random vectors, which do not, half of the best ten.

        Returns:
            Whether there was anything to do.
        """
        done: bool = self._perform(Call("optimize"))
        return done

    def close(self) -> None:
        """Flush, and let other stores have the folder; closing twice is no mistake."""
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
