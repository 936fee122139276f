"""M3's outputs by transformers' own XLM-R, one text at a time, formula by formula: what our encoder must equal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, XLMRobertaModel


@dataclass(frozen=True)
class View:
    dense: np.ndarray
    sparse: dict[int, float]
    multi_vector: np.ndarray


class Reference:
    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = XLMRobertaModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
        self.sparse_linear = _head(folder / "sparse_linear.pt")
        self.colbert_linear = _head(folder / "colbert_linear.pt")
        tokenizer = self.tokenizer
        self.unweighted = {
            tokenizer.cls_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            tokenizer.unk_token_id,
        }

    def encode(self, text: str, max_length: int) -> View:
        inputs = self.tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            hidden = self.model(**inputs).last_hidden_state[0]
            dense = torch.nn.functional.normalize(hidden[0], dim=0)
            weights = torch.relu(hidden @ self.sparse_linear["weight"].T + self.sparse_linear["bias"])[:, 0]
            rows = hidden[1:] @ self.colbert_linear["weight"].T + self.colbert_linear["bias"]
        sparse: dict[int, float] = {}
        for token_id, weight in zip(inputs["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token_id not in self.unweighted and weight > 0:
                sparse[token_id] = max(weight, sparse.get(token_id, 0.0))
        return View(dense.numpy(), sparse, torch.nn.functional.normalize(rows, dim=1).numpy())


def _head(path: Path) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in torch.load(path, weights_only=True).items()}
