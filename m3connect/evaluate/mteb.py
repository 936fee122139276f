"""M3-Embedding in `mteb`, in any of its modes: mteb by itself measures dense alone (embeddings-benchmark/mteb#1529).

mteb's own requirements are not among this package's: install it beside, tried with 2.26.24.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m3connect.evaluate.modes import MODES, Mode, Protocol, Weights, run_modes, search_legs
from m3connect.evaluate.runs import top
from m3connect.evaluate.tokens import KeepingEncoder, TokenVectors
from m3connect.ingestion import ingest
from m3connect.memory import MemoryStore
from m3connect.scoring import HYBRID_WEIGHTS
from m3connect.store import Document, Encoder

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

__all__ = ["MtebSearch"]

_TYPES: Mapping[Mode, str] = {"dense": "dense", "sparse": "sparse", "multi_vector": "late-interaction"}


class MtebSearch:
    """A search that `mteb.evaluate` takes as a model, for retrieval tasks.

    The corpus is encoded for each mode anew; `evaluate` measures all modes from one reading.

    Args:
        encoder: what is measured.
        mode: one of `MODES`.
        name: what mteb's results are called, as `organization/model`; the mode is added.
        weights: of dense, sparse and multi-vector scores.
        protocol: how many candidates, and what they score where a leg did not find them.

    Example:
        `mteb.evaluate(MtebSearch(encoder, mode="all"), tasks=[mteb.get_task("MIRACLRetrieval")])`
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mode: Mode = "all",
        name: str = "m3connect/m3",
        weights: Weights = HYBRID_WEIGHTS,
        protocol: Protocol = Protocol(),  # noqa: B008  # frozen
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, but is {mode!r}")
        self._encoder = encoder
        self._mode = mode
        self._name = name
        self._weights = weights
        self._protocol = protocol
        self._indexed: tuple[MemoryStore, KeepingEncoder] | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb writes beside its results."""
        from mteb.models.model_meta import ModelMeta

        return ModelMeta.create_empty(
            {
                "name": f"{self._name}-{self._mode}",
                "revision": self._encoder.fingerprint or "unknown",
                "embed_dim": self._encoder.dim,
                "model_type": [_TYPES.get(self._mode, "hybrid")],
            }
        )

    def index(self, corpus: Iterable[Mapping[str, Any]], **kwargs: Any) -> None:  # noqa: ANN401  # mteb's own
        """Encode a corpus; a document is title and text with a space between them, as in mteb."""
        store = MemoryStore(dim=self._encoder.dim)
        keeping = KeepingEncoder(self._encoder, keeps=self._mode in ("multi_vector", "all"))
        ingest(keeping, store, (Document(str(row["id"]), _text_of(row)) for row in corpus))
        self._indexed = store, keeping

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,  # noqa: ANN401  # mteb's own
    ) -> dict[str, dict[str, float]]:
        """Search the corpus.

        Raises:
            RuntimeError: nothing was indexed.
            ValueError: mteb brings candidates of its own (reranking tasks), or conversations.
        """
        if self._indexed is None:
            raise RuntimeError("index(corpus) comes before search(queries)")
        if top_ranked is not None:
            raise ValueError("reranking tasks bring candidates of their own; these modes search: use a retrieval task")
        store, keeping = self._indexed
        texts = {str(row["id"]): _question_of(row) for row in queries}
        batch = keeping.encode(list(texts.values()), multi_vector=True)
        legs = search_legs(
            store,
            {query: batch[i] for i, query in enumerate(texts)},
            TokenVectors(store, keeping),
            modes=[self._mode],
            protocol=self._protocol,
        )
        run = run_modes(legs, [self._mode], weights=self._weights)[self._mode]
        return {query: top(scores, top_k) for query, scores in run.items()}


def _text_of(row: Mapping[str, Any]) -> str:
    return f"{row.get('title') or ''} {row['text']}".strip()


def _question_of(row: Mapping[str, Any]) -> str:
    if not isinstance(row["text"], str):
        raise ValueError(f"a query must be a string, but {row['id']!r} is {type(row['text']).__name__}")
    return f"{row['text']} {row.get('instruction') or ''}".strip()
