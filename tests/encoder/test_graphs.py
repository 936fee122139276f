"""CUDA graphs for short packs, without a GPU: recorded operation by operation, and played again as a graph would be."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_gpu_path import TEXTS, load_packed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m3connect import M3Encoder
from m3connect.embeddings import IntArray
from m3connect.encoder.attention import pack_attention
from m3connect.encoder.graphs import GraphedModel, with_graphs
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


@torch.inference_mode()
def test_what_cannot_be_recorded_is_computed_all_the_same(model: M3Model, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(TapeRecorder):
        def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
            self.recorded.append(compute())
            raise RuntimeError("operation not permitted when stream is capturing")

    recorder = Refusing()
    graphed, pack = GraphedModel(model, recorder), pack_of([7])
    for _ in range(2):
        torch.testing.assert_close(graphed(pack), model(pack), atol=0, rtol=0)
    assert len(recorder.recorded) == 1, "nothing is tried twice"
    assert caplog.messages == [
        "short texts take longer than they could, since a CUDA graph was given up: operation not permitted when "
        "stream is capturing"
    ]


@torch.inference_mode()
@pytest.mark.parametrize("wrong", [float("nan"), 0.0, -1.0])
def test_a_graph_with_other_numbers_is_not_used(model: M3Model, wrong: float, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(TapeRecorder):
        def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
            return lambda: compute() * wrong

    graphed, pack = GraphedModel(model, Wrong()), pack_of([7])
    torch.testing.assert_close(graphed(pack), model(pack), atol=0, rtol=0)
    assert caplog.text.count("to those computed without it") == 1
    with caplog.at_level(logging.WARNING):
        graphed(pack_of([7, 60]))
    assert len(caplog.records) == 1


def test_only_layers_that_attend_at_once_get_graphs(model: M3Model) -> None:
    model.layers[-1].packed_attention = None
    assert with_graphs(model) is model
