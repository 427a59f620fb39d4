"""The multihop suite: questions that need several passages of a long text full of similar ones.

Generated: `two-hop` questions of the almanac among its other articles, and `tracking` of a number through a chain of
names, in filler or any text.  With --data: questions of datasets among the paragraphs of other questions, as the
pooled paper has it.
Right is an answer in which an accepted one stands (of a chain: every name), taken from the reply by published rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from memfold.core.errors import ConfigError, DataError, unknown
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.registry import COMPARED
from memfold.core.types import Memory, Sample, Trace
from memfold.evaluation import local_data
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import ALL, Group, curves, failures, grid, in_order, lost_with_length, splits
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score, document_seed, haystack_text
from memfold.evaluation.table import Cell, Figure, Table, mean, proportion
from memfold.scoring.extraction import short_answer
from memfold.scoring.metrics import sub_span_match
from memfold.tasks.almanac.task import almanac
from memfold.tasks.datasets.table import load_dataset
from memfold.tasks.distractors import Distractors
from memfold.tasks.task import TaskOptions
from memfold.tasks.tracking import LISTING, tracking

LENGTHS = (4096, 8192, 16384, 32768, 65536, 122880)
TWO_HOP, TRACKING = "two-hop", "tracking"
KINDS = (TWO_HOP, TRACKING)
DATASETS = ("2wikimultihopqa", "hotpotqa", "musique")
POOL = 2000  # rows whose paragraphs are kept: about two million tokens
MOST_PAGES = 12  # written until one has a question of two hops


class MultihopSuite:
    """See the module docstring."""

    name = "multihop"
    reads: tuple[str, ...] = ("per_cell", "kinds", "text", "data", "trained_on")
    defaults = Options(lengths=LENGTHS, questions=600, splits=("in",))
    quick = Options(lengths=(512, 1024), questions=8, splits=("in",))
    temperature = 0.7
    candidates: tuple[str, ...] = COMPARED

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return the number of questions about a document, which is one, and with local files what generates text."""
        return ("per_document", *(("level", "splits") if options.data else ()))

    def check(self, options: Options) -> None:
        """Raise a `MemfoldError` for an unknown kind, or data that cannot be what was meant."""
        for kind in options.kinds:
            if kind not in KINDS:
                raise unknown("kind of question", kind, KINDS)
        if options.data and options.kinds:
            raise ConfigError(f"--kind {options.kinds[0]!r} is for generated documents; leave out --kind or --data")
        if options.text and (options.data or TRACKING not in (options.kinds or KINDS)):
            other = "--data" if options.data else f"--kind {options.kinds[0]}"
            raise ConfigError(f"--text {options.text} is for --kind {TRACKING}; leave it out, or leave out {other}")
        haystack_text(options)
        named = local_data.sources(self.name, options.data, DATASETS) if options.data else {}
        for name in options.trained_on:
            if name not in named:
                raise unknown("dataset of --trained-on", name, named)

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Return generated questions, the kinds in turn, or those of each dataset; each with a document of its own."""
        return _from_data(options, model) if options.data else _generated(options, model)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return the question, as any user would ask it."""
        return Job(candidate.system, memory, case.sample.question)

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Score by sub-span match; for a question that wants several names, also the share that was found."""
        assert trace.answer is not None, "only traces without error are scored"
        answer = short_answer(trace.answer.reply)
        each = [sub_span_match(answer, [text]) for text in case.accepted]
        several = case.sample.kind == LISTING
        right = all(each) if several else any(each)
        return Score(answer, right, {"share": sum(each) / len(each) if several else float(right)})

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return for each split: right answers by length and kind, and the loss from the shortest to the longest."""
        tables = []
        for split, own in splits(records):
            kinds = in_order(map(_kind, own), KINDS)
            note = (
                "Right: an accepted answer stands in that of the reply; of a chain every name, and `found` counts each."
            )
            columns = (ALL, *kinds, "found")
            rows = grid(own, labels, partial(_cells, kinds))
            tables.append(Table(f"Multihop, split {split}", ("tokens", "system"), columns, rows, note))
            tables += lost_with_length(own, labels, split, _right)
        return tables

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Figure]:
        """Return right answers over document length, a panel for each kind."""
        figures = []
        for split, own in splits(records):
            kinds = in_order(map(_kind, own), KINDS)
            panels = [(f"{kind}, split {split}", [record for record in own if _kind(record) == kind]) for kind in kinds]
            drawn = tuple((title, curves(some, labels, _right)) for title, some in panels)
            figures.append(Figure(f"multihop-{split}", "document tokens", drawn))
        return figures


def _generated(options: Options, model: Model) -> Iterator[Case]:
    kinds, text = options.kinds or KINDS, haystack_text(options)
    for split, length, questions in options.cells():
        for number in range(questions):
            kind = kinds[number % len(kinds)]
            seed = document_seed(MultihopSuite.name, options.seed, options.level, split, length, kind, number)
            if kind == TRACKING:
                sample = replace(tracking(seed, length, model.encode, options.level, text=text), split=split)
            else:
                sample = _two_hop(seed, length, split, options, model)
            yield Case(f"{split}/{length}/{kind}/{number}", sample, sample.answers, seed, length)


def _two_hop(seed: int, length: int, split: str, options: Options, model: Model) -> Sample:
    task = TaskOptions(level=max(2, options.level), split=split, kinds=(TWO_HOP,))
    for page in range(MOST_PAGES):
        sample = almanac(document_seed(seed, page), length, task, model.encode)[0]
        if sample.kind == TWO_HOP:  # a page without such a question asks another
            return sample
    raise ConfigError(f"documents of {length} tokens have no two-hop questions; use larger --lengths")


def _from_data(options: Options, model: Model) -> Iterator[Case]:
    named = local_data.sources(MultihopSuite.name, options.data, DATASETS)
    pools = {name: Distractors(islice(load_dataset(name, *paths), POOL), model.encode) for name, paths in named.items()}
    cells = [
        (length, name, count)
        for _, length, questions in replace(options, splits=("in",)).cells()
        for name, count in zip(pools, local_data.spread(questions, len(pools)), strict=True)
    ]
    for length, name, questions in cells:
        split = "in" if name in options.trained_on else "out"
        asked = 0
        for number, sample in enumerate(islice(pools[name].lengthened(length, options.seed), questions)):
            seed = document_seed(MultihopSuite.name, options.seed, name, length, number)
            document = replace(sample.document, source=f"{sample.document.source}#{seed:x}")
            own = replace(sample, document=document, split=split)
            yield Case(f"{split}/{length}/{name}/{number}", own, own.answers, seed, length)
            asked += 1
        if questions and not asked:
            raise DataError(
                f"all questions of {name} have more than {length} tokens of their own; use larger --lengths"
            )


def _kind(record: Record) -> str:
    """Return the kind or the dataset, by the key: a chain is a listing among other kinds of question."""
    return record.case.split("/")[2]


def _cells(kinds: Sequence[str], own: Group) -> list[Cell]:
    by_kind = [[record for record in own if _kind(record) == kind] for kind in kinds]
    found = mean([record.figures.get("share", 0.0) for record in own], failures(own), share=True)
    return [*map(_right, (own, *by_kind)), found]


def _right(records: Group) -> Cell:
    return proportion([record.correct for record in records], failures(records))
