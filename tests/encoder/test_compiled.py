"""Compiled layers: what PyTorch computes, for texts of any length side by side, and on any number of threads."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from m3connect import M3Encoder
from m3connect.agreement import agreement
from m3connect.encoder import precision
from m3connect.encoder.model import Layer
from m3connect.encoder.pack import Pack
from m3connect.encoder.precision import Precision

numba = pytest.importorskip("numba", reason="needs the extra fast")

from m3connect.compiling import functions as compiling
from m3connect.compiling import keeping
from m3connect.encoder import attention_kernels, kernels, linear, program, teams
from m3connect.encoder import compiled as compiled_module
from m3connect.encoder import softmax as softmax_module
from m3connect.encoder.compiled import CompiledLayer

if not precision.has_tiles("float32"):
    pytest.skip("the processor has no AVX-512", allow_module_level=True)

HEADS = 4
LENGTHS = (1100, 512, 300, 41, 40, 40, 33, 32, 31, 17, 16, 15, 7, 3, 1, 1)
"""Around every size that attention works in, longest first."""

MANY = [LENGTHS[1:], LENGTHS, (1,), (6,), (7,), (24, 25), (3, 40, 7, 600)]

needs_int8 = pytest.mark.skipif(not precision.has_tiles("int8"), reason="tiles need AVX512-VNNI, and no AMX")
needs_bfloat16 = pytest.mark.skipif(not precision.has_tiles("bfloat16"), reason="tiles need AVX512-BF16, and no AMX")

LOW = [pytest.param("bfloat16", marks=needs_bfloat16), pytest.param("int8", marks=needs_int8)]


def config(hidden: int = 64, heads: int = HEADS, inner: int = 256) -> Any:
    return SimpleNamespace(hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner, layer_norm_eps=1e-5)


def narrow(rows: np.ndarray) -> np.ndarray:
    return torch.from_numpy(rows).bfloat16().view(torch.uint16).numpy()


def widen(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def states(tokens: int, hidden: int = 64) -> torch.Tensor:
    return torch.from_numpy(draw(tokens, hidden))


def make_layer(**sizes: int) -> Layer:
    torch.manual_seed(0)
    made = Layer(config(**sizes)).eval().requires_grad_(False)
    for child in (made.qkv, made.attention_output, made.intermediate, made.output):
        child.bias.normal_()
    return made


@pytest.fixture(scope="module")
def layer() -> Layer:
    return make_layer()


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def pack_of(lengths: tuple[int, ...]) -> Pack:
    return Pack.of([np.zeros(length, np.int64) for length in lengths])


def converted(layer: Layer, name: Precision) -> nn.Module:
    copy = Layer(config(layer.qkv.in_features, layer.num_heads, layer.intermediate.out_features))
    copy.load_state_dict(layer.state_dict())
    return precision.convert(copy.eval().requires_grad_(False), name)


def run(layer: nn.Module, hidden: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = layer(hidden, pack_of(lengths))
        return result


@pytest.mark.parametrize("lengths", MANY)
@pytest.mark.parametrize("sharp", [1, 8])
@pytest.mark.usefixtures("threads")
def test_a_compiled_layer_is_the_layer_in_float32(lengths: tuple[int, ...], sharp: float) -> None:
    layer, hidden = make_layer(), states(sum(lengths))
    layer.qkv.weight.mul_(sharp)  # so that a token attends to few others
    compiled = converted(layer, "float32")
    assert isinstance(compiled, CompiledLayer)
    torch.testing.assert_close(run(compiled, hidden, lengths), run(layer, hidden, lengths), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "sizes", [(48, 3, 80), (96, 2, 208), (64, 1, 16), (16, 8, 32), (384, 12, 1536), (32, 16, 4112), (64, 4, 4112)]
)
@pytest.mark.parametrize("name", ["float32", *LOW])
def test_widths_need_not_fill_the_processors_registers(sizes: tuple[int, int, int], name: Precision) -> None:
    hidden, heads, inner = sizes
    layer, lengths = make_layer(hidden=hidden, heads=heads, inner=inner), (50, 13, 1)
    compiled, given = converted(layer, name), states(64, hidden)
    assert isinstance(compiled, CompiledLayer)
    atol = 1e-4 if name == "float32" else 0.15
    torch.testing.assert_close(run(compiled, given, lengths), run(layer, given, lengths), rtol=0, atol=atol)


@pytest.mark.parametrize("sizes", [(40, 2, 64), (32, 2, 40), (48, 16, 64)])
@pytest.mark.parametrize("name", ["float32", *LOW])
def test_widths_that_do_not_fit_are_left_to_pytorch(sizes: tuple[int, int, int], name: Precision) -> None:
    hidden, heads, inner = sizes
    layer, lengths = make_layer(hidden=hidden, heads=heads, inner=inner), (50, 13, 1)
    kept, given = converted(layer, name), states(64, hidden)
    assert not isinstance(kept, CompiledLayer)
    torch.testing.assert_close(run(kept, given, lengths), run(layer, given, lengths), rtol=0, atol=0.15)


@pytest.mark.parametrize("name", LOW)
@pytest.mark.parametrize("lengths", MANY)
def test_a_compiled_layer_is_nearly_the_layer_in_low_precision(
    layer: Layer, name: Precision, lengths: tuple[int, ...]
) -> None:
    compiled, hidden = converted(layer, name), states(sum(lengths))
    assert isinstance(compiled, CompiledLayer)
    found, expected = run(compiled, hidden, lengths), run(layer, hidden, lengths)
    assert torch.cosine_similarity(found, expected).min() > 0.9995
    torch.testing.assert_close(found, expected, rtol=0, atol=0.08)


@pytest.mark.parametrize("name", ["float32", *LOW])
@pytest.mark.usefixtures("threads")
def test_what_is_beside_a_text_and_who_computes_it_changes_nothing(layer: Layer, name: Precision) -> None:
    compiled, hidden = converted(layer, name), states(sum(LENGTHS))
    hidden *= torch.repeat_interleave(torch.tensor([1.0, 100.0]).repeat(8), torch.tensor(LENGTHS))[:, None]
    together = torch.split(run(compiled, hidden, LENGTHS), LENGTHS)
    torch.set_num_threads(1)
    for some, text in zip(together, torch.split(hidden, LENGTHS), strict=True):
        assert torch.equal(some, run(compiled, text, (len(text),)))


@pytest.mark.parametrize("name", ["float32", *LOW])
def test_several_threads_may_use_a_layer_at_once(layer: Layer, name: Precision) -> None:
    compiled = converted(layer, name)
    given = [(states(sum(lengths)), lengths) for lengths in MANY] * 6
    expected = [run(compiled, *one) for one in given]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: run(compiled, *one), given))
    assert all(map(torch.equal, found, expected))


def test_what_is_given_stays_as_it_is(layer: Layer) -> None:
    hidden = states(64).t().contiguous().t()
    before = hidden.clone()
    found = run(converted(layer, "float32"), hidden, (64,))
    assert torch.equal(hidden, before)
    assert torch.equal(found, run(converted(layer, "float32"), before.contiguous(), (64,)))


@pytest.mark.parametrize("lengths", [(1024,), (8,) * 128, (4,) * 256, (3,) * 341, (1,) * 1024])
def test_a_pack_at_bge_m3s_width_needs_no_fresh_memory_for_every_layer(lengths: tuple[int, ...]) -> None:
    shape = compiled_module._Shape(1024, 16, 4096, row_bytes=4, attention_bytes=4)
    assert compiled_module._plan(lengths, shape, 1).size <= compiled_module._MOST_KEPT


@pytest.mark.parametrize("name", ["float32", *LOW])
@pytest.mark.usefixtures("threads")
def test_many_short_texts_attend_in_several_goes(layer: Layer, name: Precision) -> None:
    lengths = (40,) * 30 + (3,) * 200  # with room for 1,024 tokens, of which a text of 3 takes 32
    compiled, hidden = converted(layer, name), states(sum(lengths))
    found, atol = run(compiled, hidden, lengths), 1e-4 if name == "float32" else 0.08
    torch.testing.assert_close(found, run(layer, hidden, lengths), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("dtype", "rows", "width"), [(torch.float64, 5, 64), (torch.float32, 4, 64), (torch.float32, 5, 32)]
)
def test_states_that_do_not_fit_are_refused(layer: Layer, dtype: torch.dtype, rows: int, width: int) -> None:
    with pytest.raises(ValueError, match=r"takes states of float32 and shape \(5, 64\), but got"):
        run(converted(layer, "float32"), torch.zeros(rows, width, dtype=dtype), (5,))


@pytest.mark.parametrize("make", [copy.deepcopy, pickle.dumps])
def test_a_compiled_layer_cannot_be_copied(layer: Layer, make: Callable[[nn.Module], object]) -> None:
    with pytest.raises(TypeError, match="holds addresses and cannot be copied"):
        make(converted(layer, "float32"))


@pytest.mark.parametrize("name", ["float32", *LOW])
def test_another_default_device_changes_nothing(layer: Layer, name: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, lengths = states(57), (57,)
    expected = run(converted(layer, name), hidden, lengths)
    copied = Layer(config()).eval().requires_grad_(False)
    copied.load_state_dict(layer.state_dict())
    pack = pack_of(lengths)
    compiled_module._plan.cache_clear()
    monkeypatch.setattr(compiled_module, "_rooms", compiled_module._Rooms())
    with torch.device("meta"), torch.inference_mode():
        compiled = precision.convert(copied, name)
        assert isinstance(compiled, CompiledLayer)
        found = compiled(hidden, pack)
    assert torch.equal(found, expected)


def test_memory_for_long_texts_is_not_kept(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_module, "_rooms", rooms := compiled_module._Rooms())
    compiled = converted(layer, "float32")
    run(compiled, states(500), (500,))
    kept = len(rooms._kept)
    assert 0 < kept <= compiled_module._MOST_KEPT
    monkeypatch.setattr(compiled_module, "_MOST_KEPT", kept)
    run(compiled, states(1000), (1000,))
    assert len(rooms._kept) == kept


@needs_int8
def test_attention_of_int8_is_float32_where_bfloat16_is_slow(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    has_tiles = precision.has_tiles
    monkeypatch.setattr(precision, "has_tiles", lambda name: name != "bfloat16" and has_tiles(name))
    compiled, lengths = converted(layer, "int8"), LENGTHS[1:]
    assert isinstance(compiled, CompiledLayer)
    assert compiled._shape.attention_bytes == 4
    hidden = states(sum(lengths))
    torch.testing.assert_close(run(compiled, hidden, lengths), run(layer, hidden, lengths), rtol=0, atol=0.05)


def test_where_the_processor_has_amx_low_precision_is_left_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert [precision.has_tiles(name) for name in ("float32", "bfloat16", "int8")] == [True, False, False]


@pytest.mark.parametrize("setting", ["NUMBA_CPU_NAME=generic", "NUMBA_ENABLE_AVX=0"])
def test_without_the_instructions_in_numba_nothing_is_compiled(setting: str) -> None:
    name, _, value = setting.partition("=")
    script = """if True:
        from m3connect import M3Encoder
        for precision in ("float32", "bfloat16", "int8"):
            encoder = M3Encoder.from_pretrained("m3-mini", precision=precision)
            assert encoder.encode(["bees"]).dense.shape == (1, encoder.dim)
            print(type(encoder._model.layers[0]).__name__)
    """
    environment = {**os.environ, name: value}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Layer"] * 3


@pytest.mark.parametrize("name", ["float32", *LOW])
def test_an_encoder_without_numba_gives_nearly_the_same(name: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Bees make honey.", "", "蜜蜂酿蜜。 " * 40]
    usual = M3Encoder.from_pretrained("m3-mini", precision=name)
    monkeypatch.setattr(precision, "can_compile", lambda _: False)
    plain = M3Encoder.from_pretrained("m3-mini", precision=name)
    assert [isinstance(made._model.layers[0], CompiledLayer) for made in (usual, plain)] == [True, False]
    compared = agreement(plain.encode(texts, multi_vector=True), usual.encode(texts, multi_vector=True))
    assert min(compared.dense.least, compared.tokens.least) > (0.99999 if name == "float32" else 0.999)


def test_without_sources_a_layer_is_compiled_but_not_kept(
    layer: Layer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(converted(layer, "float32"), states(5), (5,))

    def refuse(module: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(keeping.inspect, "getsource", refuse)
    program._program.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = run(converted(layer, "float32"), states(5), (5,))
    program._program.cache_clear()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert "could not get source code" in caplog.text


def test_threads_that_load_at_once_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[set[object]] = []

    def compile_slowly(function: object, compile_it: object, *sources: object) -> object:
        time.sleep(0.05)
        compiled.append({*sources})
        return SimpleNamespace(address=7)

    monkeypatch.setattr(program, "compile_and_keep", compile_slowly)
    program._program.cache_clear()
    kind = np.dtype(np.float32)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: program.program(kind, kind, kind), range(3))) == [7] * 3
    program._program.cache_clear()
    assert compiled == [{attention_kernels, kernels, linear, softmax_module}]


def test_a_team_has_as_many_as_were_asked_for() -> None:
    if not teams.has_teams():
        pytest.skip("PyTorch brought no OpenMP that teams can use")
    wait, place, size = teams.wait_for_team, teams.place_in_team, teams.size_of_team

    @numba.cfunc(numba.types.void(numba.types.CPointer(numba.types.int64)))
    def note(places: Any) -> None:
        places[place()] = size()
        wait()

    for threads in (2, 3, 5):
        places = np.zeros(8, np.int64)
        teams.run_in_team(note.address, places.ctypes.data, threads)
        assert places.tolist() == [threads] * threads + [0] * (8 - threads)


def test_without_openmp_a_layer_is_computed_by_one_thread(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, hidden = converted(layer, "float32"), states(50)
    expected = run(compiled, hidden, (50,))
    monkeypatch.setattr(teams, "_start_team", None)
    assert not teams.has_teams()
    assert torch.equal(run(compiled, hidden, (50,)), expected)


def test_without_openmp_compiled_code_still_finds_all_names(monkeypatch: pytest.MonkeyPatch) -> None:
    added: dict[str, int] = {}
    monkeypatch.setattr(teams.torch, "__file__", "/nowhere/torch/__init__.py")
    monkeypatch.setattr(teams.binding, "add_symbol", added.__setitem__)
    assert teams._find_openmp() is None
    assert added.keys() == teams._OPENMP.keys()
    assert all(added.values())


@pytest.mark.parametrize("width", [1, 16, 100])
def test_rows_of_integers_come_back_within_half_a_step(width: int) -> None:
    given, rows, scales = draw(5, width), np.empty((5, width), np.uint8), np.empty(5, np.float32)
    given[1], given[2] = 0, 1e-3 * given[2]
    kernels.fill(given, rows, scales)
    np.testing.assert_allclose(scales[2], np.abs(given[2]).max() / 127, rtol=1e-6)
    back = (rows.astype(np.float32) - 128) * scales[:, None]
    assert (np.abs(back - given) <= 0.5001 * scales[:, None]).all()
    assert rows.min() >= 1
    assert (rows[1] == 128).all()


@pytest.mark.parametrize("name", ["float32", *LOW])
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("length", [10, 40])
def test_what_is_no_number_stays_visible(layer: Layer, name: Precision, number: float, length: int) -> None:
    hidden = states(2 * length)
    hidden[3, 5] = number
    found = run(converted(layer, name), hidden, (length, length))
    assert found[:length].isnan().all(1).any()
    assert found[0].isnan().any(), "the others of its text attend to it"
    assert found[length:].isfinite().all()


@pytest.mark.parametrize(("kind", "off"), [("float32", 1e-6), ("uint16", 5e-3)])
@pytest.mark.parametrize("length", [1, 16, 31, 32, 33, 90, 512])
def test_softmax_of_a_row_is_that_of_its_scores(length: int, kind: str, off: float) -> None:
    @compiling.kernel
    def weigh(scores: Any, weights: Any, length: int, padded: int, factor: Any, sums: Any) -> None:
        for i in range(len(scores)):
            sums[i] = softmax_module.softmax(scores, weights, i, length, padded, factor)

    padded = -(-length // 32) * 32
    scores, sums = 9 * draw(7, padded + 32), np.zeros(7, np.float32)
    scores[1], scores[2], scores[3, 0], scores[4, length - 1] = 50, -1e6, 1e30, np.nan
    scores[5, :length] = np.linspace(0, -500, length)
    scores[:, length:] = 1e9
    before, weights = scores.copy(), np.full(scores.shape, 7, kind)
    weigh(scores, weights, length, padded, np.float32(1.44269504), sums)
    found = widen(weights) if kind == "uint16" else weights
    exact = np.exp(scores[:, :length].astype(np.float64) - scores[:, :length].max(1, keepdims=True))
    kept = exact > 1e-29
    np.testing.assert_allclose(found[:, :length][kept], exact[kept], rtol=off + 3e-6)
    np.testing.assert_allclose(sums[[0, 1, 2, 3, 5, 6]], exact.sum(1)[[0, 1, 2, 3, 5, 6]], rtol=off / 5 + 3e-6)
    assert np.isnan(sums[4])
    assert np.isnan(found[4, length - 1])
    assert (found[[0, 1, 2, 3, 5, 6], length:padded] < 1e-29).all()
    assert (weights[:, padded:] == 7).all()
    np.testing.assert_array_equal(scores, before)


def test_rows_of_bfloat16_are_rounded_as_torch_rounds_them() -> None:
    given = np.concatenate([draw(3, 50), np.float32([[1.00390625] * 50, [1.01171875] * 50, [0] * 50])])
    rows, scales = np.empty(given.shape, np.uint16), np.empty(len(given), np.float32)
    kernels.fill(given, rows, scales)
    np.testing.assert_array_equal(rows, narrow(given))


def test_gelu_is_that_of_the_error_function() -> None:
    x = np.linspace(-12, 12, 4800, dtype=np.float32)[None]
    found = np.empty_like(x)
    expected = torch.nn.functional.gelu(torch.from_numpy(x))
    kernels.activate(x.copy(), found, np.empty(1, np.float32))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_normalising_adds_what_was_before() -> None:
    product, before, weight, shift = draw(4, 96), draw(4, 96, seed=1), draw(96, seed=2), draw(96, seed=3)
    found = np.empty_like(before)
    kernels.normalize(product, before, weight, shift, np.float32(1e-5), found)
    total = torch.from_numpy(product + before)
    expected = torch.nn.functional.layer_norm(total, [96], torch.from_numpy(weight), torch.from_numpy(shift), 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@needs_int8
def test_products_of_integers_are_exact() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 80)
    kept = {name: tensor.numpy() for name, tensor in compiled_module.tiled(linear, torch.int8).items()}
    rows = np.random.default_rng(0).integers(1, 256, (13, 64)).astype(np.uint8)
    row_scales, out = draw(13), np.empty((13, 80), np.float32)
    for thread in range(3):
        kernels.multiply(rows, row_scales, *kept.values(), out, thread, 3)
    scales = kept["scales"][:80]
    integers = np.round(linear.weight.detach().numpy() / scales[:, None])
    expected = (rows.astype(np.int64) - 128) @ integers.astype(np.int64).T * scales * row_scales[:, None]
    np.testing.assert_allclose(out, expected + linear.bias.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", [0, -500, 3e4])
def test_attention_is_right_whatever_is_added_to_all_scores(offset: float) -> None:
    lengths, heads = (70, 13), 1
    layer = make_layer(hidden=32, heads=heads, inner=64)
    layer.qkv.weight[:64, 0] = 0
    layer.qkv.bias[0], layer.qkv.bias[32] = offset, 32**0.5  # of every query with every key
    hidden = states(sum(lengths), 32)
    atol = 1e-4 if offset == 0 else 0.05 if offset > 1e4 else 1e-3  # a score of 30,000 has three decimals in float32
    found, expected = run(converted(layer, "float32"), hidden, lengths), run(layer.double(), hidden.double(), lengths)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=atol)
