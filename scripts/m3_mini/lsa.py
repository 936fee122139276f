"""Cross-lingual latent semantic analysis: one vector and one rarity per piece, without gradients.

A column is one meaning: an NTREX row with all its translations together, an English Tatoeba sentence with its
translations, or a passage with its questions. Pieces that occur in the same meanings get near vectors, whatever their
language.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .corpus import Corpus

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TATOEBA_WEIGHT = 0.05
"""Short everyday sentences outnumber the news rows thirty to one; at full weight they take over the space."""

QUESTION_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class Counts:
    """How often piece `rows[i]` occurs in meaning `columns[i]`, and what each meaning weighs."""

    rows: IntArray
    columns: IntArray
    values: FloatArray
    weights: FloatArray


@dataclass(frozen=True, slots=True)
class PieceSpace:
    """What the pieces mean and how rare they are."""

    vectors: FloatArray
    """[v, rank] unit rows; zero for a piece that never occurs."""

    idf: FloatArray
    """[v] -log of the share of sentences with the piece, in the language where it is most common."""


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> list[IntArray]:
    """The ids of each text, special tokens left out."""
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings]


def count_pieces(tokenizer: Tokenizer, corpus: Corpus) -> Counts:
    """Count the pieces of every meaning."""
    meanings: list[list[IntArray]] = [list(texts) for texts in zip(*_encode_ntrex(tokenizer, corpus), strict=True)]
    weights = [1.0] * len(meanings)
    for group, weight in ((_tatoeba_groups(corpus), TATOEBA_WEIGHT), (_question_groups(corpus), QUESTION_WEIGHT)):
        flat = encode(tokenizer, (text for texts in group for text in texts))
        ends = np.cumsum([len(texts) for texts in group])
        meanings += [flat[end - len(texts) : end] for texts, end in zip(group, ends.tolist(), strict=True)]
        weights += [weight] * len(group)
    return _gather_counts(meanings, weights)


def _encode_ntrex(tokenizer: Tokenizer, corpus: Corpus) -> list[list[IntArray]]:
    return [encode(tokenizer, rows) for rows in corpus.train.values()]


def _tatoeba_groups(corpus: Corpus) -> list[list[str]]:
    return [[english, *foreign] for english, foreign in corpus.tatoeba.items()]


def _question_groups(corpus: Corpus) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for question in corpus.questions:
        groups.setdefault(question.passage, [question.passage]).append(question.query)
    return list(groups.values())


def _gather_counts(meanings: Sequence[Sequence[IntArray]], weights: Sequence[float]) -> Counts:
    rows, columns, values = [], [], []
    for number, texts in enumerate(meanings):
        pieces, occurrences = np.unique(np.concatenate(texts), return_counts=True)
        rows.append(pieces)
        columns.append(np.full(len(pieces), number, dtype=np.int64))
        values.append(occurrences.astype(np.float64))
    return Counts(
        rows=np.concatenate(rows),
        columns=np.concatenate(columns),
        values=np.concatenate(values),
        weights=np.asarray(weights, dtype=np.float64),
    )


def inverse_document_frequency(tokenizer: Tokenizer, corpus: Corpus) -> FloatArray:
    """How rare each piece is: [v], from the language in which it is most common.

    A piece of many languages ("de", "a") is a stop word if it is one anywhere.
    """
    languages = [*corpus.train.values(), list(corpus.tatoeba)]
    share = np.zeros(tokenizer.get_vocab_size(), dtype=np.float64)
    for sentences in languages:
        found = np.zeros_like(share)
        for ids in encode(tokenizer, sentences):
            found[np.unique(ids)] += 1
        share = np.maximum(share, (found + 0.5) / (len(sentences) + 1))
    return np.asarray(-np.log(share), dtype=np.float64)


def positive_pmi(counts: Counts, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted positive pointwise mutual information of counts.

    Raw counts, for once: a count of 40 in a row says that 40 languages share the piece, and taking its logarithm or
    its presence alone costs four to nine points of translations found.

    Returns:
        The sparse matrix [v, meanings] and its transpose, both CSR.
    """
    columns = len(counts.weights)
    values = counts.values
    row_sum = np.bincount(counts.rows, values, vocabulary)
    column_sum = np.bincount(counts.columns, values, columns)
    pmi = np.log(values * values.sum() / (row_sum[counts.rows] * column_sum[counts.columns]))
    kept = pmi > 0
    weighted = (pmi * counts.weights[counts.columns])[kept]
    rows, cols = counts.rows[kept], counts.columns[kept]
    return _csr(rows, cols, weighted, (vocabulary, columns)), _csr(cols, rows, weighted, (columns, vocabulary))


def _csr(rows: IntArray, columns: IntArray, values: FloatArray, shape: tuple[int, int]) -> torch.Tensor:
    order = np.lexsort((columns, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(indptr),
            torch.from_numpy(columns[order]),
            torch.from_numpy(values[order]),
            shape,
            check_invariants=True,
        )


def left_singular_vectors(matrix: torch.Tensor, transpose: torch.Tensor, rank: int, *, seed: int = 0) -> FloatArray:
    """The first `rank` left singular vectors, by randomised power iteration (Halko et al., 2011).

    Signs are fixed so that each vector's entry of largest size is positive. Double precision is for reproducibility:
    sums grouped otherwise (another number of threads) still round to the same half-precision weights.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(matrix.shape[0], rank + 40, generator=generator, dtype=torch.float64)
    for _ in range(6):
        basis = torch.linalg.qr(matrix @ (transpose @ basis)).Q
    projected = transpose @ basis
    values, rotation = torch.linalg.eigh(projected.T @ projected)
    order = values.argsort(descending=True)[:rank]
    vectors = (basis @ rotation[:, order]).numpy()
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return np.asarray(vectors * np.sign(largest), dtype=np.float64)


def piece_space(tokenizer: Tokenizer, corpus: Corpus, rank: int, *, seed: int = 0) -> PieceSpace:
    """Vectors and rarity of every piece, from training text only."""
    counts = count_pieces(tokenizer, corpus)
    logger.info("%d meanings, %d counts", len(counts.weights), len(counts.values))
    matrix, transpose = positive_pmi(counts, tokenizer.get_vocab_size())
    # Singular values would make a few topics drown the words: scaled by their square root, vectors lose 18 points.
    # The first vector is much the same for all pieces: with it, all texts resemble each other.
    vectors = left_singular_vectors(matrix, transpose, rank + 1, seed=seed)[:, 1:]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
    return PieceSpace(vectors=unit, idf=inverse_document_frequency(tokenizer, corpus))
