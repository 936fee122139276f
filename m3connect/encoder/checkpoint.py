"""From a name to a folder, and from a folder to the tensors of an M3 model.

Two layouts are read: the one published as BAAI/bge-m3, and the one that a FlagEmbedding fine-tune saves. Both hold the
XLM-R weights (`model.safetensors` or `pytorch_model.bin`) and the heads `sparse_linear.pt` and `colbert_linear.pt`.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from m3connect.errors import CheckpointError

__all__ = ["BUNDLED", "ModelConfig", "Tensors", "find_folder", "read_config", "read_heads", "read_weights"]

Tensors: TypeAlias = dict[str, Tensor]

_T = TypeVar("_T")

BUNDLED = "m3-mini"
"""The name of the demonstration model that comes with the package."""

_SMALL_FILES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentencepiece.bpe.model",
    "colbert_linear.pt",
    "sparse_linear.pt",
]
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of an XLM-R encoder, from its `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    pad_token_id: int
    layer_norm_eps: float

    @property
    def max_length(self) -> int:
        """The most tokens a text can have, `<s>` and `</s>` included; positions start after the padding id."""
        return self.max_position_embeddings - self.pad_token_id - 1


def find_folder(name: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> Path:
    """Find a model's folder, and download what is missing when the name is one of the hub.

    Args:
        name: a folder, `"m3-mini"`, or a name on the hub such as `BAAI/bge-m3`.
        revision: a branch, tag or commit of the hub.
        local_files_only: use the hub's local cache and nothing else.

    Returns:
        A folder with the needed files; a hub's folder has just these, without its ONNX export.

    Raises:
        CheckpointError: there is no such folder, or the hub's model lacks its weights.
    """
    if name == BUNDLED:
        return Path(str(files("m3connect") / "assets" / BUNDLED))
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise CheckpointError(
            f"there is no folder {str(name)!r}: give a model's folder, {BUNDLED!r}, or a hub name such as 'BAAI/bge-m3'"
        )
    return _download(str(name), revision, local_files_only)


def _download(name: str, revision: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(
            snapshot_download(name, revision=revision, local_files_only=local_files_only, allow_patterns=_SMALL_FILES)
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name} is not in the local cache, and the hub was not asked or could not be reached: download it where "
            "there is a network, or give its folder"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"the hub has no model {name}, or it needs a login (hf auth login)") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r} on the hub") from error
    for weights in _WEIGHTS:
        try:
            hf_hub_download(name, weights, revision=folder.name, local_files_only=local_files_only)
        except EntryNotFoundError:
            continue
        return folder
    raise CheckpointError(f"{name} has neither {' nor '.join(_WEIGHTS)}, or the local cache lacks it")


def read_config(folder: Path) -> ModelConfig:
    """Read the model's shape.

    Raises:
        CheckpointError: the file is missing, or describes a model that this package does not compute.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json: it is not a model's folder")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold a JSON object, but holds a {type(config).__name__}")
    expected = {"model_type": "xlm-roberta", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}, but M3 models have {value!r}")
    return _to_config(path, config)


def _to_config(path: Path, config: dict[str, Any]) -> ModelConfig:
    fields = ModelConfig.__dataclass_fields__
    wrong = [key for key in fields if not isinstance(config.get(key), int | float)]
    if wrong:
        raise CheckpointError(f"{path}: expected numbers for {', '.join(wrong)}")
    found = ModelConfig(**{key: config[key] for key in fields})
    if found.hidden_size % found.num_attention_heads:
        raise CheckpointError(f"{path}: {found.num_attention_heads} heads do not divide the width {found.hidden_size}")
    return found


def read_weights(folder: Path) -> Mapping[str, Tensor]:
    """Open the XLM-R weights, names as in transformers' `XLMRobertaModel`; safetensors are preferred.

    Returns:
        Tensors that lie in the file until they are touched. Of safetensors each has a mapping of its own, whose memory
        goes with the tensor; a `pytorch_model.bin` is mapped as a whole, but one from before torch 1.6 is read whole.

    Raises:
        CheckpointError: there are no weights.
    """
    for name in _WEIGHTS:
        path = folder / name
        if path.is_file():
            return _SafeTensors(path) if path.suffix == ".safetensors" else _plain_names(_load_pickled(path))
    raise CheckpointError(f"{folder} has neither {' nor '.join(_WEIGHTS)}")


class _SafeTensors(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, "pt") as file:
                self._keys = _plain_names({key: key for key in file.keys()})
        except SafetensorError as error:
            raise CheckpointError(f"{path} cannot be read: {error}; was it downloaded whole?") from error

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._path, "pt") as file:
            tensor: Tensor = file.get_tensor(self._keys[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _plain_names(values: Mapping[str, _T]) -> dict[str, _T]:
    return {key.removeprefix("roberta."): value for key, value in values.items()}


def read_heads(folder: Path, hidden_size: int) -> dict[str, Tensors]:
    """Read both heads.

    Returns:
        `sparse_linear` with weight [1, d] and bias [1], `colbert_linear` with weight [d, d] and bias [d].

    Raises:
        CheckpointError: a head is missing or has another shape; a random one would give meaningless scores.
    """
    return {
        name: _read_head(folder / f"{name}.pt", rows, hidden_size)
        for name, rows in (("sparse_linear", 1), ("colbert_linear", hidden_size))
    }


def _read_head(path: Path, rows: int, hidden_size: int) -> Tensors:
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} has no {path.name}: a dense-only model has no such head; use one trained with all three"
        )
    head = _load_pickled(path)
    expected = {"weight": (rows, hidden_size), "bias": (rows,)}
    found = {key: tuple(value.shape) for key, value in head.items()}
    if found != expected:
        raise CheckpointError(f"{path}: expected tensors {expected}, but found {found}")
    if not all(torch.isfinite(value).all() for value in head.values()):
        raise CheckpointError(f"{path} holds numbers that are not finite")
    return head


def _load_pickled(path: Path) -> Tensors:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds more than tensors, and is refused because it could run code; or it was not downloaded whole"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} must hold tensors by name")
    return tensors
