"""On a GPU: near the processor's float32, whatever the kernels; run with -m gpu."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from m3connect import M3Embeddings, M3Encoder
from m3connect.agreement import agreement
from m3connect.encoder.graphs import GraphedModel
from m3connect.encoder.lexical import largest_weights, lexical_rows, rows_at
from m3connect.encoder.pack import Pack
from m3connect.encoder.precision import Precision
from m3connect.encoder.transfer import to_device, to_host
from m3connect.testing_checkpoints import write_checkpoint

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Passages in many languages, an empty text, literal special tokens, and texts of some 800 and 8,192 tokens."""
    lines = (files("m3connect") / "assets" / "demo" / "passages.jsonl").read_text("utf-8").splitlines()
    passages = [json.loads(line)["text"] for line in lines[:60]]
    return ["", "<pad> <s> and </s>", *passages, " ".join(passages[:6]), " ".join(passages) * 4]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, mini_folder: Path) -> Path:
    """As deep as BGE-M3, and narrower; heads are 64 wide, as BGE-M3's are."""
    folder = tmp_path_factory.mktemp("deep")
    return write_checkpoint(folder, tokenizer_folder=mini_folder, layers=24, hidden=256, heads=4, intermediate=1024)


@pytest.fixture(scope="module")
def exact(deep: Path, texts: list[str]) -> M3Embeddings:
    return M3Encoder.from_pretrained(deep).encode(texts, multi_vector=True)


@pytest.fixture(params=["packed", "run by run"])
def low(request: pytest.FixtureRequest, deep: Path) -> M3Encoder:
    """bfloat16 with torch's kernel for packed tokens, and without it."""
    encoder = M3Encoder.from_pretrained(deep, device="cuda")
    layers = list(encoder._model.layers)
    if request.param == "packed" and layers[0].packed_attention is None:
        pytest.skip("this GPU, or this build of torch, has no attention over packed tokens")
    if request.param != "packed":
        for layer in layers:
            layer.packed_attention = None
    return encoder


def test_bfloat16_is_near_the_processors_float32(low: M3Encoder, texts: list[str], exact: M3Embeddings) -> None:
    assert low.precision == "bfloat16"
    found = low.encode(texts, multi_vector=True)
    compared = agreement(exact, found)
    assert compared.dense.least >= 0.999
    assert compared.tokens.least >= 0.999
    assert compared.sparse.mean >= 0.98
    np.testing.assert_array_equal(found.truncated, exact.truncated)
    for rows in (found.dense, *found.require_multi_vector()):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_float32_is_that_of_the_processor(deep: Path, texts: list[str], exact: M3Embeddings) -> None:
    found = M3Encoder.from_pretrained(deep, device="cuda", precision="float32").encode(texts, multi_vector=True)
    np.testing.assert_allclose(found.dense, exact.dense, atol=1e-4)
    for mine, theirs in zip(found.sparse.to_dicts(), exact.sparse.to_dicts(), strict=True):
        for token in mine.keys() | theirs.keys():
            assert mine.get(token, 0) == pytest.approx(theirs.get(token, 0), abs=1e-3)
    for mine, theirs in zip(found.require_multi_vector(), exact.require_multi_vector(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-3)


@pytest.mark.parametrize("vocabulary", [40, 250_002])
def test_sparse_rows_reduced_on_the_gpu_are_those_of_the_processor(vocabulary: int) -> None:
    random = np.random.default_rng(vocabulary)
    lengths = random.integers(2, 500, 60).tolist()
    token_ids = random.integers(0, vocabulary, sum(lengths))
    weights = random.standard_normal(sum(lengths)).astype(np.float32)
    unweighted = np.array([0, 1, 2, 3])
    pack = Pack.of(np.split(token_ids, np.cumsum(lengths)[:-1]), "cuda")
    found = largest_weights(pack, to_device(weights, "cuda"), to_device(unweighted, "cuda"), vocabulary)
    rows = rows_at(*to_host(found), len(lengths), vocabulary)
    expected = lexical_rows(token_ids, weights, lengths, unweighted)
    for name in ("indptr", "indices", "values"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nobody_waits_for_the_gpu_before_results_are_fetched(low: M3Encoder) -> None:
    ids = [np.arange(5, 5 + length) for length in (300, 90, 90, 2)]
    low.encode(["what is made at the first call"])
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            pack = Pack.of(ids, low.device)
            hidden = low._model(pack)
            low._model.dense(hidden, pack)
            low._model.token_vectors(hidden)
            largest_weights(pack, low._model.token_weights(hidden), low._unweighted, 250_002)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_short_texts_are_computed_by_graphs(deep: Path, texts: list[str]) -> None:
    encoder, graphed = load_with_graphs(deep)
    words = " ".join(texts[2:5]).split()
    packs = [[text] for text in texts] + [texts[:2], ["a"] * 16, [" ".join(words[:40])], [" ".join(words[:90])]]
    with ThreadPoolExecutor(3) as pool:  # long texts too, while graphs are recorded
        found = list(pool.map(lambda pack: encoder.encode(pack, multi_vector=True), [*packs, *packs]))
    assert graphed._graphs is not None
    assert set(graphed._graphs) == {32, 64, 128, 256}
    encoder._hidden_states = encoder._model
    for pack, with_graphs in zip([*packs, *packs], found, strict=True):
        compared = agreement(encoder.encode(pack, multi_vector=True), with_graphs)
        assert min(compared.dense.least, compared.tokens.least) > 0.9998


def load_with_graphs(folder: Path) -> tuple[M3Encoder, GraphedModel]:
    encoder = M3Encoder.from_pretrained(folder, device="cuda", cuda_graphs=True)
    graphed = encoder._hidden_states
    if not isinstance(graphed, GraphedModel):
        pytest.skip("this GPU, or this build of torch, has no CUDA graphs for packed tokens")
    return encoder, graphed


def test_graphs_outlive_what_others_keep_on_the_gpu(deep: Path) -> None:
    encoder, _ = load_with_graphs(deep)
    expected = encoder.encode(["bees"]).dense
    other, _ = load_with_graphs(deep)
    other.encode(["bees and honey"])
    del other
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    with torch.cuda.stream(torch.cuda.Stream()):
        np.testing.assert_array_equal(encoder.encode(["bees"]).dense, expected)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_graph_is_not_waited_for(deep: Path) -> None:
    encoder, graphed = load_with_graphs(deep)
    ids = [np.arange(5, 25)]
    with torch.inference_mode():
        graphed(Pack.of(ids, encoder.device))
        torch.cuda.set_sync_debug_mode("error")
        try:
            graphed(Pack.of(ids, encoder.device))
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_after_a_recording_that_failed_all_goes_on(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, graphed = load_with_graphs(deep)
    forward = encoder._model.forward

    def waits(pack: Pack) -> torch.Tensor:
        hidden: torch.Tensor = forward(pack)
        hidden[0, 0].item()  # no recording can wait
        return hidden

    monkeypatch.setattr(encoder._model, "forward", waits)
    found = encoder.encode(["bees"]).dense
    monkeypatch.undo()
    assert graphed._graphs is None
    torch.cuda.empty_cache()
    assert torch.isfinite(torch.randn(3, device="cuda")).all()
    np.testing.assert_array_equal(encoder.encode(["bees"]).dense, found)


def test_threads_share_a_gpu(low: M3Encoder, texts: list[str]) -> None:
    expected = low.encode(texts, multi_vector=True)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: low.encode(texts, multi_vector=True), range(12)):
            compared = agreement(expected, found)
            assert min(compared.dense.least, compared.tokens.least) > 0.9998


def test_mcls_is_computed_on_a_gpu(deep: Path, texts: list[str]) -> None:
    exact = M3Encoder.from_pretrained(deep, mcls=64).encode(texts)
    found = M3Encoder.from_pretrained(deep, mcls=64, device="cuda").encode(texts)
    assert (exact.dense * found.dense).sum(axis=1).min() >= 0.999


@pytest.fixture
def free_gpu() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.usefixtures("free_gpu")
def test_the_weights_take_the_room_of_their_precision(deep: Path, precision: Precision) -> None:
    before = torch.cuda.memory_allocated()
    encoder = M3Encoder.from_pretrained(deep, device="cuda", precision=precision)
    held, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    tensors = [*encoder._model.parameters(), *encoder._model.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert held <= 1.05 * weights + 2**20
    assert peak <= held + 64 * 2**20, "parts come one by one"


@pytest.mark.usefixtures("free_gpu")
def test_nothing_stays_on_the_gpu_after_a_call(low: M3Encoder, texts: list[str]) -> None:
    low.encode(texts)
    before = torch.cuda.memory_allocated()
    kept = [low.encode(texts, multi_vector=True) for _ in range(5)]
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert len(kept[0].require_multi_vector()) == len(texts)
