"""CUDA graphs for short packs, without a GPU: recorded operation by operation, and played again as a graph would be."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_gpu_path import TEXTS, load_packed
from torch import Tensor
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

from m3connect import M3Encoder
from m3connect.embeddings import IntArray
from m3connect.encoder.attention import pack_attention
from m3connect.encoder.graphs import GpuRecorder, GraphedModel, with_graphs
from m3connect.encoder.model import M3Model
from m3connect.encoder.pack import Pack
from m3connect.encoder.precision import Precision
from m3connect.testing_checkpoints import write_checkpoint


def attend_by_mask(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """What `varlen_attn` computes, in operations whose shapes do not depend on where texts end."""
    rows = torch.arange(len(query))
    texts = torch.searchsorted(cu_seq_q, rows, right=True)
    heads = (part.transpose(0, 1) for part in (query, key, value))
    return F.scaled_dot_product_attention(*heads, attn_mask=texts[:, None] == texts).transpose(0, 1)


class Tape(TorchDispatchMode):
    """Every operation with its tensors: when played, each writes what it computes over what it computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def play(self) -> None:
        for func, args, kwargs, before in self.operations:
            results, targets = func(*args, **kwargs), before
            if isinstance(results, Tensor):
                results, targets = (results,), (targets,)
            for target, result in zip(targets, results, strict=True):
                if isinstance(result, Tensor) and result.data_ptr() != target.data_ptr():
                    target.copy_(result)


class TapeRecorder:
    """What `GpuRecorder` does, on the processor."""

    def __init__(self) -> None:
        self.recorded: list[Tensor] = []
        self.played: list[int] = []
        """The sizes of the graphs that ran, one after the other."""

    def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with Tape() as tape:
            result = compute()
        self.recorded.append(result)

        def replay() -> Tensor:
            self.played.append(len(result))
            tape.play()
            return result

        return replay

    def ordered(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture(params=["float32", "bfloat16"])
def packed(request: pytest.FixtureRequest, checkpoint: Path) -> M3Encoder:
    precision: Precision = request.param
    encoder = load_packed(checkpoint, precision)
    for layer in encoder._model.layers:
        layer.packed_attention = pack_attention(attend_by_mask)
    return encoder


@pytest.fixture
def model(packed: M3Encoder) -> M3Model:
    return packed._model


def pack_of(lengths: list[int], seed: int = 0) -> Pack:
    random = np.random.default_rng(seed)
    ids: list[IntArray] = [random.integers(1, 500, length) for length in lengths]  # 1 is <pad>
    return Pack.of(ids)


@torch.inference_mode()
def test_graphs_compute_what_the_model_does(model: M3Model) -> None:
    recorder = TapeRecorder()
    graphed = GraphedModel(model, recorder)
    packs = [[5], [31], [32], [1, 1], [40, 3], [13], [63], [2] * 16, [127], [100, 90, 30, 30], [255], [4] * 15, [5]]
    for seed, lengths in enumerate(packs):
        pack = pack_of(lengths, seed)
        found, expected = graphed(pack), model(pack)
        assert (found.shape, found.dtype) == (expected.shape, torch.float32)
        torch.testing.assert_close(found, expected, atol=1e-5 if model_is_exact(model) else 0.05, rtol=0)
    assert [len(result) for result in recorder.recorded] == [32, 64, 128, 256]
    new = 2  # runs: the first one is its proof
    assert recorder.played == [
        *[32] * new, 32, *[64] * new, 32, 64, 32, 64, 64, *[128] * new, *[256] * new, 256, 64, 32
    ]  # fmt: skip


def model_is_exact(model: M3Model) -> bool:
    return isinstance(model.layers[0].qkv, torch.nn.Linear)


@torch.inference_mode()
def test_what_fills_a_pack_up_is_shorter_than_any_limit(tmp_path: Path, mini_folder: Path) -> None:
    folder = write_checkpoint(tmp_path, tokenizer_folder=mini_folder, layers=1, positions=66)
    encoder = load_packed(folder, "float32")
    for layer in encoder._model.layers:
        layer.packed_attention = pack_attention(attend_by_mask)
    graphed = GraphedModel(encoder._model, TapeRecorder())
    for pack in (pack_of([64, 64, 64, 63]), pack_of([1, 64, 64])):
        torch.testing.assert_close(graphed(pack), encoder._model(pack), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [[256], [200, 56], [2] * 17])
def test_longer_packs_and_more_texts_need_no_graph(
    model: M3Model, lengths: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = TapeRecorder()
    pack = pack_of(lengths)
    torch.testing.assert_close(GraphedModel(model, recorder)(pack), model(pack), atol=0, rtol=0)
    assert not recorder.recorded
    assert not caplog.records


@torch.inference_mode()
def test_results_stay_when_the_graph_runs_again(model: M3Model) -> None:
    graphed = GraphedModel(model, TapeRecorder())
    first = graphed(pack_of([9]))
    kept = first.clone()
    graphed(pack_of([20], seed=1))
    torch.testing.assert_close(first, kept, atol=0, rtol=0)


def test_threads_share_graphs(packed: M3Encoder) -> None:
    expected = [packed.encode([text], multi_vector=True) for text in TEXTS]
    packed._hidden_states = GraphedModel(packed._model, TapeRecorder())
    rounds = [*range(len(TEXTS))] * 6
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: packed.encode([TEXTS[i]], multi_vector=True), rounds))
    for i, batch in zip(rounds, found, strict=True):
        assert float((batch.dense * expected[i].dense).sum()) > 0.999
        mine, theirs = batch.require_multi_vector()[0], expected[i].require_multi_vector()[0]
        assert float((mine * theirs).sum(axis=1).min()) > 0.999


class Refusing(TapeRecorder):
    """Records nothing that is as long as this."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if len(compute()) == self.size:
            self.recorded.append(compute())
            raise RuntimeError("operation not permitted when stream is capturing")
        return super().record(compute)


def test_what_cannot_be_recorded_is_computed_all_the_same(model: M3Model, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Refusing(32)
    graphed, pack = GraphedModel(model, recorder), pack_of([7])

    @torch.inference_mode()
    def compute(_: int) -> Tensor:
        return graphed(pack)

    with torch.inference_mode():
        expected = model(pack)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(compute, range(8)):
            torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert len(recorder.recorded) == 1, "nothing is tried twice"
    assert caplog.messages == [
        "CUDA graphs are given up, and short texts take longer: operation not permitted when stream is capturing"
    ]
    assert "Traceback" in caplog.text


@torch.inference_mode()
def test_after_one_that_cannot_be_recorded_none_is_used(model: M3Model) -> None:
    recorder = Refusing(64)
    graphed = GraphedModel(model, recorder)
    for lengths in ([7], [40], [7]):
        pack = pack_of(lengths)
        torch.testing.assert_close(graphed(pack), model(pack), atol=1e-5 if model_is_exact(model) else 0.05, rtol=0)
    assert recorder.played == [32, 32]


class Wrong(TapeRecorder):
    """Plays numbers that are a multiple of the right ones."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: compute() * self.factor


class Baked(TapeRecorder):
    """Plays what it computed first, whatever the texts."""

    def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        result = compute()
        return lambda: result


@torch.inference_mode()
@pytest.mark.parametrize("recorder", [Wrong(float("nan")), Wrong(0.0), Wrong(-1.0), Baked()])
def test_a_graph_with_other_numbers_is_not_used(
    model: M3Model, recorder: TapeRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    graphed, pack = GraphedModel(model, recorder), pack_of([7])
    for _ in range(2):
        torch.testing.assert_close(graphed(pack), model(pack), atol=0, rtol=0)
    [message] = caplog.messages
    assert "to those computed without it" in message


@torch.inference_mode()
def test_results_are_float32_whatever_the_default(model: M3Model) -> None:
    graphed, pack = GraphedModel(model, TapeRecorder()), pack_of([7])
    graphed(pack)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert graphed(pack).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_only_layers_that_attend_at_once_get_graphs(model: M3Model, caplog: pytest.LogCaptureFixture) -> None:
    model.layers[-1].packed_attention = None
    assert with_graphs(model) is model
    assert "attention over packed tokens (here is none)" in caplog.text


@pytest.mark.parametrize(("version", "has_graphs"), [("2.9.1", False), ("2.12.1+cu126", False), ("2.13.0+cu126", True)])
def test_older_versions_of_torch_get_no_graphs(
    model: M3Model, monkeypatch: pytest.MonkeyPatch, version: str, has_graphs: bool
) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(torch, "cuda", FakeCuda())
    assert isinstance(with_graphs(model), GraphedModel) is has_graphs


def test_a_processor_has_no_graphs(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="cuda_graphs=True needs a GPU, but device is 'cpu': leave it out"):
        M3Encoder.from_pretrained(checkpoint, cuda_graphs=True)


class FakeCuda:
    """Notes what is asked of `torch.cuda`, and in what order."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def Stream(self, device: torch.device) -> Any:  # torch's name
        return SimpleNamespace(device=device, wait_stream=lambda other: self.steps.append(f"ours waits for {other}"))

    def current_stream(self, device: torch.device) -> Any:
        return Caller(self)

    def graph_pool_handle(self) -> int:
        return 7

    def CUDAGraph(self) -> Any:  # torch's name
        return SimpleNamespace(replay=lambda: self.steps.append("replay"))

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.steps.append("on " + ("caller's" if isinstance(stream, Caller) else "ours"))
        yield
        self.steps.append("back")

    @contextmanager
    def graph(self, graph: Any, *, pool: int, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert (pool, capture_error_mode) == (7, "thread_local")
        assert not gc.isenabled(), "an old graph that is collected ends the recording"
        self.steps.append("capture")
        yield
        self.steps.append("captured")


class Caller:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def __str__(self) -> str:
        return "caller"

    def wait_stream(self, other: Any) -> None:
        self.cuda.steps.append("caller waits for ours")


@pytest.mark.parametrize("fails", [False, True])
def test_the_order_of_streams_when_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    recorder = GpuRecorder(torch.device("cuda", 1))

    def compute() -> Tensor:
        cuda.steps.append("compute")
        if fails and "capture" in cuda.steps:
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.ones(1)

    with nullcontext() if not fails else pytest.raises(RuntimeError, match="not permitted"):
        replay = recorder.record(compute)
        with recorder.ordered():
            replay()
    assert gc.isenabled()
    before = ["compute", "compute", "ours waits for caller", "on caller's", "capture", "compute"]
    assert cuda.steps[: len(before)] == before, "warmed up on the caller's stream"
    if not fails:
        after = ["captured", "back", "ours waits for caller", "on ours", "replay", "back", "caller waits for ours"]
        assert cuda.steps[len(before) :] == after
