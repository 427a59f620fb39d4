"""The ruler-hqa suite: questions of one or two hops in documents of 7 thousand to 3.5 million tokens.

It has the lengths of RULER-HQA, by which MemAgent (arXiv 2507.02259, section 4) and LycheeMemory (arXiv 2602.08382,
section 4) report: 7K, doubled up to 1.75M or 3.5M.  Generated: an almanac world whose sentences are spread among the
articles of other worlds (`tasks.almanac.spread`); many questions may share a document, which is folded once.  With
--data: questions of HotpotQA-format files among the articles of other questions, 50 articles for each 7,168 tokens.

Right is an answer that equals an accepted one (strict exact match).  Beside it stand the one-way sub-EM (an accepted
answer stands in the given one) and, to compare with published figures, their two-way sub-EM, which also takes a piece
of the expected answer, even an empty one.  Questions that failed are wrong in each; the published runs leave them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from memfold.core.config import require
from memfold.core.errors import ConfigError, unknown
from memfold.core.job import Job
from memfold.core.latex import plain
from memfold.core.model import Model
from memfold.core.registry import LONG
from memfold.core.types import Memory, Trace
from memfold.evaluation import local_data
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import ALL, Group, curves, failures, grid, in_order, lost_with_length, splits
from memfold.evaluation.headline import CONTAINED, EXACT
from memfold.evaluation.note_figures import NOTE_FIGURES
from memfold.evaluation.reading import BLOCKS_READ, EVIDENCE_READ
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score, document_seed
from memfold.evaluation.table import Cell, Figure, Table, mean, proportion
from memfold.evaluation.wrong_answers import CLASSES
from memfold.scoring.metrics import answered, holds_answer
from memfold.scoring.squad import contained_either_way
from memfold.tasks.almanac.spread import KINDS, spread
from memfold.tasks.datasets.table import load_dataset
from memfold.tasks.distractors import Distractors
from memfold.tasks.task import TaskOptions

SHORTEST, ARTICLES = 7168, 50  # tokens of the shortest documents, and articles in them with --data
LENGTHS = tuple(SHORTEST << doubled for doubled in range(9))
MOST_PER_DOCUMENT = 64
TWO_HOP = "two-hop"
DATASETS = ("2wikimultihopqa", "hotpotqa", "musique")
ROWS = 2000  # of each dataset, or enough for the articles of the longest documents
ARTICLES_PER_ROW = 5  # at least: ten, without those that several rows share
EITHER_WAY = "either_way"
K = 1024


class RulerHqaSuite:
    """See the module docstring."""

    name = "ruler-hqa"
    reads: tuple[str, ...] = ("per_cell", "kinds", "data", "trained_on")
    defaults = Options(lengths=LENGTHS, questions=16 * len(LENGTHS), splits=("in",), per_document=16)
    quick = Options(lengths=(1024, 2048), questions=16, splits=("in",), per_document=4)
    temperature = 0.7
    candidates: tuple[str, ...] = LONG

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return, with local files, the options of generated documents."""
        return ("level", "splits", "per_document") if options.data else ()

    def check(self, options: Options) -> None:
        """Raise a `MemfoldError` for a kind of question that cannot be asked, or data that cannot be what was meant."""
        for kind in options.kinds:
            if kind not in KINDS:
                raise unknown("kind of question", kind, KINDS)
        if options.data and options.kinds:
            raise ConfigError(f"--kind {options.kinds[0]!r} is for generated documents; leave out --kind or --data")
        if not options.data and options.level < 2 and TWO_HOP in (options.kinds or KINDS):
            raise ConfigError(f"level {options.level} has no two-hop questions; use --level 2 or 3, or --kind one-hop")
        allowed = f"1 to {MOST_PER_DOCUMENT}"
        require(options.per_document <= MOST_PER_DOCUMENT, "per_document", options.per_document, allowed)
        named = local_data.sources(self.name, options.data, DATASETS) if options.data else {}
        for name in options.trained_on:
            if name not in named:
                raise unknown("dataset of --trained-on", name, named)

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Return generated questions, the kinds in turn, or those of each dataset; documents are made one by one."""
        return _from_data(options, model) if options.data else _generated(options, model)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return the question, as any user would ask it."""
        return Job(candidate.system, memory, case.sample.question)

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Score the final answer by the three rules; exact match decides.  The published rule knows one answer."""
        assert trace.answer is not None, "only traces without error are scored"
        text, sample = plain(trace.answer.text), case.sample
        right = answered(sample, text)
        figures = {
            EXACT: float(right),
            CONTAINED: float(holds_answer(sample, text)),
            EITHER_WAY: float(contained_either_way(text, case.accepted[0])),
        }
        return Score(text, right, figures)

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return for each split: accuracy by length, the loss from the shortest to the longest, work a question, what
        notes hold and the classes of wrong answers, if there are any."""
        tables = []
        for split, own in splits(records):
            kinds = in_order(map(_kind, own), KINDS)
            columns = ("exact", *kinds, "one-way sub-EM", "two-way sub-EM")
            note = "Right: the answer equals an accepted one.  Questions that failed are wrong in every column."
            rows = grid(own, labels, partial(_accuracy, kinds), length_name)
            tables.append(Table(f"RULER-HQA, split {split}", ("tokens", "system"), columns, rows, note))
            tables += lost_with_length(own, labels, split, _right)
            tables.append(_work(own, labels, split))
            tables += _notes(own, labels, split)
            tables += _wrong(own, labels, split)
        return tables

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Figure]:
        """Return right answers over document length: all, and by kind of question."""
        figures = []
        for split, own in splits(records):
            kinds = in_order(map(_kind, own), KINDS)
            panels = [(ALL, own), *((kind, [record for record in own if _kind(record) == kind]) for kind in kinds)]
            drawn = tuple((f"{title}, split {split}", _in_thousands(some, labels)) for title, some in panels)
            figures.append(Figure(f"ruler-hqa-{split}", f"document tokens / {K:,}", drawn))
        return figures


def length_name(length: int | None) -> str:
    """Return a length as the papers write it.

    >>> length_name(7168), length_name(917504), length_name(1835008), length_name(1000)
    ('7K', '896K', '1.75M', '1000')
    """
    if length is None:
        return ALL
    if length % K:
        return str(length)
    return f"{length // K}K" if length < K * K else f"{length / (K * K):g}M"


def _generated(options: Options, model: Model) -> Iterator[Case]:
    kinds = options.kinds or KINDS
    for split, length, questions in options.cells():
        page, asked = 0, 0
        while asked < questions:
            wanted = min(options.per_document, questions - asked)
            turn = tuple(kinds[(asked + number) % len(kinds)] for number in range(min(wanted, len(kinds))))
            task = TaskOptions(level=options.level, split=split, samples=wanted, kinds=turn)
            seed = document_seed(RulerHqaSuite.name, options.seed, options.level, split, length, page)
            for number, sample in enumerate(spread(seed, length, task, model.encode)):
                yield Case(f"{split}/{length}/{sample.kind}/{page}.{number}", sample, sample.answers, seed, length)
            page, asked = page + 1, asked + wanted


def _from_data(options: Options, model: Model) -> Iterator[Case]:
    named = local_data.sources(RulerHqaSuite.name, options.data, DATASETS)
    rows = max(ROWS, _articles(max(options.lengths)) // ARTICLES_PER_ROW)
    pools = {name: Distractors(islice(load_dataset(name, *paths), rows), model.encode) for name, paths in named.items()}
    for _, length, questions in replace(options, splits=("in",)).cells():
        for name, count in zip(pools, local_data.spread(questions, len(pools)), strict=True):
            split = "in" if name in options.trained_on else "out"
            samples = islice(pools[name].among(_articles(length), options.seed), count)
            for number, sample in enumerate(samples):
                seed = document_seed(RulerHqaSuite.name, options.seed, name, length, number)
                document = replace(sample.document, source=f"{sample.document.source}#{seed:x}")
                own = replace(sample, document=document, split=split)
                yield Case(f"{split}/{length}/{name}/{number}", own, own.answers, seed, length)


def _articles(length: int) -> int:
    """Return how many articles of a dataset stand for a length in tokens."""
    return max(1, length * ARTICLES // SHORTEST)


def _kind(record: Record) -> str:
    """Return the kind or the dataset, by the key."""
    return record.case.split("/")[2]


def _accuracy(kinds: Sequence[str], own: Group) -> list[Cell]:
    by_kind = [[record for record in own if _kind(record) == kind] for kind in kinds]
    rules = [
        proportion([record.figures.get(rule) == 1 for record in own], failures(own)) for rule in (CONTAINED, EITHER_WAY)
    ]
    return [*map(_right, (own, *by_kind)), *rules]


def _work(records: Group, labels: Sequence[str], split: str) -> Table:
    """Return means of what a question costs, over the questions without error that have the figure."""

    def cells(own: Group) -> list[Cell]:
        done = [record for record in own if record.error is None]
        read = [
            [record.figures[name] for record in done if name in record.figures] for name in (BLOCKS_READ, EVIDENCE_READ)
        ]
        spent = [record.cost for record in done]
        return [
            mean([float(cost.calls) for cost in spent]),
            mean(read[0]),
            mean(read[1], share=True),
            mean([float(cost.generated_tokens) for cost in spent]),
            mean([cost.seconds for cost in spent]),
            mean([cost.fold_seconds for cost in spent]),
        ]

    columns = ("calls", "blocks read", "evidence read", "generated tokens", "seconds", "fold seconds of the document")
    note = (
        "Means.  Blocks read: by calls other than those of a gate.  Evidence read: the share of the supporting "
        "sentences that lie in these blocks.  Systems that read all at once have neither.  Seconds are of a batch."
    )
    rows = grid(records, labels, cells, length_name)
    return Table(f"Work for a question, split {split}", ("tokens", "system"), columns, rows, note)


def _notes(records: Group, labels: Sequence[str], split: str) -> list[Table]:
    """Return a table of what becomes of the evidence in notes, if any system writes some."""
    noted = [record for record in records if record.figures.keys() & NOTE_FIGURES]
    if not noted:
        return []

    def cells(own: Group) -> list[Cell]:
        figures = [record.figures for record in own]
        return [mean([each[name] for each in figures if name in each], share=True) for name in NOTE_FIGURES]

    asked = {record.system for record in noted}
    rows = grid(noted, [label for label in labels if label in asked], cells, length_name)
    columns = tuple(NOTE_FIGURES.values())
    note = (
        "Means of shares of a question.  Evidence noted: the supporting sentences that any note had.  Of the sentences "
        "of the last note: the others, and those that stand in the text word for word.  Room: of the longest note."
    )
    return [Table(f"Notes, split {split}", ("tokens", "system"), columns, rows, note)]


def _wrong(records: Group, labels: Sequence[str], split: str) -> list[Table]:
    """Return the shares of the classes among the wrong answers that have one; no table if none has."""
    classed = [record for record in records if record.wrong is not None and not record.correct]
    if not classed:
        return []

    def cells(own: Group) -> list[Cell]:
        return [proportion([record.wrong == name for record in own]) for name in CLASSES]

    asked = {record.system for record in classed}
    rows = grid(classed, [label for label in labels if label in asked], cells, length_name)
    note = "Shares of the wrong answers of systems that read block by block, told by rules from each trace."
    return [Table(f"Wrong answers, split {split}", ("tokens", "system"), CLASSES, rows, note)]


def _in_thousands(records: Group, labels: Sequence[str]) -> dict[str, list[tuple[float, Cell]]]:
    drawn = curves(records, labels, _right)
    return {label: [(size / K, cell) for size, cell in points] for label, points in drawn.items()}


def _right(records: Group) -> Cell:
    return proportion([record.correct for record in records], failures(records))
