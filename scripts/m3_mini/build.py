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
from .evaluate import Report, report
from .folder import FolderModel
from .learn import learn
from .lsa import piece_space
from .model import RANK, Shape, build_encoder, build_heads, write_model
from .tokenizer import read_charsmap, train_pieces, write_tokenizer

logger = logging.getLogger(__name__)

LARGEST = 20_000_000
"""Bytes the whole folder may have."""


def build(data: Path, out: Path, work: Path, *, seed: int = 0) -> None:
    """Make the model from the text in `data` and save it in `out`; `work` keeps what a stopped run goes on from."""
    corpus = read_corpus(data)
    initial = work / "initial"
    if not (initial / "sparse_linear.pt").is_file():  # the last file that is written
        initialise(corpus, data, initial, seed=seed)
    learn(initial, work / "run", corpus, out)
    before, after = measure(initial, corpus), measure(out, corpus)
    (out / "README.md").write_text(model_card(before, after, corpus), encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    logger.info("%s\n%d bytes", (out / "README.md").read_text(encoding="utf-8"), size)
    if size > LARGEST:
        raise ValueError(f"{out} has {size} bytes, expected at most {LARGEST}")


def initialise(corpus: Corpus, data: Path, out: Path, *, seed: int) -> None:
    """Write the model that training begins with: a new tokenizer, and weights by latent semantic analysis."""
    out.mkdir(parents=True, exist_ok=True)
    pieces = train_pieces(corpus)
    write_tokenizer(out, pieces, read_charsmap(data / "xlmr_tokenizer" / "tokenizer.json"))
    logger.info("tokenizer trained: %d pieces", len(pieces))
    space = piece_space(Tokenizer.from_file(str(out / "tokenizer.json")), corpus, RANK, seed=seed)
    shape = Shape()
    write_model(out, build_encoder(space, shape, seed=seed), build_heads(shape))


def measure(folder: Path, corpus: Corpus) -> Report:
    """Measure a saved folder, and check its edge cases."""
    model = FolderModel(folder)
    _check_edges(model)
    return report(model, corpus)


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
    parser.add_argument("--work", type=Path, help="where a stopped run goes on from; 3 GB")
    parser.add_argument("--untrained", action="store_true", help="stop after the initialisation, and write that")
    parser.add_argument("--seed", type=int, default=0, help="of the initialisation")
    arguments = parser.parse_args()
    if arguments.work is None and not arguments.untrained:
        parser.error("training needs --work")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(2)
    start = time.perf_counter()
    if arguments.untrained:
        initialise(read_corpus(arguments.data), arguments.data, arguments.out, seed=arguments.seed)
    else:
        build(arguments.data, arguments.out, arguments.work, seed=arguments.seed)
    logger.info("built in %.0f s", time.perf_counter() - start)
