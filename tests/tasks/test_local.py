"""Tasks on local files: exact windows, held-out rows, documents that fit, and data that is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pyarrow
import pytest
from pyarrow import parquet

from memfold.core.errors import ConfigError, DataError
from memfold.tasks.datasets.corpus import (
    SECTION,
    check_files,
    draw_rows,
    is_held_out,
    questions_of,
    sections,
    text_of,
)
from memfold.tasks.local import (
    long_questions,
    packed_window,
    questions,
    summaries,
    text,
    text_continuation,
    text_reconstruction,
)
from memfold.tasks.task import TaskOptions


def text_of_row(number: int) -> str:
    return f"row{number} " + " ".join(f"w{number}x{word}" for word in range(number % 7 + 1))


ROWS = [{"text": text_of_row(number)} for number in range(300)]
WORDS: dict[str, int] = {}


def encode(string: str) -> list[int]:
    """Encode each word as one token."""
    return [WORDS.setdefault(word, len(WORDS)) for word in string.split()]


def decode(tokens: tuple[int, ...]) -> str:
    names = {index: word for word, index in WORDS.items()}
    return " ".join(names[token] for token in tokens)


@pytest.fixture(params=["jsonl", "parquet", "json"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> TaskOptions:
    path = tmp_path / f"rows.{request.param}"
    if request.param == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=60)
    else:
        lines = [json.dumps(row) for row in ROWS]
        path.write_text("\n".join(lines) + "\n" if request.param == "jsonl" else f"[{','.join(lines)}]")
    return TaskOptions(ratio=4, files=(str(path),))


def test_windows_are_exact_and_packed_from_consecutive_rows(options: TaskOptions) -> None:
    running = " ".join(row["text"] for row in ROWS if not is_held_out(row["text"]))
    starts = set()
    for seed in range(20):
        tokens = packed_window(Random(seed), 24, options, encode)
        assert tokens == packed_window(Random(seed), 24, options, encode)
        assert len(tokens) == 24
        first, second = decode(tokens).split(" row")[:2]
        assert first in running
        assert second in running
        starts.add(tokens[0])
    assert len(starts) > 10


def test_held_out_rows_are_never_trained_on(options: TaskOptions) -> None:
    held_out_texts = {row["text"] for row in ROWS if is_held_out(row["text"])}
    assert 0 < len(held_out_texts) < 20
    for held_out in (False, True):
        rows = draw_rows(Random(3), options.files, held_out)
        drawn = {text_of(next(rows)) for _ in range(400)}
        assert (drawn <= held_out_texts) is held_out
        assert drawn.isdisjoint(held_out_texts) is not held_out


def test_a_text_and_its_reconstruction(options: TaskOptions) -> None:
    (plain,) = text(1, 16, options, encode)
    assert (plain.question, len(plain.target), plain.document.tokens) == ("", 16, plain.target)
    (reconstruction,) = text_reconstruction(1, 16, options, encode)
    assert reconstruction.question
    assert reconstruction.target == reconstruction.document.tokens
    assert len(reconstruction.target) == 16


@pytest.mark.parametrize(("bridges", "bridge"), [((0, 0), 0), ((1, 1), 4), ((2, 2), 7)])
def test_a_continuation_has_three_parts(options: TaskOptions, bridges: tuple[int, int], bridge: int) -> None:
    (sample,) = text_continuation(1, 16, replace(options, bridges=bridges), encode)
    assert len(sample.document.tokens or ()) == 8
    assert len(sample.bridge) == min(bridge, 4)
    assert 8 + len(sample.bridge) + len(sample.target) == 16
    with pytest.raises(ConfigError, match="size 7 is too small to continue; use at least two groups, 8 tokens"):
        text_continuation(1, 7, options, encode)


def test_long_texts_and_folders_of_them(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(" ".join(f"b{word}" for word in range(5000)))
    options = TaskOptions(files=(str(tmp_path),), held_out=is_held_out((tmp_path / "book.txt").read_text()))
    windows = {packed_window(Random(seed), 12, options, encode) for seed in range(5)}
    assert len(windows) == 5


def squad(path: Path, contexts: list[str], answer: str) -> TaskOptions:
    rows = []
    for number, context in enumerate(contexts):
        answers = {"text": [answer], "answer_start": [context.find(answer)]}
        rows.append({"context": context, "question": f"Who {number}?", "id": str(number), "answers": answers})
    path.write_text("\n".join(map(json.dumps, rows)))
    return TaskOptions(files=(str(path),), dataset="squad")


def test_questions_come_with_their_document(tmp_path: Path) -> None:
    options = squad(tmp_path / "squad.jsonl", ["Ada of Velm " + "w " * (number % 4) for number in range(200)], "Velm")
    for seed in range(10):
        (sample,) = questions(seed, 10, options, encode)
        assert decode(sample.document.tokens or ()).startswith("Ada of Velm")
        assert (sample.task, sample.answers, len(sample.document.tokens or ()) <= 6) == ("questions", ("Velm",), True)
        assert not is_held_out(sample.question)
        (held_out,) = questions(seed, 10, replace(options, held_out=True), encode)
        assert is_held_out(held_out.question)


def test_a_question_about_a_long_document_gets_an_excerpt_with_the_answer(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(1000)]
    contexts = [" ".join([*words[:at], "Velm", *words[at + 1 :]]) for at in (0, 3, 500, 999) * 30]
    options = squad(tmp_path / "squad.jsonl", contexts, "Velm")
    positions = set()
    for seed in range(40):
        (sample,) = questions(seed, 100, options, encode)
        excerpt = decode(sample.document.tokens or ()).split()
        assert len(excerpt) == 100
        numbers = [int(word[1:]) for word in excerpt if word != "Velm"]
        assert numbers == list(range(numbers[0], numbers[0] + 100)) or len(numbers) == 99
        positions.add(excerpt.index("Velm"))
    assert {0, 3, 99} <= positions
    assert len(positions) > 6


def test_a_long_question_has_its_paragraphs_among_those_of_others(tmp_path: Path) -> None:
    facts = [f"Lor {number} is a miller." for number in range(200)]
    rows = [
        {
            "_id": str(number),
            "question": f"What is Lor {number}?",
            "answer": "miller",
            "context": [[f"Lor {number}", ["It rains.", fact]], [f"Mill {number}", ["It is old."]]],
            "supporting_facts": [[f"Lor {number}", 1]],
        }
        for number, fact in enumerate(facts)
    ]
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps(rows))
    options = TaskOptions(files=(str(path),), dataset="hotpotqa")
    taught = {row["question"] for row in rows if not is_held_out(str(row["question"]))}
    places = set()
    for seed in range(20):
        (sample,) = long_questions(seed, 60, options, encode)
        assert [sample] == long_questions(seed, 60, options, encode)
        text, (span,) = sample.document.read(), sample.evidence
        assert 45 < len(encode(text)) <= 60
        assert (text[span.start : span.end],) == sample.support == (facts[int(sample.question[12:-1])],)
        assert sample.question in taught
        places.add(text[: span.start].count("\n\n"))
        (held_out,) = long_questions(seed, 60, replace(options, held_out=True), encode)
        assert held_out.question not in taught
        others = {
            f"What is {line}?"
            for line in held_out.document.read().split("\n")
            if line in {f"Lor {n}" for n in range(200)}
        }
        assert others - {held_out.question} <= taught
    assert len(places) > 4
    with pytest.raises(DataError, match="of 60000 tokens; give more files"):
        long_questions(0, 60_000, options, encode)


def miller(number: int, answer: str = "miller") -> dict[str, object]:
    """A row of HotpotQA."""
    context = [[f"Lor {number}", ["It rains.", f"Lor {number} is a miller."]], [f"Mill {number}", ["It is old."]]]
    facts = [[f"Lor {number}", 1]]
    return {"question": f"What is Lor {number}?", "answer": answer, "context": context, "supporting_facts": facts}


def written(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_questions_that_a_model_knows_without_a_text_are_left_out(tmp_path: Path) -> None:
    """Those with a right answer in each of two closed-book evaluations."""
    files = (written(tmp_path / "hotpot.jsonl", [miller(number) for number in range(200)]),)
    right = [set(range(0, 200, 2)), set(range(0, 200, 3))]
    known = tuple(
        written(
            tmp_path / f"{number}.jsonl",
            [{"question": f"What is Lor {each}?", "correct": each in numbers} for each in range(200)],
        )
        for number, numbers in enumerate(right)
    )
    everything = {sample.question for sample in questions_of("hotpotqa", files, held_out=False)}
    left = {sample.question for sample in questions_of("hotpotqa", files, False, known)}
    assert everything - left == {f"What is Lor {each}?" for each in range(0, 200, 6)} & everything != set()
    options = TaskOptions(files=files, dataset="hotpotqa", known=known)
    for seed in range(20):
        (sample,) = long_questions(seed, 60, options, encode)
        assert int(sample.question[12:-1]) % 6
    with pytest.raises(DataError, match=r"3\.jsonl.*'correct' is missing; expected: true or false"):
        questions_of("hotpotqa", files, False, (written(tmp_path / "3.jsonl", [{"question": "Who?"}]),))
    with pytest.raises(DataError, match=r"4\.jsonl has no samples; name samples\.jsonl of a closed-book evaluation"):
        questions_of("hotpotqa", files, False, (written(tmp_path / "4.jsonl", []),))


def test_questions_whose_text_does_not_state_their_answer_can_be_left_out(tmp_path: Path) -> None:
    answers = ("Miller", "a sailor", "yes")
    files = (written(tmp_path / "h.jsonl", [miller(number, answers[number % 3]) for number in range(200)]),)
    stated = questions_of("hotpotqa", files, held_out=False, in_text=True)
    assert {sample.answers for sample in stated} == {("Miller",), ("yes",)}
    assert {sample.answers for sample in questions_of("hotpotqa", files, False)} == {(each,) for each in answers}
    only = (written(tmp_path / "sailors.jsonl", [miller(number, "a sailor") for number in range(200)]),)
    with pytest.raises(DataError, match="no question to train on"):
        questions_of("hotpotqa", only, held_out=False, in_text=True)


def test_a_long_document_without_its_answer_is_skipped(tmp_path: Path) -> None:
    pages = {"title": ["A"], "wiki_context": ["w " * 300]}
    row = {"question_id": "1", "answer": {"value": "Velm", "aliases": []}, "entity_pages": pages}
    path = tmp_path / "trivia.jsonl"
    path.write_text("\n".join(json.dumps(row | {"question": f"Which {number}?"}) for number in range(99)))
    options = TaskOptions(files=(str(path),), dataset="triviaqa")
    with pytest.raises(DataError, match="none of 200 rows drawn has a document of at most 50 tokens; use larger"):
        questions(0, 50, options, encode)


def test_summaries(tmp_path: Path) -> None:
    path = tmp_path / "summaries.jsonl"
    path.write_text("\n".join(json.dumps(row | {"summary": f"of {row['text'][:6]}"}) for row in ROWS))
    (sample,) = summaries(2, 50, TaskOptions(files=(str(path),)), encode)
    assert sample.target == f" of {decode(sample.document.tokens or ())[:6].strip()}"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    with pytest.raises(DataError, match="'summary' is missing"):
        summaries(2, 50, TaskOptions(files=(str(path),)), encode)


def test_a_book_is_many_rows_of_whole_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {number} " * (1 + number % 60) for number in range(900)]
    book = "\n\n".join(paragraphs)
    made = list(sections(book))
    assert "".join(made) == book
    assert len(made) > 20
    assert all(SECTION <= len(section) < SECTION + 2000 for section in made[:-1])
    assert all(section.startswith("paragraph") for section in made)
    assert list(sections("")) == [""]
    assert list(sections("short\n\ntext")) == ["short\n\ntext"]
    path = tmp_path / "book.txt"
    path.write_text(book * 5)
    assert text_of(next(draw_rows(Random(0), (str(path),)))) in book
    assert is_held_out(text_of(next(draw_rows(Random(0), (str(path),), held_out=True))))


def test_data_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at nowhere, not/here; docs/data\.md says"):
        check_files(["nowhere", str(tmp_path), "not/here"])
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match="a row is not JSON"):
        list(draw_rows(Random(0), (str(path),)))
    path.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="too few rows to validate on"):
        list(draw_rows(Random(0), (str(path),), held_out=True))
