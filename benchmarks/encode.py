"""Encoding speed on a processor, from text to dense vectors and sparse weights: FlagEmbedding against m3connect.

m3connect runs in each of its precisions, FlagEmbedding in float32, the only one it has on a processor. All get the same
checkpoint, texts and threads in one process, and take turns in every round. See benchmarks/README.md.

    python benchmarks/encode.py --json encode.json
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
import typer
from machine import processor, version, write_report
from rich.console import Console
from rich.table import Table

import m3connect
from m3connect.embeddings import FloatArray
from m3connect.testing_checkpoints import write_checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from m3connect.encoder.precision import Precision

MINI = Path(m3connect.__file__).parent / "assets" / "m3-mini"
BATCH_SIZES = (1, 2, 4, 8, 12, 16, 32)
"""What FlagEmbedding is tried with besides its default of 256."""

DEFAULT = "FlagEmbedding, default"
OURS = {name: f"m3connect, {name}" for name in ("float32", "bfloat16", "int8")}
"""What m3connect is called in each precision."""

LEAST_COSINE = {"float32": 0.999999, "bfloat16": 0.999, "int8": 0.995}
"""Of dense vectors to those of the first precision that runs."""

MAX_LENGTH = 512
QUERY = "how do rivers change their course when the snow melts"
PEAK_TOKENS = 2048

Views: TypeAlias = tuple[FloatArray, list[dict[int, float]]]
Contender: TypeAlias = Callable[[Sequence[str]], Any]

console = Console()


class PrecisionName(StrEnum):
    """What m3connect computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a model."""

    layers: int
    hidden: int
    heads: int
    intermediate: int

    @property
    def linear_flops(self) -> int:
        """Floating-point operations of the layers' linears for one token; attention and heads are not counted."""
        return 2 * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts for one model."""

    name: str
    shape: Shape
    texts: list[str]
    tokens: int
    calls: int = 1
    """How often each contender encodes the texts in a round; times are divided by it."""

    tune: bool = True
    """Whether FlagEmbedding's batch size can matter."""

    peak: bool = False
    """Whether to measure the machine's matrix product too, at this model's sizes."""


@dataclass(slots=True)
class Result:
    """What was measured of a workload."""

    workload: Workload
    seconds: dict[str, list[float]]
    agreement: dict[str, float] = field(default_factory=dict)
    peak_flops: dict[str, list[float]] = field(default_factory=dict)
    """Operations a second in each precision, round by round."""

    cosines: dict[str, float] = field(default_factory=dict)
    """The lowest cosine of a text's dense vector to that of m3connect in float32, for each precision."""

    def median(self, name: str) -> float:
        """Seconds of a contender."""
        return statistics.median(self.seconds[name])

    @property
    def ours(self) -> list[str]:
        """The precisions that ran."""
        return [precision for precision, name in OURS.items() if name in self.seconds]

    @property
    def best_peer(self) -> str | None:
        """FlagEmbedding's fastest setting by median, its default included."""
        return min((name for name in self.seconds if name not in OURS.values()), key=self.median, default=None)

    @property
    def fraction_of_peak(self) -> dict[str, float]:
        """Share of the same precision's matrix-product speed that our linears reach if all our time were theirs."""
        flops = self.workload.tokens * self.workload.shape.linear_flops
        return {
            precision: flops / self.median(OURS[precision]) / statistics.median(peaks)
            for precision, peaks in self.peak_flops.items()
        }

    def times_faster(self, peer: str | None) -> dict[str, float]:
        """How many times as fast as a peer each precision of ours is."""
        if peer not in self.seconds:
            return {}
        return {precision: self.median(peer) / self.median(OURS[precision]) for precision in self.ours}


def token_counts(n: int, *, seed: int = 0) -> list[int]:
    """Draw n text lengths in tokens: log-normal, median 90, sigma 0.8, clipped to 8..512."""
    drawn = np.random.default_rng(seed).lognormal(math.log(90), 0.8, n)
    return [int(count) for count in np.clip(np.rint(drawn), 8, 512)]


def make_texts(tokenizer_folder: Path, counts: Sequence[int], *, seed: int = 0) -> list[str]:
    """Write texts of exactly these token counts, from words that are one token each, the frequent ones more often.

    Raises:
        ValueError: the tokenizer cuts a text otherwise.
    """
    tokenizer = _tokenizer(tokenizer_folder)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [piece[1:] for piece, _ in by_id if piece[0] == "▁" and len(piece) > 2 and piece[1:].isalpha()]
    encoded = tokenizer.encode_batch(words, add_special_tokens=False)
    words = [word for word, encoding in zip(words, encoded, strict=True) if len(encoding.ids) == 1]
    chances = 1 / np.arange(10, len(words) + 10)
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(words, count - 2, p=chances / chances.sum())) for count in counts]
    found = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    if found != list(counts):
        raise ValueError("the tokenizer joins words into one token: give another --tokenizer")
    return texts


def _tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def workloads(tokenizer_folder: Path, *, quick: bool) -> list[Workload]:
    """The three workloads; `quick` makes them so small that their figures mean nothing."""
    small, wide = (
        (Shape(2, 64, 4, 128), Shape(1, 128, 4, 512)) if quick else (Shape(6, 384, 12, 1536), Shape(4, 1024, 16, 4096))
    )
    many, few = token_counts(16 if quick else 256), token_counts(4 if quick else 32, seed=1)
    query_tokens = len(_tokenizer(tokenizer_folder).encode(QUERY).ids)
    return [
        Workload(_name("mixed lengths", small), small, make_texts(tokenizer_folder, many), sum(many)),
        Workload(_name("BGE-M3's width", wide), wide, make_texts(tokenizer_folder, few), sum(few), peak=True),
        Workload(_name("one short query", small), small, [QUERY], query_tokens, calls=20, tune=False),
    ]


def _name(what: str, shape: Shape) -> str:
    return f"{what}, {shape.layers} x {shape.hidden}"


def load_ours(checkpoint: Path, precision: Precision) -> Contender:
    """m3connect from texts to dense rows and, for fairness, to dicts, which FlagEmbedding makes too."""
    encoder = m3connect.M3Encoder.from_pretrained(checkpoint, precision=precision)

    def encode(texts: Sequence[str]) -> Views:
        batch = encoder.encode(texts, max_length=MAX_LENGTH)
        return batch.dense, batch.sparse.to_dicts()

    return encode


def load_peer(checkpoint: Path, batch_sizes: Sequence[int]) -> dict[str, Contender]:
    """FlagEmbedding at its default and at other batch sizes, or nothing where it is not installed."""
    try:
        from FlagEmbedding import BGEM3FlagModel
    except ImportError:
        return {}
    # by default it rounds the weights to float16 and still computes in float32 on a processor
    with contextlib.redirect_stderr(io.StringIO()):
        model = BGEM3FlagModel(str(checkpoint), use_fp16=False, devices=["cpu"])

    def contender(options: dict[str, int]) -> Contender:
        def encode(texts: Sequence[str]) -> Any:  # noqa: ANN401
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
                return model.encode(list(texts), return_dense=True, return_sparse=True, **options)

        return encode

    tuned = {f"FlagEmbedding, batch_size={size}": contender({"batch_size": size}) for size in batch_sizes}
    return {DEFAULT: contender({}), **tuned}


def check_agreement(ours: Views, peer: dict[str, Any]) -> dict[str, float]:
    """Return the largest differences; of sparse weights relative to max(1, weight).

    Raises:
        ValueError: they are above 1e-5, so the two do not compute the same.
    """
    dense = float(np.abs(ours[0] - peer["dense_vecs"]).max())
    sparse = 0.0
    for mine, lexical in zip(ours[1], peer["lexical_weights"], strict=True):
        theirs = {int(token): float(weight) for token, weight in lexical.items()}
        for token in mine.keys() | theirs.keys():
            expected = theirs.get(token, 0.0)
            sparse = max(sparse, abs(mine.get(token, 0.0) - expected) / max(1.0, expected))
    if not max(dense, sparse) <= 1e-5:
        raise ValueError(f"the encoders differ by {dense:.1e} (dense) and {sparse:.1e} (sparse), expected at most 1e-5")
    return {"dense_max_abs_difference": dense, "sparse_max_difference": sparse}


def check_cosines(views: Mapping[Precision, Views]) -> dict[str, float]:
    """Return the lowest cosine of each precision's dense vectors to those of the first.

    Raises:
        ValueError: it is lower than the precision allows.
    """
    first = next(iter(views.values()))[0]
    cosines: dict[str, float] = {
        precision: float((first * dense).sum(1).min()) for precision, (dense, _) in views.items()
    }
    for precision, cosine in cosines.items():
        if cosine < LEAST_COSINE[precision]:
            raise ValueError(f"{precision}: a cosine is {cosine:.5f}, expected at least {LEAST_COSINE[precision]}")
    return cosines


def matrix_flops(shape: Shape, precision: Precision, *, repeats: int = 3) -> float:
    """Operations a second of a layer's four linears over 2,048 tokens, the best of several runs.

    Both libraries take part: PyTorch's own choice, and what our encoder uses (oneDNN); of int8 the bare product of
    integers, without bringing anything to 8 bits or back.
    """
    import torch

    d, inner = shape.hidden, shape.intermediate
    sizes = [(d, 3 * d), (d, d), (d, inner), (inner, d)]
    best = math.inf
    with torch.inference_mode():
        for products in zip(*(_products(*size, precision) for size in sizes), strict=True):
            for _ in range(repeats):
                start = time.perf_counter()
                for product in products:
                    product()
                best = min(best, time.perf_counter() - start)
    return 2 * PEAK_TOKENS * sum(width * height for width, height in sizes) / best


def _products(inputs: int, outputs: int, precision: Precision) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the same matrix product by PyTorch's choice and by what our encoder uses."""
    import torch

    from m3connect.encoder.linear import Int8Linear
    from m3connect.encoder.precision import convert_linear

    linear = torch.nn.Linear(inputs, outputs)
    if precision == "int8":
        rows, weight = (torch.randint(-127, 128, (n, inputs), dtype=torch.int8) for n in (PEAK_TOKENS, outputs))
        int8 = Int8Linear(linear)
        return lambda: torch._int_mm(rows, weight.t()), lambda: int8.multiply(rows)
    dtype = getattr(torch, precision)
    plain, hidden = torch.nn.Linear(inputs, outputs, dtype=dtype), torch.rand(PEAK_TOKENS, inputs, dtype=dtype)
    ours = convert_linear(linear, precision)
    return lambda: plain(hidden), lambda: ours(hidden)


def measure(workload: Workload, tokenizer_folder: Path, rounds: int, precisions: Sequence[Precision]) -> Result:
    """Check that all agree, then let them take turns."""
    texts = workload.texts
    with tempfile.TemporaryDirectory() as folder:
        shape = workload.shape
        checkpoint = write_checkpoint(
            folder,
            tokenizer_folder=tokenizer_folder,
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            intermediate=shape.intermediate,
        )
        peers = load_peer(checkpoint, BATCH_SIZES if workload.tune else ())
        ours = {precision: load_ours(checkpoint, precision) for precision in precisions}
        contenders = peers | {OURS[precision]: contender for precision, contender in ours.items()}
        result = Result(workload, {name: [] for name in contenders})
        views = {precision: contender(texts) for precision, contender in ours.items()}
        result.cosines = check_cosines(views)
        if peers and "float32" in views:
            result.agreement = check_agreement(views["float32"], peers[DEFAULT](texts))
        for number in range(rounds):
            console.print(f"[dim]{workload.name}: round {number + 1} of {rounds}[/]")
            for name, contender in contenders.items():
                result.seconds[name].append(_timed(contender, workload))
            for precision in precisions if workload.peak else ():
                result.peak_flops.setdefault(precision, []).append(matrix_flops(shape, precision))
    return result


def _timed(contender: Contender, workload: Workload) -> float:
    start = time.perf_counter()
    for _ in range(workload.calls):
        contender(workload.texts)
    return (time.perf_counter() - start) / workload.calls


def show(result: Result) -> None:
    """Print a workload's table, and the share of the machine's peak where that was measured."""
    workload, best = result.workload, result.best_peer
    peers = (DEFAULT, best)
    table = Table(title=f"{workload.name}: {len(workload.texts)} texts, {workload.tokens:,} tokens", min_width=78)
    table.add_column("text to dense + sparse")
    for column in ("tokens/s", "ms, median", "min .. max", "x default", "x best"):
        table.add_column(column, justify="right")
    shown = [name for name in result.seconds if name in (DEFAULT, best, *OURS.values())]
    for name in shown:
        seconds = result.seconds[name]
        table.add_row(
            f"{name} (best)" if workload.tune and name == best else name,
            f"{workload.tokens / result.median(name):,.0f}",
            f"{1000 * result.median(name):,.1f}",
            f"{1000 * min(seconds):,.1f} .. {1000 * max(seconds):,.1f}",
            *(f"{result.median(peer) / result.median(name):.2f}" if peer in result.seconds else "-" for peer in peers),
        )
    console.print(table)
    if result.agreement:
        console.print("  agreement: " + ", ".join(f"{name} {value:.0e}" for name, value in result.agreement.items()))
    low = ", ".join(f"{name} {cosine:.5f}" for name, cosine in result.cosines.items())
    console.print(f"  lowest cosine of a dense vector to the first precision's: {low}")
    for precision, fraction in result.fraction_of_peak.items():
        peak = statistics.median(result.peak_flops[precision]) / 1e9
        console.print(
            f"  m3connect's linears alone: {fraction:.0%} of this machine's {precision} matrix product "
            f"({peak:,.0f} GFLOP/s in the same rounds)"
        )


def report(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, for --json."""
    return {
        **about,
        "workloads": [
            {
                "name": result.workload.name,
                "texts": len(result.workload.texts),
                "tokens": result.workload.tokens,
                "seconds": result.seconds,
                "tokens_per_second": {name: result.workload.tokens / result.median(name) for name in result.seconds},
                "times_faster_than_default": result.times_faster(DEFAULT),
                "times_faster_than_best": result.times_faster(result.best_peer),
                "best_peer": result.best_peer,
                "agreement": result.agreement,
                "cosines": result.cosines,
                "gemm_flops": result.peak_flops,
                "fraction_of_gemm": result.fraction_of_peak,
            }
            for result in results
        ],
    }


def about_machine(threads: int, rounds: int) -> dict[str, Any]:
    """Versions, processor and settings."""
    libraries = ("m3connect", "FlagEmbedding", "torch", "transformers", "tokenizers", "numpy")
    return {
        "processor": processor(),
        "threads": threads,
        "rounds": rounds,
        "load_average_before": os.getloadavg()[0],
        "versions": {name: version(name) for name in libraries},
    }


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender runs; the median counts.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and of the tokenizers.")] = 2,
    only: Annotated[str, typer.Option(help="Run only workloads whose name holds this, e.g. 'mixed'.")] = "",
    precision: Annotated[
        list[PrecisionName] | None, typer.Option(help="One of m3connect's; may be repeated. All if not given.")
    ] = None,
    tokenizer: Annotated[Path, typer.Option(help="A folder with tokenizer.json.")] = MINI,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny models: shows that it runs, says nothing else.")] = False,
) -> None:
    """Measure encoding: FlagEmbedding against m3connect, same checkpoint, same texts, taking turns in one process."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    about = about_machine(threads, rounds)
    if about["versions"]["FlagEmbedding"] is None:
        console.print(
            '[yellow]FlagEmbedding is not installed (pip install "m3connect\\[bench]"): m3connect is timed alone.[/]'
        )
    chosen = [workload for workload in workloads(tokenizer, quick=quick) if only in workload.name]
    precisions: list[Precision] = [name.value for name in PrecisionName if name in (precision or PrecisionName)]
    results = []
    for workload in chosen:
        results.append(measure(workload, tokenizer, rounds, precisions))
        show(results[-1])
    console.print(_footer(about))
    if json_path is not None:
        write_report(json_path, report(results, about))


def _footer(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
    settings = (
        f"{about['threads']} threads, {about['rounds']} rounds, load average {about['load_average_before']:.1f} before"
    )
    return f"x: FlagEmbedding's median time over the contender's\n{about['processor']}, {settings}; {versions}"


if __name__ == "__main__":
    typer.run(main)
