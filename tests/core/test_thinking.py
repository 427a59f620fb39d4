"""What a reasoning model thinks is never part of its reply, whole or in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfold.core.thinking import MARKS, ReplyStream, opens_thinking, split_thinking

TEXTS = st.text(alphabet="ab <>/[]|\n", max_size=12)


@pytest.mark.parametrize(("opening", "closing"), MARKS)
@pytest.mark.parametrize("space", ["", "\n"])
def test_thoughts_end_at_their_mark(opening: str, closing: str, space: str) -> None:
    written = f"{space}{opening}\nIt says Velm.\n{closing}\n\n In Velm."
    assert split_thinking(written) == ("It says Velm.", "In Velm.")
    assert split_thinking(f"It says Velm.{closing} In Velm.", opened=True) == ("It says Velm.", "In Velm.")
    assert split_thinking(f"It says Velm.{closing} In Velm.") == ("It says Velm.", "In Velm.")


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_thoughts_without_an_end_leave_no_reply(opening: str, closing: str) -> None:
    assert split_thinking(f"{opening}It says \\boxed{{Velm}}") == ("It says \\boxed{Velm}", "")
    assert split_thinking("It says <answer>Velm</answer>", opened=True) == ("It says <answer>Velm</answer>", "")
    assert split_thinking(f"{opening}{closing}") == ("", "")


def test_thoughts_may_follow_thoughts() -> None:
    assert split_thinking("<think>a</think>\n<think>b</think> c </think> d") == ("a\nb", "c </think> d")
    assert split_thinking("<think>a</think><think>b") == ("a\nb", "")


def test_a_reply_about_marks_is_a_reply() -> None:
    about = " The marks are <think> and </think>."
    assert split_thinking(about) == ("", about)
    assert split_thinking("<think>a</think> It is </think>.") == ("a", "It is </think>.")


@given(TEXTS)
def test_a_reply_without_marks_is_kept_as_it_is(text: str) -> None:
    assert split_thinking(text) == ("", text)


@given(TEXTS, TEXTS, st.sampled_from(MARKS), st.booleans(), st.lists(st.integers(0, 60), max_size=9))
def test_a_stream_shows_the_reply_and_nothing_else(
    thoughts: str, reply: str, marks: tuple[str, str], opened: bool, cuts: list[int]
) -> None:
    written = f"{'' if opened else marks[0]}{thoughts}{marks[1]}{reply}"
    shown: list[str] = []
    stream = ReplyStream(shown.append, opened)
    for cut in sorted(cuts):
        stream.update(written[:cut])
        assert split_thinking(written, opened)[1].startswith("".join(shown))
    stream.update(written, ended=True)
    assert "".join(shown) == split_thinking(written, opened)[1] == reply.lstrip()


@given(TEXTS, st.lists(st.integers(0, 12), max_size=5))
def test_a_stream_without_thoughts_loses_nothing(text: str, cuts: list[int]) -> None:
    shown: list[str] = []
    stream = ReplyStream(shown.append)
    for cut in sorted(cuts):
        stream.update(text[:cut])
    stream.update(text, ended=True)
    assert "".join(shown) == text


def test_prompts_that_open_thinking() -> None:
    assert opens_thinking("<|Assistant|><think>\n")
    assert not opens_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n")
