"""ONNX Runtime: the same module exported by PyTorch, in float32 and dynamically quantised to int8."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from encode_bench.contenders import Contender
from encode_bench.padded import BUDGETS, PaddedEncoder
from encode_bench.with_torch import Published
from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.tokenizer import M3Tokenizer

PACKAGE = "ONNX Runtime"
_LONG = 2048


def load_onnx_runtime(checkpoint: Path, threads: int) -> Iterator[Contender]:
    """Both precisions at several budgets, all threads in one batch or a thread for each of several batches.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    import onnxruntime

    tokenizer = M3Tokenizer(checkpoint)
    exported = export(checkpoint, checkpoint / "model.onnx")
    for precision, path in (("float32", exported), ("int8", quantize(exported))):
        for workers in dict.fromkeys((1, threads)):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = max(1, threads // workers)
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for budget in BUDGETS:
                encode = PaddedEncoder(tokenizer, partial(_compute, session), budget, workers=workers)
                yield Contender(PACKAGE, encode, precision, f"{budget} tokens x {workers}")


def export(checkpoint: Path, path: Path) -> Path:
    """Write the module as ONNX, with eager attention: its graph is the smaller one, and neither is fused when read."""
    model = Published(checkpoint, attention="eager")
    ids = torch.full((2, 9), 5)
    ids[1, 6:] = 1
    axes = {0: "n", 1: "t"}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (ids, (ids != 1).long()),
            path,
            input_names=["ids", "mask"],
            output_names=["dense", "weights"],
            dynamic_shapes=(axes, axes),
            dynamo=True,
        )
    return path


def quantize(path: Path) -> Path:
    """Write the model with int8 weights, a scale for each output; activations get theirs while it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = path.with_suffix(".int8.onnx")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a step that changes nothing here
    try:
        quantize_dynamic(path, out, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    finally:
        root.setLevel(level)
    return out


def _compute(session: Any, ids: IntArray, mask: IntArray) -> tuple[FloatArray, FloatArray]:  # noqa: ANN401  # onnxruntime's InferenceSession
    import onnxruntime

    options = onnxruntime.RunOptions()
    if ids.shape[1] > _LONG:  # it keeps what it once needed: 7.6 GB for 8,192 tokens at 12 heads
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    dense, weights = session.run(None, {"ids": ids, "mask": mask}, options)
    return dense, weights
