"""Pools of instructions for the tasks without a question.

Several wordings of different length keep a model from depending on a single one.  Most are short, because every sample
includes one.  Questions need no instruction.
"""

from __future__ import annotations

from random import Random

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "reconstruction": (
        "Write the text again.",
        "Write out the whole text.",
        "Say the text again, word for word.",
        "What does the text say?",
        "Tell the whole story again from its first word.",
        "Above there is a text. Write all of it again, from the first word to the last, with nothing left out.",
    ),
    "continuation": (
        "Go on.",
        "Go on with the text.",
        "Write what comes after this.",
        "How does the text go on?",
        "Read what is there, and then go on from where it ends.",
        "Above there is the first part of a text. Write the part that comes after it, as the same hand would write it.",
    ),
    "cued": (
        "Go on from these words of the text:",
        "What comes after these words?",
        "Find these words and go on:",
        "Write what the text says after this:",
        "These words are in the text. Write what comes after them:",
    ),
    "summarisation": (
        "What is the text about?",
        "Tell in a few words what the text says.",
        "Say what the text is about.",
        "Make a short text of this long one.",
        "Who and what does the text tell of?",
        "Above there is a long text. Write in a few words who and what it tells of, and most of all of whom.",
    ),
}


def instruction(rng: Random, task: str) -> str:
    """A random instruction for a task."""
    return rng.choice(INSTRUCTIONS[task])
