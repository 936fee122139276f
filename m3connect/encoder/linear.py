"""Linear layers for inference at the speed that a processor's widest instructions allow, in three precisions.

PyTorch sends a float32 `nn.Linear` to MKL, which uses AVX2 at most on processors that are not Intel's. oneDNN, which
PyTorch carries too, uses AVX-512 wherever it is, keeps the weights in blocks that suit it, and computes GELU on the
way out. Both compute in float32 and sum in another order: results differ by rounding alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "LEVELS",
    "ROWS_AT_ONCE",
    "CastLinear",
    "Int8Linear",
    "OneDnnLinear",
    "has_int8",
    "has_onednn",
    "to_integers",
]

LEVELS = 127
"""Int8 numbers used on each side of 0."""

ROWS_AT_ONCE = 256
"""Rows of the feed-forward part whose inner states stay in a core's caches, and fill its matrix unit."""


class OneDnnLinear(nn.Module):
    """`nn.Linear`, its weights laid out for oneDNN; the original's own weights are not kept.

    Args:
        linear: what to compute.
        dtype: what to compute it in: float32 or bfloat16; rows of another type are cast.
        gelu: apply GELU to the result.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype = torch.float32, *, gelu: bool = False) -> None:
        super().__init__()
        blocked = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype))
        self.register_buffer("weight", blocked, persistent=False)
        self.register_buffer("bias", linear.bias.detach().to(dtype), persistent=False)
        self._then: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, rows: Tensor) -> Tensor:
        """Map [T, inputs] to [T, outputs]."""
        rows = rows.to(self.bias.dtype)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, *self._then)
        return result


class CastLinear(nn.Module):
    """`nn.Linear` in a smaller type by PyTorch's own choice of library; rows are cast."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(dtype), persistent=False)
        self.register_buffer("bias", linear.bias.detach().to(dtype), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Map [T, inputs] to [T, outputs]."""
        return F.linear(rows.to(self.weight.dtype), self.weight, self.bias)


class Int8Linear(nn.Module):
    """`nn.Linear` by a product of 8-bit integers: one scale for each output's weights, and one for each row.

    A row's scale comes from that row alone, so the rows beside it change nothing. Where the processor has no such
    product, the same integers are multiplied in float32: the weights stay small, but nothing gets faster.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scales = to_integers(linear.weight.detach())
        self._packed = has_int8()
        if self._packed:
            weight = torch.ops.onednn.qlinear_prepack(weight, [256, linear.in_features])
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zeros", torch.zeros(linear.out_features, dtype=torch.int64), persistent=False)
        self.register_buffer("bias", linear.bias.detach().clone(), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Map [T, inputs] of any floating type to [T, outputs] in float32."""
        rows = rows.float()
        scales = _scales(rows)
        shifted = rows.mul(scales.reciprocal()).round_().add_(128).to(torch.uint8)
        product = self.multiply(shifted)
        return torch.addcmul(self.bias, product, scales, out=product)

    def multiply(self, rows: Tensor) -> Tensor:
        """Return [T, outputs] in float32: rows of integers times the weights.

        Args:
            rows: [T, inputs] uint8, from 1 to 255 standing for -127 to 127: signed rows are slow in oneDNN.
        """
        if not self._packed:
            return F.linear(rows.float() - 128, self.weight.float()).mul_(self.scales)
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 128, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return result


def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights [n, inputs] as int8, and [n] what they have to be multiplied with."""
    scales = _scales(weight)
    return torch.round(weight / scales).to(torch.int8), scales.squeeze(1)


def _scales(rows: Tensor) -> Tensor:
    """Return [n, 1] what each row is divided by to fit into 8 bits."""
    return rows.abs().amax(1, keepdim=True).clamp_(min=1e-12).div_(LEVELS)


def has_onednn() -> bool:
    """Whether there are two libraries to choose from: without MKL, as on ARM, PyTorch picks the best by itself."""
    both: bool = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    return both and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_int8() -> bool:
    """Whether oneDNN multiplies 8-bit integers exactly and fast here; without VNNI its sums could overflow."""
    vnni: bool = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    return vnni and has_onednn() and hasattr(torch.ops.onednn, "qlinear_pointwise")
