"""What flows through everything: the three views of a batch of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["FloatArray", "IntArray", "M3Embeddings", "SparseRows", "unit_rows"]

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class SparseRows:
    """Rows of token weights in compressed sparse row form.

    Row i holds the token ids `indices[indptr[i]:indptr[i + 1]]` and their weights at the same places of `values`.

    Raises:
        ValueError: an array has the wrong shape, a row's token ids are not sorted and unique, an id is negative, or
            a weight is zero or negative. A weight that is not a number is let through here, so that a store can name
            the document it belongs to.

    Example:
        >>> rows = SparseRows.from_dicts([{7: 0.5, 3: 0.25}, {}])
        >>> rows.to_dicts()
        [{3: 0.25, 7: 0.5}, {}]
    """

    indptr: IntArray
    """[n + 1] where each row starts; the last entry is the number of weights."""

    indices: IntArray
    """[nnz] token ids, sorted and unique within a row."""

    values: FloatArray
    """[nnz] weights, each above 0."""

    def __post_init__(self) -> None:
        for name, dtype in (("indptr", np.int64), ("indices", np.int64), ("values", np.float32)):
            array = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            if array.ndim != 1:
                raise ValueError(f"{name} must have one dimension, but has shape {array.shape}")
            object.__setattr__(self, name, array)
        self._check_layout()
        self._check_rows()

    def _check_layout(self) -> None:
        if len(self.indptr) == 0 or self.indptr[0] != 0 or (np.diff(self.indptr) < 0).any():
            raise ValueError("indptr must start at 0 and never fall")
        if not self.indptr[-1] == len(self.indices) == len(self.values):
            raise ValueError(
                f"indptr ends at {self.indptr[-1]}, but there are {len(self.indices)} indices and {len(self.values)} "
                "values: all three must agree"
            )

    def _check_rows(self) -> None:
        if (self.indices < 0).any():
            raise ValueError("a token id is negative: ids count from 0")
        steps = np.diff(self.indices) <= 0
        row_starts = self.indptr[1:-1]
        steps[row_starts[(row_starts > 0) & (row_starts < len(self.indices))] - 1] = False
        if steps.any():
            row = int(np.searchsorted(self.indptr, int(np.argmax(steps)), side="right")) - 1
            raise ValueError(f"sparse row {row}: token ids must be sorted and unique; from_dicts() sorts them")
        if (self.values <= 0).any():
            row = int(np.searchsorted(self.indptr, int(np.argmax(self.values <= 0)), side="right")) - 1
            raise ValueError(f"sparse row {row}: weights must be above 0; leave out tokens without weight")

    @classmethod
    def from_dicts(cls, rows: Iterable[Mapping[Any, float]]) -> SparseRows:
        """Build rows from `{token id: weight}` mappings; ids may be strings of digits, zero weights are left out.

        Args:
            rows: one mapping a text, for instance the `lexical_weights` of FlagEmbedding.
        """
        merged = [_merge(row) for row in rows]
        return cls(
            indptr=np.cumsum([0, *map(len, merged)]),
            indices=np.array([key for row in merged for key in row], dtype=np.int64),
            values=np.array([value for row in merged for value in row.values()], dtype=np.float32),
        )

    @classmethod
    def from_pairs(cls, rows: Iterable[tuple[Sequence[int], Sequence[float]]]) -> SparseRows:
        """Build rows from token ids, in any order, and their weights, as databases keep them.

        Raises:
            ValueError: a row has not as many weights as token ids, a token id twice, or a weight that is not above 0.

        Example:
            >>> SparseRows.from_pairs([([7, 2], [0.5, 0.25]), ([], [])]).to_dicts()
            [{2: 0.25, 7: 0.5}, {}]
        """
        pairs = list(rows)
        lengths = [len(indices) for indices, _ in pairs]
        for i, (_, values) in enumerate(pairs):
            if len(values) != lengths[i]:
                raise ValueError(f"sparse row {i} has {lengths[i]} token ids, but {len(values)} weights")
        indices = np.fromiter(chain.from_iterable(indices for indices, _ in pairs), np.int64)
        weights = np.fromiter(chain.from_iterable(values for _, values in pairs), np.float32)
        order = np.lexsort((indices, np.repeat(np.arange(len(pairs)), lengths)))
        return cls(np.cumsum([0, *lengths]), indices[order], weights[order])

    @classmethod
    def empty(cls, n: int) -> SparseRows:
        """Return n rows without any weight."""
        return cls(np.zeros(n + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))

    @classmethod
    def concatenate(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """Put the rows of several batches one after the other."""
        if not parts:
            return cls.empty(0)
        lengths = np.concatenate([part.row_lengths for part in parts])
        return cls(
            indptr=np.concatenate([[0], np.cumsum(lengths)]),
            indices=np.concatenate([part.indices for part in parts]),
            values=np.concatenate([part.values for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, key: int | slice) -> SparseRows:
        return self.take(_positions(key, len(self)))

    @property
    def row_lengths(self) -> IntArray:
        """[n] how many weights each row has."""
        return np.diff(self.indptr)

    @property
    def row_of(self) -> IntArray:
        """[nnz] the row that each weight belongs to."""
        return np.repeat(np.arange(len(self)), self.row_lengths)

    def row(self, i: int) -> tuple[IntArray, FloatArray]:
        """Return the token ids and the weights of row i, as views."""
        span = slice(self.indptr[i], self.indptr[i + 1])
        return self.indices[span], self.values[span]

    def take(self, positions: npt.ArrayLike) -> SparseRows:
        """Return the rows at these positions, in this order; a position may come more than once, or count from the end.

        Raises:
            IndexError: there is no such row.
            ValueError: the positions are no integers, for instance a mask of bools.
        """
        rows = _rows_at(positions, len(self))
        lengths = self.row_lengths[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        source = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return SparseRows(indptr, self.indices[source], self.values[source])

    def to_dicts(self) -> list[dict[int, float]]:
        """Return one `{token id: weight}` dict a row, with plain Python numbers."""
        indices, values, bounds = self.indices.tolist(), self.values.tolist(), self.indptr.tolist()
        return [dict(zip(indices[start:stop], values[start:stop], strict=True)) for start, stop in pairwise(bounds)]


@dataclass(frozen=True, eq=False, slots=True)
class M3Embeddings:
    """The three views of n texts from one forward pass, row i being text i.

    Shapes are checked here, once; numbers are checked by what stores them.

    Example:
        >>> import numpy as np
        >>> batch = M3Embeddings(dense=np.eye(2), sparse=SparseRows.from_dicts([{5: 1.0}, {}]))
        >>> len(batch), batch.dim, len(batch[0])
        (2, 2, 1)
    """

    dense: FloatArray
    """[n, d] unit rows; compare by inner product."""

    sparse: SparseRows
    """n rows; compare by inner product, never by cosine."""

    multi_vector: tuple[FloatArray, ...] | None = None
    """n arrays [t_i, d] of unit rows, or None when not asked for."""

    truncated: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """[n] how many tokens of each text were cut away; all 0 where nothing is said."""

    fingerprint: str | None = None
    """What made these numbers (`Encoder.fingerprint`), or None for a batch made by hand."""

    def __post_init__(self) -> None:
        dense = np.ascontiguousarray(self.dense, dtype=np.float32)
        if dense.ndim != 2:
            raise ValueError(f"dense must have shape [n, d], but has {dense.shape}; one text is a batch of one")
        object.__setattr__(self, "dense", dense)
        if len(self.sparse) != len(dense):
            raise ValueError(f"dense has {len(dense)} rows but sparse has {len(self.sparse)}")
        truncated = np.asarray(self.truncated, np.int64) if len(self.truncated) else np.zeros(len(dense), np.int64)
        if truncated.shape != (len(dense),):
            raise ValueError(f"truncated must have shape [{len(dense)}], but has {truncated.shape}")
        object.__setattr__(self, "truncated", truncated)
        if self.multi_vector is not None:
            object.__setattr__(self, "multi_vector", _token_matrices(self.multi_vector, len(dense)))

    @classmethod
    def concatenate(cls, parts: Sequence[M3Embeddings], *, dim: int = 0) -> M3Embeddings:
        """Put batches of the same encoder one after the other.

        Args:
            parts: batches with equal fingerprints, all with or all without token vectors.
            dim: the dimension of the result where there are no parts.

        Raises:
            ValueError: the batches come from different encoders, or only some have token vectors.
        """
        if not parts:
            return cls(np.zeros((0, dim), np.float32), SparseRows.empty(0))
        if len({part.fingerprint for part in parts}) > 1:
            raise ValueError("the batches come from different encoders: their numbers cannot be compared")
        if len({part.multi_vector is None for part in parts}) > 1:
            raise ValueError("only some of the batches have token vectors: encode all with the same multi_vector=")
        matrices = tuple(matrix for part in parts for matrix in part.multi_vector or ())
        return cls(
            dense=np.concatenate([part.dense for part in parts]),
            sparse=SparseRows.concatenate([part.sparse for part in parts]),
            multi_vector=None if parts[0].multi_vector is None else matrices,
            truncated=np.concatenate([part.truncated for part in parts]),
            fingerprint=parts[0].fingerprint,
        )

    def __len__(self) -> int:
        return len(self.dense)

    def __getitem__(self, key: int | slice) -> M3Embeddings:
        return self.take(_positions(key, len(self)))

    @property
    def dim(self) -> int:
        """The dimension d of the dense vectors."""
        return int(self.dense.shape[1])

    def take(self, positions: npt.ArrayLike) -> M3Embeddings:
        """Return the rows at these positions, in this order; errors as in `SparseRows.take`."""
        rows = _rows_at(positions, len(self))
        return M3Embeddings(
            dense=self.dense[rows],
            sparse=self.sparse.take(rows),
            multi_vector=None if self.multi_vector is None else tuple(self.multi_vector[row] for row in rows.tolist()),
            truncated=self.truncated[rows],
            fingerprint=self.fingerprint,
        )

    def require_multi_vector(self) -> tuple[FloatArray, ...]:
        """Return the token vectors.

        Raises:
            ValueError: the batch was encoded without them.
        """
        if self.multi_vector is None:
            raise ValueError("this batch has no token vectors: encode with multi_vector=True")
        return self.multi_vector


def unit_rows(vectors: Sequence[Sequence[float]] | FloatArray) -> FloatArray:
    """Return vectors of any length as unit rows, so that their inner product is the cosine; zeros stay zeros.

    Args:
        vectors: [n, d].

    Returns:
        [n, d]; [0, 0] where there are no vectors.

    Raises:
        ValueError: the vectors differ in length, or are no vectors of numbers.

    Example:
        >>> unit_rows([[3.0, 4.0], [0.0, 0.0]]).round(2).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    if not len(vectors):
        return np.zeros((0, 0), np.float32)
    try:
        rows = np.asarray(vectors, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"vectors must be lists of numbers, all equally long ({error})") from error
    if rows.ndim != 2:
        raise ValueError(f"vectors must have shape [n, d], but have {rows.shape}; one vector is a list of one")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), np.float32)


def _merge(row: Mapping[Any, float]) -> dict[int, float]:
    """Return the weights of a row by integer id, sorted, without those that are 0 in float32."""
    weights = {int(key): float(value) for key, value in row.items()}
    if len(weights) < len(row):
        raise ValueError("a token id comes twice in a row, once as a string and once as a number")
    return {key: weights[key] for key in sorted(weights) if np.float32(weights[key]) != 0}


def _token_matrices(matrices: Sequence[npt.ArrayLike], n: int) -> tuple[FloatArray, ...]:
    arrays = tuple(np.asarray(matrix, dtype=np.float32) for matrix in matrices)
    if len(arrays) != n:
        raise ValueError(f"dense has {n} rows but multi_vector has {len(arrays)} arrays")
    widths = {array.shape[1] if array.ndim == 2 else None for array in arrays}
    if None in widths or len(widths) > 1:
        raise ValueError("every multi_vector array must have shape [t, d] with one d for all")
    return arrays


def _rows_at(positions: npt.ArrayLike, n: int) -> IntArray:
    rows = np.asarray(positions)
    if rows.size == 0:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"positions must be a list of integers, but are {rows.dtype} of shape {rows.shape}")
    chosen: IntArray = np.arange(n)[rows]
    return chosen


def _positions(key: int | slice, n: int) -> IntArray:
    if isinstance(key, slice):
        return np.arange(n)[key]
    if not -n <= key < n:
        raise IndexError(f"row {key} of a batch of {n}")
    return np.array([key % n])
