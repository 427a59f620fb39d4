"""The mixtures of the pooled paper as a preset: `preset = "paper"` in a recipe of stage cpt1, cpt2 or sft.

Sample counts are those of table 2, split over tasks by the percentages of section 3.3.1.  For the ratio of compression
to plain language modelling the text says "approximately 70:30" and "60:40", while table 2 says 220:100 and 400:300; the
table is used.  The data come from this project's generated tasks; recipes for public data list their own mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

from memfold.core.errors import ConfigError
from memfold.core.registry import DEFAULT, PLAIN_TEXT
from memfold.training.recipe import SupervisedEntry


@dataclass(frozen=True)
class Row:
    """One line of the paper's mixture: thousands of samples of a task."""

    task: str
    thousands: float
    system: str = DEFAULT
    bridges: tuple[int, int] = (0, 0)


PAPER: dict[str, tuple[Row, ...]] = {
    # 220K compression samples, reconstruction and continuation in equal parts, one bridge chunk; 100K plain.
    "cpt1": (
        Row("reconstruction", 110),
        Row("continuation", 110, bridges=(1, 1)),
        Row("prose", 100, system=PLAIN_TEXT),
    ),
    # 400K: continuation 40 %, QA 27.5 %, summarisation 17.5 %, reconstruction 15 %, 0-4 bridge chunks; 300K plain.
    "cpt2": (
        Row("continuation", 160, bridges=(0, 4)),
        Row("almanac", 110),
        Row("summarisation", 70),
        Row("reconstruction", 60),
        Row("prose", 300, system=PLAIN_TEXT),
    ),
    # 144K questions over compressed context.
    "sft": (Row("almanac", 144),),
}

# Table 9: sequences of 2,048 tokens in continual pretraining, 4,096 in instruction tuning.
LENGTHS = {"cpt1": 2048, "cpt2": 2048, "sft": 4096}


def paper_mixture(stage: str) -> tuple[SupervisedEntry, ...]:
    """Return the paper's mixture for a stage.

    Raises:
        ConfigError: for a stage that the paper does not have.
    """
    if stage not in PAPER:
        raise ConfigError(f"preset 'paper' has no stage {stage!r}; it has: {', '.join(PAPER)}")
    return tuple(
        SupervisedEntry(row.task, row.thousands, (LENGTHS[stage],), row.system, bridges=row.bridges)
        for row in PAPER[stage]
    )
