"""The steps of the build in their order, and the checks of what came out."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from .card import model_card
from .corpus import Corpus, read_corpus
from .evaluate import FolderModel, passage_ndcg, translation_accuracy
from .lsa import piece_space
from .model import RANK, Shape, build_encoder, build_heads, write_model
from .tokenizer import read_charsmap, train_pieces, write_tokenizer

logger = logging.getLogger(__name__)

LARGEST = 20_000_000
"""Bytes the whole folder may have."""


def build(data: Path, out: Path, *, seed: int = 0) -> None:
    """Make the model from the text in `data` and save it in `out`."""
    corpus = read_corpus(data)
    out.mkdir(parents=True, exist_ok=True)
    out.joinpath("README.md").unlink(missing_ok=True)  # figures of an older build
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
    passages = passage_ndcg(model, monolingual)
    card = model_card(accuracy, passages, candidates=len(corpus.dev["eng"]), questions=monolingual)
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
    logger.info("built in %.0f s", time.perf_counter() - start)
