"""One batch: from token ids to the loss and to figures about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from m3connect.embeddings import IntArray
from m3connect.train.batching import Batch
from m3connect.train.config import TrainConfig
from m3connect.train.embed import Embedder
from m3connect.train.gather import gather_rows, gather_views, rank
from m3connect.train.losses import UnifiedLoss, own_groups, unified_loss
from m3connect.train.scores import Views, dense_scores, multi_vector_scores, sparse_scores

__all__ = ["Scores", "batch_loss", "objective", "score_batch"]

_NEVER = -1e4
"""The score of a column that must not count: no exponential sees it, and zero times it is still a number."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a rank's queries score with all passages, divided by the temperature."""

    dense: Tensor
    """[B, P], as are the next two."""

    sparse: Tensor
    multi_vector: Tensor

    targets: Tensor
    """[B] the columns of the positives."""

    counted: Tensor
    """[B, P] false where a column is a duplicate of the positive and does not count."""

    empty_sparse: Tensor
    """The share of this rank's texts without any sparse weight."""


def batch_loss(
    embedder: Embedder, batch: Batch, config: TrainConfig, *, step: int
) -> tuple[Tensor, UnifiedLoss, Scores]:
    """Return what to minimise, the losses it is made of, and the scores."""
    scores = score_batch(embedder, batch, config, step=step)
    losses = unified_loss(
        scores.dense,
        scores.sparse,
        scores.multi_vector,
        targets=scores.targets,
        weights=config.weights,
        lambdas=config.lambdas,
        distill=config.objective == "self-distillation" and step >= config.distill_from,
        teacher=None if batch.teacher is None else torch.from_numpy(batch.teacher).to(scores.dense.device),
        teacher_kind=config.teacher or "ranking",
    )
    return objective(losses, config), losses, scores


def objective(losses: UnifiedLoss, config: TrainConfig) -> Tensor:
    """Return the loss that the configuration asks for."""
    if config.objective == "independent":
        return (losses.dense + losses.sparse + losses.multi_vector) / 3
    return losses.total


def score_batch(embedder: Embedder, batch: Batch, config: TrainConfig, *, step: int) -> Scores:
    """Embed a batch and score this rank's queries with the passages of all ranks, where those may be negatives."""
    queries, own = embedder(batch.queries), embedder(batch.passages)
    empty = _empty_rows(queries, own)
    if config.maxsim_tokens is not None:
        queries = _sample_vectors(queries, config.maxsim_tokens, [config.seed, step, rank()])
    passages, offset = gather_views(own) if batch.in_batch_negatives else (own, 0)
    targets = torch.arange(len(queries), device=embedder.device) * batch.group_size + offset
    views = (dense_scores, sparse_scores, multi_vector_scores)
    scores = [score(queries, passages) / config.temperature for score in views]
    if not batch.in_batch_negatives:
        scores = [own_groups(matrix, targets, batch.group_size) for matrix in scores]
        targets = torch.zeros_like(targets)
    counted = torch.ones_like(scores[0], dtype=torch.bool)
    if batch.in_batch_negatives and config.mask_duplicates:
        counted = ~_duplicates(batch.passages, targets)
        scores = [matrix.masked_fill(~counted, _NEVER) for matrix in scores]
    dense, sparse, multi_vector = scores
    return Scores(dense, sparse, multi_vector, targets, counted, empty)


def _duplicates(passages: Sequence[IntArray], targets: Tensor) -> Tensor:
    """Return [B, P] true where a column has the very text of the row's positive and is not it."""
    digests = [int.from_bytes(blake2b(ids.tobytes(), digest_size=7).digest()) for ids in passages]
    columns = gather_rows(torch.tensor(digests, device=targets.device))
    same = columns[None] == columns[targets][:, None]
    return same.scatter(1, targets[:, None], False)


def _empty_rows(queries: Views, passages: Views) -> Tensor:
    counts = [_positive_weights(views) == 0 for views in (queries, passages)]
    return torch.cat(counts).float().mean()


@torch.no_grad()
def _positive_weights(views: Views) -> Tensor:
    """Return [n] how many tokens of each text have a weight above 0."""
    running = torch.nn.functional.pad((views.token_weights > 0).long().cumsum(0), (1, 0))
    ends = views.token_counts.cumsum(0)
    return running[ends] - running[ends - views.token_counts]


def _sample_vectors(views: Views, most: int, seed: Sequence[int]) -> Views:
    """Keep at most so many random token vectors of each text."""
    counts = views.vector_counts.cpu()
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
    order = torch.argsort(torch.rand(len(owners), generator=generator))
    order = order[torch.argsort(owners[order], stable=True)]
    turn = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
    kept = order[turn < most].to(views.vectors.device)
    vectors = torch.nn.functional.embedding(kept, views.vectors)
    return Views(
        places=views.places,
        dense=views.dense,
        token_ids=views.token_ids,
        token_weights=views.token_weights,
        token_counts=views.token_counts,
        vectors=vectors,
        vector_counts=views.vector_counts.clamp(max=most),
    )
