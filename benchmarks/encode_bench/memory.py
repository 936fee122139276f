"""Peak memory of m3connect in each precision, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from encode_bench.loading import console
from encode_bench.measuring import write_shape
from encode_bench.workloads import TINY, WHOLE, Shape, make_texts, token_counts

if TYPE_CHECKING:
    from m3connect.encoder.precision import Precision

SPARE_MB = 300
"""What may come on top of the weights; the encoder has packs of 2,048 tokens in all under way on two threads."""

POSITIONS = 8194
_STATUS = Path("/proc/self/status")
_INTERVAL = 0.002
_MB = 2**20

Answers: TypeAlias = "multiprocessing.Queue[dict[str, float]]"


@dataclass(frozen=True, slots=True)
class Memory:
    """How much a process grew while it loaded a model and encoded with it; all in MB."""

    precision: str
    model: str
    tokens: int
    peak_mb: float
    """Most memory of its own less that after the imports; pages of mapped files are not counted."""

    peak_loading_mb: float
    """The same until the model was loaded."""

    loaded_mb: float
    """What it held once the model was loaded."""

    peak_with_files_mb: float
    """The same with the pages of mapped files, which the system takes back when it needs them."""

    weights_mb: float
    """What the weights need in this precision."""

    allowance_mb: float
    within: bool
    """Whether the peak is at most the allowance: weights and 300 MB."""


def measure_memory(
    tokenizer_folder: Path, precisions: Sequence[Precision], threads: int, *, quick: bool
) -> Iterator[dict[str, Any]]:
    """Load and encode in each precision in a new process; nothing where the system does not tell (not Linux)."""
    if not precisions:
        return
    if not _STATUS.exists():
        console.print("[yellow]memory is left out: there is no /proc/self/status here.[/]")
        return
    shape = TINY if quick else WHOLE
    counts = token_counts(8 if quick else 64)
    texts = make_texts(tokenizer_folder, counts)
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"[dim]memory: writing a model of {shape.layers} x {shape.hidden}[/]")
        checkpoint = write_shape(folder, tokenizer_folder, shape)
        vocabulary = _vocabulary(tokenizer_folder)
        for precision in precisions:
            console.print(f"[dim]memory: {precision}[/]")
            found = _in_new_process(checkpoint, precision, texts, threads)
            weights = weight_bytes(shape, precision, vocabulary) / _MB
            yield asdict(
                Memory(
                    precision,
                    f"{shape.layers} x {shape.hidden}",
                    sum(counts),
                    **found,
                    weights_mb=weights,
                    allowance_mb=weights + SPARE_MB,
                    within=found["peak_mb"] <= weights + SPARE_MB,
                )
            )


def weight_bytes(shape: Shape, precision: Precision, vocabulary: int) -> int:
    """Count the bytes that a model's weights need in a precision; norms, biases and both heads are float32 in all."""
    d, inner, layers = shape.hidden, shape.intermediate, shape.layers
    linears = layers * (4 * d * d + 2 * d * inner)
    tables = (vocabulary + POSITIONS + 1) * d
    others = layers * (9 * d + inner) + 2 * d + (d * d + d) + (d + 1)
    return linears * {"float32": 4, "bfloat16": 2, "int8": 1}[precision] + tables * _table_bytes(precision) + 4 * others


def _table_bytes(precision: Precision) -> int:
    return 4 if precision == "float32" else 2


def _vocabulary(tokenizer_folder: Path) -> int:
    from tokenizers import Tokenizer

    size: int = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json")).get_vocab_size()
    return size


def _in_new_process(checkpoint: Path, precision: Precision, texts: list[str], threads: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    answers: Answers = context.Queue()
    process = context.Process(target=_grow, args=(checkpoint, precision, texts, threads, answers))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"measuring the memory of {precision} ended with exit code {process.exitcode}")
    return answers.get(timeout=1)


def _grow(checkpoint: Path, precision: Precision, texts: list[str], threads: int, answers: Answers) -> None:
    import torch

    import m3connect.encoder

    torch.set_num_threads(threads)
    before = _status()
    with _Watch() as watch:
        encoder = m3connect.M3Encoder.from_pretrained(checkpoint, precision=precision)
        loading, loaded = watch.peak, _own(_status())
        encoder.encode(texts)
    answers.put(
        {
            "peak_mb": watch.peak - _own(before),
            "peak_loading_mb": loading - _own(before),
            "loaded_mb": loaded - _own(before),
            "peak_with_files_mb": _status()["VmHWM"] - before["VmRSS"],
        }
    )


class _Watch:
    """The most memory of its own that the process has while this is open, looked up every 2 ms."""

    def __init__(self) -> None:
        self.peak = _own(_status())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.peak = max(self.peak, _own(_status()))


def _own(status: dict[str, float]) -> float:
    return status["RssAnon"] + status["RssShmem"]


def _status() -> dict[str, float]:
    """Read the process's memory in MB."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) / 1024 for parts in lines if parts[-1] == "kB"}
