"""Examples and settings of the trainer's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.train import Batch, TrainConfig

WORDS = "river bee honey tower bridge winter garden engine letter stone cloud market doctor piano island forest".split()


SMALL = TrainConfig(
    steps=6,
    learning_rate=1e-3,
    tokens_per_batch=200,
    group_size=3,
    max_query_length=16,
    max_passage_length=32,
    save_every=3,
    log_every=2,
    device="cpu",
)


def example(i: int, negatives: int = 2) -> dict[str, Any]:
    """A query whose two words are in its positive; later examples are longer."""
    first, second = WORDS[i % 16], WORDS[(i * 7 + 3) % 16]
    filler = " ".join(WORDS[(i + j) % 16] for j in range(i % 5))
    return {
        "query": f"{first} {second}?",
        "pos": [f"the {first} and the {second} {filler}"],
        "neg": [f"no {WORDS[(i + 5 + j) % 16]} here {filler}" for j in range(negatives)],
    }


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_batch(tokenizer: M3Tokenizer, *, queries: int = 8, negatives: int = 2) -> Batch:
    rows = [example(i, negatives) for i in range(queries)]
    texts = [text for row in rows for text in (row["pos"] + row["neg"])]
    return Batch(
        tokenizer.tokenize([row["query"] for row in rows], 64).token_ids, tokenizer.tokenize(texts, 64).token_ids
    )
