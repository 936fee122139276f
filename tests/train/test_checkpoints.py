"""What is saved is what was trained, and others can load it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from training import SMALL
from transformers import AutoModel, AutoTokenizer

from m3connect import M3Encoder
from m3connect.encoder.tokenizer import M3Tokenizer
from m3connect.errors import CheckpointError
from m3connect.train import TrainConfig, save_model
from m3connect.train.checkpoints import (
    latest_checkpoint,
    load_for_training,
    load_state,
    prune_checkpoints,
    save_checkpoint,
)
from m3connect.train.embed import Embedder
from m3connect.train.optim import make_optimizer

TEXTS = ["Bees make honey.", "", "the river the bridge the river", "蜜蜂酿蜜。"]


def test_a_saved_model_gives_the_views_that_it_gave_in_training(
    checkpoint: Path, tokenizer: M3Tokenizer, tmp_path: Path
) -> None:
    model, source = load_for_training(checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
        views = Embedder(model, tokenizer.unweighted)(tokenizer.tokenize(TEXTS, 512).token_ids)
    save_model(model, tmp_path / "saved", source=source)
    batch = M3Encoder.from_pretrained(tmp_path / "saved").encode(TEXTS, multi_vector=True)
    np.testing.assert_allclose(views.dense[views.places].numpy(), batch.dense, atol=1e-6)
    vectors = torch.split(views.vectors, views.vector_counts.tolist())
    ids, weights = (torch.split(rows, views.token_counts.tolist()) for rows in (views.token_ids, views.token_weights))
    for i, place in enumerate(views.places.tolist()):
        np.testing.assert_allclose(vectors[place].numpy(), batch.require_multi_vector()[i], atol=1e-6)
        largest: dict[int, float] = {}
        for token, weight in zip(ids[place].tolist(), weights[place].tolist(), strict=True):
            if weight > 0:
                largest[token] = max(weight, largest.get(token, 0))
        assert batch.sparse.to_dicts()[i] == pytest.approx(largest, abs=1e-6)


def test_a_saved_folder_has_the_files_and_the_numbers_of_the_published_layout(checkpoint: Path, tmp_path: Path) -> None:
    model, source = load_for_training(checkpoint)
    save_model(model, tmp_path / "saved", source=source)
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "saved"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    names = {path.relative_to(tmp_path / "saved").as_posix() for path in (tmp_path / "saved").rglob("*.*")}
    wanted = "config.json sparse_linear.pt colbert_linear.pt tokenizer.json modules.json 1_Pooling/config.json"
    assert names >= set(wanted.split()) | {"sentence_bert_config.json", "tokenizer_config.json"}
    pooling = json.loads((tmp_path / "saved" / "1_Pooling" / "config.json").read_text())
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_cls_token"]


def test_transformers_loads_a_saved_folder_and_agrees(checkpoint: Path, tmp_path: Path) -> None:
    model, source = load_for_training(checkpoint)
    save_model(model, tmp_path / "saved", source=source)
    peer, peers_tokenizer = (kind.from_pretrained(tmp_path / "saved") for kind in (AutoModel, AutoTokenizer))
    with torch.no_grad():
        state = peer(**peers_tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0, 0]
    dense = M3Encoder.from_pretrained(tmp_path / "saved").encode(TEXTS[:1]).dense[0]
    np.testing.assert_allclose(torch.nn.functional.normalize(state, dim=0).numpy(), dense, atol=1e-5)


def test_half_precision_makes_the_files_half_as_large(checkpoint: Path, tmp_path: Path) -> None:
    model, source = load_for_training(checkpoint)
    sizes = []
    for dtype in (torch.float32, torch.float16):
        save_model(model, tmp_path / str(dtype), source=source, dtype=dtype)
        sizes.append((tmp_path / str(dtype) / "model.safetensors").stat().st_size)
    assert sizes[1] < 0.51 * sizes[0]
    assert len(M3Encoder.from_pretrained(tmp_path / "torch.float16").encode(TEXTS)) == len(TEXTS)


def test_new_heads_start_alive(checkpoint: Path, tokenizer: M3Tokenizer, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("*_linear.pt"))
    model, _ = load_for_training(bare)
    assert model.sparse_linear.bias.item() == pytest.approx(0.2)
    assert model.sparse_linear.weight.std().item() == pytest.approx(0.01, rel=0.4)
    views = Embedder(model, tokenizer.unweighted)(tokenizer.tokenize(TEXTS, 512).token_ids)
    assert (views.token_weights > 0).all()


def test_one_head_of_two_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "half", ignore=shutil.ignore_patterns("sparse_linear.pt"))
    with pytest.raises(CheckpointError, match=r"lacks sparse_linear\.pt but has the other head"):
        load_for_training(tmp_path / "half")


def test_loading_leaves_the_file_alone_while_training(checkpoint: Path) -> None:
    model, _ = load_for_training(checkpoint)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0)
    assert all(tensor.any() for tensor in load_file(checkpoint / "model.safetensors").values())


def test_a_checkpoint_of_other_settings_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    model, source = load_for_training(checkpoint)
    optimizer = make_optimizer(model, SMALL)
    saved = save_checkpoint(tmp_path, model, optimizer, source=source, config=SMALL, step=3)
    with pytest.raises(CheckpointError, match=r"temperature was 0\.02 and is 0\.05"):
        load_state(saved, model, optimizer, TrainConfig(temperature=0.05))


def test_an_interrupted_save_leaves_no_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = load_for_training(checkpoint)
    optimizer = make_optimizer(model, SMALL)
    first = save_checkpoint(tmp_path, model, optimizer, source=source, config=SMALL, step=3)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path, model, optimizer, source=source, config=SMALL, step=6)
    assert latest_checkpoint(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_old_checkpoints_and_unfinished_ones_are_removed(checkpoint: Path, tmp_path: Path) -> None:
    model, source = load_for_training(checkpoint)
    optimizer = make_optimizer(model, SMALL)
    for step in (3, 6, 9):
        save_checkpoint(tmp_path, model, optimizer, source=source, config=SMALL, step=step)
    (tmp_path / ".unfinished-checkpoint-00000012-ab").mkdir()
    prune_checkpoints(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000006", "checkpoint-00000009"]


def test_weights_of_another_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "bad")
    save_file({"x": torch.zeros(1)}, tmp_path / "bad" / "model.safetensors")
    with pytest.raises(CheckpointError, match="the weights lack"):
        load_for_training(tmp_path / "bad")
