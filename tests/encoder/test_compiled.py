"""Compiled steps of a layer: what PyTorch computes, for texts of any length side by side."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from m3connect import M3Encoder
from m3connect.agreement import agreement
from m3connect.encoder import precision
from m3connect.encoder.linear import has_int8
from m3connect.encoder.model import Layer
from m3connect.encoder.pack import Pack

numba = pytest.importorskip("numba", reason="needs the extra fast")

from m3connect.encoder import compiled as compiled_module  # noqa: E402  # only where numba is installed
from m3connect.encoder import kernels  # noqa: E402  # as above
from m3connect.encoder.compiled import CompiledLayer, _groups  # noqa: E402  # as above

HEADS = 4
CONFIG: Any = SimpleNamespace(hidden_size=64, num_attention_heads=HEADS, intermediate_size=256, layer_norm_eps=1e-5)
LENGTHS = (1100, 512, 300, 41, 40, 40, 39, 18, 17, 16, 15, 3, 1, 1)
"""Texts of every way that attention has, longest first."""

MANY = [LENGTHS[1:], LENGTHS, (1,), (16,), (17,), (3, 40, 7, 600)]

needs_int8 = pytest.mark.skipif(not has_int8(), reason="the processor has no products of 8-bit integers (VNNI)")
needs_bfloat16 = pytest.mark.skipif(not precision.has_bfloat16(), reason="the processor has no products in bfloat16")

LOW = [pytest.param("bfloat16", marks=needs_bfloat16), pytest.param("int8", marks=needs_int8)]


def narrow(rows: np.ndarray) -> np.ndarray:
    return torch.from_numpy(rows).bfloat16().view(torch.uint16).numpy()


def widen(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows).view(torch.bfloat16).float()


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def layer() -> Layer:
    torch.manual_seed(0)
    return Layer(CONFIG).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _compiled_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_module, "_FEW_THREADS", 1 << 20)


def pack_of(lengths: tuple[int, ...]) -> Pack:
    return Pack.of([np.zeros(length, np.int64) for length in lengths])


def converted(layer: Layer, name: str) -> nn.Module:
    copy = Layer(CONFIG)
    copy.load_state_dict(layer.state_dict())
    return precision.convert(copy.eval().requires_grad_(False), name)  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", MANY)
@pytest.mark.parametrize("sharp", [1, 8])
def test_all_steps_are_the_layers_in_float32(layer: Layer, lengths: tuple[int, ...], sharp: float) -> None:
    copy = Layer(CONFIG).eval().requires_grad_(False)
    copy.load_state_dict(layer.state_dict())
    copy.qkv.weight.mul_(sharp)  # so that a token attends to few others
    compiled, pack = CompiledLayer(copy, rows=torch.float32, attention=torch.float32), pack_of(lengths)
    hidden = torch.from_numpy(draw(sum(lengths), 64))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(hidden, pack), copy(hidden, pack), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scores", [1, 500, 4000, 40_000])
def test_attention_may_be_cut_into_heads_and_rows(layer: Layer, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_module, "_SCORES_AT_ONCE", scores)
    _groups.cache_clear()
    compiled, pack = CompiledLayer(layer, rows=torch.float32, attention=torch.float32), pack_of((90, 89, 37, 17))
    hidden = torch.from_numpy(draw(90 + 89 + 37 + 17, 64))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(hidden, pack), layer(hidden, pack), rtol=0, atol=1e-5)
    _groups.cache_clear()


@pytest.mark.parametrize("name", LOW)
@pytest.mark.parametrize("lengths", MANY)
def test_a_compiled_layer_is_the_layer(layer: Layer, name: str, lengths: tuple[int, ...]) -> None:
    compiled, pack = converted(layer, name), pack_of(lengths)
    assert isinstance(compiled, CompiledLayer)
    hidden = torch.from_numpy(draw(sum(lengths), 64))
    with torch.inference_mode():
        found, expected = compiled(hidden, pack), layer(hidden, pack)
    assert torch.cosine_similarity(found, expected).min() > 0.9995
    torch.testing.assert_close(found, expected, rtol=0, atol=0.08)


@pytest.mark.parametrize("name", LOW)
def test_texts_of_a_pack_do_not_mix(layer: Layer, name: str) -> None:
    compiled, lengths = converted(layer, name), LENGTHS[1:]
    hidden = torch.from_numpy(draw(sum(lengths), 64))
    loud = (
        hidden
        * torch.repeat_interleave(torch.tensor([1.0, 100.0]).repeat(7)[: len(lengths)], torch.tensor(lengths))[:, None]
    )
    with torch.inference_mode():
        together = torch.split(compiled(loud, pack_of(lengths)), lengths)
        alone = [compiled(text, pack_of((len(text),))) for text in torch.split(loud, lengths)]
    for some, one in zip(together, alone, strict=True):
        torch.testing.assert_close(some, one, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("lengths", "threads", "kept"), [((400, 400), 4, True), ((400, 400), 5, False), ((128,), 5, True)]
)
def test_many_tokens_on_many_threads_are_left_to_the_layer(
    layer: Layer, lengths: tuple[int, ...], threads: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_module, "_FEW_THREADS", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    left: list[Pack] = []
    layer_like = CompiledLayer(layer, rows=torch.float32, attention=torch.float32)
    del layer_like._layer
    layer_like._layer = lambda hidden, pack: left.append(pack) or hidden  # type: ignore[assignment]
    layer_like(torch.from_numpy(draw(sum(lengths), 64)), pack_of(lengths))
    assert (not left) is kept


@needs_int8
def test_attention_of_int8_is_float32_where_bfloat16_is_slow(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    compiled, pack = converted(layer, "int8"), pack_of(LENGTHS[1:])
    hidden = torch.from_numpy(draw(sum(pack.lengths), 64))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(hidden, pack), layer(hidden, pack), rtol=0, atol=0.05)


@pytest.mark.parametrize("name", LOW)
def test_an_encoder_without_numba_gives_nearly_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Bees make honey.", "", "蜜蜂酿蜜。 " * 40]
    usual = M3Encoder.from_pretrained("m3-mini", precision=name)  # type: ignore[arg-type]
    monkeypatch.setattr(precision, "has_compiler", lambda: False)
    plain = M3Encoder.from_pretrained("m3-mini", precision=name)  # type: ignore[arg-type]
    assert [isinstance(made._model.layers[0], CompiledLayer) for made in (usual, plain)] == [True, False]
    compared = agreement(plain.encode(texts, multi_vector=True), usual.encode(texts, multi_vector=True))
    assert min(compared.dense.least, compared.tokens.least) > 0.999


def test_a_numba_that_does_not_fit_is_left_out_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(name: str) -> None:
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(precision.importlib, "import_module", refuse)
    with caplog.at_level(logging.WARNING):
        assert not precision.has_compiler.__wrapped__()
    assert "numba is not used, and 'bfloat16' and 'int8' are slower without it: Numba needs" in caplog.text


def test_a_numba_that_may_not_compile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert not precision.has_compiler.__wrapped__()


def test_kernels_compile_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def without_a_cache(*, cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", without_a_cache)
    compiled = kernels._kernel(lambda x: x + 1)
    assert compiled(1) == 2


@pytest.mark.parametrize("width", [1, 16, 100])
def test_rows_of_integers_come_back_within_half_a_step(width: int) -> None:
    states, rows, scales = draw(5, width), np.empty((5, width), np.uint8), np.empty(5, np.float32)
    states[1], states[2] = 0, 1e-3 * states[2]
    kernels.fill(states, rows, scales)
    np.testing.assert_allclose(scales[2], np.abs(states[2]).max() / 127, rtol=1e-6)
    back = (rows.astype(np.float32) - 128) * scales[:, None]
    assert (np.abs(back - states) <= 0.5001 * scales[:, None]).all()
    assert rows.min() >= 1
    assert (rows[1] == 128).all()


@pytest.mark.parametrize("name", LOW)
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("length", [10, 40])
def test_what_is_no_number_stays_visible(layer: Layer, name: str, number: float, length: int) -> None:
    hidden = torch.from_numpy(draw(2 * length, 64))
    hidden[3, 5] = number
    with torch.inference_mode():
        found = converted(layer, name)(hidden, pack_of((length, length)))
    assert found[:length].isnan().all(1).any()
    assert found[0].isnan().any(), "the others of its text attend to it"
    assert found[length:].isfinite().all()


def test_rows_of_bfloat16_are_rounded_as_torch_rounds_them() -> None:
    states = np.concatenate([draw(3, 50), np.float32([[1.00390625] * 50, [1.01171875] * 50, [0] * 50])])
    rows, scales = np.empty(states.shape, np.uint16), np.empty(len(states), np.float32)
    kernels.fill(states, rows, scales)
    np.testing.assert_array_equal(rows, narrow(states))


def test_gelu_is_that_of_the_error_function() -> None:
    x = np.linspace(-12, 12, 4800, dtype=np.float32)[None]
    found, one = np.empty_like(x), np.ones(1, np.float32)
    kernels.activate(x, one, None, found, np.empty(1, np.float32))
    np.testing.assert_allclose(found, torch.nn.functional.gelu(torch.from_numpy(x)), rtol=0, atol=1e-6)


def test_a_product_of_integers_gets_its_scale_and_bias() -> None:
    product, bias, scales = draw(3, 8), draw(8, seed=1), draw(3, seed=2)
    found = np.empty_like(product)
    kernels.activate(product, scales, bias, found, np.empty(3, np.float32))
    expected = torch.nn.functional.gelu(torch.from_numpy(product * scales[:, None] + bias))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_normalising_adds_what_was_before() -> None:
    product, states, weight, shift = draw(4, 96), draw(4, 96, seed=1), draw(96, seed=2), draw(96, seed=3)
    found, ones = np.empty_like(states), np.ones(4, np.float32)
    kernels.normalize(narrow(product), ones, None, states, weight, shift, np.float32(1e-5), found)
    total = widen(narrow(product)) + torch.from_numpy(states)
    expected = torch.nn.functional.layer_norm(total, [96], torch.from_numpy(weight), torch.from_numpy(shift), 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0, -500, 3e4])
def test_softmax_is_right_whatever_is_added_to_all_scores(offset: float) -> None:
    lengths = np.array([20, 13])
    scores = 5 * draw(2 * HEADS, 32, 32) + np.float32(offset)
    for text, length in enumerate(lengths):
        some = scores[text * HEADS : (text + 1) * HEADS]
        some[:, :, length:] = some[:, :, :1]
    found = scores.copy()
    kernels.softmax(found, lengths)
    for text, length in enumerate(lengths):
        some = slice(text * HEADS, (text + 1) * HEADS)
        expected = torch.softmax(torch.from_numpy(scores[some, :length, :length]), -1)
        np.testing.assert_allclose(found[some, :length, :length], expected, rtol=2e-5, atol=1e-7)
        assert (found[some, :length, length:] == 0).all()


@pytest.mark.parametrize("length", [1, 5, 16])
@pytest.mark.parametrize("integers", [False, True])
def test_short_texts_attend_as_others_do(length: int, integers: bool) -> None:
    count, d = 3, HEADS * 8
    product = draw(2 + count * length, 3 * d)
    scales, bias = (
        (np.full(len(product), 0.5, np.float32), draw(3 * d, seed=1))
        if integers
        else (np.ones(len(product), np.float32), None)
    )
    found = np.zeros((len(product), d), np.float32)
    kernels.attend(product, scales, bias, 2, np.full(count, length), HEADS, found, np.empty(len(product), np.float32))
    qkv = torch.from_numpy(product * scales[:, None] + (0 if bias is None else bias))[2:]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *qkv.view(count, length, 3, HEADS, 8).permute(2, 0, 3, 1, 4)
    )
    np.testing.assert_allclose(found[2:], expected.transpose(1, 2).reshape(-1, d), rtol=1e-4, atol=1e-5)
    assert (found[:2] == 0).all()


def test_every_text_is_in_one_group_and_no_group_holds_too_much() -> None:
    lengths = tuple(sorted(np.random.default_rng(0).integers(1, 600, 300).tolist(), reverse=True))
    groups = _groups(lengths, 12)
    assert tuple(length for _, some, _ in groups for length in some) == lengths
    row = 0
    for start, some, padded in groups:
        assert start == row
        row += some.sum()
        assert padded % 16 == 0
        assert some.max() <= padded < some.max() + 16
        assert len(some) == 1 or len(some) * 12 * padded**2 <= 1 << 20
        assert padded <= 16 or some.min() >= 0.85 * some.max()
