"""A multilingual unigram tokenizer in the XLM-R layout, trained with sentencepiece."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece  # type: ignore[import-untyped,import-not-found,unused-ignore]

from .corpus import Corpus

VOCABULARY = 24_000
MAX_TOKENS = 8_192
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": MASK,
}

_SENTENCE_END = re.compile("(?<=[.!?\u061f]) +|(?<=[\u3002\uff01\uff1f])")  # Latin, Arabic; Chinese and Japanese


def training_sentences(corpus: Corpus) -> Iterator[str]:
    """The text the pieces are learned from, passages cut into sentences."""
    for rows in corpus.train.values():
        yield from rows
    for english, foreign in corpus.tatoeba.items():
        yield english
        yield from foreign
    for question in corpus.questions:
        yield question.query
    for passage in dict.fromkeys(question.passage for question in corpus.questions):
        yield from _SENTENCE_END.split(passage)
    yield from corpus.claims


def train_pieces(corpus: Corpus, *, coverage: float = 0.9999) -> list[tuple[str, float]]:
    """Train the unigram model.

    Args:
        corpus: Where the text comes from.
        coverage: The share of character occurrences that get a piece of their own.

    Returns:
        `VOCABULARY` - 5 pieces with their log probabilities, special tokens left out.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_sentences(corpus)),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY - len(SPECIALS) - 1 + 3,  # sentencepiece counts its own <unk>, <s> and </s>
        character_coverage=coverage,
        max_sentence_length=16_384,
        num_threads=2,  # part of the result: the sums of the EM steps are grouped by thread
        minloglevel=1,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(3, processor.get_piece_size())]


def tokenizer_json(pieces: list[tuple[str, float]], charsmap: str) -> str:
    """The minified `tokenizer.json` of these pieces.

    Args:
        pieces: The pieces with their log probabilities.
        charsmap: The precompiled character map of XLM-R (base64). It must stay: transformers' XLM-R tokenizer drops
            any other kind of normalizer without a word, and then gives other ids than `tokenizers` does.
    """
    vocabulary: list[list[object]] = [[token, 0.0] for token in SPECIALS]
    vocabulary += [[piece, round(score, 4)] for piece, score in pieces]
    vocabulary.append([MASK, 0.0])
    ids = {token: number for number, token in enumerate([*SPECIALS, *(piece for piece, _ in pieces), MASK])}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(token, ids[token]) for token in (*SPECIALS, MASK)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": _post_processor(),
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": vocabulary, "byte_fallback": False},
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _added_token(content: str, number: int) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": content == MASK, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags}


def _post_processor() -> dict[str, object]:
    start, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokens = {token: {"id": token, "ids": [SPECIALS.index(token)], "tokens": [token]} for token in ("<s>", "</s>")}
    return {
        "type": "TemplateProcessing",
        "single": [start, first, end],
        "pair": [start, first, end, end, second, end],
        "special_tokens": tokens,
    }


def read_charsmap(path: Path) -> str:
    """The precompiled character map (base64) in the `tokenizer.json` at `path`."""
    normalizer = json.loads(path.read_text(encoding="utf-8"))["normalizer"]
    if normalizer["type"] != "Precompiled":
        raise ValueError(f"expected a Precompiled normalizer in {path}, found {normalizer['type']}")
    return str(normalizer["precompiled_charsmap"])


def write_tokenizer(folder: Path, pieces: list[tuple[str, float]], charsmap: str) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
    config = {
        "add_prefix_space": True,
        "backend": "tokenizers",
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_TOKENS,
        "tokenizer_class": "XLMRobertaTokenizer",
        **SPECIAL_TOKENS,
    }
    (folder / "tokenizer.json").write_text(tokenizer_json(pieces, charsmap), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    special_tokens = json.dumps(SPECIAL_TOKENS, indent=2, sort_keys=True) + "\n"
    (folder / "special_tokens_map.json").write_text(special_tokens, encoding="utf-8")
