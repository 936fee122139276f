"""Evaluate an encoder on a set: fill a store, search in five ways, measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from m3connect.evaluate.data import Dataset, Qrels
from m3connect.evaluate.metrics import (
    MEASURES,
    PairedTest,
    PerQuery,
    empty_share,
    mean,
    paired_test,
    parse_measures,
    per_query,
)
from m3connect.evaluate.modes import MODES, SUMS, Mode, Protocol, Weights, fuse, run_modes, search_legs
from m3connect.evaluate.runs import Run
from m3connect.evaluate.tokens import KeepingEncoder, TokenVectors
from m3connect.evaluate.tuning import Tuned, tune
from m3connect.ingestion import ingest
from m3connect.memory import MemoryStore
from m3connect.scoring import HYBRID_WEIGHTS
from m3connect.store import Encoder, HybridStore

__all__ = ["Evaluation", "Row", "evaluate", "score_runs"]

_BASELINE = "Dense"


@dataclass(frozen=True, slots=True)
class Row:
    """What one way of searching reaches."""

    name: str
    run: Run
    values: PerQuery
    """By measure, the value of each test query."""

    against_dense: PairedTest | None
    """On the first measure; None for Dense itself, and where it was not run."""

    @property
    def means(self) -> dict[str, float]:
        """By measure, the mean over the test queries."""
        return {measure: mean(values) for measure, values in self.values.items()}

    def means_of(self, queries: Iterable[str]) -> dict[str, float]:
        """By measure, the mean over some of the queries."""
        chosen = set(queries)
        return {
            measure: mean({query: value for query, value in values.items() if query in chosen})
            for measure, values in self.values.items()
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All rows, and what is needed to judge them."""

    dataset: Dataset
    rows: tuple[Row, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was evaluated and how, as JSON can hold it."""

    tuned: Mapping[str, Tuned] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row is called {name!r}: there are {', '.join(row.name for row in self.rows)}")

    @property
    def languages(self) -> dict[str, list[str]]:
        """By language, its test queries; empty where no query carries one."""
        groups: dict[str, list[str]] = {}
        for query in self.dataset.qrels:
            if query in self.dataset.languages:
                groups.setdefault(self.dataset.languages[query], []).append(query)
        return dict(sorted(groups.items()))


def evaluate(
    encoder: Encoder,
    dataset: Dataset,
    *,
    store: HybridStore | None = None,
    modes: Iterable[Mode] = tuple(MODES),
    measures: Iterable[str] = MEASURES,
    weights: Weights = HYBRID_WEIGHTS,
    protocol: Protocol = Protocol(),  # noqa: B008  # frozen
    dev: Qrels | None = None,
    max_length: int | None = None,
    runs: Mapping[str, Run] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure what each leg of an encoder finds, and what they find together.

    Args:
        encoder: what is evaluated.
        dataset: what it is evaluated on; its judged queries are the test queries.
        store: where to search; the corpus is put in, what is already there is not encoded again. None means an exact
            one in memory. Other documents in it can be found too, and count as wrong.
        modes: what to run.
        measures: names as `ir-measures` has them; tests and tuning go by the first.
        weights: of dense, sparse and multi-vector scores.
        protocol: how many candidates, and what they score where a leg did not find them.
        dev: judgments of other queries of the set; where given, weights are tuned on them, and rows with these weights
            are added. A query that is a test query too is left out of them.
        max_length: read at most this many tokens of a document or query.
        runs: of other systems, by name; they are measured beside ours.
        progress: show progress bars.

    Returns:
        One row a mode, in the order of the paper's tables.

    Raises:
        ValueError: a mode or measure does not exist, or no dev query is left.
        CollectionMismatchError: the store was filled by another encoder.
    """
    chosen, names = _check_modes(modes), list(measures)
    parse_measures(names)
    dev = None if dev is None else _without(dev, dataset.qrels)
    store = MemoryStore(dim=encoder.dim) if store is None else store
    reranks = bool({"multi_vector", "all"} & set(chosen))
    keeping = KeepingEncoder(encoder, max_length=max_length, keeps=reranks and not store.multi_vector)
    report = ingest(keeping, store, dataset.documents, progress=progress)
    asked = {query: dataset.queries[query] for query in [*dataset.qrels, *(dev or ())]}
    batch = keeping.encode(list(asked.values()), multi_vector=reranks)
    legs = search_legs(
        store,
        {query: batch[i] for i, query in enumerate(asked)},
        TokenVectors(store, keeping),
        modes=chosen,
        protocol=protocol,
        progress=progress,
    )
    tuned = {mode: tune(legs, dev, mode, measure=names[0]) for mode in SUMS if dev and mode in chosen}
    found: dict[str, Run] = {MODES[mode]: run for mode, run in run_modes(legs, chosen, weights=weights).items()}
    found |= {f"{MODES[mode]}, tuned": fuse(legs, mode, weights=best.weights) for mode, best in tuned.items()}
    found |= _checked_runs(runs or {}, found)
    facts = {
        "dataset": dataset.name,
        "documents": len(dataset.documents),
        "documents in the store": store.count(),
        "documents set aside": len(report.rejected),
        "documents cut": report.truncated,
        "queries": len(dataset.qrels),
        "empty sparse queries": empty_share(batch.sparse[: len(dataset.qrels)]),
        "model": keeping.fingerprint,
        "store": store.name,
        "weights": list(weights),
        "depth": protocol.depth,
        "rerank depth": protocol.rerank_depth,
        "missing": protocol.missing,
    }
    return Evaluation(dataset, score_runs(found, dataset.qrels, names), facts, dict(tuned.items()))


def score_runs(runs: Mapping[str, Run], qrels: Qrels, measures: Iterable[str] = MEASURES) -> tuple[Row, ...]:
    """Measure runs of any systems, each beside the one called Dense, where there is one.

    Args:
        runs: by name.
        qrels: what is relevant.
        measures: names; the paired test goes by the first.
    """
    names = list(measures)
    values = {name: per_query(run, qrels, names) for name, run in runs.items()}
    base = values.get(_BASELINE)
    rows = []
    for name, run in runs.items():
        test = None
        if base is not None and name != _BASELINE:
            test = paired_test(values[name][names[0]], base[names[0]])
        kept = {query: found for query, found in run.items() if query in qrels}
        rows.append(Row(name, kept, values[name], test))
    return tuple(rows)


def _check_modes(modes: Iterable[Mode]) -> list[Mode]:
    wanted = list(modes)
    unknown = [mode for mode in wanted if mode not in MODES]
    if unknown or not wanted:
        raise ValueError(f"modes must be some of {', '.join(MODES)}, but are {wanted}")
    return [mode for mode in MODES if mode in wanted]


def _checked_runs(runs: Mapping[str, Run], ours: Iterable[str]) -> dict[str, Run]:
    taken = {name.casefold() for name in ours} & {name.casefold() for name in runs}
    if taken:
        raise ValueError(f"a run is called {', '.join(sorted(taken))}, as a row of ours is: give it another name")
    return dict(runs)


def _without(dev: Qrels, test: Qrels) -> Qrels:
    left = {query: judged for query, judged in dev.items() if query not in test}
    if not left:
        raise ValueError("no dev queries are left to tune weights on: those given are test queries too, or none")
    return left
