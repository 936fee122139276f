"""What an encoder computes in, and how the parts of a model are brought there."""

from __future__ import annotations

import logging
import platform
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

from m3connect.encoder.attention import blocked_attention
from m3connect.encoder.linear import CastLinear, Int8Linear, OneDnnLinear, has_int8, has_onednn
from m3connect.encoder.model import Layer

__all__ = ["Precision", "check_precision", "convert", "convert_linear"]

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]

_ROWS_AT_ONCE = 256
"""Rows of the feed-forward part whose inner states stay in a core's caches, and fill its matrix unit."""

logger = logging.getLogger(__name__)


def check_precision(precision: str) -> None:
    """Refuse a precision that does not exist, and say in the log where one does not pay.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, but is {precision!r}")
    missing = {"bfloat16": not has_bfloat16(), "int8": not has_int8()}
    if missing.get(precision):
        logger.warning(
            "precision %r saves memory here, but no time: this processor, or this build of torch, has no fast products "
            "for it; 'float32' is as fast or faster",
            precision,
        )


def convert(part: nn.Module, precision: Precision) -> nn.Module:
    """Bring a part of a model that has its weights to a precision.

    Args:
        part: a layer, a table of embeddings, a linear or a norm; its own weights may be replaced.
        precision: norms, both heads and what flows between layers are float32 in all of them. In a head low precision
            would save nothing, and the multi-vectors of a few tokens are small differences of large numbers.

    Returns:
        What stands in its place; it serves inference alone: it has no gradients, and an incomplete `state_dict`.
    """
    if isinstance(part, Layer):
        return _convert_layer(part, precision)
    if isinstance(part, nn.Embedding) and precision != "float32":
        return part.bfloat16()
    if isinstance(part, nn.Linear) and part.out_features > 1:
        return convert_linear(part, "float32")
    return part


def _convert_layer(layer: Layer, precision: Precision) -> Layer:
    if precision != "float32" and has_bfloat16():
        layer.attention = blocked_attention
    layer.rows_at_once = _ROWS_AT_ONCE
    fuse = precision != "int8" and has_onednn()
    for name, child in list(layer.named_children()):
        if isinstance(child, nn.Linear):
            setattr(layer, name, convert_linear(child, precision, gelu=fuse and child is layer.intermediate))
    if fuse:
        layer.activation = nn.Identity()
    return layer


def convert_linear(linear: nn.Linear, precision: Precision, *, gelu: bool = False) -> nn.Module:
    """Return a linear that computes the same in a precision, for inference alone; `gelu` adds GELU, not in int8."""
    if precision == "int8":
        return Int8Linear(linear)
    if has_onednn():
        return OneDnnLinear(linear, torch.bfloat16 if precision == "bfloat16" else torch.float32, gelu=gelu)
    return linear if precision == "float32" else CastLinear(linear, torch.bfloat16)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere oneDNN emulates it."""
    if platform.machine() in ("x86_64", "AMD64"):
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in names)
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported() if torch.backends.mkldnn.is_available() else False  # type: ignore[no-untyped-call]
    return supported
