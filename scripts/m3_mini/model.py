"""The XLM-R checkpoint whose untrained forward pass computes rarity-weighted means of piece vectors.

The 256 dimensions: 0-252 hold the piece's meaning (252 numbers in a basis orthogonal to the ones vector), 253 holds
its attention logit (power * log idf), 254 and 255 hold a flag that only `<s>` carries. Every row is made with mean 0
and norm 16, which a LayerNorm leaves as it is. Layer 1 attends to each token by dimension 253 and adds the mean
meaning; layer 2 and both feed-forward parts add nothing yet; the last LayerNorm wipes the flag out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import XLMRobertaConfig, XLMRobertaModel

from .lsa import FloatArray, PieceSpace
from .tokenizer import MAX_TOKENS, SPECIALS, VOCABULARY

HIDDEN = 256
MEANING = 253
RANK = MEANING - 1
LOGIT = 253
FLAGS = (254, 255)
NORM = HIDDEN**0.5
START, PAD, END, UNKNOWN = range(len(SPECIALS))
MASK = VOCABULARY - 1

WEAKEST = -15.9
"""The attention logit of tokens that mean nothing: they count only where there is nothing else."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The few numbers of the initialisation, chosen on the NTREX development rows."""

    idf_power: float = 1.35
    """Attention weights are idf to this power."""

    mixing: float = 4.0
    """How much of the text's mean is added to each token."""

    sparse_weight: float = 0.1
    sparse_bias: float = 0.2


def config() -> XLMRobertaConfig:
    """The configuration of m3-mini."""
    return XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )


def meaning_basis() -> FloatArray:
    """[253, 252] orthonormal columns, each of sum zero: a cosine transform without its constant."""
    position = np.arange(MEANING)[:, None] + 0.5
    basis = np.cos(np.pi / MEANING * position * np.arange(1, MEANING)[None]) * np.sqrt(2 / MEANING)
    return np.asarray(basis, dtype=np.float64)


def piece_embeddings(space: PieceSpace, shape: Shape, *, seed: int = 0) -> FloatArray:
    """[v, 256] rows of mean 0 and norm 16 (`<pad>` is zero)."""
    logits = shape.idf_power * np.log(np.maximum(space.idf, 0.02))
    logits[[END, UNKNOWN, MASK]] = WEAKEST
    noise = np.random.default_rng(seed).standard_normal(space.vectors.shape)
    unseen = np.linalg.norm(space.vectors, axis=1) < 0.5
    unseen[[END, UNKNOWN, MASK]] = True
    vectors = np.where(unseen[:, None], noise / np.linalg.norm(noise, axis=1, keepdims=True), space.vectors)
    scale = np.sqrt(NORM**2 - logits**2 * (1 + 1 / MEANING))
    embeddings = np.zeros((VOCABULARY, HIDDEN), dtype=np.float64)
    embeddings[:, :MEANING] = scale[:, None] * (vectors @ meaning_basis().T) - logits[:, None] / MEANING
    embeddings[:, LOGIT] = logits
    embeddings[[START, PAD]] = 0
    embeddings[START, FLAGS] = NORM / 2**0.5, -NORM / 2**0.5
    return embeddings


def meaning_projection() -> torch.Tensor:
    """[256, 256] keeps the meaning and drops logit and flags."""
    basis = torch.from_numpy(meaning_basis())
    projection = torch.zeros(HIDDEN, HIDDEN)
    projection[:MEANING, :MEANING] = (basis @ basis.T).float()
    return projection


@torch.no_grad()
def build_encoder(space: PieceSpace, shape: Shape, *, seed: int = 0) -> XLMRobertaModel:
    """The encoder, with the idf-weighted mean in `<s>`."""
    torch.manual_seed(seed)
    model = XLMRobertaModel(config()).eval()
    model.embeddings.word_embeddings.weight.copy_(torch.from_numpy(piece_embeddings(space, shape, seed=seed)))
    model.embeddings.position_embeddings.weight.zero_()
    model.embeddings.token_type_embeddings.weight.zero_()
    for layer in model.encoder.layer:
        for added in (layer.attention.output.dense, layer.output.dense):  # the residual stream passes unchanged
            added.weight.zero_()
            added.bias.zero_()
    _pool_by_rarity(model, shape)
    model.encoder.layer[-1].output.LayerNorm.weight[list(FLAGS)] = 0
    return model


def _pool_by_rarity(model: XLMRobertaModel, shape: Shape) -> None:
    """Layer 1: every head weighs the tokens by their logit and adds their mean meaning."""
    attention = model.encoder.layer[0].attention
    head = HIDDEN // model.config.num_attention_heads
    query, key, value = attention.self.query, attention.self.key, attention.self.value
    for linear in (query, key, value):
        linear.weight.zero_()
        linear.bias.zero_()
    query.bias[::head] = head**0.5  # cancels the scaling of attention scores
    key.weight[::head, LOGIT] = 1
    key.weight[::head, FLAGS[0]] = WEAKEST / (NORM / 2**0.5)  # <s> itself has no meaning to add
    value.weight.copy_(meaning_projection())
    attention.output.dense.weight.copy_(torch.eye(HIDDEN) * shape.mixing)


def build_heads(shape: Shape) -> dict[str, dict[str, torch.Tensor]]:
    """State dicts of the two linear heads by file name."""
    weight = torch.zeros(1, HIDDEN)
    weight[0, LOGIT] = shape.sparse_weight
    return {
        "colbert_linear.pt": {"weight": meaning_projection(), "bias": torch.zeros(HIDDEN)},
        "sparse_linear.pt": {"weight": weight, "bias": torch.full((1,), shape.sparse_bias)},
    }


def write_model(folder: Path, encoder: XLMRobertaModel, heads: dict[str, dict[str, torch.Tensor]]) -> None:
    """Write the weights (half precision, upcast by `config.json`) and every configuration file."""
    tensors = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner only
    for name, head in heads.items():
        torch.save({key: tensor.half() for key, tensor in head.items()}, folder / name)
    for path, content in _configurations().items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _configurations() -> dict[str, object]:
    model = {key: value for key, value in config().to_diff_dict().items() if key != "transformers_version"}
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (path, name) in enumerate(parts)
    ]
    pooling = {
        "word_embedding_dimension": HIDDEN,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    return {
        "config.json": {**model, "architectures": ["XLMRobertaModel"], "dtype": "float32"},
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "similarity_fn_name": "cosine"},
    }
