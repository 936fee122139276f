"""A small set with judged queries in two languages, as a folder and in memory."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("ir_measures", reason="measures need the extra eval")

CORPUS = {
    "d1": "red apple in the garden",
    "d2": "green apple tree",
    "d3": "deep blue sea",
    "d4": "ships on the sea at night",
    "d5": "a night in the garden",
    "d6": "bread with salt",
}
QUERIES = {
    "q1": ("apple in a garden", "en"),
    "q2": ("the sea at night", "en"),
    "q3": ("bread", "de"),
    "q4": ("tree", "de"),
    "q5": ("not judged", "de"),
}
QRELS = {"q1": {"d1": 2, "d2": 1}, "q2": {"d4": 1, "d3": 0}, "q3": {"d6": 1}, "q4": {"d2": 1}}


def write_folder(folder: Path, *, split: str = "test", packed: bool = False) -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": name, "title": text.split()[0], "text": text.split(" ", 1)[1]} for name, text in CORPUS.items()]
    queries = [{"_id": name, "text": text, "metadata": {"lang": lang}} for name, (text, lang) in QUERIES.items()]
    for name, records in (("corpus", corpus), ("queries", queries)):
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
        path = folder / f"{name}.jsonl{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    write_qrels(folder / "qrels" / f"{split}.tsv", QRELS)
    return folder


def write_qrels(path: Path, qrels: dict[str, dict[str, int]]) -> None:
    lines = [f"{query}\t{document}\t{score}" for query, judged in qrels.items() for document, score in judged.items()]
    path.write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n", encoding="utf-8")
