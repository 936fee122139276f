"""Build the bundled demonstration model `m3-mini` from the shared training data.

    python scripts/build_m3_mini.py --data ../shared/data --out m3connect/assets/m3-mini

It trains a tokenizer, initialises the encoder by cross-lingual LSA, writes the folder in the layout that BAAI/bge-m3 is
published in, loads it again as a stranger would, and measures it on rows that it was not made of. No gradients, no
downloads; about four minutes on two cores and 3 GB of memory. Besides torch, transformers, tokenizers, safetensors and
numpy it needs `sentencepiece`.

The same data and the same versions on the same kind of processor give the same bytes. The number of threads is fixed
to two, because sums are grouped by thread; another processor or another torch may change last bits of the weights.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import torch
from m3_mini.card import model_card
from m3_mini.corpus import Corpus, read_corpus
from m3_mini.evaluate import FolderModel, passage_ndcg, translation_accuracy
from m3_mini.lsa import piece_space
from m3_mini.model import RANK, Shape, build_encoder, build_heads, write_model
from m3_mini.tokenizer import read_charsmap, train_pieces, write_tokenizer
from tokenizers import Tokenizer

logger = logging.getLogger("build_m3_mini")

LARGEST = 20_000_000
"""Bytes the whole folder may have."""


def build(data: Path, out: Path, *, seed: int = 0) -> None:
    """Make the model from the text in `data` and save it in `out`."""
    corpus = read_corpus(data)
    out.mkdir(parents=True, exist_ok=True)
    pieces = train_pieces(corpus)
    write_tokenizer(out, pieces, read_charsmap(data / "xlmr_tokenizer" / "tokenizer.json"))
    logger.info("tokenizer trained: %d pieces", len(pieces))
    space = piece_space(Tokenizer.from_file(str(out / "tokenizer.json")), corpus, RANK, seed=seed)
    shape = Shape()
    write_model(out, build_encoder(space, shape, seed=seed), build_heads(shape))
    measure(out, corpus)


def measure(out: Path, corpus: Corpus) -> None:
    """Measure the saved folder, write the figures into its card, and check its size and its edge cases."""
    model = FolderModel(out)
    _check_edges(model)
    accuracy = translation_accuracy(model, corpus)
    monolingual = [question for question in corpus.held_out if question.query_language == question.passage_language]
    card = model_card(accuracy, passage_ndcg(model, monolingual), candidates=len(corpus.dev["eng"]))
    (out / "README.md").write_text(card, encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    logger.info("%s\n%d bytes", card, size)
    if size > LARGEST:
        raise ValueError(f"{out} has {size} bytes, expected at most {LARGEST}")


def _check_edges(model: FolderModel) -> None:
    views = model.encode(["", "rain " * 10_000, "rain"])
    lengths = [len(rows) for rows in views.multi_vector]
    if lengths[:2] != [1, 8191]:
        raise ValueError(f"expected 1 and 8191 token vectors for the empty and the long text, got {lengths[:2]}")
    for vectors in (views.dense, *views.multi_vector):
        if not torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5):
            raise ValueError("expected unit vectors for the empty and the long text, got zero or non-finite ones")


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description="Build the bundled demonstration model m3-mini.")
    parser.add_argument("--data", type=Path, required=True, help="the folder with ntrex128/, tatoeba_train/, ...")
    parser.add_argument("--out", type=Path, required=True, help="where the model goes, e.g. m3connect/assets/m3-mini")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(2)
    start = time.perf_counter()
    build(arguments.data, arguments.out, seed=arguments.seed)
    logger.info("built in %.0f s with numpy %s and torch %s", time.perf_counter() - start, np.__version__, torch.__version__)


if __name__ == "__main__":
    main()
