"""Linear layers at the speed that a processor's widest instructions allow.

PyTorch sends a float32 `nn.Linear` to MKL, which uses AVX2 at most on processors that are not Intel's. oneDNN, which
PyTorch carries too, uses AVX-512 wherever it is, and keeps the weights in blocks that suit it. Both compute in float32
and sum in another order: results differ by rounding alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["OneDnnLinear", "use_fast_linears"]


class OneDnnLinear(nn.Module):
    """`nn.Linear` for inference, its weights laid out for oneDNN; the original's own weights are not kept."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        blocked = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.register_buffer("weight", blocked, persistent=False)
        self.register_buffer("bias", linear.bias.detach(), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Map [T, inputs] to [T, outputs]."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return result


def use_fast_linears(model: nn.Module) -> None:
    """Replace the square and the wide linears of a model, one after the other, where this machine has oneDNN and MKL.

    Afterwards the model serves inference alone: it has no gradients for these layers, and its `state_dict` lacks them.
    """
    if not _has_onednn():
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child.out_features > 1:
                setattr(module, name, OneDnnLinear(child))


def _has_onednn() -> bool:
    """Whether there are two libraries to choose from: without MKL, as on ARM, PyTorch picks the best by itself."""
    both: bool = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return both and hasattr(torch.ops.mkldnn, "_linear_pointwise")
