"""The prompts around a note: those of each part of the text, and that of the last call.

Like the published prompts, they contain the question, the note and the part.  `short`, the default, has our own order:
the question follows the part, with one short request, because a small model that has read a long part otherwise repeats
the part or the note.  The request names the maximum length of a note, so that the token limit rarely cuts off a
sentence.  In the layout `flat`, of small models that are trained here, cues stand in place of requests, as in
`memfold.core.prompt`.  `tagged` has the order of the published prompts (`systems.shared.tagged`).
"""

from __future__ import annotations

from memfold.core.prompt import ChatTemplate, Style, after_memory
from memfold.systems.shared import tagged
from memfold.systems.shared.notes import word_limit
from memfold.systems.shared.tagged import Prompts

Around = tuple[str, str, str]  # texts before the note, between note and part, and after the part
AroundNote = tuple[str, str]


def around_part(prompts: Prompts, template: ChatTemplate, question: str, place: tuple[int, int], tokens: int) -> Around:
    """Return the texts around a note of at most `tokens` tokens and part `place`: its number, from 1, and the count."""
    if prompts == "tagged":
        before = tagged.before_memory(tagged.UPDATE, question)
        return before, f"{tagged.AFTER_MEMORY}\n<section>\n", f"\n</section>\n{tagged.NEW_MEMORY}"
    if template == "flat":
        return "", "\n", after_memory(template, f"\n{question}\nNote:", None)
    request = (
        f"\n{question}\nWrite down what the notes and the text above say about this, in at most {word_limit(tokens)} "
        "words."
    )
    number, count = place
    return "Notes:\n", f"\n\nText, part {number} of {count}:\n", after_memory(template, request, None)


def around_last_note(prompts: Prompts, template: ChatTemplate, question: str, style: Style | None) -> AroundNote:
    """Return the texts around the note that the question is answered from."""
    if prompts == "tagged":
        return tagged.before_memory(tagged.LAST, question), f"{tagged.AFTER_MEMORY}{tagged.ANSWER}"
    return "" if template == "flat" else "Notes on a text:\n", after_memory(template, question, style)
