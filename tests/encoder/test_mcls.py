"""MCLS: what a `<s>` before every m tokens changes, and what it leaves as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import XLMRobertaModel

from m3connect import M3Encoder

LONG = " ".join(f"word{i} and a sentence about river number {i}." for i in range(12))
SHORT = "Bees."


@pytest.fixture(scope="module")
def mcls(checkpoint) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint, mcls=16)


def by_hand(checkpoint, encoder, text, every):
    """States of the text with its `<s>`, from plain transformers, and where the `<s>` stand."""
    body = encoder._tokenizer.tokenize([text], 8192).token_ids[0][1:-1].tolist()
    ids, places = [], []
    for start in range(0, len(body), every):
        places.append(len(ids))
        ids += [0, *body[start : start + every]]
    model = XLMRobertaModel.from_pretrained(checkpoint, add_pooling_layer=False).eval()
    with torch.inference_mode():
        hidden = model(torch.tensor([[*ids, 2]])).last_hidden_state[0].numpy()
    return hidden, places


def test_the_dense_vector_is_the_mean_of_every_cls_computed_by_hand(checkpoint, mcls):
    hidden, places = by_hand(checkpoint, mcls, LONG, 16)
    assert len(places) > 3
    mean = hidden[places].mean(axis=0)
    np.testing.assert_allclose(
        mcls.encode([SHORT, LONG, SHORT]).dense[1], mean / np.linalg.norm(mean), rtol=0, atol=1e-5
    )


def test_a_text_that_is_no_longer_than_a_part_is_encoded_as_without_mcls(encoder, mcls):
    plain, ours = (each.encode([SHORT], multi_vector=True) for each in (encoder, mcls))
    np.testing.assert_allclose(ours.dense, plain.dense, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.multi_vector[0], plain.multi_vector[0], rtol=0, atol=1e-6)
    assert ours.sparse.to_dicts()[0].keys() == plain.sparse.to_dicts()[0].keys()


def test_inserted_cls_have_no_place_in_the_other_views(encoder, mcls):
    plain, ours = (each.encode([SHORT, LONG], multi_vector=True) for each in (encoder, mcls))
    assert [len(rows) for rows in ours.multi_vector] == [len(rows) for rows in plain.multi_vector]
    assert 0 not in ours.sparse.indices
    assert not np.allclose(ours.dense[1], plain.dense[1], atol=1e-3)


def test_the_fingerprint_tells_that_vectors_differ(encoder, mcls):
    assert mcls.fingerprint == f"{encoder.fingerprint}-mcls16"
    assert mcls.encode([SHORT]).fingerprint == mcls.fingerprint


@pytest.mark.parametrize("every", [1, 7, 16])
def test_inserted_tokens_count_towards_the_longest_length(checkpoint, encoder, every):
    ours = M3Encoder.from_pretrained(checkpoint, mcls=every)
    whole = len(encoder.encode([LONG], multi_vector=True).multi_vector[0]) + 1
    batch = ours.encode([LONG], multi_vector=True, max_length=60)
    kept = len(batch.multi_vector[0]) - 1
    assert kept + -(-kept // every) + 1 <= 60
    assert batch.truncated[0] == whole - 2 - kept
    assert 60 - (kept + -(-kept // every) + 1) <= 1, "room for another token was left"


def test_a_part_must_hold_something(checkpoint):
    with pytest.raises(ValueError, match="mcls must be a whole number of at least 1"):
        M3Encoder.from_pretrained(checkpoint, mcls=0)
