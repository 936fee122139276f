"""Views of all ranks, with gradients: what makes the passages of other devices negatives for all three heads."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from m3connect.train.scores import Views

__all__ = ["average_gradients", "gather_rows", "gather_views", "rank", "sum_over_ranks", "world_size"]


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_views(views: Views) -> tuple[Views, int]:
    """Return the texts of all ranks, rank 0's first, and where this rank's begin.

    What any rank's loss says about a text flows back to its owner.
    """
    if world_size() == 1:
        return views, 0
    places = _gather(views.places)
    offsets = torch.cumsum(torch.tensor([0, *map(len, places[:-1])], device=views.places.device), 0)
    gathered = Views(
        places=torch.cat([part + offset for part, offset in zip(places, offsets, strict=True)]),
        dense=_gather_with_gradient(views.dense),
        token_ids=torch.cat(_gather(views.token_ids)),
        token_weights=_gather_with_gradient(views.token_weights),
        token_counts=torch.cat(_gather(views.token_counts)),
        vectors=_gather_with_gradient(views.vectors),
        vector_counts=torch.cat(_gather(views.vector_counts)),
    )
    return gathered, int(offsets[rank()])


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, without gradients."""
    return rows if world_size() == 1 else torch.cat(_gather(rows))


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the ranks."""
    if world_size() == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of each rank's values."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def _gather(rows: Tensor) -> list[Tensor]:
    """Return each rank's rows, of which it may have any number."""
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = int(max(counts))
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return [part[: int(count)] for part, count in zip(parts, counts, strict=True)]


def _gather_with_gradient(rows: Tensor) -> Tensor:
    gathered: Tensor = _GatherWithGradient.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _GatherWithGradient(torch.autograd.Function):
    """All ranks' rows; backwards, a rank's rows get the sum of what all ranks' losses say about them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ANN401  # torch's context
        parts = _gather(rows)
        before = sum(len(part) for part in parts[: rank()])
        ctx.own = slice(before, before + len(rows))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401  # torch's context
        return sum_over_ranks(gradients[0].contiguous())[ctx.own]
