"""Models on disk in the layout that BAAI/bge-m3 is published in, and checkpoints from which a run goes on."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.optim import AdamW

from m3connect.encoder.checkpoint import ModelConfig, Tensors, find_folder, read_config, read_heads, read_weights
from m3connect.encoder.model import M3Model, load_model, published_weights
from m3connect.errors import CheckpointError
from m3connect.train.config import TrainConfig

__all__ = ["latest_checkpoint", "load_for_training", "load_state", "prune_checkpoints", "save_checkpoint", "save_model"]

_HEADS = ("sparse_linear", "colbert_linear")
_SIDE_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "sentencepiece.bpe.model")
_PREFIX = "checkpoint-"
_STATE = "trainer_state.pt"
_SETTINGS = "train_config.json"


def load_for_training(name: str | Path) -> tuple[M3Model, Path]:
    """Load a model with gradients on; heads it lacks start alive.

    A new sparse head has weights of standard deviation 0.01 and a bias of 0.2: with a usual initialisation, large
    scores over a small temperature drive all weights below 0 at once, where they have no gradient. A new multi-vector
    head starts as the identity.

    Returns:
        The model, and the folder it came from.

    Raises:
        CheckpointError: a file or tensor is missing or has the wrong shape.
    """
    folder = find_folder(name)
    config = read_config(folder)
    missing = [head for head in _HEADS if not (folder / f"{head}.pt").is_file()]
    if len(missing) == 1:
        raise CheckpointError(f"{folder} lacks {missing[0]}.pt but has the other head: it was not copied whole")
    heads = _new_heads(config) if missing else read_heads(folder, config.hidden_size)
    model = load_model(config, read_weights(folder), heads)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # a loaded tensor may lie in the file
    return model.train().requires_grad_(True), folder


def _new_heads(config: ModelConfig) -> dict[str, Tensors]:
    d = config.hidden_size
    random = torch.Generator().manual_seed(0)
    return {
        "sparse_linear": {"weight": torch.randn(1, d, generator=random) * 0.01, "bias": torch.full((1,), 0.2)},
        "colbert_linear": {"weight": torch.eye(d), "bias": torch.zeros(d)},
    }


def save_model(model: M3Model, folder: Path, *, source: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model that `M3Encoder`, FlagEmbedding and sentence-transformers (its dense view) load.

    Args:
        model: what is saved.
        folder: where; it appears whole or not at all, and replaces an older one.
        source: the folder of the model that training began with, for its tokenizer and configuration.
        dtype: of the weights in the files; half precision makes them half as large.
    """
    _write_whole(folder, lambda part: _write_model(model, part, source, dtype))


def _write_model(model: M3Model, folder: Path, source: Path, dtype: torch.dtype) -> None:
    weights, heads = published_weights(model)
    weights |= {name: tensor for name, tensor in read_weights(source).items() if name.startswith("pooler.")}
    save_file(_cast(weights, dtype), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner only
    for name, head in heads.items():
        torch.save(_cast(head, dtype), folder / f"{name}.pt")
    for name in _SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = json.loads((source / "config.json").read_text("utf-8"))
    config = {key: value for key, value in config.items() if key != "torch_dtype"}
    _write_json(folder / "config.json", {**config, "architectures": ["XLMRobertaModel"], "dtype": "float32"})
    for path, content in _sentence_transformers_files(read_config(source)).items():
        _write_json(folder / path, content)


def _cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.detach().to("cpu", dtype).clone().contiguous() for name, tensor in tensors.items()}


def _sentence_transformers_files(config: ModelConfig) -> dict[str, object]:
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    return {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
            for number, (path, name) in enumerate(parts)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": config.hidden_size}
        | {f"pooling_mode_{mode}": mode == "cls_token" for mode in modes},
        "sentence_bert_config.json": {"max_seq_length": config.max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "similarity_fn_name": "cosine"},
    }


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=isinstance(content, dict)) + "\n", encoding="utf-8")


def save_checkpoint(
    out: Path, model: M3Model, optimizer: AdamW, *, source: Path, config: TrainConfig, step: int
) -> Path:
    """Write the model after `step` steps with all that a run needs to go on as if it had never stopped.

    Batches and samples are functions of the seed and the step, so there is no state of random numbers to keep.
    """

    def write(part: Path) -> None:
        _write_model(model, part, source, torch.float32)
        torch.save({"step": step, "optimizer": optimizer.state_dict()}, part / _STATE)
        config.save(part / _SETTINGS)

    folder = out / f"{_PREFIX}{step:08d}"
    _write_whole(folder, write)
    return folder


def load_state(folder: Path, model: M3Model, optimizer: AdamW, config: TrainConfig) -> int:
    """Put a checkpoint into a model and its optimizer, and return how many steps were done.

    Raises:
        CheckpointError: the checkpoint was made with other settings.
    """
    differences = config.differences(folder / _SETTINGS)
    if differences:
        raise CheckpointError(
            f"{folder} cannot go on with other settings: {'; '.join(differences)}. Use them again, or another folder"
        )
    saved = read_config(folder)
    loaded = load_model(saved, read_weights(folder), read_heads(folder, saved.hidden_size))
    model.load_state_dict(loaded.state_dict())
    state: dict[str, Any] = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def latest_checkpoint(out: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None."""
    return max(out.glob(f"{_PREFIX}*"), default=None) if out.is_dir() else None


def prune_checkpoints(out: Path, keep: int) -> None:
    """Remove all but the newest checkpoints, and what an interrupted save left."""
    for folder in sorted(out.glob(f"{_PREFIX}*"))[:-keep]:
        shutil.rmtree(folder)
    for folder in out.glob(".unfinished-*"):
        shutil.rmtree(folder)


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Write into a hidden folder, see it through to the disk, and rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".unfinished-{folder.name}-{uuid.uuid4().hex[:8]}"
    part.mkdir()
    try:
        write(part)
        for path in part.rglob("*"):
            _sync(path)
        _sync(part)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
