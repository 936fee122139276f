"""A picture of a run: its losses, and how far positives stand above the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from m3connect.train.health import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_log"]

_HEADS = ("dense", "sparse", "multi_vector")


def plot_log(log: Path, out: Path) -> Path:
    """Draw a `log.jsonl` into a picture, whose kind is that of its name (.png, .svg, .pdf), and return its path.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the log has no line.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "m3connect[train]"') from error
    lines = read_log(log)
    if not lines:
        raise ValueError(f"{log} has no line yet: train first")
    figure = Figure(figsize=(11, 4), layout="constrained")  # not pyplot, whose state belongs to the caller
    left, right = figure.subplots(1, 2)
    names = {"loss": "minimised", **{f"loss_{head}": head.replace("_", "-") for head in _HEADS}}
    _draw(left, lines, names, "InfoNCE loss of each head, and what is minimised")
    for line in lines:
        line |= {f"margin_{head}": line[f"positive_{head}"] - line[f"negative_{head}"] for head in _HEADS}
    margins = {f"margin_{head}": head.replace("_", "-") for head in _HEADS}
    _draw(
        right, lines, margins | {"empty_sparse": "share of empty sparse rows"}, "mean score of positives above others"
    )
    figure.savefig(out, dpi=120)
    return out


def _draw(axes: Axes, lines: list[dict[str, float]], names: dict[str, str], title: str) -> None:
    steps = [line["step"] for line in lines]
    for name, label in names.items():
        axes.plot(steps, [line[name] for line in lines], label=label, marker="." if len(lines) < 3 else None)
    axes.set(title=title, xlabel="step")
    axes.legend()
    axes.grid(alpha=0.3)
