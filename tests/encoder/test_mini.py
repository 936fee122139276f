"""The bundled model keeps what its card promises: its size, its reach, and what it finds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from m3connect import M3Embeddings, M3Encoder, scoring


def dev_rows(open_data: Path, language: str) -> list[str]:
    """The 149 development rows of NTREX-128 in a language."""
    folder = open_data / "ntrex128"
    splits = [line.split("\t")[2] for line in (folder / "ids.tsv").read_text("utf-8").splitlines()[1:]]
    with gzip.open(folder / f"{language}.txt.gz", "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line, split in zip(file, splits, strict=True) if split == "dev"]


def found(scores: np.ndarray) -> float:
    """Percent of rows whose own column is above all others; ties count against it."""
    return 100 * float(np.mean((scores >= np.diag(scores)[:, None]).sum(axis=1) == 1))


def all_scores(queries: M3Embeddings, documents: M3Embeddings) -> dict[str, np.ndarray]:
    return {
        "dense": scoring.dense(queries.dense, documents.dense),
        "sparse": scoring.sparse(queries.sparse, documents.sparse),
        "multi_vector": scoring.multi_vector(queries.require_multi_vector(), documents.require_multi_vector()),
    }


def test_the_folder_has_at_most_20_million_bytes(mini_folder: Path) -> None:
    assert sum(file.stat().st_size for file in mini_folder.rglob("*") if file.is_file()) <= 20_000_000


def test_it_has_8194_positions_and_reads_8192_tokens(mini_folder: Path) -> None:
    assert json.loads((mini_folder / "config.json").read_text("utf-8"))["max_position_embeddings"] == 8194
    encoder = M3Encoder.from_pretrained("m3-mini")
    batch = encoder.encode(["rain " * 9000, "rain"], multi_vector=True)
    assert [len(rows) for rows in batch.require_multi_vector()] == [8191, 2]
    assert batch.truncated.tolist() == [9002 - 8192, 0]
    assert np.linalg.norm(batch.dense, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_late_positions_of_a_long_text_are_as_good_as_early_ones() -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")
    filler = "The council talked about the new road for a long time and came to no decision. "
    answer = "Bees carry pollen from flower to flower and make honey. "
    question = encoder.encode(["Who makes honey?"], multi_vector=True)
    for repeats in (3, 30, 300):
        texts = [answer + filler * repeats, filler * repeats + answer, filler * (repeats + 1)]
        scores = scoring.multi_vector(
            question.require_multi_vector(), encoder.encode(texts, multi_vector=True).require_multi_vector()
        )[0]
        assert scores[:2].min() > scores[2] + 0.05, repeats


@pytest.mark.parametrize(
    ("source", "target", "least"),
    [
        ("deu", "eng", {"dense": 80, "sparse": 50, "multi_vector": 80}),
        ("zho-CN", "eng", {"dense": 74, "multi_vector": 75}),
        ("swa", "eng", {"dense": 68, "sparse": 55, "multi_vector": 70}),
        ("deu", "rus", {"dense": 62, "multi_vector": 62}),
    ],
)
def test_translations_are_found_in_rows_it_did_not_learn(
    open_data: Path, source: str, target: str, least: dict[str, float]
) -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")
    queries, documents = (
        encoder.encode(dev_rows(open_data, language), multi_vector=True) for language in (source, target)
    )
    assert len(queries) == len(documents) == 149
    scores = all_scores(queries, documents)
    figures = {leg: found(scores[leg]) for leg in least}
    assert all(figures[leg] >= value for leg, value in least.items()), figures
