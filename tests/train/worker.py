"""A process of a distributed or a killed run: reads its orders from the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from training import SMALL, make_batch

from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.train import Batch, TrainConfig, train
from m3connect.train.checkpoints import load_for_training
from m3connect.train.embed import Embedder
from m3connect.train.gather import average_gradients
from m3connect.train.step import batch_loss


def run_training(model: str, data: str, out: str, settings: str, dies_at: str) -> None:
    """Train; kill this process right after the checkpoint of a step, where that is not 0."""

    def die(folder: Path, step: int) -> None:
        if step == int(dies_at):
            os.kill(os.getpid(), 9)

    train(model, [data], out, config=TrainConfig(**json.loads(settings)), on_checkpoint=die)


def save_gradients(model: str, out: str) -> None:
    """Save the mean gradients of batches that all ranks share, each rank having every second query."""
    dist.init_process_group("gloo")
    found = []
    for negatives in (2, 0):
        network, source = load_for_training(model)
        embedder = Embedder(network, M3Tokenizer(source).unweighted)
        whole = make_batch(M3Tokenizer(source), negatives=negatives)
        rank, size = dist.get_rank(), whole.group_size
        mine = range(rank, len(whole.queries), 2)
        batch = Batch(
            [whole.queries[i] for i in mine], [whole.passages[i * size + j] for i in mine for j in range(size)]
        )
        batch_loss(embedder, batch, SMALL, step=0)[0].backward()
        average_gradients(network)
        found.append({name: value.grad for name, value in network.named_parameters() if value.grad is not None})
    torch.save(found, f"{out}/rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"train": run_training, "gradients": save_gradients}[sys.argv[1]](*sys.argv[2:])
