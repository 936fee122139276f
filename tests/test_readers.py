"""Reading documents from files."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from m3connect import Document
from m3connect.readers import origin_of, read_documents


def read(*paths):
    problems = []
    documents = list(read_documents(paths, on_problem=lambda *problem: problems.append(problem)))
    return documents, [(Path(source).name, line, reason) for source, line, reason in problems]


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_folder_gives_one_document_a_text_file_in_sorted_order(tmp_path):
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "sub" / "deep" / "c.md", "# third")
    write(tmp_path / "a.TXT", "ที่หนึ่ง")
    documents, problems = read(tmp_path)
    assert documents == [
        Document("a.TXT", "ที่หนึ่ง\n", {"source": "a.TXT"}),
        Document("b.txt", "second\n", {"source": "b.txt"}),
        Document("sub/deep/c.md", "# third\n", {"source": "sub/deep/c.md"}),
    ]
    assert problems == []


def test_a_file_given_by_itself_goes_by_its_name(tmp_path):
    path = write(tmp_path / "sub" / "a.txt", "text")
    assert [document.id for document in read(path)[0]] == ["a.txt"]


def test_hidden_files_and_other_kinds_are_passed_over_in_a_folder(tmp_path):
    for name in (".hidden.txt", ".git/a.txt", "picture.png", "a.txt"):
        write(tmp_path / name, "text")
    documents, problems = read(tmp_path)
    assert [document.id for document in documents] == ["a.txt"]
    assert problems == []


def test_another_kind_of_file_given_by_itself_is_reported(tmp_path):
    documents, [(name, line, reason)] = read(write(tmp_path / "a.pdf", "text"))
    assert (documents, name, line) == ([], "a.pdf", 0)
    assert "expected one of .txt, .md, .jsonl, .csv" in reason


def test_a_file_that_is_given_twice_is_read_once(tmp_path):
    path = write(tmp_path / "a.txt", "text")
    assert len(read(path, path, tmp_path)[0]) == 1


def test_two_files_of_one_name_do_not_replace_each_other_in_silence(tmp_path):
    first, second = write(tmp_path / "x" / "a.txt", "one"), write(tmp_path / "y" / "a.txt", "two")
    documents, [(_, _, reason)] = read(first.parent, second.parent)
    assert [document.text for document in documents] == ["one\n"]
    assert "is taken by" in reason


def test_a_file_that_is_not_utf8_is_reported_with_its_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\nnot \xff fine\n")
    write(tmp_path / "b.txt", "fine")
    documents, problems = read(tmp_path)
    assert [document.id for document in documents] == ["b.txt"]
    assert problems == [("a.txt", 2, "this is not UTF-8")]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftext")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "text"}')
    (tmp_path / "c.csv").write_bytes(b"\xef\xbb\xbftext\ntext\n")
    documents, problems = read(tmp_path)
    assert [document.text for document in documents] == ["text"] * 3
    assert problems == []


def test_a_jsonl_line_is_a_document(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        json.dumps({"id": "x", "text": "one", "metadata": {"lang": "de"}, "parent_id": "p"}),
        "",
        json.dumps({"text": "no id"}),
        json.dumps({"id": 7, "text": "a number for a name", "parent_id": None}),
    )
    assert read(path)[0] == [
        Document("x", "one", {"source": "a.jsonl", "lang": "de"}, "p"),
        Document("a.jsonl:3", "no id", {"source": "a.jsonl"}),
        Document("7", "a number for a name", {"source": "a.jsonl"}),
    ]


def test_other_keys_of_a_jsonl_line_become_metadata_but_yield_to_it(tmp_path):
    row = {
        "id": "x",
        "text": "one",
        "title": "T",
        "year": 1990,
        "new": True,
        "tags": ["a"],
        "deep": {"a": 1},
        "no": None,
    }
    path = write(tmp_path / "a.jsonl", json.dumps(row | {"metadata": {"year": 2000}}))
    [document] = read(path)[0]
    others = {"title": "T", "year": 2000, "new": True, "tags": ["a"], "deep": {"a": 1}, "no": None}
    assert document.metadata == {"source": "a.jsonl", **others}


def test_lines_of_beir_get_title_and_text(tmp_path):
    path = write(
        tmp_path / "corpus.jsonl",
        json.dumps({"_id": "4983", "title": "White matter", "text": "It was measured.", "metadata": {}}),
        json.dumps({"_id": "5836", "title": "", "text": "No title."}),
    )
    assert read(path)[0] == [
        Document("4983", "White matter It was measured.", {"source": "corpus.jsonl"}),
        Document("5836", "No title.", {"source": "corpus.jsonl"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not JSON"),
        (b'["text"]', "expected a JSON object, but got list"),
        (b'{"id": "x"}', '"text" must be a string, but is missing'),
        (b'{"text": 7}', '"text" must be a string, but is int'),
        (b'{"text": "a", "metadata": [1]}', '"metadata" must be an object, but is list'),
        (b'{"text": "a", "id": ""}', '"id" must be a non-empty string'),
        (b'{"text": "a", "parent_id": [1]}', '"parent_id" must be a non-empty string'),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_jsonl_line_is_set_aside_and_the_rest_goes_on(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    documents, [(name, number, why)] = read(path)
    assert [document.text for document in documents] == ["before", "after"]
    assert (name, number) == ("a.jsonl", 2)
    assert reason in why


def test_a_csv_row_is_a_document(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "id,text,year,price,code,note,parent_id",
        'x,"one, with a comma",1990,1.50,007,,p',
        ',"two',
        'lines",-3,1e5,12345678901234567890,0.10000000000000000000001,',
        ",three,true,0.1,+1,nan,",
    )
    documents, problems = read(path)
    assert problems == []
    assert [replace(d, metadata={k: v for k, v in d.metadata.items() if k != "source"}) for d in documents] == [
        Document("x", "one, with a comma", {"year": 1990, "price": 1.5, "code": "007"}, "p"),
        Document(
            "a.csv:3",
            "two\nlines",
            {"year": -3, "price": "1e5", "code": "12345678901234567890", "note": "0.10000000000000000000001"},
        ),
        Document("a.csv:5", "three", {"year": "true", "price": 0.1, "code": "+1", "note": "nan"}),
    ]
    assert [type(value) for value in documents[0].metadata.values()] == [str, int, float, str]
    assert {document.metadata["source"] for document in documents} == {"a.csv"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"a,b,c", "expected 2 cells, but got 3"),
        (b"a", "expected 2 cells, but got 1"),
        (b"a,\xff", "not UTF-8"),
        (b'a,"b"c', "expected after"),
    ],
)
def test_a_bad_csv_row_is_set_aside_and_the_rest_goes_on(tmp_path, row, reason):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\nx,before\n" + row + b"\ny,after\n")
    documents, [(name, number, why)] = read(path)
    assert [document.text for document in documents] == ["before", "after"]
    assert (name, number) == ("a.csv", 3)
    assert reason in why


@pytest.mark.parametrize("header", ["", "id,body", "id;text"])
def test_a_csv_file_without_a_text_column_is_reported(tmp_path, header):
    documents, [(_, line, reason)] = read(write(tmp_path / "a.csv", header, "1,2"))
    assert (documents, line) == ([], 1)
    assert 'expected a column "text"' in reason


def test_a_csv_cell_may_be_longer_than_the_default_of_the_csv_module(tmp_path):
    [document], problems = read(write(tmp_path / "a.csv", "text", "long " * 50_000))
    assert (len(document.text), problems) == (250_000, [])


def test_without_a_callback_problems_are_logged(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", "no json")
    with caplog.at_level(logging.WARNING):
        assert list(read_documents([path])) == []
    assert "a.jsonl, line 1: this is not JSON" in caplog.text


def test_documents_are_read_as_they_are_asked_for(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "one"}', "no json")
    problems = []
    stream = read_documents([path], on_problem=lambda *problem: problems.append(problem))
    assert next(stream).text == "one"
    assert problems == []
    assert list(stream) == []
    assert len(problems) == 1


def test_a_file_that_is_gone_is_reported(tmp_path):
    _, [(name, line, reason)] = read(tmp_path / "gone.txt")
    assert (name, line) == ("gone.txt", 0)
    assert "No such file" in reason


def test_blank_texts_are_set_aside(tmp_path):
    write(tmp_path / "empty.txt")
    write(tmp_path / "rows.jsonl", json.dumps({"text": " "}), json.dumps({"text": "good"}))
    write(tmp_path / "rows.csv", "id,text", "a,", "b,good")
    documents, problems = read(tmp_path)
    assert [document.text for document in documents] == ["good", "good"]
    assert [line for _, line, reason in problems if "blank" in reason] == [0, 2, 1]


def test_documents_say_where_they_were_read_where_that_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "notes" / "sub").mkdir(parents=True)
    (tmp_path / "notes" / "sub" / "a.txt").write_text("red apple")
    (tmp_path / "b.jsonl").write_text('{"text": "deep sea", "indexed_from": "elsewhere"}')
    monkeypatch.chdir(tmp_path / "notes")
    found = list(read_documents([".", "../b.jsonl"], origins=True))
    here = tmp_path.resolve().as_posix()
    assert [origin_of(document) for document in found] == [
        (f"{here}/notes", f"{here}/notes/sub/a.txt"),
        (here, f"{here}/b.jsonl"),
    ]
    assert [origin_of(document) for document in read_documents(["."])] == [None]
