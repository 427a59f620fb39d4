"""The suites of a comparison before and after reinforcement learning, and the rows that their records make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reinforcement_statistics import BASELINES, Outcomes

from memfold.evaluation.records import Record
from memfold.evaluation.suite import Options

SHORT = (128, 256, 512, 1024)
NEAR, FAR = (1024,), (8192, 32768, 122880)
KINDS = {"all kinds": 0, "one hop": 1, "two hops": 2}  # kind of question -> hops, 0 for any number
NEEDLE_MAXIMUM = 10.0


@dataclass(frozen=True)
class Measure:
    """Which records make a row of a table, and which of their figures it shows.

    `hops` 0 selects any number of hops, an empty `sizes` all document lengths.  Without a `figure` the outcome is 1 for
    a right answer and 0 for a wrong one, otherwise the figure divided by its `maximum`.
    """

    hops: int = 0
    sizes: tuple[int, ...] = ()
    figure: str = ""
    maximum: float = 1.0

    def outcomes(self, records: Sequence[Record]) -> Outcomes:
        """The outcome of each case; a record without the figure has failed and counts as 0."""
        selected = [record for record in records if self._selects(record)]
        if not self.figure:
            return {record.case: float(record.correct) for record in selected}
        return {record.case: record.figures.get(self.figure, 0.0) / self.maximum for record in selected}

    def _selects(self, record: Record) -> bool:
        return self.hops in (0, record.hops) and (not self.sizes or record.size in self.sizes)


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite, and the rows that its records make.

    Every model answers from slots in the free reply style, with these `settings` of the system.  The supervised model
    also runs as the `baselines`, and with `styled` in each of the other reply styles.  `expansion` marks the run whose
    replies make the tables of recalled sentences and of implicit expansion.
    """

    suite: str
    options: Options
    rows: dict[str, Measure]
    baselines: tuple[str, ...] = BASELINES
    styled: bool = True
    settings: str = ""
    expansion: bool = False


def suite_runs(questions: int, fewer: int = 0) -> tuple[SuiteRun, ...]:
    """All suite runs of a comparison.

    Each split of the almanac has `questions` questions.  The number for the slower suites is derived from `fewer`, by
    default a fifth of `questions`.
    """
    fewer = fewer or max(1, questions // 5)
    needles = _needle_options(NEAR, max(fewer // 4, 11))
    far_needles = _needle_options(FAR, max(fewer * 3 // 4, 33))
    few = max(1, fewer // 4)
    hops, far_hops = (Options((length,), few, ("in",), kinds=("two-hop",)) for length in (4096, 32768))
    strings = Options((1024, 4096), fewer, ("in",), per_document=4)
    texts = Options((256, 512), few, ("in",))
    rouge = Measure(figure="rougeL")
    return (
        SuiteRun("almanac", Options(SHORT, questions, ("in",), level=1), {"level 1, in, one hop": Measure()}),
        _level_3("in", questions, expansion=True),
        _level_3("out", questions),
        SuiteRun("needle", needles, _needle_rows(NEAR)),
        SuiteRun("needle", far_needles, _needle_rows(FAR), ("retrieval",)),
        SuiteRun("multihop", hops, {"multihop, 4,096 tokens": Measure()}),
        SuiteRun("multihop", far_hops, {"multihop, 32,768 tokens": Measure()}, ("retrieval",)),
        SuiteRun("strings", strings, {"exact strings": Measure()}),
        SuiteRun("strings", strings, {"exact strings, unfold": Measure()}, (), settings="/unfold=256"),
        SuiteRun("reconstruction", texts, {"reconstruction, ROUGE-L": rouge}, (), styled=False),
    )


def _level_3(split: str, questions: int, expansion: bool = False) -> SuiteRun:
    rows = {f"level 3, {split}, {kind}": Measure(hops=hops) for kind, hops in KINDS.items()}
    return SuiteRun("almanac", Options(SHORT, questions, (split,)), rows, expansion=expansion)


def _needle_options(lengths: tuple[int, ...], questions: int) -> Options:
    return Options(lengths, questions, ("in",), per_document=4)


def _needle_rows(lengths: tuple[int, ...]) -> dict[str, Measure]:
    """For each length the share of exact answers and the mean score."""
    rows = {}
    for length in lengths:
        score = Measure(sizes=(length,), figure="score", maximum=NEEDLE_MAXIMUM)
        rows[f"needle, {length:,} tokens, exact"] = Measure(sizes=(length,))
        rows[f"needle, {length:,} tokens, tenths of the score"] = score
    return rows
