"""Prompts in the form of the published MemAgent and LycheeMemory: the problem, then the memory, each in tags.

Weights that were trained with such prompts expect their order and their tags.  The wording is our own, because theirs
is not ours to copy, so replies may differ from published ones.  The last prompt asks for the answer in `\\boxed{}`, as
in the training of both.
"""

from __future__ import annotations

from typing import Literal

Prompts = Literal["short", "tagged"]
PROMPTS: tuple[Prompts, ...] = ("short", "tagged")
KEEP = "Keep every detail of the old memory that bears on the problem, and add what is new."


def tagged(name: str, text: str) -> str:
    """Return a text in tags."""
    return f"<{name}>\n{text}\n</{name}>\n"


def before_memory(request: str, question: str) -> str:
    """Return the text from the beginning of a prompt to the memory."""
    return f"{request}\n\n{tagged('problem', question)}\n<memory>\n"


AFTER_MEMORY = "\n</memory>\n"
UPDATE = (
    "A problem is to be solved with an article that is read section by section. Read this section and write the memory "
    f"anew. {KEEP}"
)
UPDATE_AFTER_BLOCK = (
    "The section above belongs to an article, and may help to solve the problem below. Write the memory anew. " + KEEP
)
LAST = "Solve the problem with the memory of an article. Put the answer in \\boxed{}."
NEW_MEMORY, ANSWER = "\nNew memory:\n", "\nAnswer:\n"
