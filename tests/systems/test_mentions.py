"""Names and numbers of questions and answers that a text does not mention."""

from __future__ import annotations

import pytest

from memfold.core.types import Block, Memory
from memfold.systems.shared.mentions import mentions_none, unmentioned

TEXT = """\
Ada Brisk was born in Velm in 1893. The Song of Tarn has 12,500 pages. Zoë Müller-Dun lives in Malmö. The seal shows
KX-4071. Mr. O'Hara came from Rome, and the Cafe\u0301 Lux was his. STRASSE is written."""


def memory(text: str | None = TEXT) -> Memory:
    length = len(text or TEXT)
    return Memory("m", "full", {}, "", ("a",), [Block(0, 0, 0, 4, 0, length, text=text)])


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Where was Ada Brisk born?", ()),
        ("Where was Ada Tarsk born?", ("Tarsk",)),
        ("Where was Belo Tarsk born?", ("Belo", "Tarsk")),
        ("Where does Ada Mi live?", ("Mi",)),
        # the first word of a sentence has a capital letter anyway
        ("Describe Belo.", ("Belo",)),
        ("Belo was taught by whom?", ("Belo",)),
        ("Belo's seal has which code?", ("Belo",)),
        ("Nobody was taught by whom?", ()),
        ("Say who it is. Then tell why.", ()),
        # inflected and possessive forms, case, accents, Unicode forms
        ("What is Brisk's seal?", ()),
        ("What is Brisk\u2019s seal?", ()),
        ("What do the Brisks sell?", ()),
        ("What does a Velmian sell?", ()),
        ("What did the Romans sell?", ("Romans",)),
        ("Who lives in Malmo?", ()),
        ("Who lives in Malmo\u0308?", ()),
        ("Who is Zoe M\u00fcller-Dun?", ()),
        ("Who owns the Caf\u00e9 Lux?", ()),
        ("Where is the Strasse?", ()),
        ("Who is O'Hara?", ()),
        ("Who is O'Brien?", ("O'Brien",)),
        # titles, hyphens, abbreviations
        ("Who is Mr. Brisk?", ()),
        ("Who is Mr. Venn's teacher?", ("Venn",)),
        ("What is a Velm-speaking town?", ()),
        ("What is a Tarsk-speaking town?", ("Tarsk",)),
        ("Who is Ada Velm-Tarn?", ("Velm-Tarn",)),
        ("What is the BBC?", ("BBC",)),
        ("What is the UK?", ()),
        # numbers and codes, with and without separators; short numbers may be counts
        ("What happened in 1893 and 1894?", ("1894",)),
        ("Which has 12500 pages?", ()),
        ("Which has 12,500 pages?", ()),
        ("Which has 12,501 pages?", ("12,501",)),
        ("Whose seal is KX-4071?", ()),
        ("Whose seal is KX-4072?", ("KX-4072",)),
        ("Which 20 towns are there?", ()),
        # pronouns and words without capitals are not looked up
        ("Who is she, and what did He say?", ()),
        ("who is belo tarsk?", ()),
        # capitals that tell nothing
        ("WHO IS BELO?", ()),
        ("Who Wrote The Song Of Belo Yesterday?", ()),
        # other languages
        ("Wo wurde der Bürgermeister geboren?", ()),
        ("Was ist die Hauptstadt?", ()),
        ("¿Quién es Belo?", ()),
        ("Kto to jest Belo?", ()),
        ("小王丢了什么", ()),
        ("", ()),
    ],
)
def test_names_of_a_question_that_the_text_lacks(question: str, expected: tuple[str, ...]) -> None:
    assert unmentioned(memory(), question) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Velm", ()),
        ("Tarsk", ("Tarsk",)),
        ("Ada Brisk, Lor Venn and Zoë", ("Lor", "Venn")),
        ("The Song of Belo", ("Belo",)),
        ("It was founded by Lor.", ("Lor",)),
        ("Yes", ()),
        ("12", ()),
        ("1440", ("1440",)),
        ("red fox", ()),
        ("Perhaps it was Ada.", ()),
        ("", ()),
    ],
)
def test_names_of_an_answer_that_the_text_lacks(answer: str, expected: tuple[str, ...]) -> None:
    assert unmentioned(memory(), "Who is it?", answer) == expected


def test_names_are_listed_once_those_of_the_question_first() -> None:
    assert unmentioned(memory(), "Who taught Tarsk?", "Tarsk was taught by Belo, Belo.") == ("Tarsk", "Belo")


def test_a_memory_without_text_is_silent() -> None:
    assert unmentioned(memory(None), "Who taught Tarsk?") == ()
    assert not mentions_none(memory(None), "Who taught Tarsk?")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who taught Belo Tarsk?", True),
        ("Who taught Ada Tarsk?", False),
        ("Is Tarsk older than Ada?", False),
        ("Who taught him?", False),
        ("Wer lehrte Tarsk?", False),
    ],
)
def test_no_name_of_a_question_is_in_the_text(question: str, expected: bool) -> None:
    assert mentions_none(memory(), question) is expected
