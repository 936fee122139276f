"""Who encodes: m3connect and FlagEmbedding; the other peers have modules of their own."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import m3connect
from m3connect.embeddings import FloatArray

if TYPE_CHECKING:
    from m3connect.encoder.precision import Precision

OURS = "m3connect"
FLAG = "FlagEmbedding"
DEFAULT = "default"
BATCH_SIZES = (1, 2, 4, 8, 12, 16)
"""What FlagEmbedding is tried with besides its default of 256."""

Views: TypeAlias = tuple[FloatArray, list[dict[int, float]]]
"""Dense rows, and a dict from token id to weight for each text."""

Encode: TypeAlias = Callable[[Sequence[str]], Views]


@dataclass(frozen=True, eq=False, slots=True)
class Contender:
    """A package in one precision at one setting, from texts to dense vectors and sparse weights."""

    package: str
    encode: Encode = field(repr=False)
    precision: str = "float32"
    setting: str = ""
    several_precisions: bool = True
    """Whether its name must tell in which precision it computes."""

    for_long: bool = True
    """Whether one very long text makes no others as long by padding."""

    turn: Callable[[], AbstractContextManager[object]] = field(default=nullcontext, repr=False)
    """Entered before it is timed: what must not stay while others are, such as threads of a server."""

    @property
    def name(self) -> str:
        """What it is called in tables and in JSON, such as `FlagEmbedding, default` or `m3connect, int8`."""
        precision = self.precision if self.several_precisions else ""
        return ", ".join(part for part in (self.package, precision, self.setting) if part)

    @property
    def family(self) -> tuple[str, str]:
        """What only its best setting is measured of."""
        return self.package, self.precision


def name_of_ours(precision: str) -> str:
    """Return what m3connect is called in a precision."""
    return f"{OURS}, {precision}"


def load_ours(checkpoint: Path, precision: Precision) -> Contender:
    """m3connect from texts to dense rows and, for fairness, to dicts, which FlagEmbedding makes too."""
    encoder = m3connect.M3Encoder.from_pretrained(checkpoint, precision=precision)

    def encode(texts: Sequence[str]) -> Views:
        batch = encoder.encode(texts)
        return batch.dense, batch.sparse.to_dicts()

    return Contender(OURS, encode, precision)


def load_flag_embedding(checkpoint: Path) -> Iterator[Contender]:
    """FlagEmbedding at its default and at other batch sizes.

    Raises:
        ImportError: it is not installed.
    """
    from FlagEmbedding import BGEM3FlagModel

    # by default it rounds the weights to float16 and still computes in float32 on a processor
    with contextlib.redirect_stderr(io.StringIO()):
        model = BGEM3FlagModel(str(checkpoint), use_fp16=False, devices=["cpu"])

    def with_options(options: dict[str, int]) -> Encode:
        def encode(texts: Sequence[str]) -> Views:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
                found = model.encode(list(texts), return_dense=True, return_sparse=True, **options)
            return found["dense_vecs"], found["lexical_weights"]

        return encode

    for size in (None, *BATCH_SIZES):
        options = {} if size is None else {"batch_size": size}
        setting = DEFAULT if size is None else f"batch_size={size}"
        yield Contender(FLAG, with_options(options), setting=setting, several_precisions=False, for_long=size == 1)
