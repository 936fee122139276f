"""Attention within the texts of a pack, compiled: keys and values laid out for tiles, and a few queries at a time."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from m3connect.compiling.functions import (
    bits_of,
    cast_to,
    chosen_by_type,
    inlined,
    kernel,
    rows_of_tile,
    share,
)
from m3connect.compiling.tiles import NARROW, narrow_tile
from m3connect.embeddings import FloatArray, IntArray
from m3connect.encoder.kernels import Rows
from m3connect.encoder.softmax import softmax

__all__ = ["QUERIES", "attend", "lay_out", "padded_length", "texts_that_fit"]

Words: TypeAlias = npt.NDArray[np.uint32]
"""One float32 each, or two bfloat16."""

QUERIES = 24
"""Queries that attend together: a text's keys and values are read once for so many."""


@kernel
def lay_out(qkv: Rows, lengths: IntArray, heads: int, keys: Words, values: Words, thread: int, threads: int) -> None:
    """Lay out keys and values of n texts by head, as tiles take weights; a thread does some heads of every text.

    Args:
        qkv: [T, 3 * d] queries, keys and values of each token, one after the other.
        lengths: [n] tokens of the texts, which follow each other.
        heads: how many; each has d / heads numbers, or w words of 32 bits.
        keys: [sum(t), heads, w] words are filled, t being a text's length, brought up to a multiple of 32: each head
            of each text as [t / 32, w, 32]. What comes after a text's end is arbitrary.
        values: [sum(t), heads, v] words are filled, v being w brought up to a multiple of those in 32 numbers: each
            head of each text as [d / heads / 32, t / step, 32], a word holding the numbers of `step` tokens. After a
            text's end come zeros.
        thread: which share.
        threads: how many shares there are.
    """
    first, last = share(heads, thread, threads)
    words = qkv.view(np.uint32)
    width = words.shape[1] // 3 // heads
    row = place = 0
    for length in lengths:
        padded = padded_length(length)
        for head in range(first, last):
            at = head * width
            _lay_out_keys(words, row, length, heads * width + at, _keys_of(keys, place, padded, head))
            at = 2 * qkv.shape[1] // 3 + at * _step(qkv)
            _lay_out_values(qkv, row, length, at, width * _step(qkv), _values_of(values, place, padded, head, qkv))
        row, place = row + length, place + padded


@inlined
def padded_length(length: Any) -> Any:
    """Bring a number up to a multiple of 32."""
    return (length + NARROW - 1) // NARROW * NARROW


@inlined
def texts_that_fit(lengths: Any, room: Any) -> Any:
    """Return how many of the next texts have room for keys and values, and how many tokens they have in all."""
    count = tokens = taken = 0
    for length in lengths:
        taken += padded_length(length)
        if taken > room:
            break
        count, tokens = count + 1, tokens + length
    return count, tokens


@inlined
def _step(numbers: Any) -> Any:
    """Return how many numbers are in a word, which a tile reads at once."""
    return 4 // numbers.itemsize


@inlined
def _part(words: Any, place: Any, padded: Any, head: Any) -> Any:
    """Return a head's keys or values of a text."""
    size = padded * words.shape[2]
    start = place * words.shape[1] * words.shape[2] + head * size
    return words.reshape(words.size)[start : start + size]


@inlined
def _keys_of(keys: Any, place: Any, padded: Any, head: Any) -> Any:
    """Return a head's keys of a text: [t / 32, w, 32] words."""
    return _part(keys, place, padded, head).reshape(padded // NARROW, keys.shape[2], NARROW)


@inlined
def _values_of(values: Any, place: Any, padded: Any, head: Any, numbers: Any) -> Any:
    """Return a head's values of a text: [v / 32, t / step, 32] words."""
    steps = padded // _step(numbers)
    return _part(values, place, padded, head).reshape(values.shape[2] * _step(numbers) // NARROW, steps, NARROW)


@inlined
def _lay_out_keys(words: Any, row: Any, length: Any, at: Any, keys: Any) -> None:
    for i in range(length):
        group, lane = i // NARROW, i % NARROW
        for j in range(keys.shape[1]):
            keys[group, j, lane] = words[row + i, at + j]


@inlined
def _lay_out_values(qkv: Any, row: Any, length: Any, at: Any, width: Any, values: Any) -> None:
    step = _step(qkv)
    for group in range(len(values)):
        start, count = at + group * NARROW, min(NARROW, width - group * NARROW)
        for i in range(values.shape[1]):
            first = row + i * step
            for lane in range(count):
                values[group, i, lane] = _word(qkv, first, start + lane, row + length)


@chosen_by_type
def _word(qkv: Any, row: Any, column: Any, stop: Any) -> Any:
    """Return the numbers of a word: those of a column, from a row on."""
    if qkv.dtype == types.uint16:
        return _two_numbers
    return lambda qkv, row, column, stop: bits_of(qkv[row, column]) if row < stop else np.uint32(0)


def _two_numbers(qkv: Any, row: Any, column: Any, stop: Any) -> Any:
    first = np.uint32(qkv[row, column]) if row < stop else np.uint32(0)
    second = np.uint32(qkv[row + 1, column]) if row + 1 < stop else np.uint32(0)
    return first | second << np.uint32(16)


@kernel
def attend(
    qkv: Rows,
    lengths: IntArray,
    keys: Words,
    values: Words,
    scores: FloatArray,
    weights: Rows,
    sums: FloatArray,
    out: Rows,
    thread: int,
    threads: int,
) -> None:
    """Attend within n texts, given what `lay_out` filled; a thread does every so manieth block of queries.

    Args:
        qkv: [T, 3 * d].
        lengths: [n].
        keys: [.., heads, w].
        values: [.., heads, v].
        scores: [24, t] is overwritten, t being the longest text's length, brought up to a multiple of 32.
        weights: [24, t] as well.
        sums: [24, v * step] as well.
        out: [T, d] is filled.
        thread: which share.
        threads: how many shares there are.
    """
    heads, width = keys.shape[1], keys.shape[2] * _step(qkv)
    factor = np.float32(1.44269504) / np.sqrt(np.float32(width))  # exp(x) is 2**(1.44 * x)
    row = place = unit = 0
    for length in lengths:
        padded = padded_length(length)
        for head in range(heads):
            of_keys = _numbers(_keys_of(keys, place, padded, head), qkv)
            of_values = _numbers(_values_of(values, place, padded, head, qkv), qkv)
            for first in range(0, length, QUERIES):
                unit += 1
                if unit % threads == thread:
                    count, at = min(QUERIES, length - first), head * width
                    _score(qkv, row + first, at, count, of_keys, scores)
                    for i in range(count):  # no score of the row is needed afterwards
                        scores[i, 0] = softmax(scores, weights, i, length, padded, factor)
                    _weigh(weights, count, of_values, sums)
                    for i in range(count):
                        inverse = np.float32(1) / scores[i, 0]
                        for j in range(width):
                            out[row + first + i, at + j] = cast_to(out, sums[i, j] * inverse)
        row, place = row + length, place + padded


@inlined
def _numbers(words: Any, like: Any) -> Any:
    """Return [groups, steps, 32] words as a tile takes them: [groups, steps, 32, step]."""
    groups, steps, columns = words.shape
    return words.view(like.dtype).reshape(groups, steps, columns, _step(like))


@inlined
def _score(qkv: Any, row: Any, at: Any, count: Any, keys: Any, scores: Any) -> None:
    """Fill the first rows of scores with products of queries with all keys."""
    for group in range(len(keys)):
        i = 0
        while i < count:
            rows = rows_of_tile(count - i)
            narrow_tile(qkv, row + i, at, rows, keys, group, 0, keys.shape[1], None, scores, i, group * NARROW)
            i += rows


@inlined
def _weigh(weights: Any, count: Any, values: Any, sums: Any) -> None:
    """Fill the first rows of sums with those of a text's values by weights."""
    for group in range(len(values)):
        i = 0
        while i < count:
            rows = rows_of_tile(count - i)
            narrow_tile(weights, i, 0, rows, values, group, 0, values.shape[1], None, sums, i, group * NARROW)
            i += rows
