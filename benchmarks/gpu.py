"""Encoding speed on a GPU at BGE-M3's size, in bfloat16: m3connect, FlagEmbedding where installed, and the GPU's limit.

Both get the same checkpoint of random weights and the same texts, and take turns. See benchmarks/README.md.

    python benchmarks/gpu.py --json gpu.json
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from encode_bench.contenders import FLAG
from encode_bench.loading import describe
from encode_bench.reporting import about_machine
from encode_bench.workloads import MINI, QUERY, WHOLE, Shape, make_texts
from machine import write_report
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import m3connect
from m3connect.embeddings import FloatArray
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.testing_checkpoints import write_checkpoint

QUICK = Shape(layers=2, hidden=128, heads=2, intermediate=256)
OURS = "m3connect"
WITH_GRAPHS = "m3connect, CUDA graphs"
WITH_TOKENS = "m3connect, all views"
TOKENISING = "tokenising alone"
LENGTHS = (128, 512, 8192)
MAX_LENGTH = 8192
PEAK_TOKENS = 16384
LEAST_COSINE = 0.999

Contender = Callable[[Sequence[str]], Any]

console = Console()


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts of one length."""

    name: str
    length: int
    texts: list[str]
    calls: int = 1
    """How often each contender encodes the texts in a round; times are divided by it."""

    @property
    def tokens(self) -> int:
        """How many tokens the texts have."""
        return self.length * len(self.texts)


@dataclass(slots=True)
class Result:
    """What was measured of a workload."""

    workload: Workload
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_flops: list[float] = field(default_factory=list)
    """Operations a second of bare matrix products, round by round."""

    memory: dict[str, int] = field(default_factory=dict)
    """Bytes that PyTorch had taken on the GPU at most, what other contenders hold not counted."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Peers that failed, and why."""

    def tokens_per_second(self, name: str) -> float:
        """By a contender's median time."""
        return self.workload.tokens / statistics.median(self.seconds[name])

    def fraction_of_peak(self, name: str, shape: Shape) -> float:
        """Share of the speed of bare matrix products, if all the time were that of the model's products."""
        flops = self.tokens_per_second(name) * flops_per_token(shape, self.workload.length)
        return flops / statistics.median(self.peak_flops)


def flops_per_token(shape: Shape, length: int) -> int:
    """Floating-point operations of the layers' products for one token of a text: linears, and the two of attention."""
    return shape.linear_flops + 4 * shape.layers * shape.hidden * length


def workloads(tokenizer: Path, lengths: Sequence[int], total: int) -> list[Workload]:
    """Texts of each length with about `total` tokens, and one question."""
    made = [
        Workload(f"{length:,} tokens", length, make_texts(tokenizer, [length] * max(1, total // length)))
        for length in lengths
    ]
    words = len(M3Tokenizer(tokenizer).tokenize([QUERY], MAX_LENGTH).token_ids[0])
    return [*made, Workload("one question", words, [QUERY], calls=20)]


def load_contenders(checkpoint: Path) -> tuple[dict[str, Contender], dict[str, str]]:
    """Load ours and FlagEmbedding, and let each encode a question, so that its weights are on the GPU.

    Returns:
        The contenders, and why a peer is not among them.
    """
    encoder = m3connect.M3Encoder.from_pretrained(checkpoint, device="cuda")
    by_graphs = m3connect.M3Encoder.from_pretrained(checkpoint, device="cuda", cuda_graphs=True)
    tokenizer = M3Tokenizer(checkpoint)
    contenders: dict[str, Contender] = {
        OURS: encoder.encode,
        WITH_GRAPHS: by_graphs.encode,
        WITH_TOKENS: lambda texts: encoder.encode(texts, multi_vector=True),
        TOKENISING: lambda texts: tokenizer.tokenize(texts, MAX_LENGTH),
    }
    left_out: dict[str, str] = {}
    try:
        contenders = {FLAG: load_flag_embedding(checkpoint), **contenders}
    except Exception as error:  # noqa: BLE001  # it is reported, and m3connect is timed alone
        leave_out(FLAG, error, left_out)
    for name, contender in contenders.items():
        attempt(contender, [QUERY], name=name, left_out=left_out)
    return {name: one for name, one in contenders.items() if name not in left_out}, left_out


def load_flag_embedding(checkpoint: Path) -> Contender:
    """Load FlagEmbedding in bfloat16 with its default batch size.

    Raises:
        ImportError: it is not installed.
    """
    from FlagEmbedding import BGEM3FlagModel

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        model = BGEM3FlagModel(str(checkpoint), use_fp16=False, use_bf16=True, devices=["cuda:0"])

    def encode(texts: Sequence[str]) -> object:
        with contextlib.redirect_stderr(io.StringIO()):
            return model.encode(list(texts), return_dense=True, return_sparse=True, max_length=MAX_LENGTH)

    return encode


def attempt(
    contender: Contender, texts: Sequence[str], *, name: str, left_out: dict[str, str], calls: int = 1
) -> float | None:
    """Return the seconds of a call; None where a peer failed, for instance for lack of memory, and is left out.

    Raises:
        Exception: what m3connect failed with.
    """
    start = time.perf_counter()
    try:
        for _ in range(calls):
            contender(texts)
    except Exception as error:
        if name != FLAG:
            raise
        leave_out(name, error, left_out)
        return None
    return (time.perf_counter() - start) / calls


def leave_out(name: str, error: Exception, left_out: dict[str, str]) -> None:
    """Note why a peer does not take part."""
    left_out[name] = describe(error)
    console.print(f"[yellow]{name} is left out: {escape(left_out[name])}[/]")


def check_cosine(checkpoint: Path, encode: Contender, texts: Sequence[str]) -> float:
    """Return the lowest cosine of a dense vector to that of float32 on the processor.

    Raises:
        ValueError: it is too low.
    """
    exact: FloatArray = m3connect.M3Encoder.from_pretrained(checkpoint).encode(texts).dense
    lowest = float((exact * encode(texts).dense).sum(axis=1).min())
    if not lowest >= LEAST_COSINE:
        raise ValueError(f"a dense vector's cosine to float32 is {lowest:.5f}, expected at least {LEAST_COSINE}")
    return lowest


def matrix_flops(shape: Shape, *, repeats: int = 10) -> float:
    """Operations a second of a layer's four linears over 16,384 tokens in bfloat16, after one run to warm up."""
    d, inner = shape.hidden, shape.intermediate
    sizes = [(d, 3 * d), (d, d), (d, inner), (inner, d)]
    with torch.inference_mode():
        pairs = [
            (
                torch.randn(PEAK_TOKENS, width, device="cuda", dtype=torch.bfloat16),
                torch.randn(height, width, device="cuda", dtype=torch.bfloat16),
            )
            for width, height in sizes
        ]
        for number in range(repeats + 1):
            if number == 1:
                torch.cuda.synchronize()
                start = time.perf_counter()
            for rows, weight in pairs:
                torch.nn.functional.linear(rows, weight)
        torch.cuda.synchronize()
    return repeats * 2 * PEAK_TOKENS * sum(width * height for width, height in sizes) / (time.perf_counter() - start)


def measure(workload: Workload, contenders: dict[str, Contender], shape: Shape, rounds: int) -> Result:
    """Let the contenders take turns, once before the clock starts; their memory is looked at then.

    A peer that fails is left out of this workload.
    """
    result = Result(workload)
    for name, contender in contenders.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        if attempt(contender, workload.texts, name=name, left_out=result.left_out) is not None:
            result.memory[name] = torch.cuda.max_memory_allocated() - before
    for number in range(rounds):
        console.print(f"[dim]{workload.name}: round {number + 1} of {rounds}[/]")
        for name in [name for name in contenders if name not in result.left_out]:
            seconds = attempt(
                contenders[name], workload.texts, name=name, left_out=result.left_out, calls=workload.calls
            )
            if seconds is None:
                result.seconds.pop(name, None)
            else:
                result.seconds.setdefault(name, []).append(seconds)
        result.peak_flops.append(matrix_flops(shape))
    return result


def show(result: Result, shape: Shape) -> None:
    """Print a workload's table."""
    workload = result.workload
    table = Table(title=f"{workload.name}: {len(workload.texts):,} texts, {workload.tokens:,} tokens", min_width=78)
    table.add_column("text to dense + sparse", no_wrap=True)
    for column in ("tokens/s", "ms, median", "of products", "MB used"):
        table.add_column(column, justify="right")
    for name, seconds in result.seconds.items():
        share = "" if name == TOKENISING else f"{result.fraction_of_peak(name, shape):.0%}"
        table.add_row(
            name,
            f"{result.tokens_per_second(name):,.0f}",
            f"{1000 * statistics.median(seconds):,.2f}",
            share,
            f"{result.memory[name] / 1e6:,.0f}",
        )
    console.print(table)


def report(results: Sequence[Result], shape: Shape, about: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, for --json."""
    return {
        **about,
        "workloads": [
            {
                "name": result.workload.name,
                "texts": len(result.workload.texts),
                "tokens": result.workload.tokens,
                "seconds": result.seconds,
                "tokens_per_second": {name: result.tokens_per_second(name) for name in result.seconds},
                "matmul_flops": result.peak_flops,
                "fraction_of_matmul": {
                    name: result.fraction_of_peak(name, shape) for name in result.seconds if name != TOKENISING
                },
                "bytes_beside_weights": result.memory,
                "left_out": result.left_out,
            }
            for result in results
        ],
    }


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender runs; the median counts.")] = 5,
    total: Annotated[int, typer.Option(min=1, help="About how many tokens the texts of a length have.")] = 524_288,
    tokenizer: Annotated[Path, typer.Option(help="A folder with tokenizer.json.")] = MINI,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny model: shows that it runs, says nothing else.")
    ] = False,
) -> None:
    """Measure encoding on the first GPU, in one process, contenders taking turns."""
    if not torch.cuda.is_available():
        reason = f"skipped: torch {torch.__version__} finds no GPU here, and this benchmark needs one of CUDA"
        console.print(reason, soft_wrap=True, highlight=False)
        if json_path is not None:
            write_report(json_path, {"skipped": reason})
        return
    shape = QUICK if quick else WHOLE
    about = about_machine(torch.get_num_threads(), rounds) | {"gpu": torch.cuda.get_device_name()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(
            folder,
            tokenizer_folder=tokenizer,
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            intermediate=shape.intermediate,
        )
        before = torch.cuda.memory_allocated()
        contenders, about["left_out"] = load_contenders(checkpoint)
        about["bytes_of_all_weights"] = torch.cuda.memory_allocated() - before
        about["lowest_cosine_to_float32"] = check_cosine(checkpoint, contenders[OURS], make_texts(tokenizer, [20, 200]))
        results = []
        for workload in workloads(tokenizer, LENGTHS, min(total, 16_384) if quick else total):
            some = {name: one for name, one in contenders.items() if name != WITH_GRAPHS or workload.calls > 1}
            results.append(measure(workload, some, shape, rounds))
            show(results[-1], shape)
    peak = statistics.median(np.concatenate([result.peak_flops for result in results]).tolist()) / 1e12
    console.print(
        f"{about['gpu']}, torch {torch.__version__}: bare products {peak:,.0f} TFLOP/s in the same rounds; weights of "
        f"all {about['bytes_of_all_weights'] / 1e9:.2f} GB; lowest cosine to float32 "
        f"{about['lowest_cosine_to_float32']:.5f}"
    )
    if json_path is not None:
        write_report(json_path, report(results, shape, about))


if __name__ == "__main__":
    typer.run(main)
