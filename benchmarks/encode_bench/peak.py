"""How fast the machine multiplies matrices at a model's sizes: the limit of any encoder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from encode_bench.workloads import Shape

if TYPE_CHECKING:
    from m3connect.encoder.precision import Precision

PEAK_TOKENS = 2048


def matrix_flops(shape: Shape, precision: Precision, *, repeats: int = 3) -> float:
    """Operations a second of a layer's four linears over 2,048 tokens, the best of several runs.

    Both libraries take part: PyTorch's own choice, and what our encoder uses (oneDNN); of int8 the bare product of
    integers, without bringing anything to 8 bits or back.
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


def _products(inputs: int, outputs: int, precision: Precision) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the same matrix product by PyTorch's choice and by what our encoder uses."""
    import torch

    from m3connect.encoder.linear import Int8Linear
    from m3connect.encoder.precision import convert_linear

    linear = torch.nn.Linear(inputs, outputs)
    if precision == "int8":
        rows, weight = (torch.randint(-127, 128, (n, inputs), dtype=torch.int8) for n in (PEAK_TOKENS, outputs))
        int8, shifted = Int8Linear(linear), rows.view(torch.uint8) ^ 128
        return lambda: torch._int_mm(rows, weight.t()), lambda: int8.multiply(shifted)
    dtype = getattr(torch, precision)
    plain, hidden = torch.nn.Linear(inputs, outputs, dtype=dtype), torch.rand(PEAK_TOKENS, inputs, dtype=dtype)
    ours = convert_linear(linear, precision)
    return lambda: plain(hidden), lambda: ours(hidden)
