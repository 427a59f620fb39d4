"""Lines become paragraphs and rows, and running heads leave the text: rules that PDF fonts have no part in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memfold.readers.lines import Line, running_text, with_rows
from memfold.readers.running_heads import Page, without_running_heads

HEIGHT = 800.0


def line(text: str, base: float = 400.0, left: float = 50.0, width: float = 5.0) -> Line:
    """A line whose characters are all `width` points wide."""
    words = text.split(" ")
    return Line(text, left, left + width * len(text), base, 12.0, width * len(words[0]))


def lines(*texts: str, top: float = 400.0, left: float = 50.0) -> list[Line]:
    """Lines below each other, of which none is full."""
    return [line(text, top - 14 * number, left) for number, text in enumerate(texts)]


def paragraph(*texts: str, top: float = 400.0) -> list[Line]:
    """Lines that all but the last reach the edge of the column."""
    *full, last = lines(*texts, top=top)
    return [*(replace(each, right=250.0) for each in full), last]


def text_of(*pages: list[Line]) -> str:
    return "".join(running_text(pages))


LONG = ("the river rises in the hills", "of Tor and runs to the sea", "at Velm where its mills were")


def test_an_indented_line_begins_a_paragraph_and_so_does_a_gap() -> None:
    first, last = paragraph(*LONG[:2], "at Velm. Its mills are new."), "and the mills were"
    full = [*first[:2], replace(first[2], right=250.0)]  # its last line is as long as the others
    second = paragraph("A mill is old. It stands", *LONG[1:], last, top=358)
    expected = f"{' '.join(each.text for each in first)}\nA mill is old. It stands {LONG[1]} {LONG[2]} {last}\n"
    assert text_of(first + second) == expected
    assert text_of([*full, replace(second[0], left=62.0), *second[1:]]) == expected
    assert text_of(full + [replace(each, base=each.base - 30) for each in second]) == expected


def test_lines_of_other_heights_or_fixed_pitch_stay_apart() -> None:
    one, two, three = paragraph(*LONG)
    assert text_of([replace(one, height=18.0), two, three]) == f"{LONG[0]}\n{LONG[1]} {LONG[2]}\n"
    assert text_of([one, replace(two, fixed=True), three]) == "\n".join(LONG) + "\n"


def test_scripts_without_spaces_are_joined_without_one() -> None:
    wide = [
        line(text, 400 - 14 * number, width=12.0) for number, text in enumerate(("河流发源于山中", "流入大海与城镇"))
    ]
    assert text_of(wide) == "河流发源于山中流入大海与城镇\n"


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("the mill is an exam-", "ple of many old ones", "the mill is an example of many old ones"),
        ("the mill is an exam\u00ad", "ple of many old ones", "the mill is an example of many old ones"),
        ("it is a state-of-the-", "art mill of many ones", "it is a state-of-the-art mill of many ones"),
        ("it was so in 1873-", "1874 and later years", "it was so in 1873-1874 and later years"),
        ("the mill is old -", "but it stands there yet", "the mill is old - but it stands there yet"),
    ],
)
def test_hyphens(first: str, second: str, joined: str) -> None:
    assert text_of(paragraph(first, second)) == f"{joined}\n"
    assert text_of(lines(first), lines(second, top=700)) == f"{joined}\n"


def test_rows_with_cells_that_are_missing_or_longer_keep_their_order() -> None:
    towns = lines("Town", "Velm", "Tor", "Lom")
    mayors = [each for each in lines("Mayor", "Ada Lorn", "", "Ben Sor of Velm", left=120.0) if each.text]
    assert [each.text for each in with_rows([*towns, *mayors])] == [
        "Town  Mayor",
        "Velm  Ada Lorn",
        "Tor",
        "Lom  Ben Sor of Velm",
    ]


def page(*margins: Line, body: str) -> Page:
    return Page([*margins, line(body)], HEIGHT)


def bodies(*pages: Page) -> list[list[str]]:
    return [[each.text for each in kept] for kept in without_running_heads(pages)]


def test_page_numbers_and_heads_leave_the_text_and_heads_stand_once() -> None:
    pages = [
        page(line("The mills", 780), line(f"Page {number}", 20), body=f"words {number}") for number in (7, 8, 9, 10)
    ]
    assert bodies(*pages) == [["The mills", "words 7"], ["words 8"], ["words 9"], ["words 10"], []]


def test_a_head_that_is_new_in_a_sentence_waits_for_its_end() -> None:
    pages = [
        page(body="the first words"),
        page(line("Chapter one", 780), body="go on here."),
        page(line("Chapter one", 780), body="And end."),
    ]
    assert bodies(*pages) == [["the first words"], ["go on here."], ["Chapter one", "And end."], []]


def test_heads_of_left_and_right_pages_take_turns() -> None:
    pages = [
        page(line("Lorn" if number % 2 else "Mills", 780, left=50.0 + 400 * (number % 2)), body=f"words {number}")
        for number in range(4)
    ]
    assert bodies(*pages) == [["Mills", "words 0"], ["words 1"], ["words 2"], ["words 3"], ["Lorn"]]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (line("Table 3", 780), line("Table 9", 780)),  # numbers that do not count the pages
        (line("The mills", 780), line("The mills", 700)),  # another place
        (line("The mills", 500), line("The mills", 500)),  # not in a margin
        (line("x" * 200, 780), line("x" * 200, 780)),  # too long
        (line("1873", 20), line("1901", 20)),
    ],
)
def test_other_lines_stay(first: Line, second: Line) -> None:
    kept = bodies(page(first, body="a"), page(second, body="b"))
    assert kept == [[first.text, "a"], [second.text, "b"], []]


def test_lines_are_running_heads_from_the_edge_inwards_only() -> None:
    """A line of the text that two pages share stays, although it is in the margin."""
    pages = [page(line(f"Part {number * number}", 780), line("Dear Ada,", 760), body="x") for number in (3, 5)]
    assert bodies(*pages) == [["Part 9", "Dear Ada,", "x"], ["Part 25", "Dear Ada,", "x"], []]
