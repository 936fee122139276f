"""Short packs on a GPU by CUDA graphs: all kernels of a forward pass are launched at once.

A question is computed faster than the processor can launch its kernels, some 15 a layer, one by one. A graph launches
them together, but its tensors keep their shapes and their places. So there is one graph for each of a few sizes, made
when it is first needed, and a pack is filled up to its size: after the texts come empty ones, and then one of `<pad>`,
which nobody reads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from m3connect.encoder.model import Layer, M3Model
from m3connect.encoder.pack import Pack

__all__ = ["GpuRecorder", "GraphedModel", "Recorder", "with_graphs"]

logger = logging.getLogger(__name__)

_SIZES = (32, 64, 128, 256)
"""Tokens that graphs are made for; below them there is little to save, since all weights are read for any number."""

_MOST_TEXTS = 16
"""In a pack that a graph computes: questions of several callers."""

_LEAST_COSINE = 0.999
"""Between a graph's hidden states and those without it."""

Compute: TypeAlias = Callable[[], Tensor]


class Recorder(Protocol):
    """Records what is computed from tensors that stay where they are."""

    def record(self, compute: Compute) -> Compute:
        """Return what computes the same anew, from what these tensors hold by then, always into the same tensor.

        Raises:
            RuntimeError: it can't be recorded.
        """

    def ordered(self) -> AbstractContextManager[None]:
        """Within it, work is queued behind all that was queued within it before."""


class GraphedModel:
    """An M3 model that computes short packs by graphs, and all others as it always does.

    Args:
        model: one that attends within all texts of a pack at once.
        recorder: makes the graphs.
    """

    def __init__(self, model: M3Model, recorder: Recorder) -> None:
        self._model = model
        self._recorder = recorder
        self._graphs: dict[int, _Graph] = {}
        self._broken = False
        self._lock = threading.Lock()

    def __call__(self, pack: Pack) -> Tensor:
        """Return the last hidden states [T, d], in float32."""
        size = next((size for size in _SIZES if size > len(pack.token_ids)), None)
        if size is None or len(pack.lengths) > _MOST_TEXTS or self._broken:
            return self._model.forward(pack)
        weight = self._model.word_embeddings.weight
        hidden = torch.empty(len(pack.token_ids), weight.shape[1], device=weight.device)
        with self._lock, self._recorder.ordered():
            if graph := self._graphs.get(size) or self._make(size, pack):
                return hidden.copy_(graph.run(pack))
        return self._model.forward(pack)

    def _make(self, size: int, pack: Pack) -> _Graph | None:
        """Record a graph with its first pack, and have it prove itself; None means that there will be no graphs."""
        inputs = _Inputs.make(self._model, size)
        inputs.fill(pack)
        try:
            graph = _Graph(inputs, self._recorder.record(lambda: self._model.forward(inputs.pack)))
            likeness = F.cosine_similarity(graph.run(pack), self._model.forward(pack), dim=-1).min().item()
            if not likeness >= _LEAST_COSINE:
                raise RuntimeError(f"its states have a cosine of {likeness:.4f} to those computed without it")
        except RuntimeError as error:
            self._broken = True
            logger.warning("short texts take longer than they could, since a CUDA graph was given up: %s", error)
            return None
        self._graphs[size] = graph
        return graph


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The tensors that a graph reads, as a pack that always has as many tokens and texts."""

    pack: Pack
    pad_token_id: int

    @classmethod
    def make(cls, model: M3Model, size: int) -> _Inputs:
        device = model.word_embeddings.weight.device
        token_ids = torch.full((size,), model.pad_token_id, dtype=torch.int64, device=device)
        bounds = torch.full((_MOST_TEXTS + 2,), size, dtype=torch.int32, device=device)
        return cls(Pack(token_ids, lengths=(), bounds=bounds, runs=(), longest=size), model.pad_token_id)

    def fill(self, pack: Pack) -> None:
        """Put texts in front, which leave room for at least one token."""
        count, ends = len(pack.token_ids), len(pack.bounds)
        self.pack.token_ids[:count].copy_(pack.token_ids)
        self.pack.token_ids[count:].fill_(self.pad_token_id)
        self.pack.bounds[:ends].copy_(pack.bounds)
        self.pack.bounds[ends:-1].fill_(count)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A forward pass over one size."""

    inputs: _Inputs
    replay: Compute

    def run(self, pack: Pack) -> Tensor:
        """Return the hidden states [T, d] in a tensor that the next run, of any size, writes over."""
        self.inputs.fill(pack)
        return self.replay()[: len(pack.token_ids)]


_capturing = threading.Lock()
"""CUDA can record one graph at a time in a process."""


class GpuRecorder:
    """Records CUDA graphs of one GPU, which share their memory: they run one after the other, on a stream of their own.

    What other threads do on the GPU meanwhile is neither recorded nor disturbed.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, compute: Compute) -> Compute:
        """Capture a computation after it ran twice, when libraries have set up what they need."""
        for _ in range(2):
            compute()
        graph = torch.cuda.CUDAGraph()
        with (
            _capturing,
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Queue work on the graphs' stream, after what the caller has queued and before what it will queue."""
        caller = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            yield
        caller.wait_stream(self._stream)


def with_graphs(model: M3Model) -> Callable[[Pack], Tensor]:
    """Return what computes hidden states: the model, by graphs where its layers allow it."""
    if any(not isinstance(layer, Layer) or layer.packed_attention is None for layer in model.layers):
        return model
    return GraphedModel(model, GpuRecorder(model.word_embeddings.weight.device))
