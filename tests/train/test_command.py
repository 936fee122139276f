"""`m3connect train` on the command line, and the picture of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m3connect import M3Encoder
from m3connect.cli import app
from m3connect.train import plot_log
from m3connect.train.health import read_log


def test_the_command_trains_plots_and_says_where_the_model_is(checkpoint: Path, examples: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"weights": [1, 0.5, 1], "log_every": 1, "steps": 9, "device": "cpu"}))
    options = ["--model", checkpoint, "--out", tmp_path / "out", "--config", settings, "--steps", 2, "--plot"]
    result = CliRunner().invoke(app, ["train", str(examples), *map(str, options), "--tokens-per-batch", "200"])
    assert result.exit_code == 0, result.output
    assert "model:" in result.output
    assert len(read_log(tmp_path / "out" / "log.jsonl")) == 2
    assert (tmp_path / "out" / "losses.png").stat().st_size > 5000
    assert len(M3Encoder.from_pretrained(tmp_path / "out" / "model").encode(["a"])) == 1


def test_an_unknown_setting_is_named(examples: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"learning_speed": 1}))
    result = CliRunner().invoke(app, ["train", str(examples), "--out", str(tmp_path), "--config", str(settings)])
    assert result.exit_code == 2
    assert "learning_speed" in result.output


def test_a_plot_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no line yet"):
        plot_log(tmp_path / "log.jsonl", tmp_path / "losses.png")
