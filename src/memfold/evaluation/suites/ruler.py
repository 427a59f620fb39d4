"""The ruler suite: the synthetic tasks of RULER (arXiv 2404.06654) in memfold's own language, at 8K to 512K tokens.

The kinds are single needles, needles among many of the same form, several values of a key, several keys at once, chains
of names, the words that occur most often in a list or in coded text, and one-hop questions about an almanac.  Two kinds
have three tasks each, which take turns (`tasks.ruler`).  Documents are written when they are needed and are not stored.

The score of a question is RULER's: the share of the expected strings that stand in the answer, for `qa` whether any
does.  Questions that failed have the score 0.  Every kind has the same weight in the average.  Needles in real essays
are in the suite `needle`, questions of public datasets in `ruler-hqa`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

from memfold.core.config import require
from memfold.core.errors import unknown
from memfold.core.job import Job
from memfold.core.latex import plain
from memfold.core.model import Model
from memfold.core.registry import LONG
from memfold.core.types import Memory, Trace
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import Group, curves, failures, grid, in_order, of_system, splits
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score, document_seed
from memfold.evaluation.table import Cell, Figure, HeatMap, Plot, Table, average, proportion
from memfold.scoring.string_match import found_words, string_match_all, string_match_part
from memfold.tasks.ruler import ALONE, KINDS, TASKS
from memfold.tasks.task import TaskOptions
from memfold.tasks.tracking import LISTING

SHORTEST = 8192  # tokens
LENGTHS = tuple(SHORTEST << doubled for doubled in range(7))
EACH = 3  # questions of a kind at a length: one of each task of the kinds that have three
MOST_PER_DOCUMENT = 64
FOUND, WHOLE = "found", "found_whole"
AVERAGE = "average"
KIND_OF = {task: kind for kind, tasks in KINDS.items() for task in tasks}
NEEDLES = ("needle", "multi-key", "multi-value", "multi-query")
# averages over tasks, each of the same weight, by the kinds of these
AVERAGES = {
    "single needles": ("needle",),
    "all needles": NEEDLES,
    "ten tasks": (*NEEDLES, "tracking", "frequent-words"),
}


class RulerSuite:
    """See the module docstring."""

    name = "ruler"
    reads: tuple[str, ...] = ("per_cell", "kinds")
    defaults = Options(lengths=LENGTHS, questions=EACH * len(KINDS) * len(LENGTHS), splits=("in",))
    quick = Options(lengths=(1024, 2048), questions=2 * len(KINDS), splits=("in",))
    temperature = 0.0
    candidates: tuple[str, ...] = LONG

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return the number of questions about a document, where no kind has more than one."""
        return ("per_document",) if options.kinds and set(options.kinds) <= {*ALONE} else ()

    def check(self, options: Options) -> None:
        """Raise a `MemfoldError` for an unknown kind, fewer questions than kinds, or too many about a document."""
        for kind in options.kinds:
            if kind not in KINDS:
                raise unknown("kind of question", kind, KINDS)
        allowed = f"1 to {MOST_PER_DOCUMENT}"
        require(options.per_document <= MOST_PER_DOCUMENT, "per_document", options.per_document, allowed)
        cells, kinds = options.cells(), _chosen(options)
        enough = min(questions for _, _, questions in cells) >= len(kinds)
        least = f"{len(cells) * len(kinds)} or more, one of each kind for each length; or fewer --lengths, or --kind"
        require(enough, "questions", options.questions, least)

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Yield the documents of all kinds in turn, each with its questions.

        Raises:
            ConfigError: for lengths that have no room for a task.
        """
        for split, length, questions in options.cells():
            yield from _cell(split, length, questions, options, model)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return the question, as any user would ask it."""
        return Job(candidate.system, memory, case.sample.question)

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Score the answer by RULER's rule, and by whole words; it is right if everything was found."""
        assert trace.answer is not None, "only traces without error are scored"
        text, expected = plain(trace.answer.text), case.accepted
        if case.sample.kind == LISTING:
            found, whole = string_match_all(text, expected), found_words(text, expected)
        else:
            found = string_match_part(text, expected)
            whole = float(any(found_words(text, [one]) for one in expected))
        return Score(text, found == 1, {FOUND: found, WHOLE: whole})

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return for each split: the score by kind and length, and that of the tasks of kinds that have several."""
        tables = []
        for split, own in splits(records):
            kinds = in_order(map(_kind, own), KINDS)
            note = (
                "The share of the expected strings that stand in the answer.  Every kind has the same weight in the "
                "average.  Whole words: the average if a string inside a longer word does not count.  Questions that "
                "failed are wrong."
            )
            columns = (AVERAGE, *kinds, "whole words")
            rows = grid(own, labels, partial(_by_kind, kinds))
            tables.append(Table(f"RULER, split {split}", ("tokens", "system"), columns, rows, note))
            tables += _needles(own, labels, split)
        return tables

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Plot]:
        """Return the average over document length, and for each system the kinds over document length."""
        plots: list[Plot] = []
        for split, own in splits(records):
            kinds = in_order(map(_kind, own), KINDS)
            panel = (f"{AVERAGE}, split {split}", curves(own, labels, partial(_average, kinds)))
            plots.append(Figure(f"ruler-{split}", "document tokens", (panel,)))
            plots += [_heat_map(of_system(own, label), label, split, kinds) for label in labels]
        return plots


def _chosen(options: Options) -> tuple[str, ...]:
    """Return the kinds that are asked, each once, in the order of the table."""
    return tuple(kind for kind in KINDS if kind in (options.kinds or KINDS))


def _cell(split: str, length: int, questions: int, options: Options, model: Model) -> Iterator[Case]:
    """Yield the questions of one length, a document of each kind in turn; the first kinds take the remainder."""
    kinds = _chosen(options)
    each, rest = divmod(questions, len(kinds))
    left = {kind: each + (number < rest) for number, kind in enumerate(kinds)}
    page = 0
    while any(left.values()):
        for kind in (kind for kind in kinds if left[kind]):
            count = 1 if kind in ALONE else min(options.per_document, left[kind])
            task = KINDS[kind][page % len(KINDS[kind])]
            seed = document_seed(RulerSuite.name, options.seed, options.level, split, length, task, page)
            samples = TASKS[task](seed, length, TaskOptions(options.level, split, count), model.encode)
            for number, sample in enumerate(samples):
                yield Case(f"{split}/{length}/{task}/{page}.{number}", sample, sample.answers, seed, length)
            left[kind] -= count
        page += 1


def _task(record: Record) -> str:
    """Return the task from the key of a record."""
    return record.case.split("/")[2]


def _kind(record: Record) -> str:
    return KIND_OF[_task(record)]


def _score(records: Group, figure: str = FOUND) -> Cell:
    """Return a mean score; a question that failed has none, and counts as 0."""
    return proportion([record.figures.get(figure, 0.0) for record in records], failures(records))


def _average(kinds: Sequence[str], own: Group, figure: str = FOUND) -> Cell:
    """Return the average of the scores of these kinds."""
    return average([_score([record for record in own if _kind(record) == kind], figure) for kind in kinds])


def _by_kind(kinds: Sequence[str], own: Group) -> list[Cell]:
    by_kind = [_score([record for record in own if _kind(record) == kind]) for kind in kinds]
    return [average(by_kind), *by_kind, _average(kinds, own, WHOLE)]


def _needles(records: Group, labels: Sequence[str], split: str) -> list[Table]:
    """Return a table of the tasks of kinds that have several, with the averages whose tasks were all asked."""
    asked = set(map(_task, records))
    tasks = [task for task, kind in KIND_OF.items() if task in asked and len(KINDS[kind]) > 1]
    wanted = {name: [task for task, kind in KIND_OF.items() if kind in kinds] for name, kinds in AVERAGES.items()}
    averages = {name: own for name, own in wanted.items() if asked.issuperset(own)}
    if not tasks:
        return []

    def score(task: str, own: Group) -> Cell:
        return _score([record for record in own if _task(record) == task])

    def cells(own: Group) -> list[Cell]:
        over = [average([score(task, own) for task in of_average]) for of_average in averages.values()]
        return [*(score(task, own) for task in tasks), *over]

    note = "Every task has the same weight in an average: " if averages else ""
    note += "; ".join(f"{name} of {', '.join(AVERAGES[name])}" for name in averages) + ("." if averages else "")
    columns = (*tasks, *averages)
    return [Table(f"Needles by task, split {split}", ("tokens", "system"), columns, grid(records, labels, cells), note)]


def _heat_map(records: Group, label: str, split: str, kinds: Sequence[str]) -> HeatMap:
    sizes = sorted({record.size for record in records})

    def cell(kind: str, size: int) -> Cell:
        return _score([record for record in records if _kind(record) == kind and record.size == size])

    return HeatMap(
        f"ruler-{split}-{re.sub(r'[^A-Za-z0-9.=]+', '-', label)}",
        f"{label}, split {split}",
        "tokens",
        tuple(map(str, sizes)),
        "",
        tuple(kinds),
        tuple(tuple(cell(kind, size) for size in sizes) for kind in kinds),
    )
