"""From token ids to views with gradients: the encoder's own module, in sub-batches, computed twice if need be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from m3connect.embeddings import IntArray
from m3connect.encoder.model import M3Model
from m3connect.encoder.pack import Pack
from m3connect.train.scores import Views

__all__ = ["Embedder", "Precision", "sub_batches"]

Precision: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Embedder:
    """How a model turns token ids into views while it learns."""

    model: M3Model

    unweighted: IntArray
    """Ids that have no place in a sparse row."""

    sub_batch_tokens: int = 16_384
    """Tokens that go through the model together. More than these are split: only the views are kept, and the backward
    pass computes one sub-batch after the other again, so memory follows the sub-batch. The gradients are the same."""

    precision: Precision = "float32"
    """Of the matrix products inside the model; scores are always float32."""

    def __call__(self, token_ids: Sequence[IntArray]) -> Views:
        """Embed texts, given as arrays of token ids with `<s>` first and `</s>` last."""
        lengths = np.array([len(ids) for ids in token_ids])
        order = np.argsort(-lengths, kind="stable")
        packs = [
            Pack.of([token_ids[i] for i in part], self.device)
            for part in sub_batches(lengths, order, self.sub_batch_tokens)
        ]
        parts = [self._run(pack, again=len(packs) > 1) for pack in packs]
        dense, weights, vectors = (torch.cat(views) for views in zip(*parts, strict=True))
        return self._views(
            np.concatenate([token_ids[i] for i in order]), lengths[order], order, (dense, weights, vectors)
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.word_embeddings.weight.device

    def _run(self, pack: Pack, *, again: bool) -> tuple[Tensor, Tensor, Tensor]:
        if not (again and torch.is_grad_enabled()):
            return self._heads(pack)
        views: tuple[Tensor, Tensor, Tensor] = checkpoint(
            self._heads, pack, use_reentrant=False, preserve_rng_state=False
        )
        return views

    def _heads(self, pack: Pack) -> tuple[Tensor, Tensor, Tensor]:
        with self._autocast():
            hidden = self.model(pack)
            weights = self.model.token_weights(hidden)
            vectors = self.model.token_vectors(hidden)
            return self.model.dense(hidden, pack).float(), weights.float(), vectors.float()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _views(self, ids: IntArray, lengths: IntArray, order: IntArray, heads: tuple[Tensor, Tensor, Tensor]) -> Views:
        dense, weights, vectors = heads
        starts = np.cumsum(lengths) - lengths
        weighted = ~np.isin(ids, self.unweighted)
        counts = np.add.reduceat(weighted.astype(np.int64), starts)
        kept = np.ones(len(ids), dtype=bool)
        kept[starts] = False

        def tensor(array: IntArray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        return Views(
            places=tensor(np.argsort(order)),
            dense=dense,
            token_ids=tensor(ids[weighted]),
            token_weights=weights[tensor(np.flatnonzero(weighted))],
            token_counts=tensor(counts),
            vectors=_rows(vectors, tensor(np.flatnonzero(kept))),
            vector_counts=tensor(lengths - 1),
        )


def sub_batches(lengths: IntArray, order: IntArray, budget: int) -> Iterator[IntArray]:
    """Cut `order`, an order of texts, into parts of at most `budget` tokens; a longer text is a part alone."""
    total = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        used = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, used + budget, side="right")))
        yield order[start:stop]
        start = stop


def _rows(vectors: Tensor, kept: Tensor) -> Tensor:
    """Return some rows; unlike indexing, whose backward pass is slow on a processor, by an embedding look-up."""
    return torch.nn.functional.embedding(kept, vectors)
