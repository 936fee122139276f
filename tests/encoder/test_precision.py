"""bfloat16 and int8: near float32, whatever else is in the batch, and as small while loading as they promise."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3connect import M3Embeddings, M3Encoder
from m3connect.agreement import agreement
from m3connect.encoder import linear, precision
from m3connect.encoder.attention import blocked_attention, fused_attention
from m3connect.testing_checkpoints import write_checkpoint

LEAST = {"bfloat16": 0.999, "int8": 0.995}
"""The cosine to float32 that every dense and token vector reaches."""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Passages in many languages, an empty text, and one of some 800 tokens."""
    lines = (files("m3connect") / "assets" / "demo" / "passages.jsonl").read_text("utf-8").splitlines()
    passages = [json.loads(line)["text"] for line in lines[:40]]
    return ["", *passages, " ".join(passages[:6])]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, mini_folder: Path) -> Path:
    """As deep as BGE-M3, and narrow."""
    folder = tmp_path_factory.mktemp("deep")
    return write_checkpoint(
        folder, tokenizer_folder=mini_folder, layers=24, hidden=128, heads=4, intermediate=512, positions=1026
    )


@pytest.fixture(scope="module", params=["bfloat16", "int8"])
def low(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(folder: Path | str, name: str) -> M3Encoder:
    return M3Encoder.from_pretrained(folder, precision=name)  # type: ignore[arg-type]


def assert_near(found: M3Embeddings, expected: M3Embeddings, least: float) -> None:
    compared = agreement(expected, found)
    assert compared.dense.least >= least
    assert compared.tokens.least >= least
    assert compared.sparse.mean >= least - 0.02


@pytest.mark.parametrize("model", ["m3-mini", "deep"])
def test_low_precision_is_near_float32(model: str, low: str, texts: list[str], deep: Path) -> None:
    folder = deep if model == "deep" else model
    texts = texts[1:]  # m3-mini's dense vector is an average of words, and noise where there are none
    exact = load(folder, "float32").encode(texts, multi_vector=True)
    found = load(folder, low).encode(texts, multi_vector=True)
    assert_near(found, exact, LEAST[low])
    assert not np.array_equal(found.dense, exact.dense)


def test_results_are_float32_unit_rows_in_any_precision(low: str, texts: list[str], checkpoint: Path) -> None:
    batch = load(checkpoint, low).encode(texts, multi_vector=True)
    for rows in (batch.dense, *batch.require_multi_vector()):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert batch.sparse.values.dtype == np.float32


def test_the_company_a_text_keeps_hardly_changes_it(low: str, texts: list[str], checkpoint: Path) -> None:
    encoder = load(checkpoint, low)
    together = encoder.encode(texts, multi_vector=True)
    alone = M3Embeddings.concatenate([encoder.encode([text], multi_vector=True) for text in texts])
    assert_near(together, alone, 0.9998)


def test_threads_share_an_encoder_of_low_precision(low: str, texts: list[str], checkpoint: Path) -> None:
    encoder = load(checkpoint, low)
    expected = encoder.encode(texts)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: encoder.encode(texts), range(8)):
            assert (found.dense * expected.dense).sum(axis=1).min() > 0.9998


def test_the_fingerprint_is_that_of_the_model_in_every_precision(low: str, checkpoint: Path) -> None:
    exact, other = load(checkpoint, "float32"), load(checkpoint, low)
    assert other.fingerprint == exact.fingerprint
    assert (other.precision, exact.precision) == (low, "float32")


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_half_precision_files_load_in_every_precision(
    tmp_path: Path, mini_folder: Path, weights: Any, low: str, texts: list[str]
) -> None:
    folder = write_checkpoint(tmp_path, tokenizer_folder=mini_folder, layers=1, weights=weights)
    exact = load(folder, "float32").encode(texts[:5], multi_vector=True)
    assert_near(load(folder, low).encode(texts[:5], multi_vector=True), exact, LEAST[low])


def test_an_unknown_precision_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="one of float32, bfloat16, int8, but is 'float16'"):
        load("m3-mini", "float16")


def test_a_processor_without_the_instructions_computes_the_same_and_the_log_says_so(
    low: str, texts: list[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact = load(checkpoint, "float32").encode(texts, multi_vector=True)
    for module in (linear, precision):
        monkeypatch.setattr(module, "has_int8", lambda: False)
        monkeypatch.setattr(module, "has_onednn", lambda: False)
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        encoder = load(checkpoint, low)
    assert "saves memory here, but no time" in caplog.text
    assert_near(encoder.encode(texts, multi_vector=True), exact, LEAST[low])


@pytest.mark.parametrize(("count", "length", "heads", "width"), [(1, 1, 2, 8), (3, 90, 4, 16), (1, 1500, 2, 8)])
def test_blocked_attention_is_attention(count: int, length: int, heads: int, width: int) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(count * length, 3 * heads * width)
    with torch.inference_mode():
        found = blocked_attention(qkv, count, heads)
        expected = fused_attention(qkv, count, heads)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_blocks_of_attention_may_cut_through_heads_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2 * 30, 3 * 64)
    whole = blocked_attention(qkv, 2, 4)
    for scores in (30 * 30 * 3, 30 * 7, 1):
        monkeypatch.setattr("m3connect.encoder.attention._SCORES_AT_ONCE", scores)
        torch.testing.assert_close(blocked_attention(qkv, 2, 4), whole, rtol=0.01, atol=0.01)
