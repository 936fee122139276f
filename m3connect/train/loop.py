"""The training loop: plain torch, on one process or on many under torchrun, and resumable."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW
from tqdm import tqdm

from m3connect.encoder.checkpoint import read_config
from m3connect.encoder.model import M3Model
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.train.batching import Batches, SourceBatches
from m3connect.train.checkpoints import (
    latest_checkpoint,
    load_for_training,
    load_state,
    prune_checkpoints,
    save_checkpoint,
    save_model,
)
from m3connect.train.config import TrainConfig
from m3connect.train.data import read_source
from m3connect.train.embed import Embedder
from m3connect.train.gather import average_gradients, rank, world_size
from m3connect.train.health import TrainingLog, step_figures
from m3connect.train.optim import clip_gradients, densify_embedding_gradients, make_optimizer, rate_share, set_rate
from m3connect.train.step import batch_loss

__all__ = ["train"]

logger = logging.getLogger(__name__)

OnCheckpoint = Callable[[Path, int], None]


def train(
    model: str | Path,
    data: Batches | Sequence[str | Path],
    out: str | Path,
    *,
    config: TrainConfig | None = None,
    strict: bool = False,
    progress: bool = False,
    on_checkpoint: OnCheckpoint | None = None,
) -> Path:
    """Train a model's three heads, and return the folder it is saved in, `out/model`.

    The same call again goes on from the newest checkpoint in `out`, and on a processor gives the same weights to the
    bit as a run that was never stopped. Under torchrun each process calls it alike; passages of all processes are
    negatives for all three heads.

    Args:
        model: where to begin: a folder, `"m3-mini"` or a hub name; an XLM-R encoder without heads gets new ones.
        data: files in FlagEmbedding's jsonl, which are never mixed in a batch; or an object that makes batches itself.
        out: the folder of `log.jsonl`, the checkpoints and the model.
        config: the settings; None means all defaults.
        strict: a bad line of the data raises instead of being left out.
        progress: show a progress bar.
        on_checkpoint: called on rank 0 with each new checkpoint's folder, which `M3Encoder` loads, and its step.

    Raises:
        CheckpointError: the model lacks a part, or `out` has a checkpoint of another configuration.
        ValueError: the data has no good line, or one is bad and `strict` is set, or `steps` is needed and missing.
    """
    config, out = config or TrainConfig(), Path(out)
    with _process_group(config) as device:
        network, source = load_for_training(model)
        network.to(device)
        tokenizer = M3Tokenizer(source)
        batches = data
        if isinstance(batches, Sequence):
            batches = _open_data(batches, tokenizer, config, read_config(source).max_length, strict)
        run = _Run(network, make_optimizer(network, config), batches, config, source, out)
        embedder = Embedder(network, tokenizer.unweighted, config.sub_batch_tokens, config.precision)
        run.train(embedder, progress=progress, on_checkpoint=on_checkpoint)
        if rank() == 0:
            save_model(network, out / "model", source=source)
        if world_size() > 1:
            dist.barrier()
    return out / "model"


@dataclass(frozen=True, slots=True)
class _Run:
    """What a run is made of."""

    model: M3Model
    optimizer: AdamW
    batches: Batches
    config: TrainConfig
    source: Path
    out: Path

    @property
    def steps(self) -> int:
        """How many optimizer steps the whole run has."""
        if self.config.steps is not None:
            return self.config.steps
        if not isinstance(self.batches, SourceBatches):
            raise ValueError("steps must be given where the batches are made by an object")
        return self.batches.steps_in(self.config.epochs)

    def train(self, embedder: Embedder, *, progress: bool, on_checkpoint: OnCheckpoint | None) -> None:
        """Do the steps that are left."""
        steps, done = self.steps, self._resume()
        _set_sparse_tables(self.model, sparse=True)
        log = TrainingLog(self.out, every=self.config.log_every, done=done, active=rank() == 0)
        bar = tqdm(total=steps, initial=done, unit="step", disable=not progress or rank() > 0)
        with log, bar:
            for step in range(done, steps):
                figures = self._step(embedder, step, rate_share(step, steps, self.config))
                line = log.record(step, figures, last=step + 1 == steps)
                if line is not None:
                    bar.set_postfix(loss=f"{line['loss']:.3f}", tokens_per_s=f"{line['tokens_per_second']:,.0f}")
                bar.update()
                if (step + 1) % self.config.save_every == 0 or step + 1 == steps:
                    self._save(step + 1, on_checkpoint)
        _set_sparse_tables(self.model, sparse=False)

    def _step(self, embedder: Embedder, step: int, share: float) -> dict[str, Tensor]:
        begun = time.perf_counter()
        batch = self.batches.batch(step, rank=rank(), world_size=world_size())
        loss, losses, scores = batch_loss(embedder, batch, self.config, step=step)
        loss.backward()
        densify_embedding_gradients(self.model)
        average_gradients(self.model)
        norm = clip_gradients(self.model, self.config.clip)
        set_rate(self.optimizer, share)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        plain = {
            "rate_share": share,
            "queries": len(batch.queries),
            "tokens": sum(map(len, [*batch.queries, *batch.passages])),
            "seconds": time.perf_counter() - begun,
        }
        figures = step_figures(loss, losses, scores, self.config.temperature) | {"gradient_norm": norm}
        return figures | {name: torch.tensor(float(value), device=loss.device) for name, value in plain.items()}

    def _resume(self) -> int:
        newest = latest_checkpoint(self.out)
        if newest is None:
            return 0
        done = load_state(newest, self.model, self.optimizer, self.config)
        logger.info("going on from %s, %d of %d steps done", newest, done, self.steps)
        return done

    def _save(self, step: int, on_checkpoint: OnCheckpoint | None) -> None:
        if rank() == 0:
            folder = save_checkpoint(
                self.out, self.model, self.optimizer, source=self.source, config=self.config, step=step
            )
            prune_checkpoints(self.out, self.config.keep)
            if on_checkpoint is not None:
                on_checkpoint(folder, step)
        if world_size() > 1:
            dist.barrier()


def _set_sparse_tables(model: nn.Module, *, sparse: bool) -> None:
    """Let look-up tables have gradients of the rows that a sub-batch touches, not of the whole vocabulary each time."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = sparse


def _open_data(
    paths: Sequence[str | Path], tokenizer: M3Tokenizer, config: TrainConfig, limit: int, strict: bool
) -> SourceBatches:
    lengths = min(config.max_query_length, limit), min(config.max_passage_length, limit)
    sources = [
        read_source(Path(path), tokenizer, max_lengths=lengths, group_size=config.group_size, strict=strict)
        for path in paths
    ]
    return SourceBatches(sources, tokenizer, config, max_length=limit, world_size=world_size())


@contextmanager
def _process_group(config: TrainConfig) -> Iterator[torch.device]:
    """Join the other processes of torchrun, where there are any, and say which device is this one's."""
    device = _choose_device(config)
    joined = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if joined:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        if joined:
            dist.destroy_process_group()


def _choose_device(config: TrainConfig) -> torch.device:
    if config.device is not None:
        return torch.device(config.device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
