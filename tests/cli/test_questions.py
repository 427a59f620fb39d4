"""Questions from files, pipes and standard input: byte order marks, line ends and blank lines make no difference."""

from __future__ import annotations

import codecs
import json
import os
import threading
from pathlib import Path

import pytest
from command_result import Cli
from hypothesis import given, settings
from hypothesis import strategies as st

from memfold.cli.questions import read_questions
from memfold.core.errors import DataError

QUESTIONS = ["Who left?", "Where is\u2028Velm\u2029?", "Was it\x85 old\x0b\x1c?"]
ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}
ENCODINGS = {"utf-8": b"", "utf-8 marked": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE}


def lines(end: str) -> str:
    """The questions as JSON with line separators inside the strings, and blank lines around them."""
    records = (json.dumps({"question": question}, ensure_ascii=False) for question in QUESTIONS)
    return f"{end} {end}" + f"{end}\t{end}".join(records) + end


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_of_questions_is_cut_at_line_ends_only(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(ENCODINGS[encoding] + lines(ENDS[end]).encode(encoding.split()[0]))
    assert read_questions(path) == QUESTIONS


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1))
def test_any_question_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, questions: list[str]) -> None:
    path = tmp_path_factory.mktemp("q") / "q.jsonl"
    records = (json.dumps({"question": question}, ensure_ascii=False) for question in questions)
    path.write_text("\n".join(records), encoding="utf-8", newline="")
    assert read_questions(path) == questions


def test_questions_come_through_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=[lines("\n")], kwargs={"encoding": "utf-8"})
    writer.start()
    assert read_questions(path) == QUESTIONS
    writer.join()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"question": "caf\xe9"}', "q.jsonl is not UTF-8: byte 0xe9 at offset 17"),
        (b'\n{"question": "Who?"', "q.jsonl, line 2 is not JSON: "),
        (b"\xef\xbb\xbf \r\n", "q.jsonl holds no questions"),
        (b"\n" + b"[" * 100_000, "q.jsonl, line 2 is not JSON: "),
    ],
)
def test_a_file_without_questions_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_questions(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def test_piped_questions_are_cut_at_line_ends_only(cli: Cli, model: tuple[str, str]) -> None:
    Path("page.txt").write_text("Ada left Velm.")
    piped = "\ufeff\r\n \r\nWho left?\r\n\r\nWhere is\u2028Velm?\r\n"
    result = cli("ask", "page.txt", *model, "--json", stdin=piped.encode())
    assert result.err == ""
    assert len(result.out.splitlines()) == 2
    marked = cli("ask", "page.txt", *model, "--json", stdin="\ufeffWho left?".encode()).out
    plain = cli("ask", "page.txt", *model, "--json", stdin=b"Who left?").out
    assert json.loads(marked)["answer"] == json.loads(plain)["answer"]
