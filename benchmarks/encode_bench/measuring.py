"""Choosing each peer's best setting, and letting all take turns."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from encode_bench.checking import LEAST_COSINE, compare, find_disagreement
from encode_bench.contenders import DEFAULT, FLAG, OURS, Contender, Views, name_of_ours
from encode_bench.loading import console, describe, load_all
from encode_bench.peak import matrix_flops
from encode_bench.workloads import Shape, Workload
from m3connect.testing_checkpoints import write_checkpoint

if TYPE_CHECKING:
    from m3connect.encoder.precision import Precision

SLOW = 10
"""A contender whose trial takes so many times m3connect's float32 runs in every second round."""

_REST_SECONDS = 0.1
"""In which threads that others left waiting for work go to sleep."""

_WARM_UP_TEXTS = 8


@dataclass(slots=True)
class Trial:
    """What each contender did with some texts once, before anything is timed for the record."""

    seconds: dict[Contender, float] = field(default_factory=dict)
    agreement: dict[Contender, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Result:
    """What was measured of a workload."""

    workload: Workload
    contenders: dict[str, Contender] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
    """The lowest cosine and the largest differences to m3connect in float32."""

    trial_seconds: dict[str, float] = field(default_factory=dict)
    """Of every setting that was tried; `best` is chosen by them."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Contenders that could not take part, and why."""

    peak_flops: dict[str, list[float]] = field(default_factory=dict)
    """Operations a second in each precision, round by round."""

    elapsed: float = 0.0
    """Seconds that all of it took, the choice of settings included."""

    def median(self, name: str) -> float:
        """Seconds of a contender."""
        return statistics.median(self.seconds[name])

    @property
    def ours(self) -> dict[str, float]:
        """Median seconds of our precisions that ran."""
        names = {precision: name_of_ours(precision) for precision in LEAST_COSINE}
        return {precision: self.median(name) for precision, name in names.items() if name in self.seconds}

    @property
    def best_peer(self) -> str | None:
        """FlagEmbedding's fastest setting by median, its default included."""
        names = [name for name, one in self.contenders.items() if one.package == FLAG]
        return min(names, key=self.median, default=None)

    @property
    def fraction_of_peak(self) -> dict[str, float]:
        """Share of the same precision's matrix-product speed that our linears reach if all our time were theirs."""
        flops = self.workload.tokens * self.workload.shape.linear_flops
        return {
            precision: flops / self.median(name_of_ours(precision)) / statistics.median(peaks)
            for precision, peaks in self.peak_flops.items()
        }

    def times_faster(self, peer: str | None) -> dict[str, float]:
        """How many times as fast as a peer each precision of ours is."""
        return {one: self.median(peer) / seconds for one, seconds in self.ours.items()} if peer in self.seconds else {}


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be measured, and how."""

    tokenizer_folder: Path
    rounds: int
    threads: int
    precisions: Sequence[Precision]
    peers: Sequence[str]


def measure(workloads: Sequence[Workload], plan: Plan) -> Iterator[Result]:
    """Load the contenders once for each shape of model, and measure its workloads one after the other."""
    for shape in dict.fromkeys(workload.shape for workload in workloads):
        with ExitStack() as resources:
            folder = resources.enter_context(tempfile.TemporaryDirectory())
            checkpoint = write_shape(folder, plan.tokenizer_folder, shape)
            precisions = list(dict.fromkeys(["float32", *plan.precisions]))
            contenders, left_out = load_all(
                checkpoint, plan.peers, precisions, threads=plan.threads, resources=resources
            )
            trials: dict[tuple[str, ...], Trial] = {}
            for workload in (one for one in workloads if one.shape == shape):
                start, texts = time.perf_counter(), tuple(workload.trial)
                if texts not in trials:
                    trials[texts] = try_all(contenders, workload)
                result = _measure(workload, plan, trials[texts])
                result.left_out |= left_out
                result.elapsed = time.perf_counter() - start
                yield result


def write_shape(folder: str, tokenizer_folder: Path, shape: Shape) -> Path:
    """Write a checkpoint with random weights."""
    return write_checkpoint(
        folder,
        tokenizer_folder=tokenizer_folder,
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        intermediate=shape.intermediate,
    )


def try_all(contenders: Sequence[Contender], workload: Workload) -> Trial:
    """Let each setting encode the trial's texts once, after a few of them to warm up, and compare the results.

    Args:
        contenders: m3connect in float32 first: the others are compared with it.
        workload: whose trial it is.

    Raises:
        ValueError: m3connect's own precisions differ by more than they may.
    """
    trial, warm = Trial(), set[tuple[str, str]]()
    reference: Views | None = None
    console.print(f"[dim]{workload.name}: trying {len(contenders)} settings[/]")
    for contender in contenders:
        try:
            if contender.family not in warm:
                warm.add(contender.family)
                _timed(contender, workload.trial[:_WARM_UP_TEXTS], 1)
            seconds, views = _timed(contender, workload.trial, workload.calls)
        except Exception as error:  # noqa: BLE001  # it is reported, and the others are measured
            _leave_out(contender, describe(error), trial.left_out, error)
            continue
        reference = reference or views
        agreement = compare(reference, views)
        if problem := find_disagreement(contender, agreement):
            _leave_out(contender, problem, trial.left_out)
            continue
        trial.seconds[contender], trial.agreement[contender] = seconds, agreement
    return trial


def _leave_out(contender: Contender, reason: str, left_out: dict[str, str], error: Exception | None = None) -> None:
    """Note why a peer cannot take part; of m3connect's own contenders it is an error.

    Raises:
        ValueError: the contender is m3connect.
    """
    if contender.package == OURS:
        raise ValueError(f"{contender.name}: {reason}") from error
    console.print(f"[yellow]{contender.name} is left out: {reason}[/]")
    left_out[contender.name] = reason


def choose(trial: Trial, workload: Workload, precisions: Sequence[Precision]) -> list[Contender]:
    """Return our precisions, FlagEmbedding's default, and of each peer in each precision its fastest setting."""
    best: dict[tuple[str, str], Contender] = {}
    chosen = []
    for contender in sorted(trial.seconds, key=trial.seconds.__getitem__):
        if workload.long and not contender.for_long:
            continue
        if contender.package == OURS:
            chosen += [contender] if contender.precision in precisions else []
        elif best.setdefault(contender.family, contender) is contender or _is_default(contender):
            chosen.append(contender)
    return chosen


def _is_default(contender: Contender) -> bool:
    return contender.package == FLAG and contender.setting == DEFAULT


def _measure(workload: Workload, plan: Plan, trial: Trial) -> Result:
    reference = next(iter(trial.seconds))
    limit = SLOW * trial.seconds[reference]
    chosen = choose(trial, workload, plan.precisions)
    result = Result(workload, {one.name: one for one in chosen}, left_out=dict(trial.left_out))
    result.trial_seconds = {one.name: seconds for one, seconds in trial.seconds.items()}
    result.agreement = {one.name: trial.agreement[one] for one in chosen}
    unchecked = None if workload.texts == workload.trial else reference.encode(workload.texts)
    rounds, turns = min(plan.rounds, workload.most_rounds or plan.rounds), random.Random(0)
    for number in range(rounds):
        console.print(f"[dim]{workload.name}: round {number + 1} of {rounds}[/]")
        for contender in turns.sample(chosen, len(chosen)):
            if contender.name in result.left_out or (number % 2 and trial.seconds[contender] > limit):
                continue
            _take_turn(contender, result, unchecked if number == 0 else None)
        for precision in plan.precisions if workload.peak else ():
            result.peak_flops.setdefault(precision, []).append(matrix_flops(workload.shape, precision))
    result.contenders = {name: one for name, one in result.contenders.items() if name in result.seconds}
    result.agreement = {name: result.agreement[name] for name in result.contenders}
    return result


def _take_turn(contender: Contender, result: Result, reference: Views | None) -> None:
    """Time a contender once; where the texts are not those of the trial, compare its first result too."""
    workload = result.workload
    try:
        seconds, views = _timed(contender, workload.texts, workload.calls)
    except Exception as error:  # noqa: BLE001  # as above
        _leave_out(contender, describe(error), result.left_out, error)
        result.seconds.pop(contender.name, None)
        return
    if reference is not None:
        agreement = compare(reference, views)
        if problem := find_disagreement(contender, agreement):
            _leave_out(contender, problem, result.left_out)
            return
        result.agreement[contender.name] = agreement
    result.seconds.setdefault(contender.name, []).append(seconds)


def _timed(contender: Contender, texts: Sequence[str], calls: int) -> tuple[float, Views]:
    """Return the seconds of a call, and what the last one returned; of short calls, one before is not counted."""
    time.sleep(_REST_SECONDS)
    with contender.turn():
        if calls > 1:
            contender.encode(texts)
        start = time.perf_counter()
        for _ in range(calls):
            views = contender.encode(texts)
        return (time.perf_counter() - start) / calls, views
