"""What tells models apart, wherever they lie: a hash of the shape, the tokenizer and samples of all weights."""

from __future__ import annotations

import hashlib

from torch import nn

from m3connect.encoder.checkpoint import ModelConfig
from m3connect.encoder.tokenizer import M3Tokenizer

__all__ = ["Samples", "fingerprint_of"]


class Samples:
    """About 4,096 values of every tensor: quick on 2 GB, and no fine-tune leaves them all.

    They are taken while a model is loaded, before its parts are brought to a precision.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[tuple[int, ...], bytes]] = {}
        """The shape and the sampled values of each tensor."""

    def add(self, name: str, part: nn.Module) -> None:
        """Sample the tensors of a part of a model."""
        for key, tensor in part.state_dict().items():
            flat = tensor.reshape(-1)
            step = max(1, len(flat) // 4096) | 1  # odd, so that the sample walks through all columns of a matrix
            self.by_name[f"{name}.{key}"] = tuple(tensor.shape), flat[::step].contiguous().numpy().tobytes()


def fingerprint_of(config: ModelConfig, samples: Samples, tokenizer: M3Tokenizer) -> str:
    """Return the model's fingerprint; of its precision it says nothing, since all give nearly the same vectors."""
    digest = hashlib.sha256(f"{config}{tokenizer.signature}".encode())
    for name, (shape, values) in sorted(samples.by_name.items()):
        digest.update(f"{name}{shape}".encode())
        digest.update(values)
    return f"m3-{config.num_hidden_layers}x{config.hidden_size}-{digest.hexdigest()[:16]}"
