"""The prompts around a note: those of each part of the text, and that of the last call.

They are the same for all chat templates but `flat`, that of small models that are trained here, where cues stand in
place of requests, as in `memfold.core.prompt`.  Like the published prompts, they contain the question, the note and the
part.  The wording and the order are our own: the question follows the part, with one short request, because a small
model that has read a long part otherwise repeats the part or the note.  The request names the maximum length of a note,
so that the token limit rarely cuts off a sentence.
"""

from __future__ import annotations

from memfold.core.prompt import ChatTemplate
from memfold.systems.shared.notes import word_limit


def before_note(chat_template: ChatTemplate) -> str:
    """Return the text before the note of each part."""
    return "" if chat_template == "flat" else "Notes:\n"


def before_last_note(chat_template: ChatTemplate) -> str:
    """Return the text before the note that the question is answered from."""
    return "" if chat_template == "flat" else "Notes on a text:\n"


def between(chat_template: ChatTemplate, number: int, count: int) -> str:
    """Return the text between the note and part `number` of `count`, counted from 1."""
    return "\n" if chat_template == "flat" else f"\n\nText, part {number} of {count}:\n"


def request(chat_template: ChatTemplate, question: str, tokens: int) -> str:
    """Return the request that follows a part of the text, for a note of at most `tokens` tokens."""
    if chat_template == "flat":
        return f"\n{question}\nNote:"
    return (
        f"\n{question}\nWrite down what the notes and the text above say about this, in at most {word_limit(tokens)} "
        "words."
    )
