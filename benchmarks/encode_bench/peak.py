"""How fast the machine multiplies matrices at a model's sizes: the limit of any encoder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

from encode_bench.workloads import Shape

if TYPE_CHECKING:
    import numpy as np
    import torch

    from m3connect.encoder.precision import Precision

PEAK_TOKENS = 2048


def matrix_flops(shape: Shape, precision: Precision, *, repeats: int = 3) -> float:
    """Operations a second of a layer's four linears over 2,048 tokens, the best of several runs.

    All that the encoder may use take part: PyTorch's own choice, oneDNN, and m3connect's compiled tiles. Of int8 it is
    the product of integers, without bringing rows to 8 bits.
    """
    import torch

    d, inner = shape.hidden, shape.intermediate
    sizes = [(d, 3 * d), (d, d), (d, inner), (inner, d)]
    best = math.inf
    with torch.inference_mode():
        for products in zip(*(_products(*size, precision) for size in sizes), strict=True):
            for _ in range(repeats):
                start = time.perf_counter()
                for product in products:
                    product()
                best = min(best, time.perf_counter() - start)
    return 2 * PEAK_TOKENS * sum(width * height for width, height in sizes) / best


def _products(inputs: int, outputs: int, precision: Precision) -> list[Callable[[], object]]:
    """Return the same matrix product by PyTorch's choice, by oneDNN, and by tiles where they are used."""
    import torch

    from m3connect.encoder.linear import Int8Linear
    from m3connect.encoder.precision import convert_linear, has_tiles

    linear = torch.nn.Linear(inputs, outputs)
    if precision == "int8":
        rows, weight = (torch.randint(-127, 128, (n, inputs), dtype=torch.int8) for n in (PEAK_TOKENS, outputs))
        int8, given = Int8Linear(linear), rows.view(torch.uint8) ^ 128
        products: list[Callable[[], object]] = [
            lambda: torch._int_mm(rows, weight.t()),
            lambda: int8.multiply(given),
        ]
    else:
        dtype = getattr(torch, precision)
        plain, given = torch.nn.Linear(inputs, outputs, dtype=dtype), torch.rand(PEAK_TOKENS, inputs, dtype=dtype)
        ours = convert_linear(linear, precision)
        products = [lambda: plain(given), lambda: ours(given)]
    if has_tiles(precision):
        products.append(_tiles(linear, given, precision))
    return products


def _tiles(linear: torch.nn.Linear, given: torch.Tensor, precision: Precision) -> Callable[[], object]:
    """Return the product of m3connect's tiles, shared among as many threads as PyTorch has."""
    import numpy as np
    import torch

    from m3connect.encoder import kernels
    from m3connect.encoder.compiled import tiled

    def as_array(tensor: torch.Tensor) -> np.ndarray:
        return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()

    weights = {name: as_array(tensor) for name, tensor in tiled(linear, getattr(torch, precision)).items()}
    rows, threads = as_array(given), torch.get_num_threads()
    row_scales, out = np.ones(len(rows), np.float32), np.empty((len(rows), linear.out_features), np.float32)

    def multiply(thread: int) -> None:
        arrays = weights["blocks"], weights["offsets"], weights["scales"], weights["bias"]
        kernels.multiply(rows, row_scales, *arrays, out, thread, threads)

    return lambda: list(_pool(threads).map(multiply, range(threads)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
