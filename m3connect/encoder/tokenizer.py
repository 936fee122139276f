"""Texts to token ids and back, with the tokenizer that comes with a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from m3connect.embeddings import IntArray
from m3connect.errors import CheckpointError

__all__ = ["M3Tokenizer", "Tokenized"]

_TEXTS_PER_CALL = 1024
"""The tokenizer's own result objects are large, so only this many texts are held in them at a time."""

_PROBE = "  Ａ①ﬁ e\u0301 ÜNÏ cödé 中文字 ข้าว 123,456.78 \t\u200b don't <mask> 🐝"

_NAMES = {"cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of n texts."""

    token_ids: list[IntArray]
    """n arrays [t_i], `<s>` first and `</s>` last."""

    truncated: IntArray
    """[n] how many tokens of each text were cut away."""


class M3Tokenizer:
    """A model's tokenizer; safe to use from several threads, because no setting is changed after loading.

    Args:
        folder: a model's folder, with `tokenizer.json`, or `sentencepiece.bpe.model` for transformers to convert.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load(folder)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        names = _special_names(folder)
        self.unweighted: IntArray = np.array([self._id(names[role]) for role in _NAMES], dtype=np.int64)
        """Ids of `<s> </s> <pad> <unk>`, which have no place in a sparse row."""
        self._end = int(self._id(names["eos_token"]))
        frame = self._tokenizer.encode("").ids
        if frame != [self._id(names["cls_token"]), self._end]:
            raise CheckpointError(f"the tokenizer turns an empty text into {frame}, not into <s> and </s>")

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def signature(self) -> str:
        """What tells tokenizers apart: the vocabulary, and the ids of a text that normalising and splitting change."""
        vocabulary = sorted(self._tokenizer.get_vocab(), key=self._tokenizer.get_vocab().__getitem__)
        return repr((vocabulary, self._tokenizer.encode(_PROBE).ids))

    def tokenize(self, texts: Sequence[str], max_length: int) -> Tokenized:
        """Turn texts into ids, `max_length` of them at most, `<s>` and `</s>` included.

        Raises:
            UnicodeEncodeError: a text holds half of a surrogate pair; a `TypeError` on some versions of tokenizers.
        """
        token_ids: list[IntArray] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            encodings = self._tokenizer.encode_batch_fast(list(texts[start : start + _TEXTS_PER_CALL]))
            token_ids += [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        truncated = np.array([max(0, len(ids) - max_length) for ids in token_ids], dtype=np.int64)
        for i in np.flatnonzero(truncated).tolist():
            token_ids[i] = np.append(token_ids[i][: max_length - 1], self._end)
        return Tokenized(token_ids, truncated)

    def spans(self, text: str) -> IntArray:
        """Return [t, 2] where each token of a text begins and ends in it, `<s>` and `</s>` left out."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return np.array(offsets, dtype=np.int64).reshape(-1, 2)

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        """Return the text of each id, without the mark of a word's start.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return [self._piece(int(token_id)).removeprefix("▁") or "▁" for token_id in token_ids]

    def _piece(self, token_id: int) -> str:
        piece = self._tokenizer.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if piece is None:
            raise ValueError(f"{token_id} is no token id of this model: they go from 0 to {self.vocab_size - 1}")
        return piece

    def _id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no {token}, which every M3 model needs")
        return int(token_id)


def _load(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return Tokenizer.from_str(path.read_text("utf-8"))
        except Exception as error:  # the library raises nothing more exact
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
    if not (folder / "sentencepiece.bpe.model").is_file():
        raise CheckpointError(f"{folder} has neither tokenizer.json nor sentencepiece.bpe.model")
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    return tokenizer


def _special_names(folder: Path) -> dict[str, str]:
    names = dict(_NAMES)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / file
        stated = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        for role in names:
            token = stated.get(role)
            if token:
                names[role] = token if isinstance(token, str) else token["content"]
    return names
