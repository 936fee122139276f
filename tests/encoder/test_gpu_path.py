"""What runs on a GPU, run here on the processor: the same code over packed tokens, with attention written out.

Tensors on torch's "meta" device have shapes and no numbers: what would mix devices, or wait for a number, fails there.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3connect import M3Embeddings, M3Encoder
from m3connect.agreement import agreement
from m3connect.embeddings import IntArray, SparseRows
from m3connect.encoder import precision as precision_module
from m3connect.encoder.attention import find_packed_attention, pack_attention
from m3connect.encoder.checkpoint import read_config, read_heads, read_weights
from m3connect.encoder.lexical import largest_weights, lexical_rows, rows_at
from m3connect.encoder.model import Layer, M3Model, load_model
from m3connect.encoder.pack import Pack
from m3connect.encoder.precision import Precision, choose_precision, convert
from m3connect.encoder.scheduler import GPU, Scheduler
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.encoder.transfer import check_device, to_host
from m3connect.testing_checkpoints import write_checkpoint

CUDA, META = torch.device("cuda", 0), torch.device("meta")
UNWEIGHTED = np.array([0, 1, 2, 3])

TEXTS = [
    "",
    "a",
    "Bees carry pollen from flower to flower.",
    "النحل يصنع العسل من رحيق الأزهار.",
    "literal <s> and </s> and <pad> and <mask> and <unk> in a text",
    "<pad><pad> padded <pad>",
    "蜜蜂酿蜜，采集花粉。",
    "word " * 300,
    "many different words to fill a longer text, one after another, until it counts. " * 40,
]


def attend_one_by_one(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` computes, in its own arguments, and what its kernel checks."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.is_contiguous()
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert max_q == max_k == int(cu_seq_q.diff().max())
    parts = []
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        heads = (rows[start:stop].transpose(0, 1) for rows in (query, key, value))
        parts.append(F.scaled_dot_product_attention(*heads).transpose(0, 1))
    return torch.cat(parts)


def load_packed(folder: Path, precision: Precision) -> M3Encoder:
    """An encoder whose layers are those of a GPU, on the processor."""
    config = read_config(folder)

    def prepare(name: str, part: nn.Module) -> nn.Module:
        if isinstance(part, Layer):
            part = precision_module._convert_layer_for_gpu(part, precision, torch.device("cpu"))
            part.packed_attention = pack_attention(attend_one_by_one)
            return part
        return convert(part, precision)

    model = load_model(config, read_weights(folder), read_heads(folder, config.hidden_size), prepare=prepare)
    tokenizer = M3Tokenizer(folder)
    encoder = M3Encoder(model, tokenizer, max_length=config.max_length, name="packed", fingerprint="packed")
    encoder._on_gpu = True  # sparse rows are reduced, and results collected, as there
    return encoder


def test_attention_over_packed_tokens_changes_nothing(encoder: M3Encoder, checkpoint: Path) -> None:
    expected = encoder.encode(TEXTS, multi_vector=True)
    found = load_packed(checkpoint, "float32").encode(TEXTS, multi_vector=True)
    np.testing.assert_allclose(found.dense, expected.dense, atol=1e-5)
    np.testing.assert_array_equal(found.sparse.indptr, expected.sparse.indptr)
    np.testing.assert_array_equal(found.sparse.indices, expected.sparse.indices)
    np.testing.assert_allclose(found.sparse.values, expected.sparse.values, atol=1e-5)
    for mine, theirs in zip(found.require_multi_vector(), expected.require_multi_vector(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_bfloat16_as_a_gpu_computes_it_is_near_float32(tmp_path: Path, mini_folder: Path) -> None:
    folder = write_checkpoint(
        tmp_path, tokenizer_folder=mini_folder, layers=24, hidden=128, heads=4, intermediate=512, positions=1026
    )
    exact = M3Encoder.from_pretrained(folder).encode(TEXTS, multi_vector=True)
    compared = agreement(exact, load_packed(folder, "bfloat16").encode(TEXTS, multi_vector=True))
    assert compared.dense.least >= 0.999
    assert compared.tokens.least >= 0.999
    assert compared.sparse.mean >= 0.98


def load_on_meta(folder: Path, precision: Precision) -> M3Model:
    config = read_config(folder)

    def prepare(name: str, part: nn.Module) -> nn.Module:
        return convert(part, precision, META)

    return load_model(config, read_weights(folder), read_heads(folder, config.hidden_size), prepare=prepare)


@pytest.mark.parametrize("varlen", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_device_is_never_mixed_with_the_processor_nor_waited_for(
    checkpoint: Path, precision: Precision, varlen: bool
) -> None:
    model = load_on_meta(checkpoint, precision)
    if varlen:
        torchs = pytest.importorskip("torch.nn.attention.varlen")
        for layer in model.layers:
            layer.packed_attention = pack_attention(torchs.varlen_attn)
    assert {tensor.device for tensor in model.state_dict().values()} == {META}
    pack = Pack.of([np.arange(length) for length in (7, 5, 5, 2)], META)
    with torch.inference_mode():
        hidden = model(pack)
        dense, weights = model.dense(hidden, pack), model.token_weights(hidden)
        places, largest = largest_weights(pack, weights, torch.zeros(4, dtype=torch.int64, device=META), 60_000)
        vectors = model.token_vectors(hidden)
    for tensor, shape in ((dense, (4, 64)), (weights, (19,)), (vectors, (19, 64)), (largest, (19,))):
        assert (tensor.shape, tensor.dtype, tensor.device) == (shape, torch.float32, META)
    assert (places.shape, places.dtype) == ((19,), torch.int64)


def reduced(token_ids: IntArray, weights: np.ndarray, lengths: list[int], vocabulary: int) -> tuple[object, object]:
    """Sparse rows by the device's way and by the processor's."""
    pack = Pack.of(np.split(token_ids, np.cumsum(lengths)[:-1]))
    pair = largest_weights(pack, torch.from_numpy(weights), torch.from_numpy(UNWEIGHTED), vocabulary)
    places, values = to_host(pair)
    return rows_at(places, values, len(lengths), vocabulary), lexical_rows(token_ids, weights, lengths, UNWEIGHTED)


@pytest.mark.parametrize("vocabulary", [5, 40, 250_002])
def test_sparse_rows_reduced_on_a_device_are_those_of_the_processor(vocabulary: int) -> None:
    random = np.random.default_rng(vocabulary)
    lengths = random.integers(1, 60, 50).tolist()
    token_ids = random.integers(0, vocabulary, sum(lengths))
    weights = random.standard_normal(sum(lengths)).astype(np.float32)
    weights[::7] = np.float32(1e-41)  # a denormal is above 0 too
    weights[::11] = np.nan
    found, expected = reduced(token_ids, weights, lengths, vocabulary)
    for name in ("indptr", "indices", "values"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_texts_without_weights_have_empty_rows_on_a_device_too() -> None:
    found, _ = reduced(np.array([0, 2, 0, 9, 2]), np.array([1, 1, 1, 0, 1], np.float32), [2, 3], 10)
    assert found.to_dicts() == [{}, {}]


def test_a_pack_knows_where_its_texts_begin() -> None:
    pack = Pack.of([np.arange(3), np.arange(2), np.arange(2)])
    assert pack.token_ids.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert (pack.bounds.tolist(), pack.starts.tolist()) == ([0, 3, 5, 7], [0, 3, 5])
    assert (pack.runs, pack.longest) == (((1, 3), (2, 2)), 3)
    assert pack.repeat(torch.tensor([7, 8, 9])).tolist() == [7, 7, 7, 8, 8, 9, 9]


def packs_of(lengths: list[int]) -> list[list[int]]:
    """The packs that a GPU gets of texts of these lengths."""
    seen: list[list[int]] = []

    def encode(token_ids: list[IntArray], multi_vector: bool) -> M3Embeddings:
        seen.append([len(ids) for ids in token_ids])
        return M3Embeddings(np.ones((len(token_ids), 1), np.float32), SparseRows.empty(len(token_ids)))

    batch = Scheduler(encode, GPU).run([np.zeros(length, np.int64) for length in lengths], multi_vector=False)
    assert len(batch) == len(lengths)
    return seen


def test_a_gpu_gets_large_packs_and_a_question_alone() -> None:
    assert packs_of([20]) == [[20]]
    many = packs_of([8192, 8192, *[512] * 400])
    assert max(map(sum, many)) == 16384
    assert len(many) <= 15
    assert len(packs_of([512] * 20)) == 3  # 10,240 tokens in packs of 4,096, for two to share


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_precision(None, torch.device("cpu")) == "float32"
    assert choose_precision(None, CUDA) == "bfloat16"
    assert choose_precision("float32", CUDA) == "float32"
    assert not caplog.records
    with pytest.raises(ValueError, match="'int8' is for processors: on a GPU take 'bfloat16'"):
        choose_precision("int8", CUDA)


def test_a_gpu_without_bfloat16_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with caplog.at_level(logging.WARNING):
        assert choose_precision(None, CUDA) == "float32"
        assert not caplog.records
        assert choose_precision("bfloat16", CUDA) == "bfloat16"
    assert "Tesla T4 is older than those that multiply in bfloat16" in caplog.text


def test_packed_attention_is_taken_only_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert find_packed_attention(CUDA, 64) is not None
    assert find_packed_attention(torch.device("cpu"), 64) is None
    assert find_packed_attention(CUDA, 12) is find_packed_attention(CUDA, 264) is None
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert find_packed_attention(CUDA, 64) is None, "torch before 2.10"
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert find_packed_attention(CUDA, 64) is None


@pytest.mark.parametrize("device", ["mps", "meta", "graphics", "cuda:x"])
def test_a_device_of_another_kind_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="must be 'cpu', 'cuda' or one GPU such as 'cuda:1', but is"):
        check_device(device)


def test_a_gpu_that_is_not_there_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"'cuda:99' was asked for, but torch .* finds \d+ GPUs here: take device='cpu'"
    ):
        M3Encoder.from_pretrained("m3-mini", device="cuda:99")


def test_an_encoder_says_where_it_computes(encoder: M3Encoder) -> None:
    assert encoder.device == torch.device("cpu")
    assert encoder.precision == "float32"
