"""What is asked around a memory, and what a reply says in each style."""

from __future__ import annotations

import pytest

from memfold.core.prompt import CHAT_TEMPLATES, STYLES, Style, after_memory, final_answer, recalled, target


@pytest.mark.parametrize(
    ("style", "support", "written"),
    [
        ("bare", ("Ada was born in Velm.",), " Velm"),
        ("recall", ("Ada is a smith.", "She is of Velm."), " Ada is a smith. She is of Velm. \\boxed{Velm}"),
        ("free", ("Ada was born in Velm.",), " Ada was born in Velm. \\boxed{Velm}"),
        ("free", (), " \\boxed{Velm}"),
    ],
)
def test_a_written_reply_is_read_back(style: Style, support: tuple[str, ...], written: str) -> None:
    assert target("Velm", support, style) == written
    assert final_answer(written, style) == "Velm"
    assert recalled(written) == ("" if style == "bare" else " ".join(support))


@pytest.mark.parametrize("chat_template", CHAT_TEMPLATES)
def test_every_style_is_asked_for_in_words_of_its_own(chat_template: str) -> None:
    asked = {after_memory(chat_template, "Where?", style) for style in STYLES}  # type: ignore[arg-type]
    assert len(asked) == len(STYLES)
    assert all("\nWhere?\n" in one for one in asked)


def test_without_a_box_the_last_words_are_the_answer_unless_the_reply_is_bare() -> None:
    reply = " ".join(map(str, range(30)))
    assert final_answer(reply, "bare") == reply
    assert final_answer(reply, "free") == final_answer(reply, "recall") == " ".join(map(str, range(10, 30)))
