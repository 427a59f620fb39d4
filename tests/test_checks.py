"""What a response says about its answer: support, names that are not in the text, withheld answers, warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memfold.backbone import familiarity
from memfold.backbone.model import Backbone
from memfold.checks import SCANNED, is_withheld, memory_warning, respond
from memfold.core.errors import Failure
from memfold.core.prompt import ABSENT
from memfold.core.types import Answer, Block, Call, Memory, Reply, Step, Trace
from memfold.response import Response
from memfold.session import Session
from memfold.systems.full.system import Full
from memfold.systems.shared.citations import check_reply
from memfold.systems.shared.statements import states

TEXT = "Ada was born in Velm. Lor was born in Tarn. She sells wax, ink and salt. Four of them stayed."
FOREIGN = "%% Der Bürgermeister kam am Abend. "


def memory(text: str | None = TEXT, length: int = 0) -> Memory:
    return Memory("m", "full", {}, "", ("a",), [Block(0, 0, 0, 20, 0, length or len(text or ""), text=text)])


def response(model: Backbone, question: str, reply: str, held: Memory | None = None, warning: str = "") -> Response:
    """The response to a reply whose answer is in a box."""
    answer = reply.partition("{")[2].rstrip("}")
    trace = Trace(question, "full", steps=(Step(Call("answer", ()), Reply(reply)),), answer=Answer(answer, reply))
    return respond(held or memory(), Session(Full(), model), trace, warning or None, 0.0)


def test_an_answer_of_the_text_is_given(backbone: Backbone) -> None:
    given = response(backbone, "Where was Ada born?", r"Ada was born in Velm. \boxed{Velm}")
    assert (given.text, given.supported, given.withheld, given.unmentioned) == ("Velm", True, None, ())
    assert given.warning is None
    assert given.record()["unmentioned"] == []
    assert given.record()["withheld"] is None


@pytest.fixture
def taught(new_backbone: Any) -> Backbone:
    """A model that was trained here."""
    backbone: Backbone = new_backbone()
    backbone.trained = {"full": {}}
    return backbone


def test_an_invented_answer_is_withheld_and_nothing_is_lost(taught: Backbone) -> None:
    given = response(taught, "When was Ada born?", r"Ada was born in 1440. \boxed{1440}")
    assert (given.text, given.withheld, given.unmentioned) == (ABSENT, "1440", ("1440",))
    assert given.supported is None, "there is no answer that could be supported"
    (recall,) = given.recalls
    assert not recall.supported
    record = given.record()
    assert (record["answer"], record["withheld"], record["recalled"]) == (ABSENT, "1440", "Ada was born in 1440.")


def test_answers_of_other_models_are_marked_and_given(new_backbone: Any) -> None:
    """They word freely what they recall: a right answer may be in other words than the text."""
    given = response(new_backbone(), "When was Ada born?", r"Ada was born in 1440. \boxed{1440}")
    assert (given.text, given.withheld, given.supported, given.unmentioned) == ("1440", None, False, ("1440",))


def test_an_answer_about_a_name_that_the_text_never_has_is_withheld(taught: Backbone) -> None:
    given = response(taught, "Where was Belo Tarsk born?", r"Ada was born in Velm. \boxed{Velm}")
    assert (given.text, given.withheld, given.unmentioned) == (ABSENT, "Velm", ("Belo", "Tarsk"))
    known = response(taught, "Was Belo Tarsk older than Ada?", r"Ada was born in Velm. \boxed{Ada}")
    assert (known.text, known.withheld, known.unmentioned) == ("Ada", None, ("Belo", "Tarsk"))


def test_an_answer_without_recalled_sentences_is_marked_and_given(backbone: Backbone) -> None:
    """A model that answers in its own words is not held to those of the text."""
    given = response(backbone, "Where was Ada born?", r"\boxed{Zork}")
    assert (given.text, given.supported, given.withheld, given.unmentioned) == ("Zork", False, None, ("Zork",))


@pytest.mark.parametrize(
    ("answer", "supported"),
    [
        ("Ada was born in Velm.", True),
        ("The place where Ada was born is Velm", None),
        ("It was probably somewhere in the north.", None),
        ("She sold wax", None),
        ("Nothing.", None),
        ("Velm", True),
        ("5 March 1440", False),
        ("the Zork of Tarn", False),
        ("41", True),  # it may have been counted
    ],
)
def test_a_sentence_of_a_models_own_is_not_held_to_the_words_of_the_text(
    new_backbone: Any, taught: Backbone, answer: str, supported: bool | None
) -> None:
    """Only a name, a date or a number alone must stand in the text, as in the answers of a model trained here."""
    assert response(new_backbone(), "Where was Ada born?", rf"\boxed{{{answer}}}").supported is supported
    assert response(taught, "Where was Ada born?", rf"\boxed{{{answer}}}").supported is bool(supported)


def test_a_refusal_is_not_withheld(backbone: Backbone) -> None:
    given = response(backbone, "Where was Belo born?", rf"\boxed{{{ABSENT}}}")
    assert (given.text, given.withheld, given.unmentioned) == (ABSENT, None, ("Belo",))


def test_without_text_nothing_is_withheld_or_marked(backbone: Backbone) -> None:
    bare = memory(None, 60)
    given = response(backbone, "Where was Belo born?", r"Belo was born in Zork. \boxed{Zork}", bare)
    assert (given.text, given.supported, given.withheld, given.unmentioned) == ("Zork", None, None, ())


def test_a_failed_question_has_no_marks(backbone: Backbone) -> None:
    trace = Trace("Where was Belo born?", "full", failure=Failure("system", "CallError", "it failed"))
    given = respond(memory(), Session(Full(), backbone), trace, "this text is unlike", 0.0)
    assert (given.text, given.warning, given.unmentioned, given.withheld) == ("", None, (), None)


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        ("", "Velm", None),
        ("Ada was born in Velm.", "Velm", True),
        # an answer may follow from sentences of the text in other words
        ("Ada was born in Velm. Lor was born in Tarn.", "in different towns", True),
        ("Ada was born in Velm. Lor was born in Zork.", "in different towns", False),
        ("Ada was born in Zork.", "Yes", None),
        # the recalled sentence is worded differently, but its place in the text has the answer
        ("Ada was born in the town of Velm.", "Velm", True),
        ("Ada was born in the town of Tarn.", "Zork", False),
        # every item of a listing
        ("She sells wax, ink and salt.", "wax, ink and salt", True),
        ("He sells wax, ink and salt.", "wax, ink and salt", True),
        ("He sells wax, ink and salt.", "wax and tin", False),
        # a short number may have been counted, if the text has all that was counted
        ("Ada was born in Velm. Lor was born in Tarn.", "2", True),
        ("Ada was born in Velm. Zed was born in Zork.", "2", False),
        ("Ada was born in 1440.", "1440", False),
        ("Ada was born in 1440.", "14", False),
        # nothing in the text is near
        ("Zed zzz.", "Zed", False),
    ],
)
def test_whether_the_text_states_an_answer(reply: str, answer: str, expected: bool | None) -> None:
    recalls = check_reply(memory(), f"{reply} \\boxed{{{answer}}}")
    assert states(memory(), "Who is it?", recalls, answer) is expected
    assert is_withheld(memory(), "Who is it?", recalls, answer) is (expected is False)


ABOUT = "The mill of Tor is old. It was built by Lor. Velm has 41 sheep. Ada lives in Velm. Its mayor is Bel Zo."


@pytest.mark.parametrize(
    ("question", "reply", "answer", "expected"),
    [
        # the nearest sentence is about another name
        ("Who built the mill of Zan?", "The mill of Zan was built by Lor.", "Lor", False),
        ("Who built the mill of Tor?", "The mill of Tor was built by Lor.", "Lor", True),
        ("Who lives in Velm?", "The one who lives in Velm is Zed.", "Velm", False),
        # a pronoun stands for a name of the sentences before
        ("Who is the mayor of Velm?", "The mayor of Velm is Bel Zo.", "Bel Zo", True),
        ("Who is the mayor of Tarn?", "The mayor of Tarn is Bel Zo.", "Bel Zo", False),
        ("Who is the mayor of Velm?", "Its mayor is Bel Zo.", "Bel Zo", True),
        # a name that was not recalled
        ("Who is Ada?", "She lives there in Velm.", "Velm", True),
        ("Who is Lor?", "He lives there in Velm.", "Velm", False),
        # sentences of the text that speak of no name of the question
        ("Where does Lor live?", "Velm has 41 sheep.", "Velm", False),
        ("How many sheep does Velm have?", "Velm has 41 sheep.", "41", True),
        # a form that the question does not ask for
        ("How many sheep does Velm have?", "Ada lives in Velm.", "Ada", False),
        ("In which year was Velm founded?", "Velm has 41 sheep.", "sheep", False),
        ("How many sheep does Velm have?", "Velm has 41 sheep.", "forty", True),
        # a name that is in none of the recalled sentences
        ("Where is the mill of Tor?", "The mill of Tor is old.", "Velm", False),
        # in another language, the words alone decide
        ("Wer lebt in Tarn?", "In Tarn lebt Ada in Velm.", "Ada", True),
    ],
)
def test_recalled_sentences_must_speak_of_what_was_asked(
    question: str, reply: str, answer: str, expected: bool
) -> None:
    about = memory(ABOUT)
    assert states(about, question, check_reply(about, f"{reply} \\boxed{{{answer}}}"), answer) is expected


def test_a_foreign_text_is_warned_about_beside_every_answer(wary: Backbone) -> None:
    foreign = memory(FOREIGN * 40)
    warning = memory_warning(foreign, wary)
    assert warning is not None
    assert warning.startswith("this text is unlike the training text")
    given = response(wary, "Wer kam am Abend?", r"\boxed{Ada}", foreign, warning)
    assert given.warning == warning
    assert given.record()["warning"] == warning
    assert given.passages[0].text == FOREIGN.strip()


def test_a_warning_does_not_hide_that_the_reply_was_cut_off(wary: Backbone) -> None:
    reply = Reply("Ada", finish="length")
    trace = Trace("Wer?", "full", steps=(Step(Call("answer", ()), reply),), answer=Answer("Ada", "Ada"))
    warning = respond(memory(), Session(Full(), wary), trace, "this text is unlike", 0.0).warning
    assert warning is not None
    assert warning.startswith("this text is unlike; the reply did not end")


def test_a_question_about_a_foreign_passage_is_warned_about(wary: Backbone) -> None:
    """Even if the passage is too short for the windows in which the memory is checked."""
    mixed = memory(" ".join([TEXT] * 20) + " " + FOREIGN + " ".join([TEXT] * 20))
    about_it = response(wary, "Was tat der Bürgermeister?", r"\boxed{Ada}", mixed)
    assert about_it.warning is not None
    assert about_it.warning.startswith("the passage that matches the question is unlike")
    assert about_it.passages[0].text == FOREIGN.strip()
    assert response(wary, "Where was Ada born?", r"\boxed{Velm}", mixed).warning is None


def test_slots_without_text_are_judged_by_their_tokens(wary: Backbone) -> None:
    assert memory_warning(memory(None, 1), wary) is None
    wary.familiar_characters = 2.5
    assert memory_warning(memory(None, 50), wary) is None  # 20 tokens
    warned = memory_warning(memory(None, 49), wary)
    assert warned is not None
    assert "2.5 characters per token" in warned


def test_a_long_memory_is_read_in_blocks_spread_evenly(wary: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    size, read = SCANNED // 10, list[str]()
    blocks = [Block(n, 0, 0, 1, n * size, (n + 1) * size, text=f"{n:<{size}}") for n in range(50)]
    monkeypatch.setattr(familiarity, "warning", lambda _, text: read.append(text))
    memory_warning(replace(memory(), blocks=blocks), wary)
    assert read[0].split() == [str(number) for number in range(0, 50, 5)]
    assert len(read[0]) == SCANNED


def test_nothing_is_said_of_a_memory_without_blocks_or_a_model_without_limits(wary: Backbone) -> None:
    assert memory_warning(replace(memory(), blocks=[]), wary) is None
    wary.familiar_loss = None
    assert memory_warning(memory(FOREIGN * 40), wary) is None
    assert response(wary, "Was tat der Bürgermeister?", r"\boxed{Ada}", memory(FOREIGN)).warning is None
