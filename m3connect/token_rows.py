"""Token vectors as they are kept: in two bytes a number, in one, or in one bit, and fewer of them where pooled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from m3connect.embeddings import FloatArray, IntArray

__all__ = ["ENCODINGS", "Encoding", "NamedRows", "TokenRows", "encode_rows", "pool_rows", "pooled_length", "row_bytes"]

Encoding: TypeAlias = Literal["float16", "int8", "1-bit"]

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

_DTYPES: dict[Encoding, npt.DTypeLike] = {"float16": np.float16, "int8": np.int8, "1-bit": np.uint8}

_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1
"""[256, 8] the numbers that each byte of 1-bit codes stands for."""

_POOLED_TOGETHER = 512
"""Tokens among which pooling looks for neighbours: its work and memory grow with the square."""


@dataclass(frozen=True, eq=False, slots=True)
class TokenRows:
    """The token vectors of n documents in one encoding, all rows in one array.

    A number is its code times the scale of its document; in 1-bit a code of 1 means +1 and a code of 0 means -1.

    Example:
        >>> rows = encode_rows([np.eye(2, dtype=np.float32), np.zeros((0, 2), np.float32)], "int8")
        >>> len(rows), rows.lengths.tolist(), rows.decode()[0].tolist()
        (2, [2, 0], [[1.0, 0.0], [0.0, 1.0]])
    """

    encoding: Encoding
    dim: int

    codes: npt.NDArray[Any]
    """[T, d] float16 or int8, or [T, ceil(d / 8)] uint8 with eight signs a byte."""

    lengths: IntArray
    """[n] how many rows each document has; they add up to T."""

    scales: FloatArray
    """[n] float32, all 1 for float16."""

    def __post_init__(self) -> None:
        width, dtype = row_bytes(self.dim, self.encoding), np.dtype(_DTYPES[self.encoding])
        expected = (int(self.lengths.sum()), width // dtype.itemsize)
        if self.codes.shape != expected or self.codes.dtype != dtype:
            raise ValueError(
                f"codes of {self.encoding} must have shape {expected} and type {dtype}, but have {self.codes.shape} "
                f"and {self.codes.dtype}"
            )
        if self.scales.shape != self.lengths.shape:
            raise ValueError(f"there are {len(self.lengths)} lengths but {len(self.scales)} scales")

    @classmethod
    def concatenate(cls, parts: Sequence[TokenRows]) -> TokenRows:
        """Put documents one after the other.

        Raises:
            ValueError: there are no parts, or they differ in encoding or dimension.
        """
        if len({(part.encoding, part.dim) for part in parts}) != 1:
            raise ValueError("token rows of one encoding and dimension can be joined, and no others")
        return cls(
            parts[0].encoding,
            parts[0].dim,
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.scales for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def take(self, positions: Sequence[int]) -> TokenRows:
        """Return the documents at these positions, in this order; all in their order cost nothing."""
        if list(positions) == list(range(len(self))):
            return self
        ends = np.cumsum(self.lengths)
        codes = [self.codes[ends[i] - self.lengths[i] : ends[i]] for i in positions]
        chosen = np.array(positions, dtype=np.int64)
        joined = np.concatenate(codes) if codes else self.codes[:0]
        return TokenRows(self.encoding, self.dim, joined, self.lengths[chosen], self.scales[chosen])

    def decode(self) -> tuple[FloatArray, ...]:
        """Return n arrays [t_i, d] float32, as near to what was encoded as the encoding allows."""
        numbers = self.numbers(slice(None), out=np.empty((len(self.codes), self.dim), np.float32))
        numbers *= np.repeat(self.scales, self.lengths)[:, None]
        return tuple(np.split(numbers, np.cumsum(self.lengths)[:-1])) if len(self) else ()

    def numbers(self, rows: slice, *, out: FloatArray) -> FloatArray:
        """Write the codes of some rows, not yet times their scale, into an array [t, d], and return it."""
        codes = self.codes[rows]
        out[:] = (
            _SIGNS[codes].reshape(len(codes), 8 * codes.shape[1])[:, : self.dim] if self.encoding == "1-bit" else codes
        )
        return out

    def bits(self, rows: slice) -> npt.NDArray[np.int8]:
        """Return the 1-bit codes of some rows as [t, d] of 0 and 1."""
        return np.asarray(np.unpackbits(self.codes[rows], axis=1, count=self.dim).view(np.int8))


@dataclass(frozen=True, eq=False, slots=True)
class NamedRows:
    """Token rows of documents by id."""

    places: Mapping[str, int]
    """Which document of `rows` has which id."""

    rows: TokenRows

    def of(self, names: Iterable[str]) -> TokenRows:
        """Return the rows of these documents, in this order.

        Raises:
            KeyError: one is not there.
        """
        return self.rows.take([self.places[name] for name in names])

    def joined(self, names: Iterable[str], rows: TokenRows) -> NamedRows:
        """Return these and further ones."""
        added = {name: len(self.rows) + i for i, name in enumerate(names)}
        return NamedRows({**self.places, **added}, TokenRows.concatenate([self.rows, rows]) if len(self.rows) else rows)


def row_bytes(dim: int, encoding: Encoding) -> int:
    """Return the bytes of one token vector."""
    return {"float16": 2 * dim, "int8": dim, "1-bit": -(-dim // 8)}[encoding]


def encode_rows(matrices: Sequence[FloatArray], encoding: Encoding, *, dim: int | None = None) -> TokenRows:
    """Encode token vectors.

    Args:
        matrices: n arrays [t_i, d] of finite numbers; unit rows.
        encoding: float16 keeps each number to 1 part in 2,048; int8 to half a 127th of the document's largest; 1-bit
            keeps signs, scaled so that a vector's product with itself is right.
        dim: d; None means that of the first array.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, but is {encoding!r}")
    if dim is None:
        if not matrices:
            raise ValueError("without token vectors the dimension must be given")
        dim = matrices[0].shape[1]
    scales = np.array([_scale(matrix, encoding) for matrix in matrices], np.float32)
    dtype = np.dtype(_DTYPES[encoding])
    empty = np.zeros((0, row_bytes(dim, encoding) // dtype.itemsize), dtype)
    codes = [_codes(matrix, encoding, scale) for matrix, scale in zip(matrices, scales, strict=True)]
    lengths = np.array([len(matrix) for matrix in matrices], np.int64)
    return TokenRows(encoding, dim, np.concatenate([empty, *codes]), lengths, scales)


def _scale(matrix: FloatArray, encoding: Encoding) -> float:
    if encoding == "float16":
        return 1.0
    if encoding == "int8":
        return float(np.abs(matrix).max(initial=0)) / 127 or 1.0
    sums = np.abs(matrix).sum(axis=1)
    kept = sums > 0
    return float((np.square(matrix[kept]).sum(axis=1) / sums[kept]).mean()) if kept.any() else 1.0


def _codes(matrix: FloatArray, encoding: Encoding, scale: np.float32) -> npt.NDArray[Any]:
    if encoding == "float16":
        return np.asarray(matrix, np.float16)
    if encoding == "int8":
        return np.asarray(np.clip(np.rint(matrix / scale), -127, 127), np.int8)
    return np.asarray(np.packbits(matrix > 0, axis=1))


def pool_rows(matrix: FloatArray, factor: int) -> FloatArray:
    """Join the token vectors of a text that are most alike, until one in `factor` is left.

    Ward's clustering: again and again those two groups become one whose joining adds least to the squared distances
    from the groups' means. A group's vector is its mean, of length 1. After "Reducing the Footprint of Multi-Vector
    Retrieval with Minimal Performance Impact via Token Pooling" (arXiv 2409.14683), 512 tokens at a time.

    Args:
        matrix: [t, d] unit rows.
        factor: 1 keeps all.

    Returns:
        Unit rows, ceil(t / factor) of them for up to 512 tokens.
    """
    if factor == 1 or len(matrix) < 2:
        return matrix
    parts = [matrix[i : i + _POOLED_TOGETHER] for i in range(0, len(matrix), _POOLED_TOGETHER)]
    return np.concatenate([_pool_part(part, -(-len(part) // factor)) for part in parts])


def pooled_length(length: int, factor: int) -> int:
    """Return how many rows `pool_rows` leaves of so many.

    Example:
        >>> pooled_length(5, 2), pooled_length(1025, 2)
        (3, 513)
    """
    whole, rest = divmod(length, _POOLED_TOGETHER)
    return whole * -(-_POOLED_TOGETHER // factor) + -(-rest // factor)


def _pool_part(matrix: FloatArray, groups: int) -> FloatArray:
    """Join rows until as many groups are left; a joined group lives on in the place of its first row."""
    means = matrix.copy()
    sizes = np.ones(len(matrix), np.float32)
    squares = np.square(means).sum(axis=1)
    costs = (squares[:, None] + squares - 2 * means @ means.T) / 2
    np.fill_diagonal(costs, np.inf)
    nearest, least = costs.argmin(axis=1), costs.min(axis=1)
    for _ in range(len(matrix) - groups):
        one = int(least.argmin())
        first, second = sorted((one, int(nearest[one])))
        total = sizes[first] + sizes[second]
        means[first] = (means[first] * sizes[first] + means[second] * sizes[second]) / total
        sizes[first], sizes[second] = total, 0
        squares[first] = np.square(means[first]).sum()
        apart = squares + squares[first] - 2 * means @ means[first]
        near = np.where(sizes > 0, apart * sizes * total / (sizes + total), np.inf)
        near[first] = np.inf
        costs[second] = costs[:, second] = np.inf
        costs[first] = costs[:, first] = near
        # Ward's costs never fall when groups join, so only rows that pointed at these two need a new nearest one.
        nearest[second], least[second] = -1, np.inf
        stale = np.append(np.flatnonzero((nearest == first) | (nearest == second)), first)
        nearest[stale], least[stale] = costs[stale].argmin(axis=1), costs[stale].min(axis=1)
    left = means[sizes > 0]
    return np.asarray(left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-12), np.float32)
