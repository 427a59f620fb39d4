"""What a task is: a pure function from a seed and a size to samples, those of one document next to each other.

A task never reads the network, the clock or global random state.  Adding one is a file and a line in `table.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from memfold.core.types import Sample

# text -> token ids, as the backbone's tokenizer gives them, without special tokens
Encode = Callable[[str], list[int]]

SPLITS = ("in", "out")


@dataclass(frozen=True)
class TaskOptions:
    """Settings of a task; each task reads those that concern it.

    `level` 0-3 is the difficulty, `split` in or out of distribution, `samples` how many questions (or cues) to ask
    about the one document, `kinds` restricts the kinds of question (empty: all that the level has), `bridges` the
    fewest and the most bridge chunks of a continuation, `ratio` their length in tokens, `filler` the share of filler
    prose.  Tasks on local data read `files` (of questions, in the layout of `dataset`), or what is held out of them.
    """

    level: int = 3
    split: str = "in"
    samples: int = 1
    kinds: tuple[str, ...] = ()
    bridges: tuple[int, int] = (0, 0)
    ratio: int = 16
    filler: float = 0.0
    files: tuple[str, ...] = ()
    dataset: str | None = None
    held_out: bool = False


class Task(Protocol):
    """`size` is the wanted length of the document in tokens; the document is at most that long, and close to it."""

    def __call__(self, seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
        """Samples for one seed."""
        ...
