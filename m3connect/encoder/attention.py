"""Attention within texts of equal length, in two ways, and within all texts of a pack at once on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from m3connect.encoder.pack import Pack

__all__ = ["PackedAttention", "blocked_attention", "find_packed_attention", "fused_attention", "pack_attention"]

PackedAttention: TypeAlias = Callable[[Tensor, Pack, int], Tensor]
"""Maps qkv [T, 3 * d] of a pack, given the number of heads, to the attended values [T, d]."""

Varlen: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""As `torch.nn.attention.varlen.varlen_attn`: query, key and value [T, heads, width], bounds and longest text twice."""

_SCORES_AT_ONCE = 1 << 19
"""Attention weights, 4 bytes each, that stay in a core's caches between the two products."""

_SHORT = 16
"""Up to so many tokens a text, PyTorch's own kernel in float32 is faster: there is one call, and little to compute."""


def fused_attention(qkv: Tensor, count: int, num_heads: int) -> Tensor:
    """Attend by PyTorch's own kernel.

    Args:
        qkv: [n * t, 3 * d] queries, keys and values of n texts of t tokens, one after the other.
        count: n, how many texts.
        num_heads: into how many heads d is divided.

    Returns:
        [n * t, d] the attended values.
    """
    if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
        # Training under autocast: a processor's kernel takes twice as long in bfloat16 as in float32.
        with torch.autocast("cpu", enabled=False):
            return fused_attention(qkv.float(), count, num_heads)
    query, key, value = qkv.view(count, -1, 3, num_heads, qkv.shape[1] // (3 * num_heads)).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(query, key, value)
    return attended.transpose(1, 2).reshape(len(qkv), -1)


def blocked_attention(qkv: Tensor, count: int, num_heads: int) -> Tensor:
    """Attend by two bfloat16 products, a few heads at a time: twice as fast on a processor as its own kernel.

    For inference alone; arguments as in `fused_attention`. The result is bfloat16, of short texts float32.
    """
    if len(qkv) <= count * _SHORT:
        return fused_attention(qkv.float(), count, num_heads)
    width = qkv.shape[1] // (3 * num_heads)
    parts = qkv.bfloat16().view(count, -1, 3, num_heads, width).permute(2, 0, 3, 1, 4)
    length = parts.shape[3]
    query, key, value = parts.reshape(3, count * num_heads, length, width).unbind()
    query, key = query * width**-0.5, key.transpose(1, 2)
    attended = torch.empty_like(query)
    heads = max(1, _SCORES_AT_ONCE // length**2)
    rows = max(1, min(length, _SCORES_AT_ONCE // length))
    for start in range(0, len(query), heads):
        some = slice(start, start + heads)
        for row in range(0, length, rows):
            scores = torch.bmm(query[some, row : row + rows], key[some])
            weights = torch.softmax(scores, -1, dtype=torch.float32)  # takes half the time that it does in bfloat16
            attended[some, row : row + rows] = torch.bmm(weights.bfloat16(), value[some])
    return attended.view(count, num_heads, length, width).transpose(1, 2).reshape(len(qkv), -1)


def pack_attention(varlen: Varlen) -> PackedAttention:
    """Attend within all texts of a pack by one call of a kernel that is told where they end."""

    def attend(qkv: Tensor, pack: Pack, num_heads: int) -> Tensor:
        query, key, value = qkv.view(len(qkv), 3, num_heads, -1).unbind(1)
        attended = varlen(query, key, value, pack.bounds, pack.bounds, pack.longest, pack.longest)
        return attended.reshape(len(qkv), -1)

    return attend


def find_packed_attention(device: torch.device, width: int) -> PackedAttention | None:
    """Return attention in bfloat16 within all texts of a pack, or None where torch has none for this device.

    torch has it since 2.10, for CUDA: a FlashAttention kernel, which needs a GPU of compute capability 8 (Ampere) or
    newer and heads whose width is a multiple of 8 up to 256.

    Args:
        device: where it shall run.
        width: of one head.
    """
    if device.type != "cuda" or torch.version.hip is not None or width % 8 or width > 256:
        return None
    if torch.cuda.get_device_capability(device) < (8, 0) or not torch.backends.cuda.is_flash_attention_available():
        return None
    try:
        varlen: Varlen = import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    return pack_attention(varlen)
