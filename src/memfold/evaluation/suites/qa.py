"""The qa suite: questions of public datasets about their own contexts, in and out of distribution, from local files.

Every loader of `memfold.tasks.datasets` can be asked.  Which datasets are in distribution depends on what a model was
trained on, so the user says it; the others are out.  Right is an answer that equals an accepted one, or of a model that
answers in sentences, a reply that holds one (`memfold.evaluation.headline`), or what a judge says where one is named;
the other rules and SQuAD's published figures stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from memfold.core.errors import unknown
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.registry import COMPARED
from memfold.core.types import Memory, Trace
from memfold.evaluation import local_data
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import Group, curves, failures, of_system
from memfold.evaluation.headline import CONTAINED, EXACT, in_sentences, scored
from memfold.evaluation.judging import JUDGED
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score
from memfold.evaluation.table import Cell, Figure, Row, Table, mean, proportion
from memfold.scoring import squad
from memfold.scoring.metrics import verbatim_match
from memfold.tasks.datasets.table import DATASETS

LONGEST = 131072
NORMALISED = "Right by normalised comparison: case, punctuation and articles aside."
SQUAD_EM, SQUAD_F1 = "squad_em", "squad_f1"
RULES = {EXACT: "equal", CONTAINED: "contained", "verbatim": "verbatim", SQUAD_EM: "SQuAD EM"}
SPLIT_TITLES = {"in": "in distribution", "out": "out of distribution"}


class QaSuite:
    """See the module docstring."""

    name = "qa"
    reads: tuple[str, ...] = ("data", "trained_on", "judge")
    defaults = Options(lengths=(LONGEST,), questions=1000)
    quick = Options(lengths=(LONGEST,), questions=20)
    temperature = 0.7
    candidates: tuple[str, ...] = COMPARED

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return what generates documents: they come from local files."""
        return local_data.ignored(options)

    def check(self, options: Options) -> None:
        """Raise a `MemfoldError` for data that cannot be what was meant."""
        named = local_data.sources(self.name, options.data, sorted(DATASETS))
        for name in options.trained_on:
            if name not in named:
                raise unknown("dataset of --trained-on", name, named)

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Yield the questions spread over the datasets, the first of each; all are read before the first is asked."""
        named = local_data.sources(self.name, options.data, sorted(DATASETS))
        spread = local_data.spread(options.questions, len(named))
        read = [
            list(local_data.cases(self.name, name, paths, questions, options, model))
            for (name, paths), questions in zip(named.items(), spread, strict=True)
        ]
        yield from chain(*read)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return the question, as any user would ask it."""
        return Job(candidate.system, memory, case.sample.question)

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Compare the answer with the accepted ones by each rule; what was asked of the model says which decides."""
        assert trace.answer is not None, "only traces without error are scored"
        score, accepted = scored(case.sample, trace.answer, model, published=True), case.accepted
        wanted = (case.sample.expected,) if case.sample.kind == "listing" else accepted
        figures = {
            "verbatim": float(verbatim_match(score.answer, accepted)),
            SQUAD_EM: float(squad.exact_match(score.answer, wanted)),
            SQUAD_F1: max(squad.token_f1(score.answer, text) for text in wanted),
        }
        return replace(score, figures=score.figures | figures)

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return right answers in and out of distribution and for each dataset; the rules side by side."""
        return [_accuracy(records, labels), _rules(records, labels)]

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Figure]:
        """Return right answers over document length, in and out of distribution."""
        splits = dict.fromkeys(record.split for record in records)
        panels = tuple(
            (SPLIT_TITLES[split], curves([record for record in records if record.split == split], labels, _right))
            for split in splits
        )
        return [Figure("accuracy", "document tokens, up to", panels)] if panels else []


def _accuracy(records: Group, labels: Sequence[str]) -> Table:
    splits = [split for split in SPLIT_TITLES if any(record.split == split for record in records)]
    names = list(dict.fromkeys(local_data.dataset_of(record.case) for record in records))

    def cells(own: Group) -> tuple[Cell, ...]:
        by_split = [[record for record in own if record.split == split] for split in splits]
        by_name = [[record for record in own if local_data.dataset_of(record.case) == name] for name in names]
        return tuple(map(_right, (*by_split, *by_name)))

    rows = tuple(Row((label,), cells(of_system(records, label))) for label in labels)
    judge = any(JUDGED in record.figures for record in records)
    rule = "Right by the judge." if judge else in_sentences(records) or NORMALISED
    return Table("Accuracy", ("system",), (*(SPLIT_TITLES[split] for split in splits), *names), rows, rule)


def _rules(records: Group, labels: Sequence[str]) -> Table:
    names = dict.fromkeys(local_data.dataset_of(record.case) for record in records)
    judge = any(JUDGED in record.figures for record in records)
    rows = []
    for name in names:
        for label in labels:
            own = [record for record in of_system(records, label) if local_data.dataset_of(record.case) == name]
            rules = [proportion([record.figures.get(figure) == 1 for record in own], failures(own)) for figure in RULES]
            f1 = mean([record.figures.get(SQUAD_F1, 0.0) for record in own], failures(own), share=True)
            rows.append(Row((name, label), (*([_right(own)] if judge else []), *rules, f1)))
    columns = (*(["judged"] if judge else []), *RULES.values(), "SQuAD F1")
    return Table("Rules", ("dataset", "system"), columns, tuple(rows))


def _right(records: Group) -> Cell:
    return proportion([record.correct for record in records], failures(records))
