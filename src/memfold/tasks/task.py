"""The interface of a task: a pure function from a seed and a size to samples, with those of one document in a row.

A task never uses the network, the clock or global random state.  A new task is a file and a line in `table.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from memfold.core.config import require, require_known
from memfold.core.types import Sample

# text -> token ids of the model's tokenizer, without special tokens
Encode = Callable[[str], list[int]]

SPLITS = ("in", "out")
Places = Literal["random", "published"]
PLACES: tuple[Places, ...] = ("random", "published")


@dataclass(frozen=True)
class TaskOptions:
    """Settings of a task; each task uses those that apply to it.

    `level` is the difficulty (0-3), `split` in or out of distribution, `samples` the number of questions (or cues)
    about a document, and `kinds` restricts the kinds of question (empty: all kinds of the level).  `bridges` are the
    fewest and the most bridge chunks of a continuation, `ratio` is their length in tokens, and `filler` the fraction of
    filler sentences.  Tasks on local data read `files`, which for questions have the layout of `dataset`, and with
    `held_out` only the rows that are held out for validation.  Of questions, those are left out that a model knows
    without a text (`known` names samples of closed-book evaluations) and, with `in_text`, those none of whose answers
    stands in their document.  `places` says where a long document has the paragraphs of its own question.
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
    known: tuple[str, ...] = ()
    in_text: bool = False
    places: Places = "random"

    def __post_init__(self) -> None:
        require(0 <= self.level <= 3, "level", self.level, "0 to 3")
        require_known("split", self.split, SPLITS)
        require(self.samples > 0, "samples", self.samples, "1 or more")
        require(0 <= self.bridges[0] <= self.bridges[1], "bridges", self.bridges, "the minimum, then the maximum")
        require(self.ratio > 0, "ratio", self.ratio, "1 or more")
        require(0 <= self.filler <= 1, "filler", self.filler, "0 to 1")
        require_known("places", self.places, PLACES)


class Task(Protocol):
    """Makes samples; `size` is the length of the document in tokens, which is at most that and close to it."""

    def __call__(self, seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
        """Samples for one seed."""
        ...
