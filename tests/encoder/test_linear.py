import numpy as np
import pytest
import torch
from torch import nn

from m3connect import M3Encoder
from m3connect.encoder import linear
from m3connect.encoder.linear import OneDnnLinear, use_fast_linears

needs_onednn = pytest.mark.skipif(not linear._has_onednn(), reason="this build of torch lacks oneDNN or MKL")


@needs_onednn
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 8, 24), (16, 384, 1152), (513, 96, 100), (0, 8, 8)])
def test_the_fast_linear_computes_what_the_plain_one_does(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs)
    hidden = torch.randn(rows, inputs)
    with torch.inference_mode():
        torch.testing.assert_close(OneDnnLinear(plain)(hidden), plain(hidden), rtol=0, atol=1e-5)


@needs_onednn
def test_wide_linears_are_replaced_and_the_sparse_head_stays() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 4)), nn.Linear(8, 1))
    use_fast_linears(model)
    assert isinstance(model[0], OneDnnLinear)
    assert isinstance(model[1][0], OneDnnLinear)
    assert isinstance(model[2], nn.Linear)
    assert sorted(model.state_dict()) == ["2.bias", "2.weight"]


def test_an_encoder_without_fast_linears_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Bees make honey.", "", "蜜蜂酿蜜。 " * 40]
    usual = M3Encoder.from_pretrained("m3-mini").encode(texts, multi_vector=True)
    monkeypatch.setattr(linear, "_has_onednn", lambda: False)
    plain = M3Encoder.from_pretrained("m3-mini").encode(texts, multi_vector=True)
    assert usual.fingerprint == plain.fingerprint
    np.testing.assert_allclose(usual.dense, plain.dense, atol=1e-5)
    np.testing.assert_array_equal(usual.sparse.indices, plain.sparse.indices)
    np.testing.assert_allclose(usual.sparse.values, plain.sparse.values, atol=1e-5)
    for ours, theirs in zip(usual.require_multi_vector(), plain.require_multi_vector(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
