"""The surface of every store, in a sync and an async form, over the flows of one backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from m3connect.embeddings import M3Embeddings
from m3connect.filters import Filter
from m3connect.flows import Call, Flow, StoreFlows, run
from m3connect.fusion import ALL_LEGS, RRF, Fusion, Leg
from m3connect.search import SearchPlan
from m3connect.store import Document, Hit, StoreInfo

__all__ = ["AsyncStore", "Store"]

_T = TypeVar("_T")


class _Described:
    """What both forms know without asking the database."""

    _flows: StoreFlows

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._flows.name

    @property
    def dim(self) -> int:
        """The dimension of the collection's dense vectors."""
        return self._flows.dim

    @property
    def multi_vector(self) -> bool:
        """Whether token vectors are stored."""
        return self._flows.multi_vector

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the encoder that filled the collection, as last seen; None until one has."""
        return self._flows.fingerprint

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, dim={self.dim}, fingerprint={self.fingerprint!r})"

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Say what `upsert` would refuse: reasons by position, empty where all is well."""
        return self._flows.problems(documents, embeddings)

    def is_transient(self, error: BaseException) -> bool:
        """Say whether an error of the database may pass by itself, so that trying again makes sense."""
        return self._flows.is_transient(error)


class Store(_Described, ABC):
    """A collection of documents with their embeddings; a backend's class says how it is opened.

    Wrong arguments are a `ValueError` before the database is asked, and nothing is written then.
    """

    def __init__(self, flows: StoreFlows) -> None:
        self._flows = flows

    @abstractmethod
    def _perform(self, call: Call) -> Any:  # noqa: ANN401  # the client's answer
        """Do one call of the client."""

    def _run(self, flow: Flow[_T]) -> _T:
        return run(flow, self._perform)

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents, replacing those whose id is taken; of several with one id the last stays.

        Raises:
            ValueError: something is wrong with a document or its row; nothing was written.
            CollectionMismatchError: the embeddings come from another encoder than the collection's.
        """
        self._run(self._flows.upsert(documents, embeddings))

    def insert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """Store documents whose id is not taken, and leave the others as they are; errors as for `upsert`."""
        self._run(self._flows.upsert(documents, embeddings, only_new=True))

    def update_embeddings(
        self, ids: Sequence[str], embeddings: M3Embeddings, *, legs: Sequence[Leg] = ALL_LEGS
    ) -> None:
        """Replace embeddings of stored documents and nothing else.

        Args:
            ids: n documents.
            embeddings: n rows.
            legs: which views are replaced; token vectors only where the store keeps them.

        Raises:
            DocumentNotFoundError: an id is not in the store; nothing was written.
        """
        self._run(self._flows.update_embeddings(ids, embeddings, legs))

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return documents in the order asked, absent ones left out."""
        return self._run(self._flows.get(ids))

    def get_embeddings(self, ids: Sequence[str]) -> M3Embeddings:
        """Return stored embeddings, row i being id i.

        Raises:
            DocumentNotFoundError: an id is not in the store.
        """
        return self._run(self._flows.get_embeddings(ids))

    def fingerprints(self, ids: Sequence[str]) -> dict[str, str]:
        """Return `Document.fingerprint` of each stored id, absent ones left out."""
        return self._run(self._flows.fingerprints(ids))

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete by ids or by filter, exactly one of them; absent ids are passed over."""
        self._run(self._flows.delete(ids, filter))

    def count(self, filter: Filter | None = None) -> int:
        """Count documents, exactly."""
        return self._run(self._flows.count(filter))

    def scroll(self, filter: Filter | None = None) -> Iterator[Document]:
        """Walk through all documents, each once, in an order that stays the same while nothing is written."""
        selection = self._run(self._flows.select(filter))
        cursor = None
        while True:
            documents, cursor = self._run(self._flows.page(selection, cursor))
            yield from documents
            if cursor is None:
                return

    def search(
        self,
        queries: M3Embeddings,
        *,
        top_k: int = 10,
        filter: Filter | None = None,
        fusion: Fusion = RRF(),  # noqa: B008  # frozen
        candidates: int | None = None,
        with_scores: bool = False,
        offset: int | None = None,
        group_by_parent: bool = False,
        min_scores: Mapping[Leg, float] | None = None,
    ) -> list[list[Hit]]:
        """Find the best documents for each query.

        Args:
            queries: one row a query.
            top_k: the most hits a query gets.
            filter: only documents that pass are searched, in every leg.
            fusion: how legs become one list.
            candidates: how many each leg brings before fusion; None means `max(100, 4 * top_k)`.
            with_scores: fill `Hit.scores` with the exact score of every leg that query and store both have.
            offset: skip this many hits. Pages with the same `top_k` and `candidates`, the first with `offset=0`,
                neither repeat nor skip a hit, and end with the candidates; raise `candidates` to walk further.
            group_by_parent: only the best hit of each parent document; a document without parent is its own. Fewer
                parents than `top_k` come back where the candidates belong to fewer; raise `candidates` then.
            min_scores: by leg, what a candidate must score to be one; never applied to a fused score.

        Returns:
            One list a query, best first, ties by id.
        """
        plan = SearchPlan(top_k, fusion, candidates, with_scores, offset, group_by_parent, min_scores)
        return self._run(self._flows.search(queries, plan, filter))

    def info(self) -> StoreInfo:
        """Say how many documents there are, and how the collection is set up."""
        return self._run(self._flows.info())

    def flush(self) -> None:
        """Make what was written fast to search, where a backend needs to be told; never needed to see it."""
        self._run(self._flows.flush())

    def drop(self) -> None:
        """Delete the collection with everything in it; the store is of no use afterwards."""
        self._run(self._flows.drop())


class AsyncStore(_Described, ABC):
    """`Store`, awaited: the same methods with the same meaning; awaiting.py has the ways to do it."""

    def __init__(self, flows: StoreFlows) -> None:
        self._flows = flows

    @abstractmethod
    async def _run(self, flow: Flow[_T]) -> _T:
        """Run a flow to its end without keeping the event loop waiting."""

    async def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """See `Store.upsert`."""
        await self._run(self._flows.upsert(documents, embeddings))

    async def insert(self, documents: Sequence[Document], embeddings: M3Embeddings) -> None:
        """See `Store.insert`."""
        await self._run(self._flows.upsert(documents, embeddings, only_new=True))

    async def update_embeddings(
        self, ids: Sequence[str], embeddings: M3Embeddings, *, legs: Sequence[Leg] = ALL_LEGS
    ) -> None:
        """See `Store.update_embeddings`."""
        await self._run(self._flows.update_embeddings(ids, embeddings, legs))

    async def get(self, ids: Sequence[str]) -> list[Document]:
        """See `Store.get`."""
        return await self._run(self._flows.get(ids))

    async def get_embeddings(self, ids: Sequence[str]) -> M3Embeddings:
        """See `Store.get_embeddings`."""
        return await self._run(self._flows.get_embeddings(ids))

    async def fingerprints(self, ids: Sequence[str]) -> dict[str, str]:
        """See `Store.fingerprints`."""
        return await self._run(self._flows.fingerprints(ids))

    async def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """See `Store.delete`."""
        await self._run(self._flows.delete(ids, filter))

    async def count(self, filter: Filter | None = None) -> int:
        """See `Store.count`."""
        return await self._run(self._flows.count(filter))

    async def scroll(self, filter: Filter | None = None) -> AsyncIterator[Document]:
        """See `Store.scroll`."""
        selection = await self._run(self._flows.select(filter))
        cursor = None
        while True:
            documents, cursor = await self._run(self._flows.page(selection, cursor))
            for document in documents:
                yield document
            if cursor is None:
                return

    async def search(
        self,
        queries: M3Embeddings,
        *,
        top_k: int = 10,
        filter: Filter | None = None,
        fusion: Fusion = RRF(),  # noqa: B008  # frozen
        candidates: int | None = None,
        with_scores: bool = False,
        offset: int | None = None,
        group_by_parent: bool = False,
        min_scores: Mapping[Leg, float] | None = None,
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        plan = SearchPlan(top_k, fusion, candidates, with_scores, offset, group_by_parent, min_scores)
        return await self._run(self._flows.search(queries, plan, filter))

    async def info(self) -> StoreInfo:
        """See `Store.info`."""
        return await self._run(self._flows.info())

    async def flush(self) -> None:
        """See `Store.flush`."""
        await self._run(self._flows.flush())

    async def drop(self) -> None:
        """See `Store.drop`."""
        await self._run(self._flows.drop())
