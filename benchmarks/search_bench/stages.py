"""Where the time of one search goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

Stage: TypeAlias = Literal["encode", "search", "fetch", "encode candidates", "rerank"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""The question's text to its vectors; the store's search; reading what is kept of the candidates, or encoding their
texts; all the rest, which is scoring."""

Seconds: TypeAlias = dict[str, float]
"""By stage, and of the whole under "total"."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The best documents for a question, and what finding them took."""

    found: list[tuple[str, float]]
    """Ids and scores, best first."""

    seconds: Seconds


class Stopwatch:
    """Adds up seconds by stage."""

    def __init__(self) -> None:
        self._seconds: Seconds = {}
        self._start = 0.0

    def start(self) -> None:
        """Begin a search."""
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Count what runs inside for a stage; the candidates' encoding comes after the question's."""
        if stage == "encode" and self._seconds["encode"]:
            stage = "encode candidates"
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - begin

    def stop(self) -> Seconds:
        """Return the seconds of each stage; what belongs to none is reranking."""
        total = time.perf_counter() - self._start
        rest = total - sum(self._seconds.values())
        return {**self._seconds, "rerank": self._seconds["rerank"] + rest, "total": total}


class Watched:
    """Stands for an object, and counts some of its methods' calls as stages."""

    def __init__(self, target: object, watch: Stopwatch, stages: Mapping[str, Stage]) -> None:
        self._target, self._watch, self._stages = target, watch, stages

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # by name
        found = getattr(self._target, name)
        stage = self._stages.get(name)
        return found if stage is None else self._timed(found, stage)

    def _timed(self, method: Callable[..., Any], stage: Stage) -> Callable[..., Any]:
        def call(*args: object, **options: object) -> object:
            with self._watch.stage(stage):
                return method(*args, **options)

        return call
