"""The losses against FlagEmbedding's own numbers and against sums done by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from m3connect.train import unified_loss
from m3connect.train.losses import info_nce, own_groups, teacher_loss

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())["cases"]
KINDS = {"m3_kd_loss": "ranking", "kl_div": "kl", None: "ranking"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_loss_and_gradients_equal_those_of_flagembedding(case: dict[str, Any]) -> None:
    heads = [torch.tensor(case["scores"][name], dtype=torch.float64, requires_grad=True) for name in case["scores"]]
    targets = torch.arange(case["queries"]) * case["group"]
    matrices = heads
    if not case["in_batch_negatives"]:
        matrices = [own_groups(matrix, targets, case["group"]) for matrix in heads]
        targets = torch.zeros_like(targets)
    teacher = case["teacher_scores"]
    loss = unified_loss(
        *matrices,
        targets=targets,
        distill=case["distill"],
        teacher=None if teacher is None else torch.tensor(teacher),
        teacher_kind=KINDS[case["teacher"]],
    )
    total = loss.total if case["in_batch_negatives"] else loss.dense + loss.sparse + loss.multi_vector
    total.backward()
    assert total.item() == pytest.approx(case["loss"], rel=1e-5)
    for head, expected in zip(heads, case["gradients"].values(), strict=True):
        torch.testing.assert_close(head.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-8)


def test_the_golden_file_has_every_kind_of_loss() -> None:
    assert {case["teacher"] for case in CASES} == {None, "m3_kd_loss", "kl_div"}
    assert {case["distill"] for case in CASES} == {case["in_batch_negatives"] for case in CASES} == {True, False}


def test_the_parts_are_the_papers_sums() -> None:
    """One query, two passages, the positive first: everything is log(1 + exp(difference)) or a mean of such."""
    dense, sparse, multi_vector = (torch.tensor([[gap, 0.0]], dtype=torch.float64) for gap in (1.0, 2.0, 3.0))
    loss = unified_loss(dense, sparse, multi_vector, targets=torch.tensor([0]))

    def lost(gap: float) -> float:
        return math.log(1 + math.exp(-gap))

    teacher = 1 / (1 + math.exp(-4.6))  # 1 * 1 + 0.3 * 2 + 1 * 3
    taught = [teacher * lost(gap) + (1 - teacher) * lost(-gap) for gap in (1, 2, 3)]
    assert [loss.dense.item(), loss.sparse.item(), loss.multi_vector.item()] == pytest.approx(
        [lost(1), lost(2), lost(3)]
    )
    assert loss.integrated.item() == pytest.approx(lost(4.6))
    assert loss.joint.item() == pytest.approx((lost(1) + 0.1 * lost(2) + lost(3) + lost(4.6)) / 4)
    assert loss.distilled is not None
    assert loss.distilled.item() == pytest.approx((taught[0] + 0.1 * taught[1] + taught[2]) / 3)
    assert loss.total.item() == pytest.approx((loss.joint.item() + loss.distilled.item()) / 2)


def test_the_integrated_score_learns_nothing_from_teaching() -> None:
    scores = [torch.rand(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    loss = unified_loss(*scores, targets=torch.tensor([0, 2]))
    assert loss.distilled is not None
    loss.distilled.backward()
    for head, weight in zip(scores, (1, 0.1, 1), strict=True):
        teacher = (scores[0] + 0.3 * scores[1] + scores[2]).detach().softmax(-1)
        expected = weight * (head.detach().softmax(-1) - teacher) / 2 / 3
        torch.testing.assert_close(head.grad, expected)


def test_without_distillation_there_are_no_parts_of_it() -> None:
    scores = torch.rand(2, 2)
    loss = unified_loss(scores, scores, scores, targets=torch.tensor([0, 1]), distill=False)
    assert loss.total is loss.joint
    assert loss.distilled is loss.distilled_sparse is None


def test_own_negatives_alone_work_for_more_queries_than_passages() -> None:
    """FlagEmbedding 1.4.2 raises IndexError here."""
    scores = torch.tensor(
        [[5.0, 1.0, 9.0, 9.0, 9.0, 9.0], [9.0, 9.0, 5.0, 1.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0, 5.0, 1.0]]
    )
    own = own_groups(scores, torch.tensor([0, 2, 4]), 2)
    assert own.tolist() == [[5.0, 1.0]] * 3
    loss = unified_loss(own, own, own, targets=torch.zeros(3, dtype=torch.long), distill=False)
    assert loss.dense.item() == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-5)


def test_a_sure_teacher_of_the_positive_is_plain_info_nce() -> None:
    scores, targets = torch.randn(3, 6), torch.tensor([0, 2, 4])
    sure = torch.tensor([[100.0, -100.0]] * 3)
    assert teacher_loss(scores, targets, sure).item() == pytest.approx(info_nce(scores, targets).item(), rel=1e-5)


def test_an_unknown_kind_of_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="'ranking' or 'kl', got 'best'"):
        teacher_loss(torch.zeros(1, 2), torch.tensor([0]), torch.zeros(1, 2), kind="best")  # type: ignore[arg-type]
