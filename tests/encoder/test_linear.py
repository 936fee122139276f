from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from m3connect import M3Encoder
from m3connect.encoder import linear, precision
from m3connect.encoder.linear import CastLinear, Int8Linear, OneDnnLinear

needs_onednn = pytest.mark.skipif(not linear.has_onednn(), reason="this build of torch lacks oneDNN or MKL")
needs_int8 = pytest.mark.skipif(not linear.has_int8(), reason="this processor has no fast products of 8-bit integers")

SIZES = [(1, 8, 24), (16, 384, 1152), (513, 96, 100), (0, 8, 8)]


def plain_linear(rows: int, inputs: int, outputs: int) -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs), torch.randn(rows, inputs)


@needs_onednn
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_the_fast_linear_computes_what_the_plain_one_does(rows: int, inputs: int, outputs: int) -> None:
    plain, hidden = plain_linear(rows, inputs, outputs)
    with torch.inference_mode():
        torch.testing.assert_close(OneDnnLinear(plain)(hidden), plain(hidden), rtol=0, atol=1e-5)
        fused = OneDnnLinear(plain, gelu=True)(hidden)
        torch.testing.assert_close(fused, F.gelu(plain(hidden)), rtol=0, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("kind", [OneDnnLinear, CastLinear])
def test_a_linear_in_bfloat16_rounds_its_weights_and_rows(kind: type[nn.Module]) -> None:
    plain, hidden = plain_linear(64, 96, 100)
    with torch.inference_mode():
        found = kind(plain, torch.bfloat16)(hidden)
        expected = plain.bfloat16().float()(hidden.bfloat16().float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES[:3])
def test_an_int8_linear_stays_close_whatever_the_size_of_its_rows(rows: int, inputs: int, outputs: int) -> None:
    plain, hidden = plain_linear(rows, inputs, outputs)
    plain.bias.data.zero_()
    hidden *= torch.logspace(-4, 4, rows)[:, None]
    with torch.inference_mode():
        found, expected = Int8Linear(plain)(hidden), plain(hidden)
    assert found.dtype == torch.float32
    assert F.cosine_similarity(found, expected).min() > 0.999


def test_rows_of_zeros_give_the_bias_in_int8() -> None:
    plain, _ = plain_linear(1, 8, 24)
    with torch.inference_mode():
        torch.testing.assert_close(Int8Linear(plain)(torch.zeros(2, 8)), plain.bias.expand(2, -1))


def test_int8_rows_do_not_depend_on_the_rows_beside_them() -> None:
    plain, hidden = plain_linear(16, 384, 1152)
    int8 = Int8Linear(plain)
    loud = torch.cat([hidden, 1000 * hidden])
    with torch.inference_mode():
        torch.testing.assert_close(int8(loud)[:16], int8(hidden), rtol=1e-6, atol=1e-6)


@needs_int8
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES[:3])
def test_int8_without_its_instructions_multiplies_the_same_integers(
    rows: int, inputs: int, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, hidden = plain_linear(rows, inputs, outputs)
    fast = Int8Linear(plain)
    monkeypatch.setattr(linear, "has_int8", lambda: False)
    slow = Int8Linear(plain)
    assert slow.weight.dtype == torch.int8
    with torch.inference_mode():
        torch.testing.assert_close(slow(hidden), fast(hidden), rtol=1e-5, atol=1e-5)


def test_an_encoder_without_fast_linears_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Bees make honey.", "", "蜜蜂酿蜜。 " * 40]
    usual = M3Encoder.from_pretrained("m3-mini").encode(texts, multi_vector=True)
    monkeypatch.setattr(precision, "has_onednn", lambda: False)
    plain = M3Encoder.from_pretrained("m3-mini").encode(texts, multi_vector=True)
    assert usual.fingerprint == plain.fingerprint
    np.testing.assert_allclose(usual.dense, plain.dense, atol=1e-5)
    np.testing.assert_array_equal(usual.sparse.indices, plain.sparse.indices)
    np.testing.assert_allclose(usual.sparse.values, plain.sparse.values, atol=1e-5)
    for ours, theirs in zip(usual.require_multi_vector(), plain.require_multi_vector(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
