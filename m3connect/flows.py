"""What every store does, without its input and output: written once, for sync and async clients alike.

A flow is a generator. It yields each `Call` of the database's client, gets the client's answer back, and returns its
result at the end. Calls that do not depend on each other it may yield as a tuple, and gets a list of answers: `run`
does them one after the other, `run_async` awaits them together. A backend writes a subclass of `StoreFlows`, and gets
the whole surface of a store from `Store` and `AsyncStore` (base.py).
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.errors import DocumentNotFoundError, FilterTooBroadError
from m3connect.filters import Filter, matches
from m3connect.fusion import Leg
from m3connect.prepared import PreparedDocuments, prepare
from m3connect.search import FetchDocuments, FetchTokenVectors, FindCandidates, ScoreIds, SearchPlan, Step, search_flow
from m3connect.splitting import split_exact, split_ids
from m3connect.store import (
    Document,
    Hit,
    Selection,
    StoreInfo,
    check_delete,
    check_filter,
    check_fingerprint,
    check_ids,
    check_queries,
    raise_problems,
)

__all__ = ["MOST_READ", "Call", "Flow", "StoreFlows", "compute", "run", "run_async"]

_T = TypeVar("_T")

_claiming = threading.Lock()

MOST_READ = 10_000
"""How many documents are read, at most, to judge one filter that the database cannot."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client: the name of its method, and the arguments."""

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def compute(work: Callable[[], Any]) -> Call:
    """Return a call that runs a function, in a thread where the flow is awaited; for flows that say so."""
    return Call("compute", {"work": work})


Flow: TypeAlias = Generator[Call | tuple[Call, ...], Any, _T]

_AT_ONCE = 8
"""How many calls of one flow are awaited at the same time; a server has other clients too."""


def run(flow: Flow[_T], perform: Callable[[Call], Any]) -> _T:
    """Run a flow to its end, doing each call; an error of the client is raised inside the flow."""
    try:
        call = next(flow)
        while True:
            try:
                answer = [perform(one) for one in call] if isinstance(call, tuple) else perform(call)
            except Exception as error:  # noqa: BLE001  # goes into the flow, which handles it or lets it out
                call = flow.throw(error)
            else:
                call = flow.send(answer)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    finally:
        flow.close()  # what interrupts a call ends the flow too, now and not when somebody collects it


async def run_async(flow: Flow[_T], perform: Callable[[Call], Awaitable[Any]]) -> _T:
    """Do as `run`, awaiting each call, and those of a tuple together; a cancelled task ends the flow."""
    try:
        call = next(flow)
        while True:
            try:
                answer = await (_all(call, perform) if isinstance(call, tuple) else perform(call))
            except Exception as error:  # noqa: BLE001  # goes into the flow, which handles it or lets it out
                call = flow.throw(error)
            else:
                call = flow.send(answer)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    finally:
        flow.close()


async def _all(calls: Sequence[Call], perform: Callable[[Call], Awaitable[Any]]) -> list[Any]:
    """Await independent calls, answers in their order; the first failure cancels the others, and is raised."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def gated(call: Call) -> Any:  # noqa: ANN401  # the client's answer
        async with gate:
            return await perform(call)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gated(call)) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


class StoreFlows(ABC):
    """The flows of one collection; a backend writes the abstract ones, each a generator of `Call`s.

    Arguments of abstract flows are already checked. `ids` may hold an id twice; what is absent is left out of answers.
    """

    name: str
    """The collection's name, for messages."""

    dim: int
    multi_vector: bool
    sparse: bool = True
    """Whether sparse weights are stored."""

    fingerprint: str | None = None
    """As last read or written; `read_fingerprint` asks the database."""

    _claimed: str | None = None
    """The fingerprint that is being written."""

    # What a backend writes.

    @abstractmethod
    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Say what `write` must not be given: reasons by position."""

    @abstractmethod
    def read_fingerprint(self) -> Flow[str | None]:
        """Read the fingerprint that is kept with the collection."""

    @abstractmethod
    def write_fingerprint(self, fingerprint: str) -> Flow[None]:
        """Keep the fingerprint with the collection."""

    @abstractmethod
    def write(self, documents: PreparedDocuments, embeddings: M3Embeddings, *, only_new: bool) -> Flow[None]:
        """Write documents, ids distinct; `only_new` leaves those alone whose id is taken."""

    @abstractmethod
    def write_vectors(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> Flow[None]:
        """Replace these legs of stored documents, and nothing else; all ids are there."""

    @abstractmethod
    def fetch_documents(self, ids: Sequence[str]) -> Flow[dict[str, Document]]:
        """Fetch documents by id."""

    @abstractmethod
    def fetch_fingerprints(self, ids: Sequence[str]) -> Flow[dict[str, str]]:
        """Fetch the fingerprint of each document by id."""

    @abstractmethod
    def fetch_embeddings(self, ids: Sequence[str]) -> Flow[tuple[list[str], M3Embeddings]]:
        """Fetch the ids that are there, each once, and a row of embeddings for each.

        Token vectors are included where the store keeps them.
        """

    @abstractmethod
    def fetch_token_vectors(self, ids: Sequence[str]) -> Flow[dict[str, FloatArray]]:
        """Fetch token vectors by id."""

    @abstractmethod
    def remove(self, selection: Selection) -> Flow[None]:
        """Delete what is selected."""

    @abstractmethod
    def number_of(self, selection: Selection) -> Flow[int]:
        """Count what is selected, exactly."""

    @abstractmethod
    def page(self, selection: Selection, cursor: Any) -> Flow[tuple[list[Document], Any]]:  # noqa: ANN401  # opaque
        """Read one page of what is selected, in a stable order.

        Returns:
            The documents, and the cursor of the next page; a cursor of None begins, and says that nothing follows.
        """

    @abstractmethod
    def find(
        self, queries: M3Embeddings, legs: Sequence[Leg], limit: int, selection: Selection
    ) -> Flow[dict[Leg, list[dict[str, float]]]]:
        """Search legs among what is selected: for each leg, scores by id for each query, sparse ones above 0."""

    @abstractmethod
    def score(self, queries: M3Embeddings, leg: Leg, ids: Sequence[Sequence[str]]) -> Flow[list[dict[str, float]]]:
        """Score named documents, one group of ids a query, exactly; what shares no token may be left out.

        The leg multi_vector is asked for where `scores_tokens` says so.
        """

    @abstractmethod
    def describe(self) -> Flow[Mapping[str, Any]]:
        """Say what the database tells of the collection: its settings, not its contents."""

    @abstractmethod
    def drop(self) -> Flow[None]:
        """Delete the collection."""

    @abstractmethod
    def flush(self) -> Flow[None]:
        """Make what was written fast to search."""

    def is_transient(self, error: BaseException) -> bool:
        """Say whether an error of the client may pass by itself: a timeout, a refused connection, too many requests."""
        return isinstance(error, ConnectionError | TimeoutError)

    def scores_tokens(self, queries: M3Embeddings) -> bool:
        """Say whether `score` takes the leg multi_vector for these queries; if not, token vectors are fetched."""
        return False

    # What every store does with it.

    def upsert(self, documents: Sequence[Document], embeddings: M3Embeddings, *, only_new: bool = False) -> Flow[None]:
        """Check, and write; of several documents with one id the last stays (the first where only new ones go in)."""
        yield from self.check_fingerprint(embeddings)
        prepared = prepare(documents)
        raise_problems(self.problems(prepared, embeddings), prepared)
        if not prepared:
            return
        if self.multi_vector:
            embeddings.require_multi_vector()
        order = range(len(prepared))
        kept = {prepared[i].id: i for i in (reversed(order) if only_new else order)}
        yield from self._mark(embeddings.fingerprint)
        if len(kept) < len(prepared):
            rows = sorted(kept.values())
            prepared, embeddings = prepared.take(rows), embeddings.take(rows)
        yield from self.write(prepared, embeddings, only_new=only_new)

    def _mark(self, fingerprint: str | None) -> Flow[None]:
        """Keep the fingerprint of the first embeddings that have one; of two that come together, one is refused."""
        if fingerprint is None or self.fingerprint is not None:
            return
        with _claiming:
            check_fingerprint(self.fingerprint or self._claimed, fingerprint, name=self.name)
            self._claimed = fingerprint
        try:
            yield from self.write_fingerprint(fingerprint)
            self.fingerprint = fingerprint
        finally:
            self._claimed = None

    def update_embeddings(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> Flow[None]:
        """Check, and replace some legs of stored documents."""
        yield from self.check_fingerprint(embeddings)
        ids = check_ids(ids)
        _check_legs(legs)
        documents = yield from self.fetch_documents(ids)
        _require_all(ids, documents)
        named = [documents[name] for name in ids]
        raise_problems(self.problems(named, embeddings), named)
        kept = [leg for leg in legs if leg != "multi_vector" or self.multi_vector]
        if "multi_vector" in kept and ids:
            embeddings.require_multi_vector()
        yield from self._mark(embeddings.fingerprint)
        yield from self.write_vectors(ids, embeddings, kept)

    def get(self, ids: Sequence[str]) -> Flow[list[Document]]:
        """Fetch documents in the order asked."""
        ids = check_ids(ids)
        found = yield from self.fetch_documents(ids)
        return [found[name] for name in ids if name in found]

    def get_embeddings(self, ids: Sequence[str]) -> Flow[M3Embeddings]:
        """Fetch embeddings, row i being id i."""
        ids = check_ids(ids)
        names, found = yield from self.fetch_embeddings(ids)
        places = {name: i for i, name in enumerate(names)}
        _require_all(ids, places)
        rows = found.take([places[name] for name in ids])
        tokens = () if self.multi_vector and not ids else rows.multi_vector
        return replace(rows, multi_vector=tokens, fingerprint=self.fingerprint)

    def fingerprints(self, ids: Sequence[str]) -> Flow[dict[str, str]]:
        """Fetch the fingerprint of each document."""
        return (yield from self.fetch_fingerprints(check_ids(ids)))

    def delete(self, ids: Sequence[str] | None, filter: Filter | None) -> Flow[None]:
        """Delete by ids or by filter."""
        check_delete(ids, filter)
        selection = Selection(ids=tuple(check_ids(ids))) if ids is not None else (yield from self.select(filter))
        yield from self.remove(selection)

    def count(self, filter: Filter | None) -> Flow[int]:
        """Count what passes."""
        selection = yield from self.select(filter)
        return (yield from self.number_of(selection))

    def search(self, queries: M3Embeddings, plan: SearchPlan, filter: Filter | None) -> Flow[list[list[Hit]]]:
        """Find candidates, fuse them, fetch the best."""
        check_queries(queries, dim=self.dim)
        yield from self.check_fingerprint(queries)
        selection = yield from self.select(filter)
        steps = search_flow(
            queries,
            plan,
            multi_vector=self.multi_vector,
            sparse=self.sparse,
            scores_tokens=self.scores_tokens(queries),
        )
        try:
            step = next(steps)
            while True:
                answer = yield from self._answer(step, queries, selection)
                step = steps.send(answer)
        except StopIteration as stop:
            hits: list[list[Hit]] = stop.value
            return hits

    def _answer(self, step: Step, queries: M3Embeddings, selection: Selection) -> Flow[Any]:
        match step:
            case FindCandidates(legs, limit):
                return (yield from self.find(queries, legs, limit, selection))
            case ScoreIds(leg, ids):
                return (yield from self.score(queries, leg, ids))
            case FetchTokenVectors(ids):
                return (yield from self.fetch_token_vectors(ids))
            case FetchDocuments(ids):
                return (yield from self.fetch_documents(ids))

    def info(self) -> Flow[StoreInfo]:
        """Gather what can be said about the collection."""
        count = yield from self.number_of(Selection())
        self.fingerprint = yield from self.read_fingerprint()
        details = yield from self.describe()
        return StoreInfo(self.name, count, self.dim, self.multi_vector, self.fingerprint, dict(details))

    def check_fingerprint(self, embeddings: M3Embeddings) -> Flow[None]:
        """Refuse another encoder's numbers; as long as we know of no fingerprint, the database is asked."""
        if embeddings.fingerprint is None:
            return
        if self.fingerprint is None:
            found = yield from self.read_fingerprint()
            self.fingerprint = self.fingerprint or found  # another thread may have claimed the collection meanwhile
        check_fingerprint(self.fingerprint, embeddings.fingerprint, name=self.name)

    narrower = "text_contains and Predicate read each document; combine them (&) with conditions that leave fewer"
    """What a caller can do about a filter that leaves too many documents to read."""

    def split(self, condition: Filter) -> tuple[Filter | None, Filter | None]:
        """Split a condition into what the database decides and what is read and judged here."""
        return split_exact(condition)

    def select(self, condition: Filter | None) -> Flow[Selection]:
        """Turn a filter into what a database can be asked; what it cannot decide is read and judged here.

        Raises:
            FilterTooBroadError: more than `MOST_READ` documents would have to be read; none was.
        """
        check_filter(condition)
        if condition is None:
            return Selection()
        names, others = split_ids(condition)
        if names is not None:
            found = yield from self.fetch_documents(check_ids(names))
            return Selection(
                ids=tuple(name for name in names if name in found and matches(others, found[name].metadata))
            )
        exact, rest = self.split(condition)
        if rest is None:
            return Selection(exact)
        wide = Selection(exact)
        left = yield from self.number_of(wide)
        if left > MOST_READ:
            raise FilterTooBroadError(
                f"the database cannot judge the filter, or not all of it, and what it can leaves {left} documents to "
                f"read, more than {MOST_READ}: {self.narrower}"
            )
        ids: list[str] = []
        cursor = None
        while True:
            documents, cursor = yield from self.page(wide, cursor)
            ids += [document.id for document in documents if matches(rest, document.metadata)]
            if cursor is None:
                return Selection(exact, tuple(ids))


def _require_all(ids: Sequence[str], found: Mapping[str, object]) -> None:
    missing = [name for name in ids if name not in found]
    if missing:
        raise DocumentNotFoundError(f"no document with id {missing[0]!r} ({len(missing)} of {len(ids)} missing)")


def _check_legs(legs: Sequence[Leg]) -> None:
    if isinstance(legs, str) or not set(legs) <= {"dense", "sparse", "multi_vector"}:
        raise ValueError(f'legs must be a list of "dense", "sparse" and "multi_vector", but is {legs!r}')
