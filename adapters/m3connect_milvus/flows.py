"""What a Milvus collection is asked, each operation a flow of calls of pymilvus' client."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from grpc import RpcError, StatusCode
from pymilvus.exceptions import ErrorCode, MilvusException, MilvusUnavailableException

from m3connect.embeddings import FloatArray, M3Embeddings
from m3connect.filters import Filter
from m3connect.flows import Call, Flow, StoreFlows
from m3connect.fusion import RRF, Leg
from m3connect.prepared import PreparedDocuments, find_problems, prepare
from m3connect.search import SearchPlan
from m3connect.store import Document, Hit, Selection, check_queries
from m3connect_milvus import convert, requests
from m3connect_milvus.convert import DOCUMENT_FIELDS, Row
from m3connect_milvus.filters import one_of, to_expression
from m3connect_milvus.hybrid import OneRequest, is_computed_exactly, search_one_leg
from m3connect_milvus.schema import FINGERPRINT_PROPERTY, Layout, marker, properties_of
from m3connect_milvus.settings import MilvusSettings

__all__ = ["MOST_HITS", "MilvusFlows", "Server", "check_limit", "described_indexes", "may_pass", "within_limit"]

MOST_HITS = 16_384


_LARGEST_HALF = 65_504
"""The largest number of 16 bits."""


@dataclass(frozen=True, slots=True)
class Server:
    """The kind of database."""

    version: str

    @property
    def lite(self) -> bool:
        """Whether it is Milvus Lite."""
        return self.version.startswith("milvus_lite")

    @property
    def updates_parts(self) -> bool:
        """Whether an upsert may bring some fields of a row."""
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])
        return self.lite or numbers >= (2, 6, 2)


class MilvusFlows(StoreFlows):
    """The flows of one collection that is open (opening.py)."""

    def __init__(self, name: str, layout: Layout, *, server: Server, settings: MilvusSettings) -> None:
        self.name = name
        self.dim = layout.dim
        self.multi_vector = False
        self.server = server
        self._columns = layout.columns
        self._half = layout.half_precision
        self._settings = settings

    def is_transient(self, error: BaseException) -> bool:
        """Say whether an error of the client may pass by itself."""
        return may_pass(error) or super().is_transient(error)

    def problems(self, documents: Sequence[Document], embeddings: M3Embeddings) -> dict[int, str]:
        """Add the limits of Milvus to what no store accepts."""
        prepared = prepare(documents)
        reasons = find_problems(prepared, embeddings, dim=self.dim)
        for i, document in enumerate(prepared):
            if i not in reasons:
                reason = convert.limit_problem(document, bound=prepared.sizes[i]) or self._columns.problem(document)
                if reason is None and self._half and np.abs(embeddings.dense[i]).max(initial=0) > _LARGEST_HALF:
                    reason = f"its dense vector has a value beyond {_LARGEST_HALF}, the most that 16 bits hold"
                if reason is not None:
                    reasons[i] = reason
        return reasons

    def read_fingerprint(self) -> Flow[str | None]:
        """Read the collection's property."""
        description = yield Call("describe_collection", {"collection_name": self.name})
        return properties_of(description).get(FINGERPRINT_PROPERTY)

    def write_fingerprint(self, fingerprint: str) -> Flow[None]:
        """Write the collection's property; others stay as they are."""
        properties = {FINGERPRINT_PROPERTY: fingerprint}
        yield Call("alter_collection_properties", {"collection_name": self.name, "properties": properties})

    def mark(self) -> Flow[None]:
        """Say in the collection's properties that it is ours."""
        properties = marker(self._columns, self._settings)
        yield Call("alter_collection_properties", {"collection_name": self.name, "properties": properties})

    def write(self, documents: PreparedDocuments, embeddings: M3Embeddings, *, only_new: bool) -> Flow[None]:
        """Upsert, as an insert of an id that is taken would leave two rows on a server."""
        taken: Mapping[str, Row] = {}
        if only_new:
            taken = yield from requests.fetch(self.name, [document.id for document in documents], ["id"])
        vectors = convert.vector_rows(embeddings, half=self._half)
        rows = (
            convert.to_row(document, fingerprint, row, columns=self._columns)
            for document, fingerprint, row in zip(documents, documents.fingerprints, vectors, strict=True)
            if document.id not in taken
        )
        for batch in convert.batches(rows):
            yield Call("upsert", {"collection_name": self.name, "data": batch})

    def write_vectors(self, ids: Sequence[str], embeddings: M3Embeddings, legs: Sequence[Leg]) -> Flow[None]:
        """Upsert the vectors alone; where the server cannot, read whole rows and write them back."""
        vectors = dict(zip(ids, convert.vector_rows(embeddings, half=self._half, legs=legs), strict=True))
        if not any(vectors.values()):
            return
        if self.server.lite or (self.server.updates_parts and self._columns.tenant is None):
            for batch in convert.batches({"id": name, **parts} for name, parts in vectors.items()):
                yield Call("upsert", {"collection_name": self.name, "data": batch, "partial_update": True})
            return
        for group in requests.groups(ids):
            rows = yield from requests.fetch(self.name, group, self._fields)
            whole = (convert.rewritten(rows[name], vectors[name], half=self._half) for name in group if name in rows)
            for batch in convert.batches(whole):
                yield Call("upsert", {"collection_name": self.name, "data": batch})

    @property
    def _fields(self) -> list[str]:
        columns = [self._columns.name(key) for key in self._columns.keys]
        return [*DOCUMENT_FIELDS, "fingerprint", "filter_tokens", "filter_numbers", *columns, "dense", "sparse"]

    def fetch_documents(self, ids: Sequence[str]) -> Flow[dict[str, Document]]:
        """Query by ids."""
        rows = yield from requests.fetch(self.name, ids, DOCUMENT_FIELDS)
        return {name: convert.to_document(row) for name, row in rows.items()}

    def fetch_fingerprints(self, ids: Sequence[str]) -> Flow[dict[str, str]]:
        """Query by ids."""
        rows = yield from requests.fetch(self.name, ids, ["id", "fingerprint"])
        return {name: row["fingerprint"] for name, row in rows.items()}

    def fetch_embeddings(self, ids: Sequence[str]) -> Flow[tuple[list[str], M3Embeddings]]:
        """Query by ids."""
        rows = yield from requests.fetch(self.name, ids, ["id", "dense", "sparse"])
        return list(rows), convert.to_embeddings(list(rows.values()), dim=self.dim, fingerprint=None)

    def fetch_token_vectors(self, ids: Sequence[str]) -> Flow[dict[str, FloatArray]]:
        """Refuse; nothing asks for them, as `multi_vector` is False."""
        yield from ()
        raise ValueError("Milvus holds no token vectors")

    def remove(self, selection: Selection) -> Flow[None]:
        """Delete by expression; `client.delete(ids=)` would not escape the ids."""
        for expression in self._expressions(selection):
            yield Call("delete", {"collection_name": self.name, "filter": expression})

    def number_of(self, selection: Selection) -> Flow[int]:
        """Count by expression."""
        total = 0
        for expression in self._expressions(selection):
            total += yield from requests.count(self.name, expression)
        return total

    def page(self, selection: Selection, cursor: Any) -> Flow[tuple[list[Document], Any]]:  # noqa: ANN401  # opaque
        """Read documents in the order of ids; the cursor holds ids that were read ahead, and the last of them."""
        walks = selection.ids is None
        names, last = cursor or (sorted(set(selection.ids or ())), "")
        if walks and not names:
            names = yield from requests.next_ids(self.name, self._written(selection), after=last)
            if not names:
                return [], None
            last = names[-1]
        now, later = names[: requests.IDS_A_REQUEST], names[requests.IDS_A_REQUEST :]
        documents = yield from self.get(now)
        return documents, (later, last) if later or walks else None

    def search(self, queries: M3Embeddings, plan: SearchPlan, filter: Filter | None) -> Flow[list[list[Hit]]]:
        """Leave the whole search to Milvus where it computes exactly what we mean, and fuse here where not."""
        plan = within_limit(plan)
        if plan.limit > MOST_HITS or not is_computed_exactly(plan, queries):
            return (yield from super().search(queries, plan, filter))
        check_queries(queries, dim=self.dim)
        yield from self.check_fingerprint(queries)
        expressions = self._expressions((yield from self.select(filter)), most=MOST_HITS)
        if len(expressions) > 1:  # ids of many megabytes
            return (yield from super().search(queries, plan, filter))
        if not expressions:
            return [[] for _ in range(len(queries))]
        if isinstance(plan.fusion, RRF):
            return (yield from OneRequest(self.name, plan, plan.fusion, expressions[0], self._settings).run(queries))
        return (yield from search_one_leg(self.name, queries, plan, expression=expressions[0], settings=self._settings))

    def find(
        self, queries: M3Embeddings, legs: Sequence[Leg], limit: int, selection: Selection
    ) -> Flow[dict[Leg, list[dict[str, float]]]]:
        """Search the legs at the same time where the client can, with the filter on each."""
        check_limit(limit)
        expressions = self._expressions(selection, most=MOST_HITS)
        return (
            yield from requests.find(
                self.name, queries, legs, limit=limit, expressions=expressions, settings=self._settings
            )
        )

    def score(self, queries: M3Embeddings, leg: Leg, ids: Sequence[Sequence[str]]) -> Flow[list[dict[str, float]]]:
        """Score named documents from their stored vectors: a server's approximate index could miss some."""
        distinct = list(dict.fromkeys(name for group in ids for name in group))
        rows = yield from requests.fetch(self.name, distinct, ["id", leg])
        groups = [[rows[name] for name in group if name in rows] for group in ids]
        return [convert.scores_from_rows(queries[i], group, leg) for i, group in enumerate(groups)]

    def describe(self) -> Flow[Mapping[str, Any]]:
        """Gather what the server tells; its row counts of indexes are left out, Lite's are made up."""
        description = yield Call("describe_collection", {"collection_name": self.name})
        indexes = yield from described_indexes(self.name)
        return {
            "backend": "milvus",
            "lite": self.server.lite,
            "version": self.server.version,
            "indexes": indexes,
            "half_precision": self._half,
            "shards": description.get("num_shards"),
            "partitions": description.get("num_partitions"),
            "filter_fields": dict(self._columns.kinds),
            "tenant_field": self._columns.tenant,
            "search": self._settings.remembered(),
            "properties": dict(properties_of(description)),
        }

    def drop(self) -> Flow[None]:
        """Drop the collection."""
        yield Call("drop_collection", {"collection_name": self.name})
        self.fingerprint = None

    def flush(self) -> Flow[None]:
        """Flush Lite, which searches what is not flushed row by row, 20 times slower.

        A server seals its segments by itself, and allows a client one flush in ten seconds.
        """
        if self.server.lite:
            yield Call("flush", {"collection_name": self.name})

    def _expressions(self, selection: Selection, *, most: int | None = None) -> list[str]:
        if selection.ids is None:
            return [self._written(selection)]
        return [one_of(group) for group in requests.groups(selection.ids, most=most)]

    def _written(self, selection: Selection) -> str:
        return to_expression(selection.exact, self._columns)


def may_pass(error: BaseException) -> bool:
    """Say whether an error may pass: no connection, a timeout, a rate limit, a server that is not ready."""
    if isinstance(error, MilvusException):
        return isinstance(error, MilvusUnavailableException) or error.code == ErrorCode.RATE_LIMIT
    code = getattr(error, "code", lambda: None)() if isinstance(error, RpcError) else None
    return code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED)


def within_limit(plan: SearchPlan) -> SearchPlan:
    """Lower the candidates that a plan takes by default to what Milvus gives."""
    if plan.candidates is None and plan.top_k <= MOST_HITS < plan.limit:
        return replace(plan, candidates=MOST_HITS)
    return plan


def check_limit(limit: int) -> None:
    """Refuse more candidates than Milvus gives."""
    if limit > MOST_HITS:
        raise ValueError(
            f"Milvus gives a query at most {MOST_HITS} hits, but this search needs {limit} candidates a "
            f"leg: lower top_k, or pass candidates={MOST_HITS}"
        )


def described_indexes(name: str) -> Flow[dict[str, dict[str, Any]]]:
    """Describe the indexes of a collection, by field."""
    indexes: dict[str, dict[str, Any]] = {}
    for index in (yield Call("list_indexes", {"collection_name": name})):
        told = yield Call("describe_index", {"collection_name": name, "index_name": index})
        said = {key: value for key, value in (told or {}).items() if not key.endswith("_rows") and key != "state"}
        indexes[said.get("field_name", index)] = said
    return indexes
