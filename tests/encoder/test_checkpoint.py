"""Loading: both layouts, both files of weights, and everything that can be wrong with a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from m3connect import M3Encoder
from m3connect.encoder.checkpoint import find_folder
from m3connect.errors import CheckpointError, M3ConnectError
from m3connect.testing_checkpoints import write_checkpoint

TEXTS = ["honey bees", "蜜蜂", ""]


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize("layout", ["published", "finetuned"])
@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_both_layouts_load_from_both_kinds_of_weights(
    tmp_path: Path, mini_folder: Path, layout: str, weights: str
) -> None:
    folder = write_checkpoint(tmp_path, tokenizer_folder=mini_folder, layers=1, seed=5, layout=layout, weights=weights)
    encoder = M3Encoder.from_pretrained(folder)
    assert encoder.encode(TEXTS, multi_vector=True).dense.shape == (3, 64)


def test_the_same_weights_have_one_fingerprint_wherever_they_lie(tmp_path: Path, mini_folder: Path) -> None:
    def fingerprint(name: str, **settings: object) -> str | None:
        folder = write_checkpoint(tmp_path / name, tokenizer_folder=mini_folder, layers=1, **settings)
        return M3Encoder.from_pretrained(folder).fingerprint

    first = fingerprint("a", seed=1)
    assert first == fingerprint("b", seed=1, weights="bin")
    assert first != fingerprint("c", seed=2)


def test_weights_with_the_prefix_of_a_language_model_load(folder: Path, encoder: M3Encoder) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({f"roberta.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    found = M3Encoder.from_pretrained(str(folder)).encode(TEXTS)
    np.testing.assert_allclose(found.dense, encoder.encode(TEXTS).dense, atol=1e-6)


@pytest.mark.parametrize("head", ["sparse_linear.pt", "colbert_linear.pt"])
def test_a_missing_head_is_an_error(folder: Path, head: str) -> None:
    (folder / head).unlink()
    with pytest.raises(CheckpointError, match=f"has no {head}"):
        M3Encoder.from_pretrained(folder)


@pytest.mark.parametrize("head", ["sparse_linear.pt", "colbert_linear.pt"])
def test_a_head_of_another_shape_is_an_error(folder: Path, head: str) -> None:
    torch.save({"weight": torch.zeros(3, 64), "bias": torch.zeros(3)}, folder / head)
    with pytest.raises(CheckpointError, match="expected tensors"):
        M3Encoder.from_pretrained(folder)


def test_a_head_that_would_run_code_is_not_loaded(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (folder / "touched",))

    torch.save({"weight": Evil()}, folder / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        M3Encoder.from_pretrained(folder)
    assert not (folder / "touched").exists()


def test_missing_weights_are_an_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor pytorch_model.bin"):
        M3Encoder.from_pretrained(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lack encoder\.layer\.1\.output\.dense\.weight"):
        M3Encoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "bert", "model_type is 'bert'"),
        ("hidden_act", "relu", "hidden_act"),
        ("intermediate_size", 256, "shape"),
        ("num_attention_heads", 7, "do not divide"),
        ("pad_token_id", None, "expected numbers for pad_token_id"),
        ("vocab_size", 100_000, "shape"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, key: str, value: object, message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        M3Encoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"version https://git-lfs", "cannot be read"),
        ("sparse_linear.pt", b"version https://git-lfs", "not downloaded whole"),
        ("config.json", b"{broken", "is not JSON"),
        ("config.json", b"[]", "must hold a JSON object"),
        ("tokenizer.json", b"{}", "cannot be read as a tokenizer"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        M3Encoder.from_pretrained(folder)
    assert file in str(caught.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (torch.zeros(1, 64), "tensors by name"),
        ({"weight": torch.full((1, 64), float("nan")), "bias": torch.zeros(1)}, "not finite"),
    ],
)
def test_a_head_of_another_kind_is_an_error(folder: Path, head: object, message: str) -> None:
    torch.save(head, folder / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match=message):
        M3Encoder.from_pretrained(folder)


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    with pytest.raises(CheckpointError, match="empty text"):
        M3Encoder.from_pretrained(folder)


def test_settings_and_tokenizer_are_part_of_the_fingerprint(folder: Path, encoder: M3Encoder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
    assert M3Encoder.from_pretrained(folder).fingerprint != encoder.fingerprint
    (folder / "config.json").write_text(json.dumps(config))
    assert M3Encoder.from_pretrained(folder).fingerprint == encoder.fingerprint
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["vocab"][500][0] = "another piece"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert M3Encoder.from_pretrained(folder).fingerprint != encoder.fingerprint


def test_any_column_of_a_matrix_changes_the_fingerprint(folder: Path, encoder: M3Encoder) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][:, 37] += 0.5
    save_file(tensors, folder / "model.safetensors")
    assert M3Encoder.from_pretrained(folder).fingerprint != encoder.fingerprint


def test_the_bundled_name_is_not_shadowed_by_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m3-mini").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (find_folder("m3-mini") / "config.json").is_file()


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        M3Encoder.from_pretrained(tmp_path)


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(M3ConnectError, match="neither tokenizer"):
        M3Encoder.from_pretrained(folder)


def test_a_folder_with_only_a_sentencepiece_model_loads(folder: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "tokenizer.json").unlink()
    lines = [f"bees number {i} make honey and wax in {i} days of summer" for i in range(200)]
    with (folder / "sentencepiece.bpe.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=40, model_type="unigram"
        )
    row = M3Encoder.from_pretrained(folder).encode(["bees make honey"], multi_vector=True)
    assert len(row.require_multi_vector()[0]) > 2


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no-such-model", "a/b/c", Path("nowhere")])
def test_a_path_that_does_not_exist_never_asks_the_hub(name: str | Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        find_folder(name)
