"""Short packs on a GPU by CUDA graphs: all kernels of a forward pass are launched at once.

A question is computed faster than the processor can launch its kernels, some 15 a layer, one by one. A graph launches
them together, but its tensors keep their shapes and their places. So there is one graph for each of a few sizes, made
when it is first needed, and a pack is filled up to its size: after the texts come empty ones, and then one of `<pad>`,
which nobody reads.
"""

from __future__ import annotations

import gc
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
"""Between a graph's hidden states and those computed without it."""

_OLDEST_TORCH = "2.13"
"""Before it, a recording that failed left PyTorch's allocator and its random numbers in the state of recording, for the
whole process (pytorch/pytorch#180395 and #176752)."""

Compute: TypeAlias = Callable[[], Tensor]


class Recorder(Protocol):
    """Records what is computed from tensors that stay where they are."""

    def record(self, compute: Compute) -> Compute:
        """Return what computes the same anew, from what these tensors hold by then, always into the same tensor.

        Raises:
            RuntimeError: it can't be recorded.
        """

    def ordered(self) -> AbstractContextManager[None]:
        """Within it recordings are filled and played: all that is queued there runs in that order."""


class GraphedModel:
    """An M3 model that computes short packs by graphs, and all others as it always does.

    Args:
        model: one that attends within all texts of a pack at once.
        recorder: makes the graphs.
    """

    def __init__(self, model: M3Model, recorder: Recorder) -> None:
        self._model = model
        self._recorder = recorder
        self._graphs: dict[int, _Graph] | None = {}
        self._lock = threading.Lock()

    def __call__(self, pack: Pack) -> Tensor:
        """Return the last hidden states [T, d], in float32."""
        size = next((size for size in _SIZES if size > len(pack.token_ids)), None)
        if size is not None and len(pack.lengths) <= _MOST_TEXTS:
            with self._lock:
                if graph := self._graph(size, pack):
                    return self._run(graph, pack)
        return self._model.forward(pack)

    def _graph(self, size: int, pack: Pack) -> _Graph | None:
        """Return the graph of a size, made now if need be; None where graphs were given up."""
        if self._graphs is None:
            return None
        if size not in self._graphs:
            try:
                self._graphs[size] = self._make(size, pack)
            except RuntimeError as error:
                self._graphs = None
                logger.warning("CUDA graphs are given up, and short texts take longer: %s", error, exc_info=True)
                return None
        return self._graphs[size]

    def _make(self, size: int, pack: Pack) -> _Graph:
        """Record a graph with texts of no meaning, and have it prove itself with others."""
        inputs = _Inputs.make(self._model, size)
        graph = _Graph(inputs, self._recorder.record(lambda: self._model.forward(inputs.pack)))
        likeness = F.cosine_similarity(self._run(graph, pack), self._model.forward(pack), dim=-1).min().item()
        if not likeness >= _LEAST_COSINE:
            raise RuntimeError(f"a graph's hidden states have a cosine of {likeness:.4f} to those computed without it")
        return graph

    def _run(self, graph: _Graph, pack: Pack) -> Tensor:
        weight = self._model.word_embeddings.weight
        hidden = torch.empty(len(pack.token_ids), weight.shape[1], dtype=torch.float32, device=weight.device)
        with self._recorder.ordered():
            graph.inputs.fill(pack)
            return hidden.copy_(graph.replay()[: len(hidden)])


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The tensors that a graph reads, as a pack that always has as many tokens and texts."""

    pack: Pack
    pad_token_id: int

    @classmethod
    def make(cls, model: M3Model, size: int) -> _Inputs:
        """Return a pack of two texts of `<pad>`, with empty ones between them."""
        device = model.word_embeddings.weight.device
        token_ids = torch.full((size,), model.pad_token_id, dtype=torch.int64, device=device)
        bounds = torch.full((_MOST_TEXTS + 2,), size - 1, dtype=torch.int32, device=device)
        bounds[0], bounds[-1] = 0, size
        return cls(Pack(token_ids, lengths=(), bounds=bounds, runs=(), longest=size), model.pad_token_id)

    def fill(self, pack: Pack) -> None:
        """Put texts in front, which leave room for at least one token: each text has to begin at one."""
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
    """Returns the hidden states of all tokens in a tensor that the next graph, of any size, writes over."""


_capturing = threading.Lock()
"""PyTorch can record one graph at a time in a process."""


class GpuRecorder:
    """Records CUDA graphs of one GPU, which share their memory: they run one after the other, on a stream of their own.

    What other threads queue on the GPU meanwhile is not recorded; but none may wait for the whole device then, as
    `torch.cuda.synchronize` does: the recording would fail.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, compute: Compute) -> Compute:
        """Capture a computation after it ran twice, when libraries have set up what they need.

        It runs on the caller's stream before. So cuBLAS takes its workspace for the graphs' stream during the capture,
        from the graphs' memory, and it lives as long as they do.
        """
        caller = torch.cuda.current_stream(self._stream.device)
        graph = torch.cuda.CUDAGraph()
        with torch.autocast("cuda", enabled=False):  # the caller's choice would stay for everybody
            for _ in range(2):
                compute()
            self._stream.wait_stream(caller)
            # a capture that fails does not take its stream back: that is why the caller's is set here
            with _capturing, _no_collection(), torch.cuda.stream(caller):
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
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
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            caller.wait_stream(self._stream)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from collecting garbage: an old graph among it would end the recording of a new one."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def with_graphs(model: M3Model) -> Callable[[Pack], Tensor]:
    """Return what computes hidden states: the model, by graphs where its layers and PyTorch allow it."""
    at_once = all(isinstance(layer, Layer) and layer.packed_attention is not None for layer in model.layers)
    if not at_once or torch.__version__ < _OLDEST_TORCH:
        logger.warning(
            "there are no CUDA graphs here: they need PyTorch 2.13 or newer (here is %s), and bfloat16 on a GPU with "
            "attention over packed tokens (here is %s)",
            torch.__version__,
            "one" if at_once else "none",
        )
        return model
    return GraphedModel(model, GpuRecorder(model.word_embeddings.weight.device))
