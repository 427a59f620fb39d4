"""The words around a note: what is asked for each chunk, and what stands before the question at the end.

They are the same for every chat template.  The published prompts have the same slots (question, note, chunk); the words
are ours, and they tell the model how long a note may get, so that the limit rarely cuts a sentence.
"""

from __future__ import annotations

EMPTY = "(nothing yet)"  # a note in which nothing has been kept
WORDS_PER_TOKEN = 0.75


def before_note(question: str) -> str:
    """What opens an update, up to the note."""
    return (
        "A long text is read part by part. All that is kept of it is one note, which must help to answer this "
        f"question:\n{question}\n\nThe note so far:\n"
    )


def between(number: int, count: int) -> str:
    """What stands between the note and part `number` of `count`, counted from 1."""
    return f"\n\nPart {number} of {count} of the text:\n"


def request(tokens: int) -> str:
    """What is asked about a part, for a note of at most `tokens` tokens."""
    words = max(1, int(tokens * WORDS_PER_TOKEN))
    return (
        "\nWrite the note anew. Keep everything in it that bears on the question, add what this part says about it, "
        "with names, numbers and dates exactly as they stand and whole sentences where their wording matters, and "
        "leave out all else. If this part adds nothing, repeat the note as it is. "
        f"Write only the note, in at most {words} words."
    )


BEFORE_LAST_NOTE = "This note was kept while a long text was read; the text itself is gone:\n"
