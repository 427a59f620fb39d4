"""Text for plain language modelling: an almanac document or filler, without a question.

The text is both the document and the target of the sample.
"""

from __future__ import annotations

from random import Random

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.almanac.page import lay_out
from memfold.tasks.almanac.task import write
from memfold.tasks.almanac.world import BREAK_COST, Unit, token_counter
from memfold.tasks.filler import sentence
from memfold.tasks.task import Encode, TaskOptions


def prose(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """An almanac document as plain text."""
    return [_sample("prose", seed, write(Random(seed), size, options, encode).text, options)]


def filler(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Filler sentences only."""
    rng = Random(seed)
    counter = token_counter(encode)
    units: list[Unit] = []
    left = float(size)
    while left > 0:
        text = sentence(rng)
        left -= counter.count(text) + BREAK_COST
        units.append(text)
    return [_sample("filler", seed, lay_out(rng, units, size, encode).text, options)]


def _sample(task: str, seed: int, text: str, options: TaskOptions) -> Sample:
    return Sample(
        task=task,
        document=Document(source=f"{task}-{seed}", text=text),
        question="",
        target=text,
        kind=task,
        split=options.split,
        level=options.level,
    )
