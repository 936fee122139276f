"""The saved folder as plain transformers read it, and the three scores of M3's heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, normalize
from transformers import AutoTokenizer, XLMRobertaModel


@dataclass(frozen=True, slots=True)
class Views:
    """The three views of n texts."""

    dense: Tensor
    """[n, d] unit rows."""

    sparse: list[dict[int, float]]
    """n rows: weight by piece."""

    multi_vector: list[Tensor]
    """n tensors [t_i, d] of unit rows."""


class FolderModel:
    """The model in a folder of the published layout."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = XLMRobertaModel.from_pretrained(folder).eval()
        self.heads = {name: _load_head(folder / f"{name}_linear.pt") for name in ("colbert", "sparse")}
        self.dropped = torch.tensor(sorted(self.tokenizer.all_special_ids)[:4])

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch_size: int = 32) -> Views:
        """Encode texts, shortest first, and give the views back in the order of `texts`."""
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True)["input_ids"]
        order = np.argsort([len(row) for row in ids], kind="stable").tolist()
        dense = torch.zeros(len(texts), self.encoder.config.hidden_size)
        sparse: list[dict[int, float]] = [{} for _ in texts]
        multi_vector = [torch.empty(0) for _ in texts]
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            batch = self.tokenizer.pad({"input_ids": [ids[i] for i in numbers]}, return_tensors="pt")
            hidden = self.encoder(**batch).last_hidden_state
            dense[numbers] = normalize(hidden[:, 0], dim=-1)
            for number, row, tokens in zip(numbers, hidden, batch["input_ids"], strict=True):
                states = row[: len(ids[number])]
                sparse[number] = self._sparse(states, tokens[: len(ids[number])])
                multi_vector[number] = normalize(linear(states[1:], **self.heads["colbert"]), dim=-1)
        return Views(dense, sparse, multi_vector)

    def _sparse(self, states: Tensor, tokens: Tensor) -> dict[int, float]:
        weights = torch.relu(linear(states, **self.heads["sparse"]))[:, 0]
        kept = ~torch.isin(tokens, self.dropped) & (weights > 0)
        largest: dict[int, float] = {}
        for token, weight in zip(tokens[kept].tolist(), weights[kept].tolist(), strict=True):
            largest[token] = max(weight, largest.get(token, 0.0))
        return largest


def _load_head(path: Path) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in torch.load(path, weights_only=True).items()}


def dense_scores(queries: Views, documents: Views) -> Tensor:
    """[q, n] inner products."""
    return queries.dense @ documents.dense.T


def sparse_scores(queries: Views, documents: Views) -> Tensor:
    """[q, n] sums over shared pieces of the product of the two weights."""
    pieces = {piece: column for column, piece in enumerate(sorted({p for row in queries.sparse for p in row}))}
    left, right = (_table(views.sparse, pieces) for views in (queries, documents))
    return left @ right.T


def _table(rows: Sequence[dict[int, float]], pieces: dict[int, int]) -> Tensor:
    table = torch.zeros(len(rows), len(pieces))
    for number, row in enumerate(rows):
        for piece, weight in row.items():
            if piece in pieces:
                table[number, pieces[piece]] = weight
    return table


def multi_vector_scores(queries: Views, documents: Views, *, chunk: int = 32) -> Tensor:
    """[q, n] mean over query tokens of the best document token."""
    scores = torch.empty(len(queries.multi_vector), len(documents.multi_vector))
    lengths = torch.tensor([len(query) for query in queries.multi_vector])
    tokens = torch.cat(queries.multi_vector)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    for start in range(0, len(documents.multi_vector), chunk):
        block = documents.multi_vector[start : start + chunk]
        longest = torch.arange(max(map(len, block)))
        # A short document repeats its last token, which changes no maximum: no mask is needed.
        padded = torch.stack([rows[longest.clamp(max=len(rows) - 1)] for rows in block])
        best = (tokens @ padded.flatten(0, 1).T).view(len(tokens), *padded.shape[:2]).amax(-1)
        sums = torch.zeros(len(lengths), len(block)).index_add_(0, owner, best)
        scores[:, start : start + len(block)] = sums / lengths[:, None]
    return scores


SCORES: dict[str, Callable[[Views, Views], Tensor]] = {
    "dense": dense_scores,
    "sparse": sparse_scores,
    "multi_vector": multi_vector_scores,
}
