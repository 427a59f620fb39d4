"""The prompts behind a block: the request for a new note, and the question of the gate.

The meaning follows LycheeMemory (the public release for the note; the paper does not print the gate's); the wording is
our own, and short, because it is repeated for each block.  In the layout `flat`, of small models that are trained here,
cues stand in place of requests, as in `memfold.core.prompt`.  `tagged` has the order of the published prompts
(`systems.shared.tagged`).
"""

from __future__ import annotations

from memfold.core.prompt import ChatTemplate, Style, after_memory
from memfold.core.types import BlockRef, Part, TemplatePart, Text
from memfold.systems.kvbank.settings import KvbankFold, KvbankRead
from memfold.systems.shared import tagged
from memfold.systems.shared.notes import word_limit

YES, NO = "yes", "no"  # replies whose likelihoods are the score of an untrained gate


def update(read: KvbankRead, question: str, note: str, tokens: int) -> str:
    """Return what follows a block up to the new note, of at most `tokens` tokens."""
    if read.prompts == "tagged":
        before = tagged.before_memory(tagged.UPDATE_AFTER_BLOCK, question)
        return f"{before}{note}{tagged.AFTER_MEMORY}{tagged.NEW_MEMORY}"
    return after_memory(read.chat_template, _request(read.chat_template, question, note, tokens), None)


def _request(chat_template: ChatTemplate, question: str, note: str, tokens: int) -> str:
    if chat_template == "flat":
        return f"{question}\n{note}\nNote:"
    return (
        f"This part of a long text may help to answer: {question}\nThe note so far: {note}\nWrite the note anew: keep "
        "what bears on the question, and add what this part says about it, with names, numbers and dates as they "
        f"stand. If it adds nothing, repeat the note. Write only the note, in at most {word_limit(tokens)} words."
    )


def helps(chat_template: ChatTemplate, question: str, note: str) -> str:
    """Return the question of the gate, after a block."""
    if chat_template == "flat":
        return f"{question}\n{note}\nHelps?"
    return f"The question: {question}\nKnown so far: {note}\nDoes the part above help to answer? yes or no:"


def around_last_note(read: KvbankRead, question: str, style: Style | None) -> tuple[str, str]:
    """Return what stands before and after the note when the question is answered from it."""
    if read.prompts == "tagged":
        return tagged.before_memory(tagged.LAST, question), f"{tagged.AFTER_MEMORY}{tagged.ANSWER}"
    before = "" if read.chat_template == "flat" else "This note was written while a long text was read:\n"
    return before, after_memory(read.chat_template, question, style)


def block_message(fold: KvbankFold, memory: str, index: int, closing: str) -> tuple[Part, ...]:
    """Return the parts of a message that reads a block and ends with a text.

    What begins the prompt is part of the block's prefix, unless the block comes first (`KvbankFold.opening`).
    """
    block = BlockRef(memory, index)
    opened = () if fold.opening else (TemplatePart("before"),)
    return block, *opened, Text(closing), TemplatePart("after")
