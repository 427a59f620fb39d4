"""The prompts around a note: the request for each chunk, and the text before the question in the last call.

They are the same for all chat templates.  Like the published prompts, they contain the question, the note and the
chunk.  The wording is different, and it includes the maximum length of a note, so that the token limit rarely cuts off
a sentence.
"""

from __future__ import annotations

from memfold.systems.shared.notes import word_limit


def before_note(question: str) -> str:
    """Return the beginning of an update prompt, up to the note."""
    return (
        "A long text is read part by part. All that is kept of it is one note, which must help to answer this "
        f"question:\n{question}\n\nThe note so far:\n"
    )


def between(number: int, count: int) -> str:
    """Return the text between the note and part `number` of `count`, counted from 1."""
    return f"\n\nPart {number} of {count} of the text:\n"


def request(tokens: int) -> str:
    """Return the request that follows a part of the text, for a note of at most `tokens` tokens."""
    return (
        "\nWrite the note anew. Keep everything in it that bears on the question, add what this part says about it, "
        "with names, numbers and dates exactly as they stand and whole sentences where their wording matters, and "
        "leave out all else. If this part adds nothing, repeat the note as it is. "
        f"Write only the note, in at most {word_limit(tokens)} words."
    )


BEFORE_LAST_NOTE = "This note was kept while a long text was read; the text itself is gone:\n"
