import numpy as np
import pytest

from m3connect.encoder.lexical import lexical_rows

UNWEIGHTED = np.array([0, 1, 2, 3])


def by_hand(token_ids, weights, lengths):
    found, start = [], 0
    for length in lengths:
        row: dict[int, float] = {}
        for token, weight in zip(
            token_ids[start : start + length].tolist(), weights[start : start + length].tolist(), strict=True
        ):
            if token not in UNWEIGHTED and weight > 0:
                row[token] = max(weight, row.get(token, 0.0))
        found.append(row)
        start += length
    return found


@pytest.mark.parametrize("vocabulary", [5, 40, 250_002])
def test_each_token_has_its_largest_weight_in_the_order_of_ids(vocabulary) -> None:
    random = np.random.default_rng(vocabulary)
    lengths = random.integers(1, 60, 50).tolist()
    token_ids = random.integers(0, vocabulary, sum(lengths))
    weights = random.standard_normal(sum(lengths)).astype(np.float32)
    weights[::7] = np.float32(1e-41)  # a denormal is above 0 too
    weights[::11] = np.nan
    rows = lexical_rows(token_ids, weights, lengths, UNWEIGHTED)
    assert rows.to_dicts() == by_hand(token_ids, weights, lengths)
    assert all((np.diff(rows.row(i)[0]) > 0).all() for i in range(len(lengths)))
    assert rows.values.dtype == np.float32


def test_texts_of_special_tokens_alone_have_empty_rows() -> None:
    rows = lexical_rows(np.array([0, 2, 0, 2]), np.ones(4, np.float32), [2, 2], UNWEIGHTED)
    assert rows.to_dicts() == [{}, {}]
    assert lexical_rows(np.zeros(0, np.int64), np.zeros(0, np.float32), [], UNWEIGHTED).to_dicts() == []


def test_more_texts_than_64_bits_can_number_are_refused() -> None:
    lengths = [0] * 2**20 + [1]
    with pytest.raises(ValueError, match="1048577 texts are too many at once"):
        lexical_rows(np.array([250_001]), np.ones(1, np.float32), lengths, UNWEIGHTED)
