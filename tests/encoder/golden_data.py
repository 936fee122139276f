"""Golden numbers that FlagEmbedding gave for a random checkpoint (scripts/make_golden.py), ready to compare with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import m3connect
from m3connect.embeddings import FloatArray, IntArray
from m3connect.testing_checkpoints import checkpoint_digest, write_checkpoint

__all__ = ["Golden", "GoldenCase", "GoldenPair", "golden_texts", "load_golden", "write_golden_checkpoint"]

FOLDER = Path(__file__).parent / "golden"
TOKENIZER = Path(m3connect.__file__).parent / "assets" / "m3-mini"


@dataclass(frozen=True, eq=False, slots=True)
class GoldenCase:
    """One text at one max_length."""

    text: str
    max_length: int
    tokens: int
    """How many tokens the text has uncut, with `<s>` and `</s>`."""

    dense: FloatArray
    sparse: dict[int, float]
    vector_count: int
    """How many token vectors there are; `vectors` holds only the rows named in `vector_rows`."""

    vector_rows: IntArray
    vectors: FloatArray

    @property
    def truncated(self) -> int:
        """How many tokens were cut away."""
        return max(0, self.tokens - self.max_length)


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """Scores of a query (cut at 512 tokens) and a passage (cut at 8,192); hybrid is divided by the weights' sum."""

    query: str
    passage: str
    dense: float
    sparse: float
    multi_vector: float
    hybrid: float


@dataclass(frozen=True, eq=False, slots=True)
class Golden:
    """All cases; those of one max_length lie together and in the order of the texts."""

    cases: list[GoldenCase]
    pairs: list[GoldenPair]
    hybrid_weights: tuple[float, float, float]
    """Dense, sparse, multi-vector."""

    about: dict[str, Any]
    """Arguments and digest of the checkpoint, versions."""

    def at(self, max_length: int) -> list[GoldenCase]:
        """Cases of one max_length: all texts at 8,192, those that are cut at 512 and 16."""
        return [case for case in self.cases if case.max_length == max_length]


def golden_texts() -> list[str]:
    """Return the texts, long ones spelt out."""
    texts = json.loads((FOLDER / "texts.json").read_text(encoding="ascii"))
    return [text if isinstance(text, str) else text["repeat"] * text["times"] for text in texts]


def load_golden() -> Golden:
    """Read the golden numbers."""
    texts = golden_texts()
    about = json.loads((FOLDER / "about.json").read_text(encoding="ascii"))
    with np.load(FOLDER / "golden.npz") as file:
        data = dict(file)
    pairs = [
        GoldenPair(
            texts[query], texts[passage], *(float(data[f"score_{name}"][i]) for name in GoldenPair.__slots__[2:])
        )
        for i, (query, passage) in enumerate(data["pairs"].tolist())
    ]
    cases = [_case(data, texts, i) for i in range(len(data["text"]))]
    return Golden(cases, pairs, tuple(about["hybrid_weights"]), about)


def _case(data: dict[str, Any], texts: list[str], i: int) -> GoldenCase:
    weights = slice(*data["sparse_indptr"][i : i + 2])
    rows = slice(*data["vector_indptr"][i : i + 2])
    text = int(data["text"][i])
    return GoldenCase(
        text=texts[text],
        max_length=int(data["max_length"][i]),
        tokens=int(data["tokens"][text]),
        dense=data["dense"][i],
        sparse=dict(zip(data["sparse_ids"][weights].tolist(), data["sparse_values"][weights].tolist(), strict=True)),
        vector_count=int(data["vector_counts"][i]),
        vector_rows=data["vector_rows"][rows].astype(np.int64),
        vectors=data["vectors"][rows],
    )


def write_golden_checkpoint(folder: Path) -> Path:
    """Make the checkpoint of the golden numbers again.

    Raises:
        ValueError: the tokenizer or the numbers differ from those that FlagEmbedding saw; scripts/make_golden.py must
            run again.
    """
    about = json.loads((FOLDER / "about.json").read_text(encoding="ascii"))
    if hashlib.sha256((TOKENIZER / "tokenizer.json").read_bytes()).hexdigest() != about["tokenizer_sha256"]:
        raise ValueError("m3-mini's tokenizer.json is not the one of the golden numbers: run scripts/make_golden.py")
    checkpoint = write_checkpoint(folder, tokenizer_folder=TOKENIZER, **about["checkpoint"])
    if checkpoint_digest(checkpoint) != about["checkpoint_sha256"]:
        raise ValueError(
            "the seed gives another checkpoint than that of the golden numbers: run scripts/make_golden.py"
        )
    return checkpoint
