"""The mixtures of the pooled paper as a preset: `preset = "paper"` in a recipe of stage cpt1, cpt2 or sft.

Counts of samples are those of table 2, split over tasks by the percentages of section 3.3.1.  The text says that
compression to standard language modelling is "approximately 70:30" and "60:40"; table 2 says 220:100 and 400:300: the
table wins.
The data are this project's generated tasks; a recipe for public data names its own mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

from memfold.core.errors import ConfigError
from memfold.training.recipe import Share


@dataclass(frozen=True)
class Row:
    """One line of the paper's mixture: thousands of samples of a task."""

    task: str
    thousands: float
    system: str = "pooled"
    bridges: tuple[int, int] = (0, 0)


PAPER: dict[str, tuple[Row, ...]] = {
    # 220K compression samples, reconstruction and continuation in equal parts, one bridge chunk; 100K plain.
    "cpt1": (
        Row("reconstruction", 110),
        Row("continuation", 110, bridges=(1, 1)),
        Row("prose", 100, system="full"),
    ),
    # 400K: continuation 40 %, QA 27.5 %, summarisation 17.5 %, reconstruction 15 %, 0-4 bridge chunks; 300K plain.
    "cpt2": (
        Row("continuation", 160, bridges=(0, 4)),
        Row("almanac", 110),
        Row("summarisation", 70),
        Row("reconstruction", 60),
        Row("prose", 300, system="full"),
    ),
    # 144K questions over compressed context.
    "sft": (Row("almanac", 144),),
}

# Table 9: sequences of 2,048 tokens in continual pretraining, 4,096 in instruction tuning; 16 to a slot.
LENGTHS = {"cpt1": 2048, "cpt2": 2048, "sft": 4096}
RATIO = 16


def paper_mixture(stage: str) -> tuple[Share, ...]:
    """The mixture of a stage of the paper.

    Raises:
        ConfigError: for a stage that the paper does not have.
    """
    if stage not in PAPER:
        raise ConfigError(f"preset 'paper' has no stage {stage!r}; it has: {', '.join(PAPER)}")
    return tuple(
        Share(row.task, row.thousands, (LENGTHS[stage],), row.system, (RATIO,), bridges=row.bridges)
        for row in PAPER[stage]
    )
