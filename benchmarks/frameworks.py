"""Documents added and hybrid questions answered through LangChain and LlamaIndex: their own stores against m3connect's.

All contenders have the same encoder, texts and database in one process, and take turns. See benchmarks/README.md.

    python benchmarks/frameworks.py --json frameworks.json
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import logging
import os
import platform
import statistics
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import m3connect
from m3connect.embeddings import M3Embeddings
from m3connect.encoding import SharedPass
from m3connect.opening import open_store
from m3connect.store import Encoder
from m3connect.testing_checkpoints import write_checkpoint

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

MINI = Path(m3connect.__file__).parent / "assets" / "m3-mini"
BATCH, TOP_K = 256, 10

OURS, BRIDGED = "m3connect", "the same + m3connect"
"""`BRIDGED` is the framework's own store with our embeddings, whose dense and sparse sides share a pass."""

Phase: TypeAlias = Literal["add", "ask"]
PHASES: tuple[Phase, ...] = get_args(Phase)
_T = TypeVar("_T")

console = Console()


# The encoder, and texts.


class Counting:
    """An encoder that counts how many texts it was given, and how long it took."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.dim, self.fingerprint = encoder.dim, encoder.fingerprint
        self.texts, self.seconds = 0, 0.0

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode texts."""
        start = time.perf_counter()
        batch = self.encoder.encode(texts, multi_vector=multi_vector, max_length=max_length)
        self.seconds += time.perf_counter() - start
        self.texts += len(texts)
        return batch


def draw_texts(n: int, *, median: int, seed: int) -> list[str]:
    """Draw n different texts of frequent and rare words; their numbers of words are log-normal, 4 to 400."""
    pieces = [piece for piece, _ in json.loads((MINI / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]]
    words = [piece[1:] for piece in pieces if piece[0] == "▁" and len(piece) > 3 and piece[1:].isalpha()]
    chances = 1 / np.arange(10, len(words) + 10)
    random = np.random.default_rng(seed)
    counts = np.clip(np.rint(random.lognormal(np.log(median), 0.8, n)), 4, 400).astype(int)
    return [" ".join(random.choice(words, count, p=chances / chances.sum())) for count in counts]


@contextmanager
def random_model(layers: int, hidden: int) -> Iterator[Encoder]:
    """Load a model of random weights in the published layout; its cost is that of a trained one."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(
            folder,
            tokenizer_folder=MINI,
            layers=layers,
            hidden=hidden,
            heads=hidden // 32,
            intermediate=4 * hidden,
        )
        raise_weights(Path(folder) / "sparse_linear.pt")
        yield m3connect.M3Encoder.from_pretrained(folder)


def raise_weights(head: Path) -> None:
    """Give nearly every token a sparse weight: at random a text may have none, and Milvus Lite refuses empty rows."""
    import torch

    state = torch.load(head, weights_only=True)
    torch.save(state | {"bias": state["bias"] + 4}, head)


# Contenders.


@dataclass(frozen=True, slots=True)
class Contender:
    """A new, empty collection behind a framework."""

    add: Callable[[list[str], list[str]], object]
    """Takes texts and their ids."""

    search: Callable[[str], list[str]]
    """Returns the texts of the best ten, by both legs."""

    finish: Callable[[], object] = int
    """Ends a load: without a flush Milvus Lite compares row by row."""


@dataclass(slots=True)
class Opening:
    """What a contender is made of."""

    encoder: Counting
    folder: Path
    resources: ExitStack


def in_langchain(store: VectorStore) -> Contender:
    """Drive a vector store as its user does."""
    return Contender(
        add=lambda texts, ids: store.add_texts(texts, ids=ids, batch_size=BATCH),
        search=lambda question: [document.page_content for document in store.similarity_search(question, k=TOP_K)],
    )


def in_llama_index(store: BasePydanticVectorStore, embedding: BaseEmbedding) -> Contender:
    """Drive an index over a vector store as its user does."""
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=TOP_K)

    def add(texts: list[str], ids: list[str]) -> None:
        index.insert_nodes([TextNode(id_=name, text=text) for name, text in zip(ids, texts, strict=True)])

    return Contender(add, lambda question: [found.node.get_content() for found in retriever.retrieve(question)])


def open_ours(spec: str, opening: Opening) -> m3connect.HybridStore:
    """Open a store of m3connect's."""
    spec = spec.format(folder=opening.folder)
    return opening.resources.enter_context(open_store(spec, "docs", dim=opening.encoder.dim))


def ours_in_langchain(spec: str, opening: Opening) -> Contender:
    """Our LangChain class, over Qdrant or Milvus."""
    from langchain_m3connect import M3ConnectEmbeddings, M3ConnectVectorStore

    embeddings = M3ConnectEmbeddings(encoder=opening.encoder)
    store = open_ours(spec, opening)
    return replace(in_langchain(M3ConnectVectorStore(store=store, embedding=embeddings)), finish=store.flush)


def ours_in_llama_index(opening: Opening) -> Contender:
    """Our LlamaIndex class, over Qdrant."""
    from llama_index_m3connect import M3ConnectEmbedding, M3ConnectVectorStore

    embedding = M3ConnectEmbedding(encoder=opening.encoder)
    return in_llama_index(
        M3ConnectVectorStore(store=open_ours("qdrant::memory:", opening), encoder=embedding), embedding
    )


def langchain_dense(encoder: Encoder) -> Embeddings:
    """What a user writes today: the dense half of the encoder."""
    from langchain_core.embeddings import Embeddings

    class Dense(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            rows: list[list[float]] = encoder.encode(texts).dense.tolist()
            return rows

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return Dense()


def langchain_qdrant(opening: Opening, *, bridged: bool) -> Contender:
    """langchain-qdrant, with two objects that do not know of each other, or with our bridge."""
    from langchain_m3connect import M3ConnectEmbeddings
    from langchain_m3connect.qdrant import M3ConnectQdrantSparse
    from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
    from langchain_qdrant.sparse_embeddings import SparseVector
    from qdrant_client import QdrantClient, models

    encoder = opening.encoder

    class Sparse(SparseEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[SparseVector]:
            rows = encoder.encode(texts).sparse.to_dicts()
            return [SparseVector(indices=list(row), values=list(row.values())) for row in rows]

        def embed_query(self, text: str) -> SparseVector:
            return self.embed_documents([text])[0]

    shared = M3ConnectEmbeddings(encoder=encoder)
    client = QdrantClient(":memory:")
    opening.resources.callback(client.close)
    client.create_collection(
        "docs",
        vectors_config={"dense": models.VectorParams(size=encoder.dim, distance=models.Distance.COSINE)},
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
    )
    store = QdrantVectorStore(
        client,
        "docs",
        embedding=shared if bridged else langchain_dense(encoder),
        sparse_embedding=M3ConnectQdrantSparse(shared) if bridged else Sparse(),
        retrieval_mode=RetrievalMode.HYBRID,
        vector_name="dense",
        sparse_vector_name="sparse",
    )
    return in_langchain(store)


def langchain_milvus(opening: Opening, *, bridged: bool) -> Contender:
    """langchain-milvus, likewise; index and search parameters are those of m3connect, since Lite refuses its own."""
    from langchain_m3connect import M3ConnectEmbeddings
    from langchain_m3connect.milvus import M3ConnectMilvusSparse
    from langchain_milvus import Milvus
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
    from milvus_lite.server_manager import server_manager_instance

    encoder = opening.encoder

    class Sparse(BaseSparseEmbedding):
        def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
            return encoder.encode(texts).sparse.to_dicts()

        def embed_query(self, query: str) -> dict[int, float]:
            return self.embed_documents([query])[0]

    shared = M3ConnectEmbeddings(encoder=encoder)
    path = str(opening.folder / f"{'bridged' if bridged else 'plain'}.db")
    store = Milvus(
        [shared, M3ConnectMilvusSparse(shared)] if bridged else [langchain_dense(encoder), Sparse()],
        collection_name="docs",
        connection_args={"uri": path},
        index_params=[
            {"index_type": "FLAT", "metric_type": "IP"},
            {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"},
        ],
        search_params=[{"metric_type": "IP"}] * 2,
        vector_field=["dense", "sparse"],
        consistency_level="Strong",
        auto_id=False,
    )
    opening.resources.callback(server_manager_instance.release_server, path)
    opening.resources.callback(store.client.close)

    def search(question: str) -> list[str]:
        found = store.similarity_search(question, k=TOP_K, fetch_k=TOP_K, ranker_type="rrf", ranker_params={"k": 60})
        return [document.page_content for document in found]

    return Contender(in_langchain(store).add, search, finish=lambda: store.client.flush("docs"))


def llama_index_qdrant(opening: Opening, *, bridged: bool) -> Contender:
    """LlamaIndex's Qdrant store, with an embedding and functions that do not know of each other, or with ours."""
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from llama_index_m3connect import M3ConnectEmbedding, M3ConnectSparseEmbedding
    from qdrant_client import QdrantClient

    encoder = opening.encoder

    class Dense(BaseEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            rows: list[list[float]] = encoder.encode(texts).dense.tolist()
            return rows

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    def weights(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        rows = ours.get_text_embedding_batch(texts) if bridged else encoder.encode(texts).sparse.to_dicts()
        return [list(row) for row in rows], [list(row.values()) for row in rows]

    ours = M3ConnectSparseEmbedding(encoder=encoder)
    embedding = M3ConnectEmbedding(encoder=encoder) if bridged else Dense(embed_batch_size=BATCH)
    client = QdrantClient(":memory:")
    opening.resources.callback(client.close)
    store = QdrantVectorStore(
        "docs", client=client, enable_hybrid=True, sparse_doc_fn=weights, sparse_query_fn=weights, batch_size=BATCH
    )
    return in_llama_index(store, embedding)


@dataclass(frozen=True, slots=True)
class Group:
    """A framework over a database: our class, and the framework's own."""

    name: str
    needs: tuple[str, ...]
    ours: Callable[[Opening], Contender]
    peer: str
    """What to install to compare with."""

    theirs: Callable[..., Contender]


GROUPS = (
    Group(
        "LangChain, Qdrant",
        ("langchain-core", "qdrant-client"),
        partial(ours_in_langchain, "qdrant::memory:"),
        "langchain-qdrant",
        langchain_qdrant,
    ),
    Group(
        "LangChain, Milvus Lite",
        ("langchain-core", "pymilvus", "milvus-lite"),
        partial(ours_in_langchain, "milvus:{folder}/ours.db"),
        "langchain-milvus",
        langchain_milvus,
    ),
    Group(
        "LlamaIndex, Qdrant",
        ("llama-index-core", "qdrant-client"),
        ours_in_llama_index,
        "llama-index-vector-stores-qdrant",
        llama_index_qdrant,
    ),
)


# Measuring.


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
        if missing := [name for name in group.needs if _version(name) is None]:
            console.print(f"[yellow]{group.name} is left out: pip install {' '.join(missing)}[/]")
            continue
        found.append(Side(group.name, OURS, group.ours))
        if _version(group.peer) is None:
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


# Reporting.

UNITS: dict[Phase, str] = {"add": "documents/s", "ask": "ms/question"}


def show(group: Sequence[Side], workload: Workload, documents: int) -> None:
    """Print what was measured of a group."""
    table = Table(title=f"{group[0].group}; {workload.name}", min_width=100)
    table.add_column("contender")
    for phase in workload.phases:
        for column in (UNITS[phase], "ratio", "passes", "encoder"):
            table.add_column(column, justify="right")
    for side in group:
        cells = [cell for phase in workload.phases for cell in _cells(side, group[0], phase, documents)]
        table.add_row(side.name, *cells)
    console.print(table)


def _cells(side: Side, ours: Side, phase: Phase, documents: int) -> list[str]:
    seconds = side.seconds(phase)
    rate = f"{documents / seconds:,.1f}" if phase == "add" else f"{1000 * seconds:,.1f}"
    return [rate, f"{ratio(side, ours, phase):.2f}", f"{side.passes(phase):.2f}", f"{side.encoder_share(phase):.0%}"]


def report(group: Sequence[Side], workload: Workload) -> list[dict[str, Any]]:
    """Everything measured of a group, for --json."""
    ours = group[0]
    return [
        {"workload": asdict(workload), "group": side.group, "contender": side.name}
        | {"hits_shared_with_m3connect": overlap(ours, side)}
        | {
            phase: {
                "median_seconds": side.seconds(phase),
                "times_ours": ratio(side, ours, phase),
                "passes_per_text": side.passes(phase),
                "encoder_share": side.encoder_share(phase),
                "samples": [asdict(sample) for sample in side.samples[phase]],
            }
            for phase in workload.phases
        }
        for side in group
    ]


def about_run(load: Load, threads: int) -> dict[str, Any]:
    """Versions, processor and settings."""
    libraries = ["m3connect", "torch", "transformers", "numpy"]
    libraries += [name for group in GROUPS for name in (*group.needs, group.peer)]
    return {
        "processor": _processor(),
        "threads": threads,
        "documents": len(load.documents),
        "questions": len(load.questions),
        "load_average_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in libraries},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def _version(name: str) -> str | None:
    if name == "m3connect":
        return m3connect.__version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def workloads(rounds: int, *, quick: bool) -> list[Workload]:
    """The two workloads; `quick` makes their models so small that the figures mean nothing."""
    if quick:
        return [Workload("quick, 2 x 64", 2, 64, 2, PHASES), Workload("quick, 1 x 128", 1, 128, 1, ("ask",))]
    return [
        Workload("small model, 6 x 384", 6, 384, rounds, PHASES),
        Workload("BGE-M3's size, 24 x 1024", 24, 1024, 1, ("ask",)),
    ]


def main(
    documents: Annotated[int, typer.Option(min=TOP_K, help="How many are added in each round.")] = 150,
    questions: Annotated[int, typer.Option(min=1, help="How many are asked in each round.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="How often everybody starts anew with the small model.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and of the tokenizers.")] = 2,
    only: Annotated[str, typer.Option(help="Run only workloads whose name holds this, e.g. 'small'.")] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny models: shows that it runs, says nothing else.")] = False,
) -> None:
    """Measure LangChain and LlamaIndex: their own stores against m3connect's, same encoder, taking turns."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    quieten()
    documents, questions = (20, 3) if quick else (documents, questions)
    load = Load(draw_texts(documents, median=90, seed=0), draw_texts(questions, median=12, seed=1))
    about, chosen, figures = about_run(load, threads), sides(), []
    for workload in workloads(rounds, quick=quick):
        if only not in workload.name:
            continue
        for group in measure(workload, chosen, load):
            show(group, workload, documents)
            figures += report(group, workload)
    console.print(_footer(about))
    if json_path is not None:
        json_path.write_text(json.dumps({**about, "contenders": figures}, indent=1) + "\n", encoding="utf-8")


def quieten() -> None:
    """Silence what the peers say about themselves in every call."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # Lite sends away clients that ask too often whether it lives
    logging.disable(logging.ERROR)  # langchain-milvus asks Milvus Lite for what it does not have, and Lite logs it
    warnings.filterwarnings("ignore", "The 'ranker_type'", DeprecationWarning)
    warnings.filterwarnings("ignore", "Payload indexes have no effect", UserWarning)


def _footer(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    settings = (
        f"{about['documents']} documents, {about['questions']} questions a round, {about['threads']} threads, load "
        f"average {about['load_average_before']:.1f} before"
    )
    return (
        "ratio: a contender's time over m3connect's, median of calls side by side; passes: how often a text went "
        f"through the model; encoder: its share of the time\n{about['processor']}, {settings}; {versions}"
    )


if __name__ == "__main__":
    typer.run(main)
