"""The optimizer, its rate over time, and gradients of word embeddings that hold only the rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from m3connect.encoder.model import M3Model
from m3connect.train.config import TrainConfig

__all__ = ["clip_gradients", "densify_embedding_gradients", "make_optimizer", "rate_share", "set_rate"]


def make_optimizer(model: M3Model, config: TrainConfig) -> AdamW:
    """Return AdamW over all parameters; only matrices decay."""
    tables = [model.word_embeddings.weight]
    rest = [parameter for parameter in model.parameters() if parameter is not tables[0]]
    matrices = [parameter for parameter in rest if parameter.ndim > 1]
    vectors = [parameter for parameter in rest if parameter.ndim == 1]
    rate = config.learning_rate
    embedding_rate = rate if config.embedding_learning_rate is None else config.embedding_learning_rate
    groups = [
        {"params": tables, "full_rate": embedding_rate, "weight_decay": 0.0},
        {"params": matrices, "full_rate": rate, "weight_decay": config.weight_decay},
        {"params": vectors, "full_rate": rate, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=rate, betas=config.betas, fused=True)


def rate_share(step: int, steps: int, config: TrainConfig) -> float:
    """Return the share of the full rate that optimizer step `step`, from 0, of `steps` uses."""
    warm = round(config.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    falls_from = max(warm, round(config.decay_from * steps))
    done = max(0, step - falls_from) / max(1, steps - falls_from)
    return 1 - done * (1 - config.final_rate)


def set_rate(optimizer: AdamW, share: float) -> None:
    """Set each group's rate to a share of its full one."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * share


def densify_embedding_gradients(model: nn.Module) -> None:
    """Turn the gradients of look-up tables, which hold the rows of each sub-batch, into whole ones, once a step."""
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.grad is not None and module.weight.grad.is_sparse:
            module.weight.grad = module.weight.grad.to_dense()


def clip_gradients(model: nn.Module, largest: float | None) -> Tensor:
    """Scale all gradients down to a common norm of at most `largest`, and return the norm they had."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf") if largest is None else largest)
