"""m3serve: an engine with a queue, asked for all texts in one request or for each text in a request of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from encode_bench.contenders import DEFAULT, Contender, Views
from m3connect.encoder.tokenizer import M3Tokenizer

PACKAGE = "m3serve"
BATCH_SIZES = (1, 4, 8, 16)
"""How many requests share a batch; its default is 256."""

_PATIENCE = 3600.0


def load_m3serve(checkpoint: Path, resources: ExitStack) -> Iterator[Contender]:
    """All texts in one request, its defaults otherwise, which pads all to the longest; or one request a text.

    Scaled dot-product attention is asked for: by default it takes the slower one of PyTorch's in float32.

    Raises:
        ImportError: it is not installed.
    """
    from m3serve import Engine
    from m3serve.model import BGEM3Encoder

    encoder = BGEM3Encoder(str(checkpoint), device="cpu", use_fp16=False, attn_implementation="sdpa")
    special = M3Tokenizer(checkpoint).unweighted.tolist()
    runner = resources.enter_context(asyncio.Runner())
    for size in (None, *BATCH_SIZES):
        encode = _Encode(
            runner, partial(Engine, _encoder=encoder, max_batch_size=size or 256), special, together=size is None
        )
        setting = DEFAULT if size is None else f"request a text, max_batch_size={size}"
        yield Contender(
            PACKAGE, encode, setting=setting, several_precisions=False, for_long=size == 1, turn=encode.started
        )


class _Encode:
    """Asks an engine that is there during its turn alone: its idle threads slow down the parallel loops of others."""

    def __init__(self, runner: asyncio.Runner, make: Callable[..., Any], special: list[int], *, together: bool) -> None:
        self._runner, self._make, self._special, self._together = runner, make, set(special), together

    @contextmanager
    def started(self) -> Iterator[None]:
        self._engine = self._make(device="cpu", use_fp16=False)
        self._runner.run(self._engine.start())
        try:
            yield
        finally:
            self._runner.run(self._engine.stop())

    def __call__(self, texts: Sequence[str]) -> Views:
        requests = [list(texts)] if self._together else [[text] for text in texts]
        results = self._runner.run(self._ask(requests))
        dense = np.concatenate([np.array(result.dense, np.float32) for result in results])
        rows = [
            self._row(ids, weights)
            for result in results
            for ids, weights in zip(result.sparse_indices, result.sparse_weights, strict=True)
        ]
        return dense, rows

    async def _ask(self, requests: list[list[str]]) -> list[Any]:
        embed = self._engine.embed
        return await asyncio.gather(*(embed(one, return_sparse=True, timeout=_PATIENCE) for one in requests))

    def _row(self, ids: Sequence[int], weights: Sequence[float]) -> dict[int, float]:
        """Keep the largest weight of each token, which it leaves to its user."""
        row: dict[int, float] = {}
        for token, weight in zip(ids, weights, strict=True):
            if token not in self._special and weight > row.get(token, 0.0):
                row[token] = weight
        return row
