"""OpenVINO: the same module converted, in float32 and with bfloat16 as the hint of its inference precision."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encode_bench.contenders import Contender
from encode_bench.padded import BUDGETS, PaddedEncoder
from encode_bench.with_torch import Published
from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.tokenizer import M3Tokenizer

PACKAGE = "OpenVINO"
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def load_openvino(checkpoint: Path, threads: int) -> Iterator[Contender]:
    """Both precisions at several budgets, all threads in one stream or a stream for each.

    Raises:
        ImportError: it is not installed.
    """
    import openvino

    tokenizer = M3Tokenizer(checkpoint)
    ids = torch.full((2, 9), 5)
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of values that are the same for all texts
        model = openvino.convert_model(Published(checkpoint), example_input=example)
    for precision, hint in _HINTS.items():
        for streams in dict.fromkeys((1, threads)):
            settings = {
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
                "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            }
            compute = _Compute(openvino.Core().compile_model(model, "CPU", settings))
            for budget in BUDGETS:
                encode = PaddedEncoder(tokenizer, compute, budget, workers=streams)
                yield Contender(PACKAGE, encode, precision, f"{budget} tokens x {streams}")


class _Compute:
    """A compiled model, with a request for each thread that asks."""

    def __init__(self, compiled: Any) -> None:  # noqa: ANN401  # openvino's CompiledModel
        self._compiled = compiled
        self._local = threading.local()

    def __call__(self, ids: IntArray, mask: IntArray) -> tuple[FloatArray, FloatArray]:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        found = self._local.request.infer([ids, mask])
        return np.array(found[0]), np.array(found[1])
