"""Token vectors that stay on a GPU, and their MaxSim there: the numbers of `m3connect.scoring.multi_vector`.

PyTorch is imported where it is used, so that importing the package stays light.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from m3connect.embeddings import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceRows", "device_maxsims", "query_groups"]

_ROWS = 32768
"""Document tokens in a product: 128 MB in float32 at BGE-M3's size."""

_COLUMNS = 1024
"""Query tokens in a product: its result has at most 128 MB."""


@dataclass(frozen=True, eq=False, slots=True)
class DeviceRows:
    """The token vectors of n documents on a device, all rows in one tensor; `scoring.multi_vector` takes them.

    Example:
        >>> rows = DeviceRows.of([np.eye(2, dtype=np.float32)], device="cpu")  # or "cuda"
        >>> device_maxsims([np.array([[0.6, 0.8]], np.float32)], rows).round(2).tolist()
        [[0.800000011920929]]
    """

    vectors: torch.Tensor
    """[T, d] float32 or float16."""

    lengths: IntArray
    """[n] how many rows each document has; they add up to T."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != self.lengths.sum():
            raise ValueError(
                f"vectors must have shape ({self.lengths.sum()}, d), a row for each token that lengths count, but have "
                f"{tuple(self.vectors.shape)}"
            )

    @classmethod
    def of(
        cls, documents: Sequence[FloatArray], *, device: str, dtype: Literal["float32", "float16"] = "float32"
    ) -> DeviceRows:
        """Bring n >= 1 arrays [t_i, d] to a device; float16 takes half the room, and keeps scores to 1e-3."""
        import torch

        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16', but is {dtype!r}")
        if not documents:
            raise ValueError("there are no documents to bring to a device: give at least one")
        lengths = np.array([len(rows) for rows in documents], dtype=np.int64)
        joined = torch.from_numpy(np.concatenate(documents).astype(dtype))
        if torch.device(device).type == "cuda":
            joined = joined.pin_memory()
        return cls(joined.to(device, non_blocking=True), lengths)

    def __len__(self) -> int:
        return len(self.lengths)


def device_maxsims(queries: Sequence[FloatArray], documents: DeviceRows) -> FloatArray:
    """Return [q, n] scores, multiplied in float32; `m3connect.scoring.multi_vector` says of what.

    Raises:
        ValueError: the two have different dimensions.
    """
    import torch

    scores, filled = np.zeros((len(queries), len(documents)), np.float32), np.flatnonzero(documents.lengths)
    if not len(filled):
        return scores
    owners = torch.from_numpy(np.repeat(np.arange(len(filled)), documents.lengths[filled])).to(documents.vectors.device)
    for group in query_groups(queries, _COLUMNS):  # so that memory grows with a group's tokens, not with those of all
        some = [queries[i] for i in group]
        found = _group_maxsims(some, documents.vectors, owners, count=len(filled))
        scores[np.array(group)[:, None], filled] = found
    return scores


def query_groups(queries: Sequence[FloatArray], most: int) -> Iterator[list[int]]:
    """Put queries that have tokens together, as long as they have `most` in all; one alone may have more."""
    group: list[int] = []
    total = 0
    for i, query in enumerate(queries):
        if group and total + len(query) > most:
            yield group
            group, total = [], 0
        if len(query):
            group.append(i)
            total += len(query)
    if group:
        yield group


def _group_maxsims(
    queries: Sequence[FloatArray], vectors: torch.Tensor, owners: torch.Tensor, *, count: int
) -> FloatArray:
    """Return [q, count] scores of queries that have tokens; the other arguments are those of `_best_products`."""
    import torch

    tokens = np.concatenate([np.asarray(query, np.float32) for query in queries])
    if tokens.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"the query's token vectors have dimension {tokens.shape[1]}, the documents' have {vectors.shape[1]}"
        )
    counts, device = np.array([len(query) for query in queries]), vectors.device
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(tokens).to(device), _COLUMNS)
        best = torch.cat([_best_products(part, vectors, owners, count) for part in parts], dim=1)
        askers = torch.from_numpy(np.repeat(np.arange(len(queries)), counts)).to(device)
        sums = torch.zeros(count, len(queries), dtype=torch.float64, device=device)
        sums.index_add_(1, askers, best.double())
        return np.asarray((sums.cpu().numpy() / counts).T, np.float32)


def _best_products(queries: torch.Tensor, vectors: torch.Tensor, owners: torch.Tensor, count: int) -> torch.Tensor:
    """For each of `count` documents and each query token the largest product, [count, m].

    Args:
        queries: [m, d].
        vectors: [T, d] of all documents.
        owners: [T] which document a row belongs to.
        count: how many documents there are; each has a row.
    """
    import torch

    best = queries.new_full((count, len(queries)), -torch.inf)
    for rows, owner in zip(torch.split(vectors, _ROWS), torch.split(owners, _ROWS), strict=True):
        products = rows.float() @ queries.T
        best.scatter_reduce_(0, owner[:, None].expand_as(products), products, "amax")
    return best
