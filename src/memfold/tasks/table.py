"""The table of tasks by name; a task is imported when it is loaded."""

from __future__ import annotations

from typing import cast

from memfold.core.registry import load
from memfold.tasks.task import Task

TASKS = {
    "almanac": "memfold.tasks.almanac.task:almanac",
    "spread": "memfold.tasks.almanac.spread:spread",
    "prose": "memfold.tasks.prose:prose",
    "filler": "memfold.tasks.prose:filler",
    "needle": "memfold.tasks.needle:needle",
    "reconstruction": "memfold.tasks.reconstruction:reconstruction",
    "continuation": "memfold.tasks.reconstruction:continuation",
    "cued": "memfold.tasks.reconstruction:cued",
    "sentence": "memfold.tasks.reconstruction:sentence",
    "group": "memfold.tasks.reconstruction:group",
    "summarisation": "memfold.tasks.summarisation:summarisation",
    "induction": "memfold.tasks.induction:induction",
    "text": "memfold.tasks.local:text",
    "text-reconstruction": "memfold.tasks.local:text_reconstruction",
    "text-continuation": "memfold.tasks.local:text_continuation",
    "summaries": "memfold.tasks.local:summaries",
    "questions": "memfold.tasks.local:questions",
    "long-questions": "memfold.tasks.local:long_questions",
}
LONG_QUESTIONS = "long-questions"  # among paragraphs of other questions
DATASET_TASKS = ("questions", LONG_QUESTIONS)  # read the questions of a dataset
LOCAL = ("text", "text-reconstruction", "text-continuation", "summaries", *DATASET_TASKS)  # read files of a recipe
# make documents of text; the last two make no questions
TEXTS = ("almanac", "spread", "needle", "summarisation", "prose", "filler")

_NEEDLES = "memfold.tasks.needle:NEEDLES"
# task -> the kinds of what it makes, of which a recipe may choose some; the others have none
KINDS = {
    "almanac": "memfold.tasks.almanac.questions:ALL_KINDS",
    "spread": "memfold.tasks.almanac.spread:KINDS",
    "needle": _NEEDLES,
    "reconstruction": _NEEDLES,
    "continuation": _NEEDLES,
    "cued": _NEEDLES,
    "sentence": _NEEDLES,
    "group": _NEEDLES,
    "induction": "memfold.tasks.induction:KINDS",
}


def kinds_of(name: str) -> tuple[str, ...]:
    """The kinds that a task chooses from; empty for a task without kinds."""
    return tuple(load("task", name, KINDS)) if name in KINDS else ()


def load_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: if the name is not in `TASKS`.
    """
    return cast(Task, load("task", name, TASKS))
