"""Defines the interface of a suite: its cases, how each is asked and scored, and its tables and figures.

Adding a suite takes a file and a line in `SUITES`; the runner, the report and the command do not name any suite.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, cast

from memfold.core.config import require
from memfold.core.document import Document
from memfold.core.errors import ConfigError, unknown
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.registry import load
from memfold.core.types import Memory, Sample, Trace
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.records import Record
from memfold.evaluation.sampling import GREEDY, check_sampling
from memfold.evaluation.table import Plot, Table
from memfold.readers.files import open_document
from memfold.tasks.task import SPLITS

SUITES = {
    "almanac": "memfold.evaluation.suites.almanac:AlmanacSuite",
    "needle": "memfold.evaluation.suites.needle:NeedleSuite",
    "strings": "memfold.evaluation.suites.strings:StringsSuite",
    "multihop": "memfold.evaluation.suites.multihop:MultihopSuite",
    "ruler": "memfold.evaluation.suites.ruler:RulerSuite",
    "ruler-hqa": "memfold.evaluation.suites.ruler_hqa:RulerHqaSuite",
    "qa": "memfold.evaluation.suites.qa:QaSuite",
    "longbench-v2": "memfold.evaluation.suites.longbench:LongBenchSuite",
    "fidelity": "memfold.evaluation.suites.fidelity:FidelitySuite",
    "reconstruction": "memfold.evaluation.suites.reconstruction:ReconstructionSuite",
}

# Training draws 40-bit seeds, so no document of an evaluation has ever been trained on.
FIRST_SEED = 1 << 41
SEED_BYTES = 5
HAYSTACKS = ("filler", "almanac")
EVEN, GRADED, LONG = "even", "graded", "long"
# questions of a split and length by how long its documents may be: the longer, the more each one costs
CELLS = {
    GRADED: ((4096, 1000), (32768, 128), (sys.maxsize, 32)),
    LONG: ((229_376, 256), (917_504, 64), (sys.maxsize, 16)),
}
PER_CELL = (EVEN, *CELLS)
FLAGS = {"kinds": "kind", "per_cell": "cells", "splits": "split"}  # options with another name on the command line


@dataclass(frozen=True)
class Options:
    """What is asked of a suite.

    `lengths` are document lengths in tokens; `questions` are those asked of each system in all, spread evenly over
    splits and lengths; `per_document` of them share a document; `level` 0-3 is the almanac's difficulty; `sampling`
    says how replies are drawn; `max_tokens` limits a reply, by default as it suits the model.

    Those below `seed` are read by the suites that say so (`Suite.reads`): `per_cell` graded asks 1,000, 128 or 32
    questions for each split and length, and long 256, 64 or 16: fewer the longer it is, whatever `questions` says;
    `depths` is how many depths from the beginning to the end of a text, `needles` how many values one answer has, of
    these `kinds`, in a `haystack` of filler or of almanac pages, or in the file `text`; `data` are local files as
    NAME=PATH, `trained_on` the datasets of them that the model has seen in training, `judge` is the address of a model
    that says what is right.
    """

    lengths: tuple[int, ...]
    questions: int
    splits: tuple[str, ...] = SPLITS
    level: int = 3
    per_document: int = 1
    sampling: str = GREEDY
    max_tokens: int | None = None
    seed: int = 0
    per_cell: str = EVEN
    depths: int = 11
    needles: int = 1
    kinds: tuple[str, ...] = ()
    text: str = ""
    haystack: str = HAYSTACKS[0]
    data: tuple[str, ...] = ()
    trained_on: tuple[str, ...] = ()
    judge: str = ""

    def __post_init__(self) -> None:
        require(bool(self.lengths) and min(self.lengths) > 0, "lengths", self.lengths, "one or more positive numbers")
        require(self.questions > 0, "questions", self.questions, "1 or more")
        require(0 <= self.level <= 3, "level", self.level, "0 to 3")
        require(self.per_document > 0, "per_document", self.per_document, "1 or more")
        require(self.depths > 1, "depths", self.depths, "2 or more, from the beginning to the end")
        require(self.needles > 0, "needles", self.needles, "1 or more")
        check_sampling(self.sampling)
        require(self.max_tokens is None or self.max_tokens > 0, "max_tokens", self.max_tokens, "1 token or more")
        require(bool(self.splits), "splits", self.splits, f"one or more of {', '.join(SPLITS)}")
        named = [("cells", self.per_cell, PER_CELL), ("haystack", self.haystack, HAYSTACKS)]
        for kind, name, known in [*named, *(("split", split, SPLITS) for split in self.splits)]:
            if name not in known:
                raise unknown(kind, name, known)
        # the order in which splits are given does not matter
        object.__setattr__(self, "splits", tuple(split for split in SPLITS if split in self.splits))

    def cells(self) -> list[tuple[str, int, int]]:
        """Return (split, length, questions) in the order in which they run; the first cells take the remainder."""
        cells = [(split, length) for split in self.splits for length in dict.fromkeys(self.lengths)]
        if self.per_cell != EVEN:
            return [(split, length, _cell(self.per_cell, length)) for split, length in cells]
        each, rest = divmod(self.questions, len(cells))
        return [(*cell, each + (number < rest)) for number, cell in enumerate(cells)]

    @property
    def total(self) -> int:
        """Questions asked of each system."""
        return sum(questions for _, _, questions in self.cells())


@dataclass(frozen=True)
class Case:
    """One thing to ask.  `key` names it in every run with the same options; `reply_tokens` is the most it may take.

    Where it is 0, replies have the limit of the system.

    `accepted` is what the record says would have been right: the answers to a question, the text to write again.
    `pieces` are the document cut where other documents have the same text, each named after its text; one that shares
    nothing has none.
    """

    key: str
    sample: Sample
    accepted: tuple[str, ...]
    seed: int
    size: int
    reply_tokens: int = 0
    pieces: tuple[Document, ...] = ()


@dataclass(frozen=True)
class Score:
    """What a suite makes of a trace: the answer to record, whether it is right, and further figures by name."""

    answer: str
    correct: bool
    figures: dict[str, float] = field(default_factory=dict)


class Suite(Protocol):
    """See the module docstring.

    `candidates` are the systems compared when none is named, `reads` the options beyond those that every suite reads,
    `temperature` that of the pooled paper's sampling for such questions.
    """

    name: str
    reads: tuple[str, ...]
    defaults: Options
    quick: Options
    temperature: float
    candidates: tuple[str, ...]

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return the names of options that every suite reads and that change nothing here, beside these options."""
        ...

    def check(self, options: Options) -> None:
        """Raise a `MemfoldError` for options, files or a missing library that the run would end with: before it."""
        ...

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Return all cases, those of one document next to each other, the same for every system."""
        ...

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return how a case is put to a system that holds this memory."""
        ...

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Return a trace without error, scored."""
        ...

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return the tables of a report, the systems in the order of `labels`."""
        ...

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> Sequence[Plot]:
        """Return what the report plots."""
        ...


def load_suite(name: str) -> Suite:
    """Return the suite of that name.

    Raises:
        ConfigError: for a name that is not in `SUITES`, with the nearest one.
    """
    return cast(Callable[[], Suite], load("suite", name, SUITES))()


def arguments_of(suite: Suite, options: Options) -> dict[str, Any]:
    """Return what two runs of a suite must share to be one, apart from the model."""
    return {"suite": suite.name} | options_of(suite, options)


def options_of(suite: Suite, options: Options) -> dict[str, Any]:
    """Return the options that a suite reads, by name."""
    names = [field.name for field in fields(Options)]
    common = names[: names.index("seed") + 1]
    return {name: getattr(options, name) for name in names if name in (*common, *suite.reads)}


def with_options(suite: Suite, options: Options, given: Mapping[str, Any]) -> Options:
    """Return these options, replaced by those that are given and not None.

    Raises:
        ConfigError: for an option without effect on the suite, or a value outside its range.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in sorted(chosen.keys() - options_of(suite, options).keys()):
        known = " or ".join(other for other in SUITES if name in load_suite(other).reads)
        raise ConfigError(f"--{_flag(name)} has no effect in suite {suite.name!r}; leave it out, or use suite {known}")
    if chosen.get("per_cell", EVEN) != EVEN and "questions" in chosen:
        raise ConfigError(f"--cells {chosen['per_cell']} sets the number of questions; leave --questions out")
    changed = replace(options, **chosen)
    for name in sorted(chosen.keys() & set(suite.ignored(changed))):
        raise ConfigError(f"--{_flag(name)} has no effect in suite {suite.name!r} with these options; leave it out")
    return changed


def _flag(name: str) -> str:
    """Return the name of an option on the command line."""
    return FLAGS.get(name, name.replace("_", "-"))


def _cell(per_cell: str, length: int) -> int:
    """Return the questions of one cell of a run with these cells."""
    return next(questions for longest, questions in CELLS[per_cell] if length <= longest)


def document_seed(*identity: object) -> int:
    """Return the seed of a document by what identifies it in an evaluation: 40 bits, counted from `FIRST_SEED`."""
    digest = hashlib.sha256(repr(identity).encode()).digest()
    return FIRST_SEED + int.from_bytes(digest[:SEED_BYTES], "big")


def haystack_text(options: Options) -> str:
    """Return the content of the file `text`; empty where none is named.

    Raises:
        DataError: for a file that cannot be read.
    """
    return open_document(options.text).read() if options.text else ""
