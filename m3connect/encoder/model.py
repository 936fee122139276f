"""The forward pass of an M3 model over packed texts.

Texts of a pack lie one after the other, without padding, so every matrix product works on real tokens only. Attention
alone needs to know where a text ends: it runs once for each run of texts with equal lengths, or once in all where a
GPU's kernel is told where they end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3connect.encoder.attention import PackedAttention, fused_attention
from m3connect.encoder.checkpoint import ModelConfig, Tensors
from m3connect.encoder.pack import Pack
from m3connect.errors import CheckpointError

__all__ = ["Layer", "M3Model", "Prepare", "load_model", "published_weights"]

Prepare: TypeAlias = Callable[[str, nn.Module], nn.Module]
"""Given the name of a model's part, and the part with its weights, return what shall stand in its place."""


class M3Model(nn.Module):
    """An XLM-R encoder with the sparse and the multi-vector head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.pad_token_id = config.pad_token_id
        self.word_embeddings = _table(config.vocab_size, d)
        self.position_embeddings = _table(config.max_position_embeddings, d)
        self.token_type_embeddings = _table(config.type_vocab_size, d)
        self.embedding_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.sparse_linear = nn.Linear(d, 1)
        self.colbert_linear = nn.Linear(d, d)

    def forward(self, pack: Pack) -> Tensor:
        """Return the last hidden states [T, d], in float32."""
        hidden: Tensor = self.word_embeddings(pack.token_ids).float()
        hidden = hidden + self.position_embeddings(self._positions(pack)) + self.token_type_embeddings.weight[0]
        hidden = self.embedding_norm(hidden)
        for layer in self.layers:
            hidden = layer(hidden, pack)
        return hidden

    def dense(self, hidden: Tensor, pack: Pack) -> Tensor:
        """Return [n, d] unit vectors: the state of each text's `<s>`."""
        return F.normalize(hidden[pack.starts], dim=-1)

    def token_weights(self, hidden: Tensor) -> Tensor:
        """Return [T] weights of at least 0, one a token."""
        return torch.relu(self.sparse_linear(hidden)).squeeze(-1)

    def token_vectors(self, hidden: Tensor) -> Tensor:
        """Return [T, d] unit vectors, one a token; that of `<s>` belongs to no text's multi-vector."""
        return F.normalize(self.colbert_linear(hidden).float(), dim=-1)

    def _positions(self, pack: Pack) -> Tensor:
        """Count the tokens of each text from the padding id on; a literal `<pad>` in a text does not count."""
        real = (pack.token_ids != self.pad_token_id).long()
        counted = torch.cumsum(real, 0)
        before = counted[pack.starts] - real[pack.starts]
        ranks = counted - pack.repeat(before)
        return ranks * real + self.pad_token_id


def _table(rows: int, width: int) -> nn.Embedding:
    """Return an embedding without values: to draw some on the meta device, torch would import 70 MB of libraries."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Layer(nn.Module):
    """One transformer layer: attention within each text, then a feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.attention = fused_attention
        self.packed_attention: PackedAttention | None = None
        """Attends within all texts of a pack at once; None means run by run, by `attention`."""
        self.rows_at_once: int | None = None
        """How many rows the feed-forward network takes at a time; None means all of them."""
        self.qkv = nn.Linear(d, 3 * d)
        self.attention_output = nn.Linear(d, d)
        self.attention_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(d, config.intermediate_size)
        self.activation: nn.Module = nn.GELU()
        self.output = nn.Linear(config.intermediate_size, d)
        self.output_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, pack: Pack) -> Tensor:
        """Transform [T, d] hidden states."""
        attended = self.attention_output(self._attend(self.qkv(hidden), pack))
        hidden = self.attention_norm(attended + hidden)
        result: Tensor = self.output_norm(self._feed_forward(hidden) + hidden)
        return result

    def _attend(self, qkv: Tensor, pack: Pack) -> Tensor:
        if self.packed_attention is not None:
            return self.packed_attention(qkv, pack, self.num_heads)
        parts = torch.split(qkv, [count * length for count, length in pack.runs])
        counts = [count for count, _ in pack.runs]
        attended = [self.attention(part, count, self.num_heads) for part, count in zip(parts, counts, strict=True)]
        return torch.cat(attended)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        parts = torch.split(hidden, self.rows_at_once or len(hidden))
        return torch.cat([self.output(self.activation(self.intermediate(part))) for part in parts])


def load_model(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    heads: Mapping[str, Tensors],
    *,
    prepare: Prepare = lambda name, part: part,
) -> M3Model:
    """Put a checkpoint's tensors into a model, in float32.

    Args:
        config: the model's shape.
        weights: the encoder's tensors by transformers' names, as `read_weights` gives them.
        heads: both heads, as `read_heads` gives them.
        prepare: may replace each part as soon as its tensors are read, before those of the next one are: so the
            memory needed is that of the result, and not of the checkpoint.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    with torch.device("meta"):
        model = M3Model(config)
    for name, part in _parts(model):
        state = {key: _read(f"{name}.{key}", weights, heads) for key in part.state_dict()}
        for key, tensor in part.state_dict().items():
            if state[key].shape != tensor.shape:
                raise CheckpointError(
                    f"{name}.{key} has shape {tuple(state[key].shape)}, but config.json says {tuple(tensor.shape)}"
                )
        part.load_state_dict(state, assign=True)
        model.set_submodule(name, prepare(name, part.requires_grad_(False)))
    return model.eval().requires_grad_(False)


def _parts(model: M3Model) -> Iterator[tuple[str, nn.Module]]:
    for name, child in list(model.named_children()):
        if child is model.layers:
            yield from ((f"{name}.{i}", layer) for i, layer in enumerate(model.layers))
        else:
            yield name, child


def published_weights(model: M3Model) -> tuple[Tensors, dict[str, Tensors]]:
    """Return what `load_model` takes: the encoder's tensors by transformers' names, and both heads."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    weights = {f"embeddings.{theirs}": state[ours] for ours, theirs in _EMBEDDINGS.items()}
    for i in range(len(model.layers)):
        theirs, ours = f"encoder.layer.{i}", f"layers.{i}"
        for kind in ("weight", "bias"):
            fused = state[f"{ours}.qkv.{kind}"].chunk(3)
            for part, tensor in zip(("query", "key", "value"), fused, strict=True):
                weights[f"{theirs}.attention.self.{part}.{kind}"] = tensor
            for our_module, their_module in _LAYER_MODULES.items():
                weights[f"{theirs}.{their_module}.{kind}"] = state[f"{ours}.{our_module}.{kind}"]
    heads = ("sparse_linear", "colbert_linear")
    return weights, {head: {part: state[f"{head}.{part}"] for part in ("weight", "bias")} for head in heads}


_EMBEDDINGS = {
    "word_embeddings.weight": "word_embeddings.weight",
    "position_embeddings.weight": "position_embeddings.weight",
    "token_type_embeddings.weight": "token_type_embeddings.weight",
    "embedding_norm.weight": "LayerNorm.weight",
    "embedding_norm.bias": "LayerNorm.bias",
}

_LAYER_MODULES = {
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


def _read(name: str, weights: Mapping[str, Tensor], heads: Mapping[str, Tensors]) -> Tensor:
    """Return a tensor of our model by our name for it."""
    if name in _EMBEDDINGS:
        return _take(weights, f"embeddings.{_EMBEDDINGS[name]}")
    if not name.startswith("layers."):
        head, kind = name.split(".")
        return heads[head][kind].float()
    _, number, module, kind = name.split(".")
    layer = f"encoder.layer.{number}"
    if module == "qkv":
        parts = [_take(weights, f"{layer}.attention.self.{part}.{kind}") for part in ("query", "key", "value")]
        return torch.cat(parts)
    return _take(weights, f"{layer}.{_LAYER_MODULES[module]}.{kind}")


def _take(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise CheckpointError(f"the weights lack {name}: they are not those of an XLM-R encoder of this size")
    return weights[name].float()
