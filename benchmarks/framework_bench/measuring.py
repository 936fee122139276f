"""Rounds in which everybody takes turns, and what comes of them."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, get_args

from machine import version
from rich.console import Console

from framework_bench.contenders import GROUPS, TOP_K, Contender, Opening
from framework_bench.encoders import Counting, random_model
from m3connect.encoding import SharedPass
from m3connect.store import Encoder

OURS, BRIDGED = "m3connect", "the same + m3connect"
"""`BRIDGED` is the framework's own store with our embeddings, whose dense and sparse sides share a pass."""

Phase: TypeAlias = Literal["add", "ask"]
PHASES: tuple[Phase, ...] = get_args(Phase)
_T = TypeVar("_T")

console = Console()


@dataclass(frozen=True, slots=True)
class Sample:
    """What one call cost."""

    seconds: float
    encoder_seconds: float
    passes: float
    """How often a text went through the model."""


@dataclass(slots=True)
class Side:
    """A contender by name, and what was measured of it."""

    group: str
    name: str
    open: Callable[[Opening], Contender]
    samples: dict[Phase, list[Sample]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    found: list[set[str]] = field(default_factory=list)
    """The hits of each question."""

    def seconds(self, phase: Phase) -> float:
        """Median time of a call."""
        return statistics.median(sample.seconds for sample in self.samples[phase])

    def passes(self, phase: Phase) -> float:
        """How often a text went through the model, on average."""
        return statistics.mean(sample.passes for sample in self.samples[phase])

    def encoder_share(self, phase: Phase) -> float:
        """Which part of the time is the encoder's."""
        samples = self.samples[phase]
        return sum(sample.encoder_seconds for sample in samples) / sum(sample.seconds for sample in samples)


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, and what is timed with it."""

    name: str
    layers: int
    hidden: int
    rounds: int
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """What one round asks of everybody."""

    documents: list[str]
    questions: list[str]
    encoded: Encoder | None = None
    """Knows the documents already, where adding is not timed."""


@dataclass(frozen=True, slots=True)
class Running:
    """A side in a round."""

    side: Side
    contender: Contender
    encoder: Counting

    def time(self, phase: Phase, texts: int, action: Callable[[], _T]) -> _T:
        """Time a call that is about so many texts."""
        before, encoded, start = self.encoder.seconds, self.encoder.texts, time.perf_counter()
        answer = action()
        seconds = time.perf_counter() - start
        passes = (self.encoder.texts - encoded) / texts
        self.side.samples[phase].append(Sample(seconds, self.encoder.seconds - before, passes))
        return answer


def sides() -> list[Side]:
    """Name everybody who is installed, saying who is not."""
    found = []
    for group in GROUPS:
        if missing := [name for name in group.needs if version(name) is None]:
            console.print(f"[yellow]{group.name} is left out: pip install {' '.join(missing)}[/]")
            continue
        found.append(Side(group.name, OURS, group.ours))
        if version(group.peer) is None:
            console.print(f"[yellow]{group.name}: m3connect is timed alone; to compare: pip install {group.peer}[/]")
            continue
        found.append(Side(group.name, group.peer, partial(group.theirs, bridged=False)))
        found.append(Side(group.name, BRIDGED, partial(group.theirs, bridged=True)))
    return found


def run_round(chosen: Sequence[Side], encoder: Encoder, load: Load, turn: int) -> None:
    """Open everybody anew, so that nobody remembers a text, let them add in turn, then answer question by question."""
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        running = []
        for side in chosen:
            counting = Counting(encoder)
            running.append(Running(side, side.open(Opening(counting, folder, resources)), counting))
            warm_up(running[-1].contender)
        ids = [str(uuid.uuid4()) for _ in load.documents]
        for one in _rotated(running, turn):
            gc.collect()
            fill(one, load, ids)
        for i, question in enumerate(load.questions):
            for one in _rotated(running, turn + i):
                hits = one.time("ask", 1, partial(one.contender.search, question))
                one.side.found.append(set(hits))


def fill(one: Running, load: Load, ids: list[str]) -> None:
    """Add the documents: against the clock, or with embeddings that are there already."""
    add = partial(one.contender.add, load.documents, ids)
    if load.encoded is None:
        one.time("add", len(ids), add)
    else:
        model, one.encoder.encoder = one.encoder.encoder, load.encoded
        add()
        one.encoder.encoder = model
    one.contender.finish()


def warm_up(contender: Contender) -> None:
    """Add and ask once, since some make their collection only then."""
    contender.add(["a first document, before the clock starts"], [str(uuid.uuid4())])
    contender.search("which one was first?")


def _rotated(running: list[Running], turn: int) -> list[Running]:
    first = turn % len(running)
    return running[first:] + running[:first]


def check(chosen: Sequence[Side]) -> None:
    """Compare what was found.

    Raises:
        ValueError: somebody found too little, or our embeddings change what another's store finds.
    """
    for side in chosen:
        if (fewest := min(map(len, side.found))) < TOP_K:
            raise ValueError(f"{side.group}, {side.name} found {fewest} documents, expected {TOP_K}")
    for _, plain, bridged in by_group(chosen, of=3):
        if (same := overlap(plain, bridged)) < 0.99:
            raise ValueError(f"{plain.group}: with our embeddings it finds only {same:.0%} of what it found without")


def by_group(chosen: Sequence[Side], *, of: int) -> list[tuple[Side, ...]]:
    """Return the sides of each group that has so many."""
    groups = [tuple(side for side in chosen if side.group == group.name) for group in GROUPS]
    return [group for group in groups if len(group) == of]


def overlap(one: Side, other: Side) -> float:
    """Which share of the hits of one the other has too."""
    return statistics.mean(len(a & b) / len(a) for a, b in zip(one.found, other.found, strict=True))


def ratio(side: Side, ours: Side, phase: Phase) -> float:
    """How many times ours it took: the median over calls, each beside ours of the same round and question."""
    pairs = zip(side.samples[phase], ours.samples[phase], strict=True)
    return statistics.median(theirs.seconds / own.seconds for theirs, own in pairs)


def measure(workload: Workload, chosen: Sequence[Side], load: Load) -> list[tuple[Side, ...]]:
    """Let everybody take turns, and return them by group, ours first."""
    fresh = [Side(side.group, side.name, side.open) for side in chosen]
    with random_model(workload.layers, workload.hidden) as encoder:
        if "add" not in workload.phases:
            console.print(f"[dim]{workload.name}: encoding the documents[/]")
            known = SharedPass(encoder)
            known.encode(load.documents)
            load = replace(load, encoded=known)
        for turn in range(workload.rounds):
            console.print(f"[dim]{workload.name}: round {turn + 1} of {workload.rounds}[/]")
            run_round(fresh, encoder, load, turn)
    check(fresh)
    return [group for of in (1, 3) for group in by_group(fresh, of=of)]
