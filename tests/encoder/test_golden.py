"""The encoder and the scores equal FlagEmbedding 1.4.2, by numbers that it gave once (scripts/make_golden.py)."""

from __future__ import annotations

import numpy as np
import pytest
from golden_data import Golden, GoldenCase, load_golden, write_golden_checkpoint

from m3connect import M3Embeddings, M3Encoder, scoring


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden()


@pytest.fixture(scope="module")
def golden_encoder(tmp_path_factory: pytest.TempPathFactory) -> M3Encoder:
    return M3Encoder.from_pretrained(write_golden_checkpoint(tmp_path_factory.mktemp("golden")))


def assert_equals_golden(row: M3Embeddings, case: GoldenCase) -> None:
    np.testing.assert_allclose(row.dense[0], case.dense, atol=1e-5)
    assert row.truncated[0] == case.truncated
    found = row.sparse.to_dicts()[0]
    for token_id in found.keys() ^ case.sparse.keys():
        assert max(found.get(token_id, 0), case.sparse.get(token_id, 0)) < 1e-5
    for token_id in found.keys() & case.sparse.keys():
        weight = case.sparse[token_id]
        assert abs(found[token_id] - weight) <= 1e-5 * max(1, abs(weight))
    vectors = row.require_multi_vector()[0]
    assert len(vectors) == case.vector_count
    np.testing.assert_allclose(vectors[case.vector_rows], case.vectors, atol=1e-5)


@pytest.mark.parametrize("max_length", [8192, 512, 16])
def test_every_view_equals_that_of_flagembedding(golden: Golden, golden_encoder: M3Encoder, max_length: int) -> None:
    cases = golden.at(max_length)
    assert cases
    batch = golden_encoder.encode([case.text for case in cases], multi_vector=True, max_length=max_length)
    for i, case in enumerate(cases):
        assert_equals_golden(batch[i], case)


def test_scores_equal_those_of_flagembedding(golden: Golden, golden_encoder: M3Encoder) -> None:
    queries = golden_encoder.encode([pair.query for pair in golden.pairs], multi_vector=True, max_length=512)
    passages = golden_encoder.encode([pair.passage for pair in golden.pairs], multi_vector=True)
    weights = golden.hybrid_weights
    for i, pair in enumerate(golden.pairs):
        query, passage = queries[i], passages[i]
        vectors = query.require_multi_vector()[0], passage.require_multi_vector()[0]
        assert scoring.dense(query.dense, passage.dense)[0, 0] == pytest.approx(pair.dense, abs=1e-5)
        assert scoring.sparse(query.sparse, passage.sparse)[0, 0] == pytest.approx(pair.sparse, rel=1e-5, abs=1e-5)
        assert scoring.mean_maxsim(*vectors) == pytest.approx(pair.multi_vector, abs=1e-5)
        total = scoring.hybrid(query, passage, weights=weights)[0, 0]
        assert total / sum(weights) == pytest.approx(pair.hybrid, rel=1e-5, abs=1e-5)
