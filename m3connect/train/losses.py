"""The losses of M3-Embedding as pure functions of score matrices.

Equations are those of arXiv 2402.03216v4, section 3.3. Rows are queries, columns are passages, and every score is
already divided by the temperature, which the paper writes into its equation (1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["TeacherLoss", "UnifiedLoss", "info_nce", "integrated_score", "own_groups", "teacher_loss", "unified_loss"]

TeacherLoss: TypeAlias = Literal["ranking", "kl"]

Three: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class UnifiedLoss:
    """The loss of a batch with all its parts, each a scalar; only `total` is meant for the backward pass."""

    total: Tensor
    """(L + L') / 2 with self-distillation, L without."""

    joint: Tensor
    """L, the weighted mean of the four InfoNCE losses."""

    dense: Tensor
    sparse: Tensor
    multi_vector: Tensor
    integrated: Tensor

    distilled: Tensor | None = None
    """L', the weighted mean of the three below; None without self-distillation, and so are they."""

    distilled_dense: Tensor | None = None
    distilled_sparse: Tensor | None = None
    distilled_multi_vector: Tensor | None = None


def unified_loss(
    dense: Tensor,
    sparse: Tensor,
    multi_vector: Tensor,
    *,
    targets: Tensor,
    weights: Three = (1.0, 0.3, 1.0),
    lambdas: Three = (1.0, 0.1, 1.0),
    distill: bool = True,
    teacher: Tensor | None = None,
    teacher_kind: TeacherLoss = "ranking",
) -> UnifiedLoss:
    """Return the loss of the three heads: InfoNCE for each and for their integrated score, and self-distillation.

    Args:
        dense: [B, P] scores of the dense head, divided by the temperature, as are the next two.
        sparse: [B, P] scores of the sparse head.
        multi_vector: [B, P] scores of the multi-vector head.
        targets: [B] the column of each query's positive passage.
        weights: w1 to w3 of the integrated score, equation (2): dense, sparse, multi-vector.
        lambdas: lambda1 to lambda3 of equations (3) and (5), in the same order.
        distill: teach each head by the integrated score, which itself gets no gradient from that.
        teacher: [B, G] scores of an outside model for the G passages of each query, whose columns begin at `targets`;
            they are turned into probabilities over the group, and take the place of the bare positives.
        teacher_kind: what a teacher changes, see `teacher_loss`.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> loss = unified_loss(scores, scores, scores, targets=torch.tensor([0, 1]))
        >>> round(loss.dense.item(), 4)  # log(1 + exp(-2))
        0.1269
    """
    integrated = integrated_score(dense, sparse, multi_vector, weights=weights)
    heads = (dense, sparse, multi_vector)
    own = [_contrast(scores, targets, teacher, teacher_kind) for scores in (*heads, integrated)]
    joint = (_weighted(lambdas, own[:3]) + own[3]) / 4  # equation (3)
    parts = dict(zip(("dense", "sparse", "multi_vector", "integrated"), own, strict=True))
    if not distill:
        return UnifiedLoss(total=joint, joint=joint, **parts)
    probabilities = integrated.detach().softmax(-1)
    taught = [_soft_cross_entropy(probabilities, scores) for scores in heads]  # equation (4)
    distilled = _weighted(lambdas, taught) / 3  # equation (5)
    names = ("distilled_dense", "distilled_sparse", "distilled_multi_vector")
    parts |= {"distilled": distilled, **dict(zip(names, taught, strict=True))}
    return UnifiedLoss(total=(joint + distilled) / 2, joint=joint, **parts)  # equation (6)


def _weighted(lambdas: Three, losses: Sequence[Tensor]) -> Tensor:
    return lambdas[0] * losses[0] + lambdas[1] * losses[1] + lambdas[2] * losses[2]


def integrated_score(dense: Tensor, sparse: Tensor, multi_vector: Tensor, *, weights: Three) -> Tensor:
    """Return the weighted sum of the three heads' scores, equation (2)."""
    return weights[0] * dense + weights[1] * sparse + weights[2] * multi_vector


def info_nce(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over queries of -log softmax(scores)[target], equation (1)."""
    return F.cross_entropy(scores, targets)


def teacher_loss(scores: Tensor, targets: Tensor, teacher: Tensor, kind: TeacherLoss = "ranking") -> Tensor:
    """Return the loss of one score matrix against the scores of an outside model.

    Args:
        scores: [B, P] divided by the temperature.
        targets: [B] where the columns of each query's group begin.
        teacher: [B, G] the outside model's scores of the group.
        kind: "ranking" asks each member of the group in turn, weighted by its probability, to beat all columns but the
            members before it (FlagEmbedding's `m3_kd_loss`). "kl" adds to InfoNCE the cross entropy between the
            teacher's probabilities and the scores' own within the group (its `kl_div`).
    """
    probabilities = teacher.detach().to(scores.dtype).softmax(-1)
    if kind == "kl":
        return info_nce(scores, targets) + _soft_cross_entropy(
            probabilities, own_groups(scores, targets, teacher.shape[1])
        )
    if kind != "ranking":
        raise ValueError(f"teacher_kind must be 'ranking' or 'kl', got {kind!r}")
    rows = torch.arange(len(scores), device=scores.device)
    used = torch.zeros_like(scores, dtype=torch.bool)
    loss = scores.new_zeros(())
    for member in range(teacher.shape[1]):
        left = scores.masked_fill(used, torch.finfo(scores.dtype).min)
        loss = loss + (probabilities[:, member] * F.cross_entropy(left, targets + member, reduction="none")).mean()
        used = used.index_put((rows, targets + member), used.new_ones(()))
    return loss


def own_groups(scores: Tensor, targets: Tensor, group_size: int) -> Tensor:
    """Return [B, G] each query's scores of its own passages: what is left without in-batch negatives."""
    return scores.gather(1, targets[:, None] + torch.arange(group_size, device=scores.device))


def _contrast(scores: Tensor, targets: Tensor, teacher: Tensor | None, kind: TeacherLoss) -> Tensor:
    return info_nce(scores, targets) if teacher is None else teacher_loss(scores, targets, teacher, kind)


def _soft_cross_entropy(probabilities: Tensor, scores: Tensor) -> Tensor:
    return -(probabilities * scores.log_softmax(-1)).sum(-1).mean()
