"""The loop learns; it stops and goes on, splits batches and shares them between processes without changing numbers."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import REPOSITORY
from torch import Tensor
from training import SMALL, make_batch

from m3connect import M3Encoder
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.errors import CheckpointError
from m3connect.train import Batch, TrainConfig, train
from m3connect.train.checkpoints import load_for_training
from m3connect.train.embed import Embedder
from m3connect.train.health import read_log
from m3connect.train.optim import densify_embedding_gradients, rate_share
from m3connect.train.step import batch_loss

WORKER = Path(__file__).parent / "worker.py"


def weights_of(folder: Path) -> dict[str, Tensor]:
    heads = {
        f"{name}.{part}": tensor
        for name in ("sparse_linear", "colbert_linear")
        for part, tensor in torch.load(folder / f"{name}.pt", weights_only=True).items()
    }
    return load_file(folder / "model.safetensors") | heads


def assert_equal_to_the_bit(left: Path, right: Path) -> None:
    ours, theirs = weights_of(left), weights_of(right)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    line = [sys.executable, str(WORKER), *map(str, arguments)]
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "adapters")])
    settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(line, env=settings, text=True, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def finished(checkpoint: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of six steps."""
    out = tmp_path_factory.mktemp("finished")
    train(checkpoint, [examples], out, config=SMALL)
    return out


def test_training_lowers_the_loss(checkpoint: Path, examples: Path, tmp_path: Path) -> None:
    config = replace(SMALL, steps=60, learning_rate=2e-3, log_every=10, save_every=60, tokens_per_batch=400)
    train(checkpoint, [examples], tmp_path, config=config)
    lines = read_log(tmp_path / "log.jsonl")
    for name in ("loss", "loss_dense", "loss_sparse", "loss_multi_vector"):
        assert lines[-1][name] < 0.7 * lines[0][name], name
    assert lines[-1]["positive_dense"] > lines[-1]["negative_dense"] + 0.1


def test_the_log_has_losses_scores_and_health(finished: Path) -> None:
    lines = read_log(finished / "log.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert line["loss"] == pytest.approx((line["loss_joint"] + line["loss_distilled"]) / 2, rel=1e-4)
        assert line["tokens_per_second"] > 0 <= line["empty_sparse"] <= 1
        assert line["gradient_norm"] > 0


def test_a_run_killed_at_a_checkpoint_goes_on_to_the_same_bits(
    checkpoint: Path, examples: Path, tmp_path: Path, finished: Path
) -> None:
    killed = start("train", checkpoint, examples, tmp_path, json.dumps(asdict(SMALL)), 3)
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    assert not (tmp_path / "model").exists()
    assert len(M3Encoder.from_pretrained(tmp_path / "checkpoint-00000003").encode(["a"])) == 1
    train(checkpoint, [examples], tmp_path, config=SMALL)
    assert_equal_to_the_bit(tmp_path / "model", finished / "model")
    logs = [read_log(folder / "log.jsonl") for folder in (tmp_path, finished)]
    assert [line["step"] for line in logs[0]] == [2, 4, 6]
    assert logs[0][-1]["loss"] == logs[1][-1]["loss"]


def test_a_run_that_is_done_stays_as_it_is(checkpoint: Path, examples: Path, finished: Path) -> None:
    before = weights_of(finished / "model")
    train(checkpoint, [examples], finished, config=SMALL)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(finished / "model").items())


def test_other_settings_do_not_go_on(checkpoint: Path, examples: Path, finished: Path) -> None:
    with pytest.raises(CheckpointError, match="seed was 0 and is 1"):
        train(checkpoint, [examples], finished, config=replace(SMALL, seed=1))


def gradients(
    checkpoint: Path, tokenizer: M3Tokenizer, batch: Batch, *, sub_batch_tokens: int = 10_000, sparse: bool = False
) -> tuple[float, dict[str, Tensor]]:
    model, _ = load_for_training(checkpoint)
    model.word_embeddings.sparse = model.position_embeddings.sparse = sparse
    loss, _, _ = batch_loss(Embedder(model, tokenizer.unweighted, sub_batch_tokens), batch, SMALL, step=0)
    loss.backward()
    densify_embedding_gradients(model)
    return loss.item(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("sub_batch_tokens", "sparse"), [(40, False), (40, True), (1, True), (10_000, True)])
def test_split_batches_have_the_gradients_of_whole_ones(
    checkpoint: Path, tokenizer: M3Tokenizer, sub_batch_tokens: int, sparse: bool
) -> None:
    batch = make_batch(tokenizer)
    whole = gradients(checkpoint, tokenizer, batch)
    split = gradients(checkpoint, tokenizer, batch, sub_batch_tokens=sub_batch_tokens, sparse=sparse)
    assert split[0] == pytest.approx(whole[0], rel=1e-5)
    assert split[1].keys() == whole[1].keys()
    for name, grad in split[1].items():
        torch.testing.assert_close(grad, whole[1][name], rtol=1e-4, atol=1e-5 * float(whole[1][name].abs().max()))


def test_the_order_of_passages_in_a_group_and_of_queries_changes_no_gradient(
    checkpoint: Path, tokenizer: M3Tokenizer
) -> None:
    batch = make_batch(tokenizer)
    turned = Batch(
        batch.queries[::-1],
        [batch.passages[i + j] for i in range(len(batch.passages) - 3, -1, -3) for j in (0, 2, 1)],
    )
    left, right = gradients(checkpoint, tokenizer, batch), gradients(checkpoint, tokenizer, turned)
    assert left[0] == pytest.approx(right[0], rel=1e-5)
    for name, grad in left[1].items():
        torch.testing.assert_close(grad, right[1][name], rtol=1e-4, atol=1e-5 * float(grad.abs().max()))


def test_a_passage_that_is_the_positive_of_two_queries_is_no_negative(checkpoint: Path, tokenizer: M3Tokenizer) -> None:
    ids = tokenizer.tokenize(["honey", "river", "the bee"], 16).token_ids
    model, _ = load_for_training(checkpoint)
    embedder = Embedder(model, tokenizer.unweighted)
    batch = Batch([ids[0], ids[1]], [ids[2], ids[2]])
    assert batch_loss(embedder, batch, SMALL, step=0)[0].item() == pytest.approx(0, abs=1e-6)
    assert batch_loss(embedder, batch, replace(SMALL, mask_duplicates=False), step=0)[0].item() > 0.1


def test_bfloat16_stays_close_and_scores_in_float32(checkpoint: Path, tokenizer: M3Tokenizer) -> None:
    batch, losses = make_batch(tokenizer), []
    for precision in ("float32", "bfloat16"):
        model, _ = load_for_training(checkpoint)
        embedder = Embedder(model, tokenizer.unweighted, precision=precision)
        loss, _, scores = batch_loss(embedder, batch, replace(SMALL, temperature=1.0), step=0)
        loss.backward()
        assert scores.dense.dtype == scores.sparse.dtype == scores.multi_vector.dtype == torch.float32
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_maxsim_over_all_tokens_is_maxsim(checkpoint: Path, tokenizer: M3Tokenizer) -> None:
    model, _ = load_for_training(checkpoint)
    batch, found = make_batch(tokenizer), []
    for most in (None, 64, 2):
        embedder = Embedder(model, tokenizer.unweighted)
        _, _, scores = batch_loss(embedder, batch, replace(SMALL, maxsim_tokens=most), step=5)
        found.append(scores.multi_vector.detach())
    torch.testing.assert_close(found[1], found[0])
    assert not torch.allclose(found[2], found[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_two(*arguments: object) -> None:
    common = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [start(*arguments, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in (0, 1)]
    for process in processes:
        errors = process.communicate(timeout=180)[1]
        assert process.returncode == 0, errors


def test_gradients_of_two_processes_are_those_of_one_with_both_batches(
    checkpoint: Path, tokenizer: M3Tokenizer, tmp_path: Path
) -> None:
    """With negatives of their own, and with those of the batch alone."""
    start_two("gradients", checkpoint, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for i, negatives in enumerate((2, 0)):
        _, whole = gradients(checkpoint, tokenizer, make_batch(tokenizer, negatives=negatives))
        largest = max(float(grad.abs().max()) for grad in whole.values())
        for rank in ranks:
            assert rank[i].keys() == whole.keys()
            for name, grad in rank[i].items():
                torch.testing.assert_close(grad, whole[name], rtol=1e-4, atol=1e-6 * largest, msg=name)


def test_two_processes_train_like_one_with_twice_the_batch(checkpoint: Path, examples: Path, tmp_path: Path) -> None:
    """The budget of tokens is for one rank."""
    one = replace(SMALL, steps=3, tokens_per_batch=10_000, log_every=1)
    train(checkpoint, [examples], tmp_path / "one", config=one)
    settings = json.dumps(asdict(replace(one, tokens_per_batch=5_000)))
    start_two("train", checkpoint, examples, tmp_path / "two", settings, 0)
    left, right = (read_log(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    for ours, theirs in zip(left, right, strict=True):
        assert theirs["tokens"] * 2 == ours["tokens"]
        for name in ("loss", "loss_dense", "loss_sparse", "loss_multi_vector", "gradient_norm", "empty_sparse"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3), name
    assert len(M3Encoder.from_pretrained(tmp_path / "two" / "model").encode(["a"])) == 1


def test_the_rate_rises_stays_and_falls() -> None:
    config = TrainConfig(warmup=0.1, decay_from=0.5, final_rate=0.2)
    shares = [rate_share(step, 100, config) for step in (0, 4, 9, 10, 49, 50, 75, 99)]
    assert shares == pytest.approx([0.1, 0.5, 1, 1, 1, 1, 0.6, 0.2 + 0.8 * 1 / 50])
    assert rate_share(0, 1, TrainConfig(warmup=0)) == 1


def test_a_dead_sparse_head_is_called_dead(
    checkpoint: Path, examples: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "dead"
    source.mkdir()
    for path in checkpoint.iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    torch.save({"weight": torch.zeros(1, 32), "bias": torch.full((1,), -1.0)}, source / "sparse_linear.pt")
    with caplog.at_level(logging.WARNING):
        train(source, [examples], tmp_path / "out", config=replace(SMALL, steps=2))
    assert "step 2: 100 % of all texts have no sparse weight above 0" in caplog.text


def test_own_batches_can_be_trained_on(checkpoint: Path, tokenizer: M3Tokenizer, tmp_path: Path) -> None:
    class Same:
        def batch(self, step: int, *, rank: int, world_size: int) -> Batch:
            return make_batch(tokenizer, queries=4, negatives=0)

    folder = train(checkpoint, Same(), tmp_path, config=replace(SMALL, steps=2))
    assert np.isfinite(M3Encoder.from_pretrained(folder).encode(["a"]).dense).all()
    with pytest.raises(ValueError, match="steps must be given"):
        train(checkpoint, Same(), tmp_path / "other", config=replace(SMALL, steps=None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "best"}, "objective must be"),
        ({"precision": "float16"}, "precision must be"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"save_every": 0}, "save_every must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)  # type: ignore[arg-type]
