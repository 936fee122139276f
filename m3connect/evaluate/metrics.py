"""Measures on `ir-measures`, with ties counted against the system, and a paired test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from m3connect.embeddings import SparseRows
from m3connect.evaluate.data import Qrels
from m3connect.evaluate.runs import Run

if TYPE_CHECKING:
    from ir_measures.measures import Measure

__all__ = ["MEASURES", "PairedTest", "PerQuery", "empty_share", "mean", "paired_test", "parse_measures", "per_query"]

MEASURES = ("nDCG@10", "Recall@100")
"""What the paper reports on MIRACL; `Recall@100` is written `R@100` too."""

PerQuery: TypeAlias = dict[str, dict[str, float]]
"""By measure, the value of each query."""

_RESAMPLES = 10_000
_AT_A_TIME = 500


def parse_measures(names: Iterable[str]) -> dict[str, Measure]:
    """Return measures by the names they were asked for with.

    Args:
        names: as `ir-measures` has them: `nDCG@10`, `Recall@100`, `MRR@10`, `Success@5`, `AP`.

    Raises:
        ValueError: there is no such measure.
        ImportError: `ir-measures` is not installed.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise ImportError('measures need ir-measures: pip install "m3connect[eval]"') from error
    measures = {}
    for name in names:
        try:
            measures[name] = ir_measures.parse_measure(name)
        except (NameError, ValueError) as error:
            raise ValueError(f"there is no measure {name!r}: give names such as nDCG@10, Recall@100, MRR@10") from error
        providers = ir_measures.DefaultPipeline.providers
        if not any(provider.is_available() and provider.supports(measures[name]) for provider in providers):
            raise ValueError(f"{name!r} cannot be computed by what is installed; nDCG@10, Recall@100 and MRR@10 can")
    return measures


def per_query(run: Run, qrels: Qrels, measures: Sequence[str] = MEASURES) -> PerQuery:
    """Measure a run query by query.

    Documents with equal scores stand in the order that is worst for the system. A query that is judged but found
    nothing counts 0, so a head that gives no scores cannot look good; what was found for other queries is not counted.

    Args:
        run: what was found.
        qrels: what is relevant.
        measures: names, see `parse_measures`.

    Example:
        >>> per_query({"q": {"good": 0.0, "bad": 0.0}}, {"q": {"good": 1}}, ["MRR@10"])
        {'MRR@10': {'q': 0.5}}
    """
    import ir_measures

    parsed = parse_measures(measures)
    values: PerQuery = {name: dict.fromkeys(qrels, 0.0) for name in parsed}
    judged = {query: dict(relevances) for query, relevances in qrels.items()}
    found = {query: _untied(run[query], qrels[query]) for query in qrels if run.get(query)}
    by_measure = {measure: name for name, measure in parsed.items()}
    for result in ir_measures.iter_calc(list(by_measure), judged, found) if found else ():
        values[by_measure[result.measure]][result.query_id] = float(result.value)
    return {name: values[by_measure[measure]] for name, measure in parsed.items()}


def _untied(scores: Mapping[str, float], relevances: Mapping[str, int]) -> dict[str, float]:
    """Replace scores by numbers that all differ; of equals, what is less relevant comes first."""
    order = sorted(scores, key=lambda name: (-scores[name], relevances.get(name, 0), name))
    return {name: float(len(order) - place) for place, name in enumerate(order)}


def mean(values: Mapping[str, float]) -> float:
    """Average a measure over queries."""
    return float(np.mean(list(values.values()))) if values else 0.0


@dataclass(frozen=True, slots=True)
class PairedTest:
    """How two systems differ on the same queries."""

    difference: float
    """Mean of a minus b."""

    p_value: float
    """How often chance alone would make a difference at least as large, in either direction."""

    better: int
    """Queries on which a is above b."""

    worse: int
    queries: int


def paired_test(a: Mapping[str, float], b: Mapping[str, float], *, seed: int = 0) -> PairedTest:
    """Compare two systems by Fisher's randomisation test: signs of the differences, turned at random 10,000 times.

    Source: Smucker, Allan and Carterette, CIKM 2007, who recommend it for retrieval.

    Args:
        a: a measure of one system by query.
        b: the same of the other.
        seed: of the random signs.

    Raises:
        ValueError: the queries differ.

    Example:
        >>> paired_test({"q1": 0.5, "q2": 1.0}, {"q1": 0.5, "q2": 1.0}).p_value
        1.0
    """
    if a.keys() != b.keys() or not a:
        raise ValueError(f"a paired test needs the same queries on both sides, but got {len(a)} and {len(b)}")
    differences = np.array([a[query] - b[query] for query in a])
    observed = abs(differences.sum()) - 1e-9
    extreme = sum(int((np.abs(sums) >= observed).sum()) for sums in _turned(differences, seed))
    return PairedTest(
        difference=float(differences.mean()),
        p_value=(extreme + 1) / (_RESAMPLES + 1),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        queries=len(differences),
    )


def _turned(differences: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for _ in range(_RESAMPLES // _AT_A_TIME):
        yield (generator.integers(0, 2, (_AT_A_TIME, len(differences))) * 2.0 - 1) @ differences


def empty_share(rows: SparseRows) -> float:
    """Return the share of rows without any weight: a sparse head that has died makes it 1.

    Example:
        >>> empty_share(SparseRows.from_dicts([{}, {5: 0.5}]))
        0.5
    """
    return float((rows.row_lengths == 0).mean()) if len(rows) else 0.0
