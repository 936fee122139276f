"""The five ways to use M3-Embedding, by the paper's protocol (arXiv 2402.03216v4, section 4.1), and RRF.

Dense and sparse search the corpus; multi-vector and All rerank the best of dense; Dense+Sparse orders the union of
both lists. Raw scores of the legs are kept, so that weights can be tried without searching again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from tqdm import tqdm

from m3connect.embeddings import M3Embeddings
from m3connect.evaluate.runs import Run, top
from m3connect.evaluate.tokens import TokenVectors, score_pairs
from m3connect.fusion import RRF, Dense, Fusion, Leg, Sparse, Weighted, weighted_sum
from m3connect.scoring import HYBRID_WEIGHTS
from m3connect.store import Hit, HybridStore

__all__ = ["MODES", "SUMS", "LegRuns", "Mode", "Protocol", "Sum", "Weights", "fuse", "run_modes", "search_legs"]

Mode: TypeAlias = Literal["dense", "sparse", "multi_vector", "dense_sparse", "all", "rrf"]
Weights: TypeAlias = tuple[float, float, float]

MODES: dict[Mode, str] = {
    "dense": "Dense",
    "sparse": "Sparse",
    "multi_vector": "Multi-vec",
    "dense_sparse": "Dense+Sparse",
    "all": "All",
    "rrf": "RRF",
}
"""Names of the modes, in the order of the paper's tables."""

Sum: TypeAlias = Literal["dense_sparse", "all"]
SUMS: tuple[Sum, ...] = ("dense_sparse", "all")
"""The modes that weigh legs."""

_QUERIES_AT_A_TIME = 64


@dataclass(frozen=True, slots=True)
class Protocol:
    """How candidates are found and scored.

    Raises:
        ValueError: a number is out of range.
    """

    depth: int = 1000
    """How many documents dense and sparse each find."""

    rerank_depth: int = 200
    """How many of dense's best are scored with token vectors."""

    missing: Literal["exact", "zero"] = "exact"
    """What a document scores in a leg that did not find it: its exact score, or 0 as in the paper's scripts."""

    def __post_init__(self) -> None:
        if self.depth < 1 or not 1 <= self.rerank_depth <= self.depth:
            raise ValueError(
                f"depth must be at least 1, and rerank_depth from 1 to depth, but they are {self.depth} and "
                f"{self.rerank_depth}"
            )
        if self.missing not in ("exact", "zero"):
            raise ValueError(f'missing must be "exact" or "zero", but is {self.missing!r}')


@dataclass(frozen=True, slots=True)
class LegRuns:
    """What was found, and all scores that are known of it."""

    found: Mapping[Leg | Literal["rrf"], Run]
    """dense, sparse and RRF as the store returned them; multi_vector over the best of dense."""

    known: Mapping[Leg, Run]
    """By leg, the scores of the candidates; what is missing here counts 0."""


def search_legs(
    store: HybridStore,
    queries: Mapping[str, M3Embeddings],
    tokens: TokenVectors,
    *,
    modes: Iterable[Mode] = tuple(MODES),
    protocol: Protocol = Protocol(),  # frozen
    progress: bool = False,
) -> LegRuns:
    """Search everything that the modes need.

    Args:
        store: where the corpus is.
        queries: by id, one row each; with token vectors where a mode needs them.
        tokens: where the token vectors of documents come from.
        modes: what will be computed of it.
        protocol: how many candidates, and what they score where a leg did not find them.
        progress: show progress bars.
    """
    wanted = set(modes)
    search = _Search(store, queries, progress)
    deep = protocol.depth
    dense = search(Dense(), deep) if wanted - {"sparse", "rrf"} else {}
    sparse = search(Sparse(), deep) if wanted & {"sparse", "dense_sparse", "all"} else {}
    found: dict[Leg | Literal["rrf"], Run] = {"dense": dense, "sparse": sparse}
    known: dict[Leg, Run] = {"dense": dense, "sparse": sparse}
    if wanted & {"dense_sparse", "all"} and protocol.missing == "exact":
        known = search.exactly(deep, known)
    if wanted & {"multi_vector", "all"}:
        known["multi_vector"] = found["multi_vector"] = _rerank(
            store, queries, dense, tokens, depth=protocol.rerank_depth, progress=progress
        )
    if "rrf" in wanted:
        found["rrf"] = search(RRF(), deep)
    return LegRuns(found, known)


class _Search:
    """Searches of all queries, some at a time."""

    def __init__(self, store: HybridStore, queries: Mapping[str, M3Embeddings], progress: bool) -> None:
        self._store = store
        self._queries = queries
        self._progress = progress

    def __call__(self, fusion: Fusion, depth: int) -> dict[str, dict[str, float]]:
        return {name: {hit.document.id: hit.score for hit in hits} for name, hits in self._hits(fusion, depth, depth)}

    def exactly(self, depth: int, found: Mapping[Leg, Run]) -> dict[Leg, Run]:
        """Add to what dense and sparse found the exact scores of everything that either of them finds."""
        known: dict[Leg, dict[str, dict[str, float]]] = {leg: {} for leg in found}
        for name, hits in self._hits(Weighted(missing="exact"), 2 * depth, depth):
            for leg, scores in known.items():
                scores[name] = {hit.document.id: (hit.scores or {})[leg] for hit in hits} | dict(found[leg][name])
        return dict(known)

    def _hits(self, fusion: Fusion, top_k: int, candidates: int) -> Iterator[tuple[str, list[Hit]]]:
        names = list(self._queries)
        with tqdm(total=len(names), unit="query", desc=type(fusion).__name__, disable=not self._progress) as bar:
            for start in range(0, len(names), _QUERIES_AT_A_TIME):
                group = names[start : start + _QUERIES_AT_A_TIME]
                batch = M3Embeddings.concatenate([_without_tokens(self._queries[name]) for name in group])
                found = self._store.search(
                    batch, top_k=top_k, fusion=fusion, candidates=candidates, with_scores=isinstance(fusion, Weighted)
                )
                yield from zip(group, found, strict=True)
                bar.update(len(group))


def _without_tokens(row: M3Embeddings) -> M3Embeddings:
    return M3Embeddings(row.dense, row.sparse, None, row.truncated, row.fingerprint)


def _rerank(
    store: HybridStore,
    queries: Mapping[str, M3Embeddings],
    dense: Run,
    tokens: TokenVectors,
    *,
    depth: int,
    progress: bool,
) -> dict[str, dict[str, float]]:
    """Score the best of dense with token vectors."""
    names = list(queries)
    wanted: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        for document in top(dense[name], depth):
            wanted[document].append(i)
    documents = tokens.of(store.get(list(wanted)))
    bar = tqdm(documents, total=len(wanted), unit="doc", desc="Multi-vec", disable=not progress)
    scores = score_pairs(
        [queries[name].require_multi_vector()[0] for name in names],
        {document: np.array(rows) for document, rows in wanted.items()},
        iter(bar),
    )
    return dict(zip(names, scores, strict=True))


def run_modes(
    legs: LegRuns, modes: Iterable[Mode] = tuple(MODES), *, weights: Weights = HYBRID_WEIGHTS
) -> dict[Mode, Run]:
    """Return one run a mode.

    Args:
        legs: from `search_legs`, which must have been asked for these modes.
        modes: which ones.
        weights: of dense, sparse and multi-vector scores; Dense+Sparse uses the first two.
    """
    makers: dict[Mode, Callable[[], Run]] = {
        "dense": lambda: legs.found["dense"],
        "sparse": lambda: legs.found["sparse"],
        "multi_vector": lambda: legs.found["multi_vector"],
        "dense_sparse": lambda: fuse(legs, "dense_sparse", weights=weights),
        "all": lambda: fuse(legs, "all", weights=weights),
        "rrf": lambda: legs.found["rrf"],
    }
    return {mode: makers[mode]() for mode in modes}


def fuse(
    legs: LegRuns,
    mode: Sum,
    *,
    weights: Weights,
    queries: Sequence[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the run of a weighted sum.

    Args:
        legs: from `search_legs`.
        mode: `dense_sparse` orders the union of what dense and sparse found, `all` the best of dense.
        weights: of dense, sparse and multi-vector scores.
        queries: which ones; None means all.
    """
    used: dict[Leg, float] = {"dense": weights[0], "sparse": weights[1]}
    if mode == "all":
        used["multi_vector"] = weights[2]
    fused = {}
    for query in legs.found["dense"] if queries is None else queries:
        if mode == "all":
            pool: Iterable[str] = legs.found["multi_vector"][query]
        else:
            pool = dict.fromkeys([*legs.found["dense"][query], *legs.found["sparse"][query]])
        fused[query] = weighted_sum(pool, {leg: legs.known[leg][query] for leg in used}, used)
    return fused
