"""Random but well-scaled three-head checkpoints, the same numbers on every machine: for tests and benchmarks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from m3connect.embeddings import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["Layout", "WeightFile", "checkpoint_digest", "write_checkpoint"]

Layout: TypeAlias = Literal["published", "finetuned"]
WeightFile: TypeAlias = Literal["safetensors", "bin"]
Tensors: TypeAlias = dict[str, FloatArray]

ROOT_12 = 12.0**0.5
"""A uniform number in [0, 1) times this has standard deviation 1."""

SHARP = 1.3
"""Gain of queries and keys: attention logits have standard deviation near 1.3 squared, far from uniform attention."""

HEADS = ("colbert_linear", "sparse_linear")


@dataclass(frozen=True, slots=True)
class _Shape:
    vocabulary: int
    positions: int
    layers: int
    hidden: int
    heads: int
    intermediate: int


def write_checkpoint(
    folder: str | Path,
    *,
    tokenizer_folder: str | Path,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    intermediate: int = 128,
    positions: int = 8194,
    seed: int = 0,
    layout: Layout = "published",
    weights: WeightFile = "safetensors",
) -> Path:
    """Write a random XLM-R checkpoint with three heads and return its folder.

    Every part changes the outputs: LayerNorm weights are not 1, biases, position embeddings and the row of `<pad>` are
    not 0, attention is far from uniform, and about half the sparse weights are negative before the ReLU. The numbers
    come from PCG64 and float32 sums and products alone, so a seed gives the same bits everywhere.

    Args:
        folder: where it goes; made where it is missing, files of the same names are overwritten.
        tokenizer_folder: a folder with a `tokenizer.json` of XLM-R's kind; its vocabulary sets the model's.
        layers: how many transformer layers.
        hidden: the width, and the dimension of dense and token vectors.
        heads: attention heads; they must divide `hidden`.
        intermediate: the inner width of the feed-forward part.
        positions: rows of the position table, two more than the tokens a text may have.
        seed: another seed, another model.
        layout: "published" as BAAI/bge-m3 lies on the hub (heads in float16), "finetuned" as FlagEmbedding saves a
            fine-tune (heads in float32, the fewest files).
        weights: "safetensors" for model.safetensors, "bin" for pytorch_model.bin.

    Raises:
        ValueError: the heads do not divide the width, or the layout or kind of weights is unknown.
    """
    if hidden % heads:
        raise ValueError(f"heads must divide hidden, but {hidden} is no multiple of {heads}")
    if layout not in ("published", "finetuned"):
        raise ValueError(f"layout must be 'published' or 'finetuned', got {layout!r}")
    if weights not in ("safetensors", "bin"):
        raise ValueError(f"weights must be 'safetensors' or 'bin', got {weights!r}")
    out, source = Path(folder), Path(tokenizer_folder)
    out.mkdir(parents=True, exist_ok=True)
    shape = _Shape(_vocabulary_size(source), positions, layers, hidden, heads, intermediate)
    random = np.random.Generator(np.random.PCG64(seed))
    _write_weights(out, {name: _draw(random, spec) for name, spec in _encoder_tensors(shape)}, weights)
    _write_heads(out, {name: _draw(random, spec) for name, spec in _head_tensors(shape)}, half=layout == "published")
    _write_tokenizer(out, source, shape, layout)
    _write_configs(out, shape, layout)
    return out


def checkpoint_digest(folder: str | Path) -> str:
    """Return the sha256 of all tensors of a checkpoint, their names, types and shapes, whatever file holds them."""
    import torch
    from safetensors.torch import load_file

    root = Path(folder)
    tensors: dict[str, torch.Tensor] = {}
    if (root / "model.safetensors").exists():
        tensors.update(load_file(root / "model.safetensors"))
    else:
        tensors.update(torch.load(root / "pytorch_model.bin", weights_only=True))
    for head in HEADS:
        state = torch.load(root / f"{head}.pt", weights_only=True)
        tensors.update({f"{head}.{name}": tensor for name, tensor in state.items()})
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Spec:
    """A tensor of uniform numbers with this mean and standard deviation."""

    shape: tuple[int, ...]
    std: float
    mean: float = 0.0


def _draw(random: np.random.Generator, spec: _Spec) -> FloatArray:
    # Uniform and not normal: no logarithm of the C library takes part, so the bits are the same on every machine.
    values = random.random(spec.shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(spec.std * ROOT_12)
    if spec.mean:
        values += np.float32(spec.mean)
    return values


def _encoder_tensors(shape: _Shape) -> Iterator[tuple[str, _Spec]]:
    """Names as transformers' XLMRobertaModel has them; the pooler is there too, though M3 never uses it."""
    hidden = shape.hidden
    for name, rows, std in (
        ("word", shape.vocabulary, 0.6),
        ("position", shape.positions, 0.3),
        ("token_type", 1, 0.2),
    ):
        yield f"embeddings.{name}_embeddings.weight", _Spec((rows, hidden), std)
    yield from _layer_norm("embeddings.LayerNorm", hidden)
    for layer in range(shape.layers):
        prefix = f"encoder.layer.{layer}"
        for name, gain in (("self.query", SHARP), ("self.key", SHARP), ("self.value", 1.0), ("output.dense", 1.0)):
            yield from _linear(f"{prefix}.attention.{name}", hidden, hidden, gain)
        yield from _layer_norm(f"{prefix}.attention.output.LayerNorm", hidden)
        yield from _linear(f"{prefix}.intermediate.dense", hidden, shape.intermediate, 1.2)
        yield from _linear(f"{prefix}.output.dense", shape.intermediate, hidden, 1.4)
        yield from _layer_norm(f"{prefix}.output.LayerNorm", hidden)
    yield from _linear("pooler.dense", hidden, hidden, 1.0)


def _head_tensors(shape: _Shape) -> Iterator[tuple[str, _Spec]]:
    yield from _linear("colbert_linear", shape.hidden, shape.hidden, 1.0)
    yield from _linear("sparse_linear", shape.hidden, 1, 1.0)


def _linear(name: str, inputs: int, outputs: int, gain: float) -> Iterator[tuple[str, _Spec]]:
    yield f"{name}.weight", _Spec((outputs, inputs), gain * inputs**-0.5)
    yield f"{name}.bias", _Spec((outputs,), 0.1)


def _layer_norm(name: str, size: int) -> Iterator[tuple[str, _Spec]]:
    yield f"{name}.weight", _Spec((size,), 0.2, mean=1.0)
    yield f"{name}.bias", _Spec((size,), 0.1)


def _write_weights(folder: Path, tensors: Tensors, weights: WeightFile) -> None:
    import torch

    for stale in ("model.safetensors", "pytorch_model.bin"):
        (folder / stale).unlink(missing_ok=True)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    if weights == "bin":
        torch.save(state, folder / "pytorch_model.bin")
        return
    from safetensors.torch import save_file

    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _write_heads(folder: Path, tensors: Tensors, *, half: bool) -> None:
    import torch

    for head in HEADS:
        state = {part: torch.from_numpy(tensors[f"{head}.{part}"]) for part in ("weight", "bias")}
        if half:
            state = {part: tensor.half() for part, tensor in state.items()}
        torch.save(state, folder / f"{head}.pt")


def _vocabulary_size(tokenizer_folder: Path) -> int:
    tokenizer = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = [int(token["id"]) + 1 for token in tokenizer.get("added_tokens", [])]
    return max([len(tokenizer["model"]["vocab"]), *added])


def _write_tokenizer(folder: Path, source: Path, shape: _Shape, layout: Layout) -> None:
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    tokens = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    config = {"model_max_length": shape.positions - 2, "tokenizer_class": "XLMRobertaTokenizer", **tokens}
    if layout == "published":
        _write_json(folder / "tokenizer_config.json", {"clean_up_tokenization_spaces": True, **config})
        mask = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
        _write_json(folder / "special_tokens_map.json", {**tokens, "mask_token": mask})
        if (source / "sentencepiece.bpe.model").exists():
            shutil.copyfile(source / "sentencepiece.bpe.model", folder / "sentencepiece.bpe.model")
    else:
        extra = {"add_prefix_space": True, "backend": "tokenizers", "is_local": False}
        _write_json(folder / "tokenizer_config.json", {**extra, **config})


def _write_configs(folder: Path, shape: _Shape, layout: Layout) -> None:
    config: dict[str, Any] = {
        "architectures": ["XLMRobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "classifier_dropout": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": shape.positions,
        "model_type": "xlm-roberta",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }
    if layout == "finetuned":
        _write_json(folder / "config.json", {**config, "dtype": "float32", "transformers_version": "5.23.0"})
        return
    _write_json(folder / "config.json", {**config, "torch_dtype": "float32", "transformers_version": "4.33.0"})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    modes = {f"pooling_mode_{mode}": mode == "cls_token" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": shape.hidden, **modes})
    lengths = {"max_seq_length": shape.positions - 2, "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", lengths)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=isinstance(content, dict)) + "\n", encoding="utf-8")
