"""Text for plain language modelling: an almanac document, or filler alone, with no question.

The sample's target is the text itself, which is also its document.
"""

from __future__ import annotations

from random import Random

from memfold.core.document import Document
from memfold.core.types import Sample
from memfold.tasks.almanac.page import lay_out
from memfold.tasks.almanac.task import write
from memfold.tasks.almanac.world import BREAK_COST, Unit, meter
from memfold.tasks.filler import sentence
from memfold.tasks.task import Encode, TaskOptions


def prose(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """An almanac document to be read as plain text."""
    return [_sample("prose", seed, write(Random(seed), size, options, encode).text, options)]


def filler(seed: int, size: int, options: TaskOptions, encode: Encode) -> list[Sample]:
    """Filler sentences only."""
    rng = Random(seed)
    gauge = meter(encode)
    units: list[Unit] = []
    left = float(size)
    while left > 0:
        text = sentence(rng)
        left -= gauge.count(text) + BREAK_COST
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
