"""What is asked around a memory, and what a reply says in each style."""

from __future__ import annotations

import pytest

from memfold.core.prompt import (
    CHAT_TEMPLATES,
    STYLES,
    Style,
    after_memory,
    final_answer,
    recalled,
    target,
    user_message,
)
from memfold.core.types import TemplatePart, Text


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


@pytest.mark.parametrize("style", STYLES)
def test_a_reply_without_a_box_is_the_answer_as_it_is(style: Style) -> None:
    reply = " ".join(map(str, range(30)))
    assert final_answer(f" {reply}\n", style) == reply


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"First \boxed{Tor}, then \boxed{Velm}", "Velm"),
        (r"\boxed{Velm} and \boxed{}", "Velm"),
        (r"\boxed{ } nothing", r"\boxed{ } nothing"),
        (r"\boxed{\text{a {b} c}} d", "a b c"),
        (r"\boxed{Velm} \boxed{\text{}}", "Velm"),
        (r"It is \boxed{Velm", "Velm"),
        ("", ""),
    ],
)
def test_the_last_box_that_holds_something_is_the_answer(reply: str, answer: str) -> None:
    assert final_answer(reply, "recall") == final_answer(reply, "free") == answer
    assert final_answer(reply, "bare") == reply


def test_a_users_message_stands_between_the_parts_of_the_template() -> None:
    assert user_message(Text("a"), Text("b")) == (TemplatePart("before"), Text("a"), Text("b"), TemplatePart("after"))
