"""transformers' own model in plain PyTorch, as one would write it by hand; other runtimes convert the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import XLMRobertaModel
from transformers.utils import logging

from encode_bench.contenders import Contender
from encode_bench.padded import BUDGETS, PaddedEncoder
from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.tokenizer import M3Tokenizer

PACKAGE = "transformers"


class Published(nn.Module):
    """transformers' `XLMRobertaModel` with the dense and the sparse output on top.

    Args:
        checkpoint: a folder as `write_checkpoint` leaves it.
        attention: which of transformers' implementations computes it, `"sdpa"` or `"eager"`.
        dtype: what everything but the outputs is computed in.
    """

    def __init__(self, checkpoint: Path, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        logging.set_verbosity_error()  # it lists the pooler, which M3 does not use
        logging.disable_progress_bar()
        self.encoder = XLMRobertaModel.from_pretrained(
            checkpoint, add_pooling_layer=False, attn_implementation=attention, dtype=dtype
        )
        self.sparse_linear = nn.Linear(self.encoder.config.hidden_size, 1)
        self.sparse_linear.load_state_dict(torch.load(checkpoint / "sparse_linear.pt", weights_only=True))
        self.eval().requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors [n, d] and token weights [n, t], in float32."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        return F.normalize(hidden[:, 0], dim=-1), torch.relu(self.sparse_linear(hidden)).squeeze(-1)


def load_transformers(checkpoint: Path) -> Iterator[Contender]:
    """Plain PyTorch in float32 and bfloat16, with scaled dot-product attention, at several budgets."""
    tokenizer = M3Tokenizer(checkpoint)
    for precision in ("float32", "bfloat16"):
        model = Published(checkpoint, dtype=getattr(torch, precision))
        for budget in BUDGETS:
            encode = PaddedEncoder(tokenizer, _Compute(model), budget)
            yield Contender(PACKAGE, encode, precision, f"{budget} tokens")


class _Compute:
    def __init__(self, model: Published) -> None:
        self._model = model

    def __call__(self, ids: IntArray, mask: IntArray) -> tuple[FloatArray, FloatArray]:
        with torch.inference_mode():
            dense, weights = self._model(torch.from_numpy(ids), torch.from_numpy(mask))
        return dense.numpy(), weights.numpy()
