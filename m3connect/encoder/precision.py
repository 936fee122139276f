"""What an encoder computes in, and how the parts of a model are brought there."""

from __future__ import annotations

import logging
import platform
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import nn

from m3connect.compiling.finding import can_compile
from m3connect.encoder.attention import blocked_attention, find_packed_attention
from m3connect.encoder.linear import ROWS_AT_ONCE, CastLinear, Int8Linear, OneDnnLinear, has_int8, has_onednn
from m3connect.encoder.model import Layer

__all__ = ["Precision", "choose_precision", "convert", "convert_linear", "has_tiles"]

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]

_PROCESSOR = torch.device("cpu")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

logger = logging.getLogger(__name__)


def choose_precision(precision: str | None, device: torch.device) -> Precision:
    """Return what to compute in, by default float32 on a processor, bfloat16 on a newer GPU.

    Where a precision does not pay, the log says so.

    Raises:
        ValueError: there is no such precision, or the device does not have it.
    """
    on_gpu = device.type == "cuda"
    if precision is None:
        precision = "bfloat16" if on_gpu and _multiplies_bfloat16(device) else "float32"
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, but is {precision!r}")
    chosen = cast(Precision, precision)
    if on_gpu:
        _check_on_gpu(chosen, device)
    else:
        _check_on_processor(chosen)
    return chosen


def _check_on_gpu(precision: Precision, device: torch.device) -> None:
    if precision == "int8":
        raise ValueError("precision 'int8' is for processors: on a GPU take 'bfloat16', its default, or 'float32'")
    if precision == "bfloat16" and not _multiplies_bfloat16(device):
        logger.warning(
            "%s is older than those that multiply in bfloat16: it is slower here than 'float32', and attention needs "
            "memory for every pair of tokens of a text",
            torch.cuda.get_device_name(device),
        )


def _multiplies_bfloat16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _check_on_processor(precision: Precision) -> None:
    missing = {"bfloat16": not has_bfloat16(), "int8": not has_int8()}
    if missing.get(precision):
        logger.warning(
            "precision %r saves memory here, but no time: this processor, or this build of torch, has no fast products "
            "for it; 'float32' is as fast or faster",
            precision,
        )


def convert(part: nn.Module, precision: Precision, device: torch.device = _PROCESSOR) -> nn.Module:
    """Bring a part of a model that has its weights to a precision and to a device.

    Args:
        part: a layer, a table of embeddings, a linear or a norm; its own weights may be replaced.
        precision: norms, both heads and what flows between layers are float32 in all of them. In a head low precision
            would save nothing, and the multi-vectors of a few tokens are small differences of large numbers.
        device: where it shall compute.

    Returns:
        What stands in its place; it serves inference alone: it has no gradients, and an incomplete `state_dict`.
    """
    if isinstance(part, nn.Embedding) and precision != "float32":
        part = part.bfloat16()
    if device.type != "cpu":
        return (_convert_layer_for_gpu(part, precision, device) if isinstance(part, Layer) else part).to(device)
    if isinstance(part, Layer):
        return _convert_layer(part, precision)
    if isinstance(part, nn.Linear) and part.out_features > 1:
        return convert_linear(part, "float32")
    return part


def _convert_layer_for_gpu(layer: Layer, precision: Precision, device: torch.device) -> Layer:
    if precision == "float32":
        return layer
    for name, child in list(layer.named_children()):
        if isinstance(child, nn.Linear):
            setattr(layer, name, CastLinear(child, torch.bfloat16))
    layer.packed_attention = find_packed_attention(device, layer.attention_norm.normalized_shape[0] // layer.num_heads)
    return layer


def _convert_layer(layer: Layer, precision: Precision) -> nn.Module:
    if has_tiles(precision):
        from m3connect.encoder.compiled import CompiledLayer

        if CompiledLayer.fits(layer):
            low = precision != "float32" and has_tiles("bfloat16")
            return CompiledLayer(
                layer, products=_DTYPES[precision], attention=_DTYPES["bfloat16" if low else "float32"]
            )
    if precision != "float32" and has_bfloat16():
        layer.attention = blocked_attention
    layer.rows_at_once = ROWS_AT_ONCE
    fuse = precision != "int8" and has_onednn()
    for name, child in list(layer.named_children()):
        if isinstance(child, nn.Linear):
            setattr(layer, name, convert_linear(child, precision, gelu=fuse and child is layer.intermediate))
    if fuse:
        layer.activation = nn.Identity()
    return layer


def has_tiles(precision: Precision) -> bool:
    """Whether products of a precision can be compiled here, and are not left to oneDNN.

    Where the processor has AMX, oneDNN multiplies all but float32 several times as fast as AVX-512 can.
    """
    left_to_onednn = precision != "float32" and _processor_says("_is_amx_tile_supported")
    return not left_to_onednn and can_compile(precision)


def _processor_says(name: str) -> bool:
    """Ask PyTorch, whose names for this are not public."""
    answer: bool = getattr(torch.cpu, name, lambda: False)()
    return answer


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
        return _processor_says("_is_avx512_bf16_supported") or _processor_says("_is_amx_tile_supported")
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported() if torch.backends.mkldnn.is_available() else False
    return supported
