"""Whether contenders compute the same as m3connect in float32."""

from __future__ import annotations

import numpy as np

from encode_bench.contenders import Contender, Views

LEAST_COSINE = {"float32": 0.999999, "bfloat16": 0.999, "int8": 0.995}
"""Of a text's dense vectors in a precision and in our float32."""

MOST_DIFFERENCE = 1e-4
"""Of a number of a dense vector, and of a sparse weight relative to max(1, weight), among those of float32."""


def compare(reference: Views, found: Views) -> dict[str, float]:
    """Return the lowest cosine and the largest differences; of sparse weights relative to max(1, weight)."""
    ours, theirs = reference[0], np.asarray(found[0], np.float32)
    sparse = 0.0
    for mine, lexical in zip(reference[1], found[1], strict=True):
        row = {int(token): float(weight) for token, weight in lexical.items()}
        for token in mine.keys() | row.keys():
            expected = mine.get(token, 0.0)
            sparse = max(sparse, abs(row.get(token, 0.0) - expected) / max(1.0, expected))
    return {
        "lowest_cosine": float((ours * theirs).sum(1).min()),
        "dense_max_abs_difference": float(np.abs(ours - theirs).max()),
        "sparse_max_difference": sparse,
    }


def find_disagreement(contender: Contender, agreement: dict[str, float]) -> str | None:
    """Say how a contender differs by more than its precision allows; None means that it does not."""
    least, cosine = LEAST_COSINE[contender.precision], agreement["lowest_cosine"]
    if not cosine >= least:
        return f"a dense vector has a cosine of {cosine:.5f} to that of m3connect in float32, expected {least} or more"
    largest = max(agreement["dense_max_abs_difference"], agreement["sparse_max_difference"])
    if contender.precision == "float32" and not largest <= MOST_DIFFERENCE:
        return f"it differs from m3connect in float32 by {largest:.1e}, expected at most {MOST_DIFFERENCE}"
    return None
