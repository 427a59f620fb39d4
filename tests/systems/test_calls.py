"""Every system under a scripted policy: exactly the calls that it makes, and the answer taken from the reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from scripted_policy import ScriptedPolicy

from memfold.core.errors import ConfigError, Failure
from memfold.core.job import Job
from memfold.core.registry import SYSTEMS, system_class
from memfold.core.scheduler import answer
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Citation,
    Generate,
    Memory,
    Passage,
    Reply,
    SamplingParams,
    Span,
    TemplatePart,
    Text,
    Trace,
)

TEXTS = ("Ada was born in Velm. ", "The code is KX-41. ", "Lor met Ada. ")
QUESTION = "Where was Ada born?"
REPLY = r" Ada was born in Velm. \boxed{Velm}"
SAMPLING = SamplingParams(max_tokens=160)
FLAT = {
    "recall": "\nWhere was Ada born?\nRecall:",
    "bare": "\nWhere was Ada born?\nAnswer:",
    "free": "\nWhere was Ada born?\nRecall?",
}
MESSAGE = {
    "recall": "\nWhere was Ada born?\nWrite out the sentences of the text above that you need, then give the answer in "
    "\\boxed{}.",
    "bare": "\nWhere was Ada born?\nAnswer from the text above in a few words.",
    "free": "\nWhere was Ada born?\nWrite out sentences of the text above where they help you, and give the answer in "
    "\\boxed{}.",
}
LAYOUTS = [("flat", FLAT), ("plain", FLAT), ("chatml", MESSAGE), ("message", MESSAGE)]
BEFORE, AFTER = TemplatePart("before"), TemplatePart("after")


OPEN: dict[str, dict[str, Any]] = {"kvbank": {"gate": "open"}}  # a scripted policy gives a gate no scores


def replying(text: str, **more: Any) -> ScriptedPolicy:
    """A policy with one reply for everything."""
    return ScriptedPolicy(lambda call: Reply(text, positions=9, **more))


def memory(texts: Sequence[str | None] = TEXTS) -> Memory:
    blocks, start = [], 0
    for index, (text, length) in enumerate(zip(texts, map(len, TEXTS), strict=True)):
        blocks.append(Block(index, 0, 6 * index, 6 * index + 6, start, start + length, text=text))
        start += length
    return Memory("m", "any", {}, "", ("a.txt",), blocks)


def ask(name: str, text: str = REPLY, about: Memory | None = None, **settings: Any) -> tuple[list[Call], Trace]:
    """The calls that a system makes when every reply is `text`, and its trace."""
    policy = replying(text)
    trace = answer(Job(system_class(name).of(settings), about or memory(), QUESTION), policy)
    return policy.calls, trace


@pytest.mark.parametrize("style", ["recall", "bare", "free"])
@pytest.mark.parametrize(("chat_template", "words"), LAYOUTS)
@pytest.mark.parametrize("name", ["pooled", "full"])
def test_one_call_over_all_blocks(name: str, chat_template: str, words: dict[str, str], style: str) -> None:
    calls, trace = ask(name, chat_template=chat_template, style=style)
    assert calls == [
        Call(
            "answer",
            (BEFORE, BlockRef("m", 0), BlockRef("m", 1), BlockRef("m", 2), Text(words[style]), AFTER),
            Generate(SAMPLING),
        )
    ]
    assert [step.call for step in trace.steps] == calls
    assert (trace.system, trace.failure) == (name, None)
    assert trace.settings["style"] == style
    assert trace.settings["chat_template"] == chat_template


@pytest.mark.parametrize("style", ["recall", "bare", "free"])
@pytest.mark.parametrize(("chat_template", "words"), LAYOUTS)
def test_retrieval_reads_the_best_blocks_in_the_order_of_the_document(
    chat_template: str, words: dict[str, str], style: str
) -> None:
    calls, trace = ask("retrieval", chat_template=chat_template, style=style, top=2)
    assert calls == [
        Call(
            "answer",
            (BEFORE, BlockRef("m", 0), BlockRef("m", 2), Text(words[style]), AFTER),
            Generate(SAMPLING),
        )
    ]
    assert (trace.system, trace.failure, trace.settings["top"]) == ("retrieval", None, 2)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_the_answer_is_taken_from_the_reply(name: str) -> None:
    settings = OPEN.get(name, {})
    recalling = ask(name, **settings)[1].answer
    assert isinstance(recalling, Answer)
    assert (recalling.text, recalling.reply) == ("Velm", REPLY)
    assert recalling.citations[0].source == "a.txt"
    bare = ask(name, " Velm ", style="bare", **settings)[1].answer
    assert isinstance(bare, Answer)
    assert (bare.text, bare.reply) == ("Velm", " Velm ")


@pytest.mark.parametrize("name", ["pooled", "full"])
def test_recalled_sentences_are_cited_where_they_stand(name: str) -> None:
    answered = ask(name)[1].answer
    assert isinstance(answered, Answer)
    first = answered.citations[0]
    assert first == Citation("a.txt", 0, 21, "Ada was born in Velm.", first.score)


def test_a_reply_that_never_ends_is_cited_by_its_question() -> None:
    endless = replying("code KX-41 code KX-41", finish="length")
    trace = answer(Job(system_class("pooled")(), memory(), QUESTION), endless)
    assert trace.answer is not None
    assert trace.answer.citations[0].text == "Ada was born in Velm."


def test_a_memory_without_text_asks_for_what_was_attended_to() -> None:
    calls, _ = ask("pooled", about=memory((None, None, None)))
    assert [call.wants for call in calls] == [Generate(SAMPLING, attention=True)]
    by_choice, _ = ask("pooled", cite="attention")
    assert [call.wants for call in by_choice] == [Generate(SAMPLING, attention=True)]


def test_what_was_attended_to_is_cited() -> None:
    attention = (Passage(0, Span(22, 40), 0.5), Passage(0, Span(0, 4), 0.25))
    policy = replying("KX-41", attention=attention)
    trace = answer(Job(system_class("pooled").of({"cite": "attention"}), memory(), QUESTION), policy)
    assert trace.answer is not None
    assert trace.answer.citations == (
        Citation("a.txt", 22, 40, "The code is KX-41.", 0.5),
        Citation("a.txt", 0, 4, "Ada ", 0.25),
    )


@pytest.mark.parametrize("name", sorted(SYSTEMS))
@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_refused_before_any_call(name: str, question: str) -> None:
    policy = replying("x")
    trace = answer(Job(system_class(name)(), memory(), question), policy)
    assert trace.failure == Failure("scheduler", "DataError", "the question is empty; ask something")
    assert (trace.answer, policy.calls) == (None, [])


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_an_unknown_style_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown style 'long'; known: bare, free, recall"):
        system_class(name).of({"style": "long"})
    read_settings = system_class(name).groups[1]
    with pytest.raises(ConfigError, match="unknown style 'long'; known: bare, free, recall"):
        read_settings(style="long")
