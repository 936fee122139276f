"""A hundred languages and more: the real XLM-R tokenizer, the open data, and the genuine model where it is at hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from m3connect import M3Encoder
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.testing_checkpoints import write_checkpoint

UNKNOWN_SCRIPTS = {"bod", "dzo", "div"}
"""Tibetan, Dzongkha and Dhivehi: their letters are not in XLM-R's vocabulary."""

ROWS = 60


@pytest.fixture(scope="session")
def xlmr_folder(open_data: Path) -> Path:
    return open_data / "xlmr_tokenizer"


@pytest.fixture(scope="session")
def xlmr_encoder(tmp_path_factory: pytest.TempPathFactory, xlmr_folder: Path) -> M3Encoder:
    folder = tmp_path_factory.mktemp("xlmr")
    return M3Encoder.from_pretrained(
        write_checkpoint(folder, tokenizer_folder=xlmr_folder, layers=1, hidden=32, heads=2, intermediate=32)
    )


def test_token_ids_equal_those_of_the_real_model(xlmr_folder: Path) -> None:
    cases = json.loads((xlmr_folder / "fixtures" / "tokenizer_cases.json").read_text("utf-8"))
    tokenized = M3Tokenizer(xlmr_folder).tokenize([case["text"] for case in cases], 8192)
    assert [ids.tolist() for ids in tokenized.token_ids] == [case["ids"] for case in cases]


def test_token_ids_equal_those_of_transformers(xlmr_folder: Path, mini_folder: Path, open_data: Path) -> None:
    from transformers import AutoTokenizer

    texts = [text for path in sorted((open_data / "ntrex128").glob("*.txt.gz"))[::9] for text in _rows(path)[:8]]
    texts += ["", "literal <mask> and <s>", " <mask>x", "</s></s>", "🐝\u200b"]
    for folder in (xlmr_folder, mini_folder):
        expected = AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]
        found = M3Tokenizer(folder).tokenize(texts, 8192).token_ids
        assert [ids.tolist() for ids in found] == expected


def test_every_language_is_tokenised_and_encoded_with_few_unknown_pieces(
    xlmr_encoder: M3Encoder, open_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = xlmr_encoder._tokenizer
    paths = sorted((open_data / "ntrex128").glob("*.txt.gz"))
    assert len(paths) == 129
    shares = {}
    for path in paths:
        texts = _rows(path)[:ROWS]
        ids = np.concatenate([row[1:-1] for row in tokenizer.tokenize(texts, 8192).token_ids])
        shares[path.name.removesuffix(".txt.gz")] = float((ids == 3).mean())
        batch = xlmr_encoder.encode(texts[:8], multi_vector=True)
        assert np.isfinite(batch.dense).all()
        assert all(len(vectors) > 1 for vectors in batch.require_multi_vector())
    worst = sorted(shares, key=lambda name: -shares[name])[:12]
    with capsys.disabled():
        print("\nshare of <unk>, the worst of 129:", ", ".join(f"{name} {shares[name]:.1%}" for name in worst))
    assert all(share < 0.06 for name, share in shares.items() if name not in UNKNOWN_SCRIPTS)
    assert all(shares[name] < 0.6 for name in UNKNOWN_SCRIPTS)


@pytest.mark.network
def test_lexical_weights_equal_the_genuine_ones_of_bge_m3(open_data: Path) -> None:
    fixtures = open_data / "xlmr_tokenizer" / "fixtures" / "bge_m3_lexical_weights.json"
    cases = json.loads(fixtures.read_text("utf-8"))
    encoder = M3Encoder.from_pretrained("BAAI/bge-m3")
    rows = encoder.encode([case["text"] for case in cases]).sparse.to_dicts()
    for row, case in zip(rows, cases, strict=True):
        expected = {int(token): weight for token, weight in case["lexical_weights"].items()}
        assert all(abs(row.get(token, 0.0) - expected.get(token, 0.0)) < 2e-3 for token in row.keys() | expected.keys())


def _rows(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]
