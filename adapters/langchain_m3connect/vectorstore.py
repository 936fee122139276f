"""`M3ConnectVectorStore`: any store of m3connect as a LangChain vector store."""

# Methods take what they name and nothing else, where the framework's take any **kwargs: misspelt ones are TypeErrors.
# mypy: disable-error-code="override"

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStoreRetriever

from langchain_m3connect import convert, flows
from langchain_m3connect.embeddings import M3ConnectEmbeddings
from langchain_m3connect.flows import Asked
from langchain_m3connect.searching import SearchingVectorStore
from langchain_m3connect.targets import Targets, encoding_of
from m3connect import HybridStore, MemoryStore
from m3connect.base import AsyncStore
from m3connect.flows import Call, Flow, compute
from m3connect.fusion import Fusion, check_fusion
from m3connect.store import check_count

__all__ = ["M3ConnectVectorStore"]

_BATCH = 256
"""Documents encoded and stored at a time: with token vectors some 256 MB of them."""


class M3ConnectVectorStore(SearchingVectorStore):
    """Hybrid search in Qdrant, Milvus or memory, one forward pass a text for all legs.

    Ids are any non-empty strings and come back as they were; metadata come back as JSON keeps them, nothing added.
    An unknown argument raises a TypeError. Methods with an `a` in front never block the event loop: an async store is
    awaited; encoding and the calls of a sync store are done in threads.

    These arguments mean the same in every search:

        k: the most documents to return.
        filter: which documents are searched: a filter of `m3connect.filters`, or the database's own (a Qdrant
            `models.Filter`, an expression of Milvus), where the metadata are under `metadata`.
        fusion: how the legs become one list: `RRF()`, `Weighted()`, `Dense()` or `Sparse()`.
        candidates: how many documents each leg brings before fusion; None means `max(100, 4 * k)`.

    Args:
        store: any sync store of m3connect, or an async one; with the latter only the async methods work.
        embedding: `M3ConnectEmbeddings`, or any other LangChain `Embeddings`, which fills and searches the dense leg
            alone, by cosine.
        fusion: what a search uses that names none; None means `RRF()`, or `Dense()` for a plain embedding.
        candidates: what a search uses that says nothing.

    Example:
        >>> from langchain_m3connect import M3ConnectEmbeddings
        >>> from m3connect.testing import FakeEncoder
        >>> embedding = M3ConnectEmbeddings(encoder=FakeEncoder())
        >>> vectorstore = M3ConnectVectorStore.from_texts(["red apple", "blue sea"], embedding, ids=["a", "b"])
        >>> [document.id for document in vectorstore.similarity_search("apple", k=1)]
        ['a']
    """

    def __init__(
        self,
        *,
        store: HybridStore | AsyncStore,
        embedding: Embeddings,
        fusion: Fusion | None = None,
        candidates: int | None = None,
    ) -> None:
        self.store = store
        self.targets = Targets(encoding_of(embedding), store)
        self._embedding = embedding
        self.full = isinstance(embedding, M3ConnectEmbeddings)
        """Whether the embedding makes all legs, and not the dense one alone."""
        if candidates is not None:
            check_count("candidates", candidates)
        self._candidates = candidates
        if not self.full and store.multi_vector:
            raise ValueError(
                f"the store keeps token vectors, which {type(embedding).__name__} does not make: use "
                "M3ConnectEmbeddings, or a store that was made with multi_vector=False"
            )
        self._fusion = flows.default_fusion(full=self.full) if fusion is None else self._check_fusion(fusion)

    @property
    def embeddings(self) -> Embeddings:
        """The embedding it was made with."""
        return self._embedding

    def asked(
        self,
        k: int,
        *,
        filter: object = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        with_scores: bool = False,
    ) -> Asked:
        """Complete the arguments of a search by what the vector store was made with.

        Raises:
            ValueError: a number is below 1, or the fusion needs a leg that a plain embedding does not have.
        """
        check_count("k", k)
        candidates = self._candidates if candidates is None else candidates
        if candidates is not None:
            check_count("candidates", candidates)
        return Asked(
            k=k,
            filter=convert.to_filter(filter),
            fusion=self._fusion if fusion is None else self._check_fusion(fusion),
            candidates=candidates,
            with_scores=with_scores,
        )

    def _check_fusion(self, fusion: Fusion) -> Fusion:
        check_fusion(fusion)
        if not self.full and fusion.legs != ("dense",):
            raise ValueError(
                f"{type(self._embedding).__name__} makes dense vectors alone, but {fusion} searches "
                f"{list(fusion.legs)}: use fusion=Dense(), or M3ConnectEmbeddings"
            )
        return fusion

    def as_retriever(self, **kwargs: Any) -> VectorStoreRetriever:  # noqa: ANN401  # the framework's
        """Return LangChain's own retriever over these searches; tracing is told the model too."""
        model = getattr(self.embeddings, "model", None)
        told = {"ls_embedding_model": model} if isinstance(model, str) else {}
        return super().as_retriever(**kwargs | {"metadata": told | (kwargs.get("metadata") or {})})

    # Writing and reading by id.

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int = _BATCH,
    ) -> list[str]:
        """Encode and store texts; one whose id is taken replaces the old one, one without gets a random id.

        Args:
            texts: any strings.
            metadatas: one a text, with what JSON can hold.
            ids: one a text, or None in its place.
            batch_size: how many are encoded and stored at a time; an error leaves earlier batches stored.

        Returns:
            The ids, in order.

        Raises:
            ValueError: counts differ, or the store refuses a document.
            CollectionMismatchError: another encoder has filled the store, or one where this embedding is a plain one.
        """
        return self.targets.run(self._add(texts, metadatas, ids, batch_size))

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int = _BATCH,
    ) -> list[str]:
        """See `add_texts`."""
        return await self.targets.arun(self._add(texts, metadatas, ids, batch_size))

    def add_documents(
        self, documents: Iterable[Document], *, ids: Sequence[str | None] | None = None, batch_size: int = _BATCH
    ) -> list[str]:
        """Encode and store documents under `ids`, or where none are given under their own; see `add_texts`."""
        listed = list(documents)
        return self.add_texts(*_parts(listed), ids=_ids(listed, ids), batch_size=batch_size)

    async def aadd_documents(
        self, documents: Iterable[Document], *, ids: Sequence[str | None] | None = None, batch_size: int = _BATCH
    ) -> list[str]:
        """See `add_documents`."""
        listed = list(documents)
        return await self.aadd_texts(*_parts(listed), ids=_ids(listed, ids), batch_size=batch_size)

    def _add(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
        batch_size: int,
    ) -> Flow[list[str]]:
        documents = yield compute(partial(convert.to_documents, texts, metadatas, ids))
        if documents and not self.full:
            yield from flows.refuse_mixing(self.embeddings)
        return (yield from flows.add(documents, multi_vector=self.store.multi_vector, batch_size=batch_size))

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: object = None,
    ) -> bool:
        """Delete by ids or by filter, exactly one of them; absent ids are passed over.

        Returns:
            True, also where there was nothing to delete.

        Raises:
            ValueError: neither was given: unlike some stores of LangChain this one does not delete everything then.
        """
        return self.targets.run(_delete(ids, filter))

    async def adelete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: object = None,
    ) -> bool:
        """See `delete`."""
        return await self.targets.arun(_delete(ids, filter))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return documents in the order asked, absent ones left out."""
        return self.targets.run(_get(ids))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """See `get_by_ids`."""
        return await self.targets.arun(_get(ids))

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        store: HybridStore | AsyncStore | None = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        batch_size: int = _BATCH,
    ) -> Self:
        """Make a vector store over `store`, or in memory where none is given, and add texts to it."""
        store = MemoryStore(dim=encoding_of(embedding).dimension()) if store is None else store
        made = cls(store=store, embedding=embedding, fusion=fusion, candidates=candidates)
        made.add_texts(texts, metadatas, ids=ids, batch_size=batch_size)
        return made

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        store: HybridStore | AsyncStore | None = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        batch_size: int = _BATCH,
    ) -> Self:
        """See `from_texts`."""
        store = MemoryStore(dim=await encoding_of(embedding).adimension()) if store is None else store
        made = cls(store=store, embedding=embedding, fusion=fusion, candidates=candidates)
        await made.aadd_texts(texts, metadatas, ids=ids, batch_size=batch_size)
        return made


def _parts(documents: Sequence[Document]) -> tuple[list[str], list[dict[str, Any]]]:
    return [document.page_content for document in documents], [document.metadata for document in documents]


def _ids(documents: Sequence[Document], ids: Sequence[str | None] | None) -> Sequence[str | None]:
    return [document.id for document in documents] if ids is None else ids


def _delete(ids: Sequence[str] | None, filter: object) -> Flow[bool]:
    yield Call("delete", {"ids": ids, "filter": convert.to_filter(filter)})
    return True


def _get(ids: Sequence[str]) -> Flow[list[Document]]:
    return [convert.from_document(document) for document in (yield Call("get", {"ids": ids}))]
