"""The encoder's behaviour: parity with transformers, batching, bad input, threads."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Reference, View

from m3connect import Encoder, M3Embeddings, M3Encoder
from m3connect.encoder import tokenizer as tokenizer_module

TEXTS = [
    "",
    " ",
    "\n\t \r\n",
    "a",
    "Bees carry pollen from flower to flower.",
    "Bees carry pollen from flower to flower.",
    "🐝🌸 honey 👩‍👩‍👧‍👦",
    "النحل يصنع العسل من رحيق الأزهار.",
    "דבורים מייצרות דבש",
    "蜜蜂酿蜜，采集花粉。",
    "ผึ้งเก็บน้ำหวานจากดอกไม้",
    "literal <s> and </s> and <pad> and <mask> and <unk> in a text",
    "<pad>",
    "<pad><pad> padded <pad>",
    "e\u0301 and é, zero\u200bwidth, \ufeff mark",
    "word " * 300,
    "many different words to fill a longer text, one after another, until it counts. " * 12,
]


def assert_equals_reference(row: M3Embeddings, expected: View) -> None:
    np.testing.assert_allclose(row.dense[0], expected.dense, atol=1e-5)
    found = row.sparse.to_dicts()[0]
    for token_id in found.keys() ^ expected.sparse.keys():
        assert max(found.get(token_id, 0), expected.sparse.get(token_id, 0)) < 1e-5
    for token_id in found.keys() & expected.sparse.keys():
        weight = expected.sparse[token_id]
        assert abs(found[token_id] - weight) <= 1e-5 * max(1, abs(weight))
    vectors = row.require_multi_vector()[0]
    assert vectors.shape == expected.multi_vector.shape
    np.testing.assert_allclose(vectors, expected.multi_vector, atol=1e-5)


def test_the_encoder_is_an_encoder(encoder: M3Encoder) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.dim == 64
    assert encoder.max_length == 8192


@pytest.mark.parametrize("max_length", [8192, 512, 16, 3, 2])
def test_every_view_equals_that_of_transformers(encoder: M3Encoder, reference: Reference, max_length: int) -> None:
    batch = encoder.encode(TEXTS, multi_vector=True, max_length=max_length)
    for i, text in enumerate(TEXTS):
        assert_equals_reference(batch[i], reference.encode(text, max_length))


def test_a_text_of_8192_tokens_and_a_longer_one_equal_those_of_transformers(
    encoder: M3Encoder, reference: Reference
) -> None:
    text = "a sentence that goes on about flowers and bees and the sea, " * 700
    batch = encoder.encode([text, "short", text[: len(text) // 2]], multi_vector=True)
    assert batch.truncated[0] > 0
    assert len(batch.require_multi_vector()[0]) == 8191
    assert_equals_reference(batch[0], reference.encode(text, 8192))
    assert_equals_reference(batch[1], reference.encode("short", 8192))


def test_the_company_a_text_keeps_does_not_change_it(encoder: M3Encoder) -> None:
    together = encoder.encode(TEXTS, multi_vector=True)
    backwards = encoder.encode(TEXTS[::-1], multi_vector=True)
    for i, text in enumerate(TEXTS):
        alone = encoder.encode([text], multi_vector=True)
        for other in (together[i], backwards[len(TEXTS) - 1 - i]):
            np.testing.assert_allclose(other.dense, alone.dense, atol=1e-5)
            np.testing.assert_array_equal(other.sparse.indices, alone.sparse.indices)
            np.testing.assert_allclose(other.sparse.values, alone.sparse.values, atol=1e-5)
            np.testing.assert_allclose(other.require_multi_vector()[0], alone.require_multi_vector()[0], atol=1e-5)


def test_an_empty_text_has_a_dense_vector_no_weights_and_one_token_vector(encoder: M3Encoder) -> None:
    batch = encoder.encode([""], multi_vector=True)
    assert batch.dense.shape == (1, 64)
    assert batch.sparse.to_dicts() == [{}]
    assert batch.require_multi_vector()[0].shape == (1, 64)


def test_no_texts_give_an_empty_batch(encoder: M3Encoder) -> None:
    batch = encoder.encode([])
    assert len(batch) == 0
    assert batch.dense.shape == (0, 64)
    assert batch.fingerprint == encoder.fingerprint
    assert batch.multi_vector is None
    assert encoder.encode([], multi_vector=True).multi_vector == ()


def test_rows_are_unit_vectors_and_sparse_rows_are_sorted_and_positive(encoder: M3Encoder) -> None:
    batch = encoder.encode(TEXTS, multi_vector=True)
    np.testing.assert_allclose(np.linalg.norm(batch.dense, axis=1), 1, atol=1e-5)
    for vectors in batch.require_multi_vector():
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (batch.sparse.values > 0).all()
    for i in range(len(batch)):
        assert (np.diff(batch.sparse.row(i)[0]) > 0).all()


def test_a_text_that_comes_twice_is_computed_once(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = encoder._scheduler.run

    def spy(token_ids: list[np.ndarray], **options: Any) -> M3Embeddings:
        seen.append(len(token_ids))
        return original(token_ids, **options)

    monkeypatch.setattr(encoder._scheduler, "run", spy)
    batch = encoder.encode(["same", "other", "same", "same"])
    assert sum(seen) == 2
    np.testing.assert_array_equal(batch.dense[0], batch.dense[3])


def test_truncated_counts_the_tokens_cut_away_and_one_line_is_logged(
    encoder: M3Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        batch = encoder.encode(["one two three four five six seven eight", "short", "one two three four"], max_length=5)
    full = encoder.encode(["one two three four five six seven eight"], multi_vector=True)
    assert batch.truncated[0] == len(full.require_multi_vector()[0]) + 1 - 5
    assert full.truncated.tolist() == [0]
    assert len(caplog.records) == 1


def test_every_copy_of_a_text_is_counted_as_truncated(encoder: M3Encoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        batch = encoder.encode(
            ["short", "one two three four five six", "short", "one two three four five six"], max_length=5
        )
    assert batch.truncated[0] == batch.truncated[2] == 0
    assert batch.truncated[1] == batch.truncated[3] > 0
    assert caplog.records[0].getMessage().startswith("2 texts")


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["list"]])
def test_something_else_than_a_string_names_its_position(encoder: M3Encoder, bad: object) -> None:
    with pytest.raises(ValueError, match="text 1 must be a string"):
        encoder.encode(["good", bad])  # type: ignore[list-item]


def test_one_string_is_refused_with_the_remedy(encoder: M3Encoder) -> None:
    with pytest.raises(ValueError, match="wrap a single text in a list"):
        encoder.encode("one string")


def test_half_a_surrogate_pair_names_its_position(encoder: M3Encoder) -> None:
    with pytest.raises(ValueError, match="text 3 holds half of a surrogate pair at character 3"):
        encoder.encode(["fine", "fine", "good", "bad\ud83d"])


def test_many_texts_are_computed_part_by_part_as_they_are_at_once(
    encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{'word ' * (i % 7)} number {i % 40}" for i in range(50)]
    expected = encoder.encode(texts, multi_vector=True, max_length=6)
    monkeypatch.setattr("m3connect.encoder.encoder._CHARACTERS_AT_ONCE", 60)
    found = encoder.encode(texts, multi_vector=True, max_length=6)
    assert found.fingerprint == expected.fingerprint
    assert found.truncated.any()
    np.testing.assert_array_equal(found.truncated, expected.truncated)
    np.testing.assert_allclose(found.dense, expected.dense, atol=1e-5)
    np.testing.assert_array_equal(found.sparse.indices, expected.sparse.indices)
    np.testing.assert_allclose(found.sparse.values, expected.sparse.values, atol=1e-5)
    for some, one in zip(found.require_multi_vector(), expected.require_multi_vector(), strict=True):
        np.testing.assert_allclose(some, one, atol=1e-5)


def test_texts_are_tokenized_while_those_before_them_are_computed(
    encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3connect.encoder.encoder._CHARACTERS_AT_ONCE", 4000)
    calls, twice = [], threading.Event()
    tokenize, encode_pack = encoder._tokenize, encoder._scheduler._encode_pack

    def tell(texts: list[str], limit: int) -> Any:
        calls.append(len(texts))
        found = tokenize(texts, limit)
        if len(calls) == 2:
            twice.set()
        return found

    def wait_for_the_next(token_ids: Any, multi_vector: bool) -> M3Embeddings:
        assert twice.wait(20), "the next texts were not tokenized meanwhile"
        return encode_pack(token_ids, multi_vector)

    monkeypatch.setattr(encoder, "_tokenize", tell)
    monkeypatch.setattr(encoder._scheduler, "_encode_pack", wait_for_the_next)
    assert len(encoder.encode([f"{i} " + "word " * 400 for i in range(6)])) == 6
    assert calls == [2, 2, 2]


def test_what_is_cut_away_does_not_make_parts_small(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3connect.encoder.encoder._CHARACTERS_AT_ONCE", 1000)
    calls, tokenize = [], encoder._tokenize
    monkeypatch.setattr(encoder, "_tokenize", lambda texts, limit: calls.append(len(texts)) or tokenize(texts, limit))
    encoder.encode([f"{i} " + "word " * 400 for i in range(20)], max_length=10)
    assert calls == [13, 7]


def test_an_encoder_goes_on_after_a_part_that_failed(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3connect.encoder.encoder._CHARACTERS_AT_ONCE", 12)
    texts, tokenize = [f"text {i}" for i in range(9)], encoder._tokenize

    def fail(texts: list[str], limit: int) -> Any:
        if "text 8" in texts:
            raise MemoryError("too large")
        return tokenize(texts, limit)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "_tokenize", fail)
        with pytest.raises(MemoryError, match="too large"):
            encoder.encode(texts)
    assert len(encoder.encode(texts)) == 9
    assert not encoder._scheduler._waiting


@pytest.mark.parametrize("kind", [tuple, iter, np.array, lambda texts: dict.fromkeys(texts).keys()])
def test_any_iterable_of_strings_is_taken(encoder: M3Encoder, kind: object) -> None:
    found = encoder.encode(kind(["one", "two"]))  # type: ignore[operator]
    np.testing.assert_allclose(found.dense, encoder.encode(["one", "two"]).dense, atol=1e-5)


@pytest.mark.parametrize("texts", [None, b"bytes", 5])
def test_what_is_no_list_is_refused(encoder: M3Encoder, texts: object) -> None:
    with pytest.raises(ValueError, match="takes a list of strings"):
        encoder.encode(texts)  # type: ignore[arg-type]


def test_more_texts_than_the_tokenizer_takes_at_once_keep_their_order(
    encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text number {i}" for i in range(7)]
    expected = encoder.encode(texts)
    monkeypatch.setattr(tokenizer_module, "_TEXTS_PER_CALL", 2)
    np.testing.assert_allclose(encoder.encode(texts).dense, expected.dense, atol=1e-5)


@pytest.mark.parametrize("max_length", [0, 1, 8193, -5])
def test_a_length_that_the_model_cannot_read_is_refused(encoder: M3Encoder, max_length: int) -> None:
    with pytest.raises(ValueError, match="from 2 to 8192"):
        encoder.encode(["text"], max_length=max_length)


def test_threads_get_the_same_numbers_as_one_caller(encoder: M3Encoder) -> None:
    expected = [encoder.encode([text]).dense for text in TEXTS]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda text: encoder.encode([text], max_length=64 + len(text) % 7).dense, TEXTS * 3))
    for i, dense in enumerate(found):
        if len(TEXTS[i % len(TEXTS)]) < 100:
            np.testing.assert_allclose(dense, expected[i % len(TEXTS)], atol=1e-5)


def test_decode_gives_readable_pieces(encoder: M3Encoder) -> None:
    row = encoder.encode(["honey bees"]).sparse
    pieces = encoder.decode(row.indices)
    assert all(piece and piece in "honey bees" for piece in pieces)
    with pytest.raises(ValueError, match="no token id"):
        encoder.decode([10**9])
    with pytest.raises(ValueError, match="no token id"):
        encoder.decode([-1])
    with pytest.raises(ValueError, match="no token id"):
        encoder.decode([2**40])


def test_progress_shows_a_bar_only_on_request(encoder: M3Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    encoder.encode(["quiet"])
    assert capsys.readouterr().err == ""
    encoder.encode(["shown"], progress=True)
    assert "1/1" in capsys.readouterr().err


def test_the_bundled_model_finds_translations(mini_folder: Path) -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")
    batch = encoder.encode(["The weather is good today.", "Das Wetter ist heute gut.", "He is eating an apple."])
    assert batch.dense[0] @ batch.dense[1] > batch.dense[0] @ batch.dense[2] + 0.1
    size = sum(file.stat().st_size for file in mini_folder.rglob("*") if file.is_file())
    assert size <= 20_000_000
    assert encoder.max_length == 8192
