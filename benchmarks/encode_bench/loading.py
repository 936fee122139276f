"""All contenders of one checkpoint, and why others are missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from encode_bench.contenders import Contender, load_flag_embedding, load_ours

if TYPE_CHECKING:
    from m3connect.encoder.precision import Precision

console = Console()
if not console.is_terminal:
    console.width = 140  # a log has room for whole names

PEERS = {
    "FlagEmbedding": ("FlagEmbedding",),
    "transformers": (),
    "ONNX Runtime": ("onnxruntime", "onnx", "onnxscript"),
    "OpenVINO": ("openvino",),
    "m3serve": ("m3serve",),
}
"""What each needs besides m3connect's own dependencies."""


def missing_modules(peer: str) -> list[str]:
    """Name the modules that a peer needs and that are not installed."""
    return [module for module in PEERS[peer] if importlib.util.find_spec(module) is None]


def load_all(
    checkpoint: Path, peers: Sequence[str], precisions: Sequence[Precision], *, threads: int, resources: ExitStack
) -> tuple[list[Contender], dict[str, str]]:
    """Load m3connect in its precisions and each peer at all its settings.

    Returns:
        The contenders, and why a peer cannot take part.
    """
    contenders = [load_ours(checkpoint, precision) for precision in precisions]
    left_out: dict[str, str] = {}
    for peer in peers:
        console.print(f"[dim]loading {peer}[/]")
        try:
            contenders += _loader(peer, checkpoint, threads, resources)()
        except Exception as error:  # noqa: BLE001  # it is reported, and the others are measured
            left_out[peer] = describe(error)
    return contenders, left_out


def _loader(peer: str, checkpoint: Path, threads: int, resources: ExitStack) -> Callable[[], Iterable[Contender]]:
    """Import what a peer needs, and nothing else."""
    if peer == "FlagEmbedding":
        return partial(load_flag_embedding, checkpoint)
    if peer == "transformers":
        from encode_bench.with_torch import load_transformers

        return partial(load_transformers, checkpoint)
    if peer == "ONNX Runtime":
        from encode_bench.with_onnx import load_onnx_runtime

        return partial(load_onnx_runtime, checkpoint, threads)
    if peer == "OpenVINO":
        from encode_bench.with_openvino import load_openvino

        return partial(load_openvino, checkpoint, threads)
    from encode_bench.with_m3serve import load_m3serve

    return partial(load_m3serve, checkpoint, resources)


def describe(error: Exception) -> str:
    """Say in one line what went wrong."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
