"""Folders in the BEIR layout, and judgments."""

from __future__ import annotations

import json

import pytest
from small_set import CORPUS, QRELS, write_folder, write_qrels

from m3connect.evaluate import read_dataset, read_qrels


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_is_read_plain_or_packed(tmp_path, packed):
    dataset = read_dataset(write_folder(tmp_path / "small", packed=packed))
    assert {document.id: document.text for document in dataset.documents} == CORPUS
    assert dataset.qrels == QRELS
    assert dataset.queries["q3"] == "bread"
    assert dataset.languages["q3"] == "de"
    assert dataset.name == "small"


def test_turns_stand_for_a_text(folder):
    (folder / "corpus.jsonl").write_text('{"_id": "m1", "title": "", "turns": ["A: yes", "B: no"]}\n')
    assert read_dataset(folder).documents[0].text == "A: yes\nB: no"


def test_a_single_file_of_judgments_needs_no_folder(folder):
    (folder / "qrels" / "test.tsv").rename(folder / "qrels.tsv")
    assert read_dataset(folder).qrels == QRELS


def test_of_several_splits_test_is_taken_and_others_by_name(folder):
    write_qrels(folder / "qrels" / "dev.tsv", {"q3": {"d6": 1}})
    assert read_dataset(folder).qrels == QRELS
    assert read_dataset(folder, split="dev").qrels == {"q3": {"d6": 1}}


def test_a_split_that_is_not_there_is_refused_with_the_ones_that_are(folder):
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "a.tsv")
    write_qrels(folder / "qrels" / "b.tsv", QRELS)
    with pytest.raises(ValueError, match="splits a, b: name one"):
        read_dataset(folder)
    with pytest.raises(ValueError, match="not 'c'"):
        read_dataset(folder, split="c")


def test_judgments_of_trec_are_read_too(tmp_path):
    path = tmp_path / "qrels.txt"
    path.write_text("q1 0 d1 2\nq1 0 d2 0\n")
    assert read_qrels(path) == {"q1": {"d1": 2, "d2": 0}}


@pytest.mark.parametrize("line", ["q1\td1", "q1\td1\thigh", "q1"])
def test_a_bad_judgment_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "qrels.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\n{line}\n")
    with pytest.raises(ValueError, match=r"qrels.tsv:2: expected query, document"):
        read_qrels(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"_id": "x"}', '"text" must be a string'),
        ('{"text": "x"}', '"_id" must be a string'),
    ],
)
def test_a_bad_document_is_named_with_its_line(folder, line, reason):
    with (folder / "corpus.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"corpus.jsonl:7: .*{reason}"):
        read_dataset(folder)


def test_a_judged_query_without_a_text_is_refused(folder):
    write_qrels(folder / "qrels" / "test.tsv", {"lost": {"d1": 1}})
    with pytest.raises(ValueError, match="1 judged queries have no text, the first is 'lost'"):
        read_dataset(folder)


def test_an_id_that_comes_twice_is_refused(folder):
    with (folder / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "d1", "text": "again"}) + "\n")
    with pytest.raises(ValueError, match="1 documents have an id that is taken"):
        read_dataset(folder)


def test_judged_documents_outside_the_corpus_are_counted_in_the_log(folder, caplog):
    write_qrels(folder / "qrels" / "test.tsv", {"q1": {"d1": 1, "elsewhere": 1}})
    read_dataset(folder)
    assert "1 judged documents are not in the corpus" in caplog.text


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.partition("/")[0].partition(".")[0]):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("name", "documents", "queries"),
    [
        ("scifact", 5183, 809),
        ("pubmedqa_l", 1000, 500),
        ("arcd", 234, 702),
        ("qmsum_long/val", 35, 237),
        ("squality_long/dev", 25, 125),
    ],
)
def test_the_open_sets_are_read(open_data, name, documents, queries):
    dataset = read_dataset(open_data / name)
    assert (len(dataset.documents), len(dataset.qrels)) == (documents, queries)
    assert all(document.text for document in dataset.documents)
