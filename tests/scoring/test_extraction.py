import pytest

from memfold.scoring.extraction import choice_letter, short_answer

LONG = " ".join(f"word{number}" for number in range(30))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"Ada was born in Velm. \boxed{Velm}", "Velm"),
        (r"\boxed{Tor} or \boxed{Velm {Tor}}", "Velm {Tor}"),
        (r"Answer: Tor. \boxed{Velm}", "Velm"),
        ("Answer: Velm", "Velm"),
        ("He was born there.\n**Answer:** Velm Tor\nThat is all.", "Velm Tor"),
        ("Answer: Tor\nFinal answer: Velm.", "Velm."),
        ("The answer is: Velm", "Velm"),
        ("answer :\nVelm", "Velm"),
        ("Answer:", "Answer:"),
        ("Velm", "Velm"),
        (LONG, " ".join(LONG.split()[-20:])),
        ("", ""),
    ],
)
def test_the_answer_of_a_reply(reply: str, answer: str) -> None:
    assert short_answer(reply) == answer


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("C", "C"),
        ("(C)", "C"),
        ("B.", "B"),
        ("D) The river.", "D"),
        ("**A**", "A"),
        ("A\n\nBecause it says so.", "A"),
        ("The correct answer is (C).", "C"),
        ("The correct answer is B because the town lies there.", "B"),
        ("I first thought the answer is A. But the answer is D", "D"),
        ("Answer: **B**", "B"),
        ("The right choice would be\n(A)", "A"),
        (r"The text says so. \boxed{C}", "C"),
        (r"The answer is B. \boxed{\text{D}}", "D"),
        (r"\boxed{A. Velm}", "A"),
        ("It can only be (B) given the text.", "B"),
        ("Both (A) and (B) are possible.", None),
        ("A town by the sea.", None),
        ("The answer is A town by the sea.", None),
        ("Canada is the answer", None),
        ("E", None),
        ("", None),
    ],
)
def test_the_letter_of_a_reply(reply: str, letter: str | None) -> None:
    assert choice_letter(reply) == letter
