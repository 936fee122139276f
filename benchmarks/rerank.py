"""MaxSim between a query's and the candidates' token vectors, and what each encoding of them costs and keeps.

m3connect and its peers score the same random vectors, taking turns in every round. See benchmarks/README.md.

    python benchmarks/rerank.py --json rerank.json
"""

from __future__ import annotations

import importlib
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import typer
from machine import processor, version, write_report
from rich.console import Console
from rich.table import Table

from m3connect import Document, M3Embeddings, M3Encoder, SparseRows, scoring
from m3connect.demo import load_corpus
from m3connect.embeddings import FloatArray
from m3connect.token_rows import ENCODINGS, TokenRows, encode_rows, pool_rows, row_bytes

DIM, QUERY_TOKENS, TOP_K = 1024, 32, 10
SIZES = (100, 300, 1000)
REST = 0.1
"""Seconds before each turn: numpy's idle threads keep a core busy for some 25 ms after a product."""

LEAST = 0.05
"""Seconds that a turn is timed for: as many calls as begin in it, and at least one."""

EXACT = "ours, float32"
PEERS = {"colbert_score": "FlagEmbedding", "maxsim": "sentence-transformers", "local mode": "qdrant-client"}
"""By contender, what pip installs."""

SHORT = {"colbert_score": "FE", "maxsim": "ST", "local mode": "Qdrant"}

Contender: TypeAlias = Callable[[], Any]
"""Scores all documents, and returns [n] numbers."""

console = Console()


class Clock(StrEnum):
    """What a contender's time is."""

    wall = "wall"
    cpu = "cpu"


@dataclass(slots=True)
class Timed:
    """What was measured with one number of documents."""

    documents: int
    tokens: int
    seconds: dict[str, list[float]]
    off: dict[str, float]
    """The largest difference from the exact scores."""

    same_best: dict[str, bool]
    """Whether the best ten are those of the exact scores, in their order."""

    def median(self, name: str) -> float:
        """Seconds of a contender."""
        return statistics.median(self.seconds[name])


@dataclass(frozen=True, slots=True)
class Kept:
    """What an encoding costs, and what it keeps of the ranking."""

    encoding: str
    pooling: int
    bytes_per_document: float
    bytes_at_1024: float
    best_ten: float
    """Mean share of the exact best ten among the encoding's best ten."""

    same_first: float
    """Share of questions whose first document is the same."""

    off: float
    """Largest difference of a score."""


def unit(rows: npt.ArrayLike) -> FloatArray:
    """Scale rows to length 1."""
    rows = np.asarray(rows, np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def random_tokens(n: int, *, seed: int = 0) -> tuple[FloatArray, list[FloatArray]]:
    """Draw a query and n documents: log-normal lengths, median 90, sigma 0.8, clipped to 8..512.

    A document's vectors lie near the query's own, some documents nearer than others, so that there is a ranking.
    """
    rng = np.random.default_rng(seed)
    query = unit(rng.standard_normal((QUERY_TOKENS, DIM)))
    lengths = np.clip(np.rint(rng.lognormal(math.log(90), 0.8, n)), 8, 512).astype(int)
    documents = []
    for length, near in zip(lengths, rng.uniform(0, 1, n), strict=True):
        about = query[rng.integers(0, QUERY_TOKENS, length)]
        documents.append(unit(near * about + rng.standard_normal((length, DIM)) / math.sqrt(DIM)))
    return query, documents


def ours(query: FloatArray, documents: Sequence[FloatArray]) -> dict[str, Contender]:
    """m3connect on arrays, and on what a `TokenStore` keeps."""

    def scored(rows: Sequence[FloatArray] | TokenRows) -> Contender:
        return lambda: scoring.multi_vector([query], rows)[0]

    stored = {f"ours, {encoding}": scored(encode_rows(documents, encoding)) for encoding in ENCODINGS}
    return {EXACT: scored(documents), **stored}


@contextmanager
def token_store(query: FloatArray, documents: Sequence[FloatArray]) -> Iterator[dict[str, Contender]]:
    """m3connect with int8 rows read from a `TokenStore` inside the timed part; nothing where LMDB is not installed."""
    try:
        module = importlib.import_module("m3connect.token_store")
    except ImportError:
        yield {}
        return
    names = [Document(str(i), str(i)) for i in range(len(documents))]
    dense = np.zeros((len(documents), DIM), np.float32)
    batch = M3Embeddings(dense, SparseRows.empty(len(documents)), multi_vector=tuple(documents))
    with tempfile.TemporaryDirectory() as folder, module.TokenStore(folder, encoding="int8") as store:
        store.put(names, batch)
        yield {"ours, int8, read": lambda: scoring.multi_vector([query], store.get(names).rows)[0]}


def flag_embedding(query: FloatArray, documents: Sequence[FloatArray]) -> Contender:
    """FlagEmbedding's score of each pair; the method asks nothing of its model."""
    score = importlib.import_module("FlagEmbedding").BGEM3FlagModel.colbert_score
    return lambda: [float(score(None, query, document)) for document in documents]


def sentence_transformers(query: FloatArray, documents: Sequence[FloatArray]) -> Contender:
    """sentence-transformers' score of one query with all documents, a sum over the query's tokens."""
    maxsim = importlib.import_module("sentence_transformers.util").maxsim
    torch = importlib.import_module("torch")
    asked, stored = [torch.from_numpy(query)], [torch.from_numpy(document) for document in documents]
    return lambda: maxsim(asked, stored)[0].numpy() / len(query)


def qdrant_local(query: FloatArray, documents: Sequence[FloatArray]) -> Contender:
    """qdrant-client's local mode, all documents asked for; a sum over the query's tokens."""
    client_module = importlib.import_module("qdrant_client")
    models = client_module.models
    client = client_module.QdrantClient(":memory:")
    how = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    client.create_collection(
        "docs", vectors_config=models.VectorParams(size=DIM, distance=models.Distance.DOT, multivector_config=how)
    )
    for i, document in enumerate(documents):
        client.upsert("docs", [models.PointStruct(id=i, vector=document, payload={})])

    def score() -> FloatArray:
        found = client.query_points("docs", query=query, limit=len(documents)).points
        scores = np.zeros(len(documents), np.float32)
        scores[[point.id for point in found]] = [point.score / len(query) for point in found]
        return scores

    return score


def peers(query: FloatArray, documents: Sequence[FloatArray]) -> dict[str, Contender]:
    """The peers that are installed."""
    makers = dict(zip(PEERS, (flag_embedding, sentence_transformers, qdrant_local), strict=True))
    return {name: make(query, documents) for name, make in makers.items() if version(PEERS[name]) is not None}


def measure(n: int, rounds: int, clock: Callable[[], float]) -> Timed:
    """Check what each contender computes, then let them take turns."""
    query, documents = random_tokens(n)
    turns = random.Random(0)
    with ExitStack() as stack:
        contenders = {**peers(query, documents), **ours(query, documents)}
        contenders |= stack.enter_context(token_store(query, documents))
        exact = np.array([scoring.mean_maxsim(query, document) for document in documents])
        timed = Timed(n, sum(map(len, documents)), {name: [] for name in contenders}, {}, {})
        for name, contender in contenders.items():
            scores = np.asarray(contender())
            timed.off[name] = float(np.abs(scores - exact).max())
            timed.same_best[name] = best(scores) == best(exact)
        for number in range(rounds):
            console.print(f"[dim]{n} documents: round {number + 1} of {rounds}[/]")
            for name, contender in turns.sample([*contenders.items()], len(contenders)):
                timed.seconds[name].append(time_rested(contender, clock))
    return timed


def time_rested(contender: Contender, clock: Callable[[], float]) -> float:
    """Seconds of a contender once the threads of the one before sleep, and its own are awake; short calls are many."""
    time.sleep(REST)
    contender()
    start, calls = clock(), 0
    while calls == 0 or clock() - start < LEAST:
        contender()
        calls += 1
    return (clock() - start) / calls


def best(scores: FloatArray) -> list[int]:
    """Return the places of the best ten."""
    return [int(place) for place in np.argsort(-scores, kind="stable")[:TOP_K]]


def show_times(timed: Timed) -> None:
    """Print a table of times and ratios."""
    table = Table(title=f"{timed.documents} documents, {timed.tokens:,} tokens of {DIM} dimensions", min_width=78)
    table.add_column(f"{QUERY_TOKENS} query tokens")
    against = [name for name in PEERS if name in timed.seconds]
    for column in ("ms", *(f"x {SHORT[name]}" for name in against), "off by", "same 10"):
        table.add_column(column, justify="right")
    for name in timed.seconds:
        ratios = [f"{timed.median(peer) / timed.median(name):.2f}" for peer in against]
        same = "yes" if timed.same_best[name] else "no"
        table.add_row(name, f"{1000 * timed.median(name):.1f}", *ratios, f"{timed.off[name]:.0e}", same)
    console.print(table)


def keep(model: str, texts: Sequence[str], questions: Sequence[str]) -> list[Kept]:
    """Encode texts with a model, and compare the rankings of every encoding with that of the exact vectors."""
    encoder = M3Encoder.from_pretrained(model)
    asked = encoder.encode(questions, multi_vector=True).require_multi_vector()
    matrices = encoder.encode(texts, multi_vector=True).require_multi_vector()
    exact = scoring.multi_vector(asked, matrices)
    tokens = sum(map(len, matrices)) / len(matrices)
    kept = [Kept("float32", 1, tokens * 4 * encoder.dim, tokens * 4 * 1024, *agreement(exact, exact))]
    for pooling in (1, 2):
        pooled = [pool_rows(matrix, pooling) for matrix in matrices]
        tokens = sum(map(len, pooled)) / len(pooled)
        for encoding in ENCODINGS:
            rows = encode_rows(pooled, encoding)
            bytes_of = rows.nbytes / len(rows), tokens * row_bytes(1024, encoding) + 4
            kept.append(Kept(encoding, pooling, *bytes_of, *agreement(scoring.multi_vector(asked, rows), exact)))
    return kept


def agreement(scores: FloatArray, exact: FloatArray) -> tuple[float, float, float]:
    """Compare [q, n] scores: mean share of the best ten, share of equal first ones, largest difference."""
    pairs = [(best(row), best(wanted)) for row, wanted in zip(scores, exact, strict=True)]
    ten = statistics.mean(len({*found} & {*wanted}) / len(wanted) for found, wanted in pairs)
    first = statistics.mean(found[0] == wanted[0] for found, wanted in pairs)
    return ten, first, float(np.abs(scores - exact).max())


def read_texts(dataset: Path | None, most: int) -> tuple[list[str], list[str]]:
    """Return the demonstration's passages and questions, or those of a dataset with at most so many documents."""
    if dataset is None:
        corpus = load_corpus()
        return [passage.text for passage in corpus.passages], [question.text for question in corpus.questions]
    from m3connect.evaluate import read_dataset

    read = read_dataset(dataset)
    wanted = {name for judged in read.qrels.values() for name in judged}
    order = sorted(read.documents, key=lambda document: document.id not in wanted)[:most]
    return [document.text for document in order], list(read.queries.values())[:200]


def show_kept(kept: Sequence[Kept], model: str, texts: Sequence[str], questions: Sequence[str]) -> None:
    """Print a table of encodings."""
    table = Table(title=f"{model}: {len(texts)} documents, {len(questions)} questions", min_width=78)
    columns = ("encoding", "pooled", "bytes/doc", "at 1,024", "best 10", "first", "off by")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in kept:
        sizes = f"{row.bytes_per_document:,.0f}", f"{row.bytes_at_1024:,.0f}"
        shares = f"{row.best_ten:.1%}", f"{row.same_first:.1%}"
        table.add_row(row.encoding, str(row.pooling), *sizes, *shares, f"{row.off:.0e}")
    console.print(table)


def about_machine(threads: int, rounds: int, clock: Clock) -> dict[str, Any]:
    """Versions, processor and settings."""
    libraries = ("m3connect", "torch", "numba", "numpy", "lmdb", *PEERS.values())
    return {
        "processor": processor(),
        "threads": threads,
        "rounds": rounds,
        "clock": clock.value,
        "load_average_before": os.getloadavg()[0],
        "versions": {name: version(name) for name in libraries},
    }


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender runs; the median counts.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; numpy's are OPENBLAS_NUM_THREADS.")] = 2,
    clock: Annotated[Clock, typer.Option(help="Wall time, or the process's CPU time for a busy machine.")] = Clock.wall,
    sizes: Annotated[list[int] | None, typer.Option(min=TOP_K, help="Numbers of documents.")] = None,
    model: Annotated[str, typer.Option(help="What encodes the texts for the table of encodings.")] = "m3-mini",
    dataset: Annotated[Path | None, typer.Option(help="A folder in BEIR's layout; else the demonstration's.")] = None,
    most: Annotated[int, typer.Option(min=TOP_K, help="Documents of the dataset, the judged ones first.")] = 1000,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Measure MaxSim against peers, then what encodings of token vectors cost and keep."""
    import torch

    torch.set_num_threads(threads)
    about = about_machine(threads, rounds, clock)
    for name, package in PEERS.items():
        if about["versions"][package] is None:
            console.print(f"[yellow]{package} ({name}) is left out: pip install {package}[/]")
    timer = time.perf_counter if clock is Clock.wall else time.process_time
    timed = []
    for n in sizes or SIZES:
        timed.append(measure(n, rounds, timer))
        show_times(timed[-1])
    texts, questions = read_texts(dataset, most)
    kept = keep(model, texts, questions)
    show_kept(kept, model, texts, questions)
    console.print(_footer(about))
    if json_path is not None:
        report = {
            **about,
            "times": [asdict(part) | {"median": {name: part.median(name) for name in part.seconds}} for part in timed],
            "encodings": {"model": model, "dataset": str(dataset or "demonstration"), "rows": [*map(asdict, kept)]},
        }
        write_report(json_path, report)


def _footer(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    settings = (
        f"{about['threads']} threads, {about['rounds']} rounds, {about['clock']} time, load average "
        f"{about['load_average_before']:.1f} before"
    )
    peers = ", ".join(f"{SHORT[name]}: {package}'s {name}" for name, package in PEERS.items())
    return f"x: a peer's median time over a contender's ({peers})\n{about['processor']}, {settings}; {versions}"


if __name__ == "__main__":
    typer.run(main)
