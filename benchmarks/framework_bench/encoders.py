"""The encoder that all contenders share, and the texts."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import m3connect
from m3connect.embeddings import M3Embeddings
from m3connect.store import Encoder
from m3connect.testing_checkpoints import write_checkpoint

MINI = Path(m3connect.__file__).parent / "assets" / "m3-mini"


class Counting:
    """An encoder that counts how many texts it was given, and how long it took."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.dim, self.fingerprint = encoder.dim, encoder.fingerprint
        self.texts, self.seconds = 0, 0.0

    def encode(
        self, texts: Sequence[str], *, multi_vector: bool = False, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode texts."""
        start = time.perf_counter()
        batch = self.encoder.encode(texts, multi_vector=multi_vector, max_length=max_length)
        self.seconds += time.perf_counter() - start
        self.texts += len(texts)
        return batch


def draw_texts(n: int, *, median: int, seed: int) -> list[str]:
    """Draw n different texts of frequent and rare words; their numbers of words are log-normal, 4 to 400."""
    pieces = [piece for piece, _ in json.loads((MINI / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]]
    words = [piece[1:] for piece in pieces if piece[0] == "▁" and len(piece) > 3 and piece[1:].isalpha()]
    chances = 1 / np.arange(10, len(words) + 10)
    random = np.random.default_rng(seed)
    counts = np.clip(np.rint(random.lognormal(np.log(median), 0.8, n)), 4, 400).astype(int)
    return [" ".join(random.choice(words, count, p=chances / chances.sum())) for count in counts]


@contextmanager
def random_model(layers: int, hidden: int) -> Iterator[Encoder]:
    """Load a model of random weights in the published layout; its cost is that of a trained one."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(
            folder,
            tokenizer_folder=MINI,
            layers=layers,
            hidden=hidden,
            heads=hidden // 32,
            intermediate=4 * hidden,
        )
        raise_weights(Path(folder) / "sparse_linear.pt")
        yield m3connect.M3Encoder.from_pretrained(folder)


def raise_weights(head: Path) -> None:
    """Give nearly every token a sparse weight: at random a text may have none, and Milvus Lite refuses empty rows."""
    import torch

    state = torch.load(head, weights_only=True)
    torch.save(state | {"bias": state["bias"] + 4}, head)
