"""Score matrices against plain loops over the definitions, their gradients, and what they allocate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m3connect.train import scores as scoring
from m3connect.train.scores import Views, dense_scores, multi_vector_scores, sparse_scores


def make_views(
    texts: list[list[int]], seed: int, places: list[int] | None = None, dtype: torch.dtype = torch.float64
) -> Views:
    """Random views of texts of these token ids; text `places[i]` of the rows is text i of the batch."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([len(text) for text in texts])
    tokens = int(counts.sum())
    dense = F.normalize(torch.randn(len(texts), 8, generator=generator, dtype=dtype), dim=-1)
    vectors = F.normalize(torch.randn(tokens + len(texts), 8, generator=generator, dtype=dtype), dim=-1)
    return Views(
        places=torch.tensor(places if places is not None else list(range(len(texts)))),
        dense=dense.requires_grad_(),
        token_ids=torch.tensor([token for text in texts for token in text], dtype=torch.long),
        token_weights=torch.rand(tokens, generator=generator, dtype=dtype).requires_grad_(),
        token_counts=counts,
        vectors=vectors.requires_grad_(),
        vector_counts=counts + 1,  # that of </s>
    )


QUERIES = make_views([[7, 9, 7], [], [11]], 1, places=[2, 0, 1])
PASSAGES = make_views([[9, 9, 30, 2], [7], [], [5, 11, 7, 7, 40, 41]], 2, places=[3, 1, 0, 2])


def split(rows: Tensor, counts: Tensor) -> list[Tensor]:
    return list(torch.split(rows, counts.tolist()))


def reference_dense(queries: Views, passages: Views) -> list[list[Tensor]]:
    return [[q @ p for p in passages.dense] for q in queries.dense]


def reference_sparse(queries: Views, passages: Views) -> list[list[Tensor]]:
    def rows(views: Views) -> list[dict[int, Tensor]]:
        found = []
        ids, weights = split(views.token_ids, views.token_counts), split(views.token_weights, views.token_counts)
        for tokens, values in zip(ids, weights, strict=True):
            row: dict[int, Tensor] = {}
            for token, value in zip(tokens.tolist(), values, strict=True):
                row[token] = torch.maximum(row[token], value) if token in row else value
            found.append(row)
        return found

    zero = torch.zeros((), dtype=torch.float64)
    return [[sum((q[t] * p[t] for t in q.keys() & p.keys()), zero) for p in rows(passages)] for q in rows(queries)]


def reference_multi_vector(queries: Views, passages: Views) -> list[list[Tensor]]:
    left, right = (split(views.vectors, views.vector_counts) for views in (queries, passages))
    return [[(q @ p.T).max(-1).values.mean() for p in right] for q in left]


Score = Callable[[Views, Views], Any]
PAIRS: list[tuple[Score, Score]] = [
    (dense_scores, reference_dense),
    (sparse_scores, reference_sparse),
    (multi_vector_scores, reference_multi_vector),
]


def gradients(matrix: Tensor) -> list[Tensor]:
    leaves = [getattr(views, name) for views in (QUERIES, PASSAGES) for name in ("dense", "token_weights", "vectors")]
    weights = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(3), dtype=matrix.dtype)
    found = torch.autograd.grad((matrix * weights).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


@pytest.mark.parametrize(("score", "reference"), PAIRS, ids=lambda function: function.__name__)
def test_scores_and_gradients_are_those_of_the_definition(score: Score, reference: Score) -> None:
    rows = reference(QUERIES, PASSAGES)
    expected = torch.stack([torch.stack(rows[i]) for i in QUERIES.places])[:, PASSAGES.places]
    found = score(QUERIES, PASSAGES)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    for grad, wanted in zip(gradients(found.double()), gradients(expected), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6)


def test_negative_similarities_are_not_beaten_by_padding() -> None:
    queries = make_views([[]], 0)
    short, long = F.normalize(-queries.vectors.detach(), dim=-1), queries.vectors.detach().repeat(5, 1)
    passages = make_views([[], [1, 2, 3, 4]], 0)
    object.__setattr__(passages, "vectors", torch.cat([short, long]))
    assert multi_vector_scores(queries, passages).tolist() == [[pytest.approx(-1), pytest.approx(1)]]


def test_chunks_of_passages_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    texts = [random.integers(0, 50, size).tolist() for size in random.integers(0, 12, 40)]
    queries, passages = make_views(texts[:15], 1), make_views(texts[15:], 2)
    whole = multi_vector_scores(queries, passages)
    monkeypatch.setattr(scoring, "_SIMILARITIES_AT_ONCE", 100)
    torch.testing.assert_close(multi_vector_scores(queries, passages), whole)


def test_of_tied_weights_the_first_learns() -> None:
    views = make_views([[3, 3]], 0)
    object.__setattr__(views, "token_weights", torch.tensor([0.5, 0.5], requires_grad=True))
    other = make_views([[3]], 1)
    sparse_scores(views, other).sum().backward()
    assert views.token_weights.grad is not None
    assert views.token_weights.grad.tolist() == [pytest.approx(other.token_weights.item()), 0]


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_sparse_scores_allocate_nothing_of_the_vocabularys_size() -> None:
    """Eight texts of 40 tokens with ids up to a quarter of a million: forwards and backwards."""
    random = np.random.default_rng(0)
    texts = [random.integers(0, 250_002, 40).tolist() for _ in range(8)]
    queries, passages = make_views(texts[:3], 1), make_views([*texts[3:], texts[0]], 2)
    with Largest() as largest:
        sparse_scores(queries, passages).sum().backward()
    assert 0 < largest.elements <= 6 * 120  # passages x ids of the queries
    assert queries.token_weights.grad is not None
    assert queries.token_weights.grad[:40].all()
