"""The almanac suite: questions about invented worlds, by kind, split and document length, all systems side by side.

Every system is asked the same questions about the same documents, none of which training has seen.  Accuracy is also
given as a share of that of the reference (the same weights reading the text), beside the quality of citations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from memfold.core.errors import unknown
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.prompt import ABSENT
from memfold.core.registry import COMPARED
from memfold.core.types import Memory, Trace
from memfold.evaluation.candidate import Candidate, reference_label
from memfold.evaluation.expansion import expansion_table
from memfold.evaluation.grouping import ALL, Group, curves, failures, grid, lengths, of_system, shown, splits
from memfold.evaluation.headline import in_sentences, scored
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score, document_seed
from memfold.evaluation.table import Cell, Figure, Row, Table, mean, paired_ratio, proportion
from memfold.scoring.citations import FIRST, hits
from memfold.scoring.normalisation import normalise
from memfold.tasks.almanac.questions import ABSENT_KIND, ALL_KINDS, HOPS
from memfold.tasks.almanac.task import almanac
from memfold.tasks.task import TaskOptions

CITED = ("evidence_any", "evidence_all")


class AlmanacSuite:
    """See the module docstring."""

    name = "almanac"
    reads: tuple[str, ...] = ("per_cell", "kinds")
    defaults = Options(lengths=(128, 256, 512, 1024), questions=1000)
    quick = Options(lengths=(128, 256), questions=40)
    temperature = 0.7
    candidates: tuple[str, ...] = COMPARED

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return nothing: every option counts."""
        return ()

    def check(self, options: Options) -> None:
        """Raise a `ConfigError` for an unknown kind of question."""
        for kind in options.kinds:
            if kind not in ALL_KINDS:
                raise unknown("kind of question", kind, ALL_KINDS)

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Yield questions with the task's proportions of kinds; after all questions of a page, another one follows."""
        for split, length, questions in options.cells():
            page, asked = 0, 0
            while asked < questions:
                wanted = min(options.per_document, questions - asked)
                task = TaskOptions(level=options.level, split=split, samples=wanted, kinds=options.kinds)
                seed = document_seed(self.name, options.seed, options.level, split, length, page)
                samples = almanac(seed, length, task, model.encode)
                for number, sample in enumerate(samples):
                    key = f"{split}/{length}/{page}/{number}"
                    yield Case(key, sample, sample.answers, seed, length)
                page, asked = page + 1, asked + len(samples)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return the question, as any user would ask it."""
        return Job(candidate.system, memory, case.sample.question)

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Score a trace as right or wrong; if it has citations, also whether the first ones show the evidence."""
        assert trace.answer is not None, "only traces without error are scored"
        answer, score = trace.answer, scored(case.sample, trace.answer, model)
        if answer.citations:
            some, every = hits(answer.citations, case.sample.evidence)
            cited = sum(citation.end - citation.start for citation in answer.citations[:FIRST])
            figures = {"evidence_any": float(some), "evidence_all": float(every), "cited_characters": float(cited)}
            return replace(score, figures=score.figures | figures)
        return score

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return tables for each split: accuracy, share of the reference, citations."""
        tables: list[Table] = []
        reference = reference_label(labels)
        for split, own in splits(records):
            tables.append(_accuracy(own, labels, split))
            if any(record.kind == ABSENT_KIND for record in own):
                tables.append(_refusals(own, labels, split))
            if reference is not None and len(labels) > 1:
                tables.append(_shares(own, labels, reference, split))
            if any(map(_cites, own)):
                tables.append(_citations(own, labels, split))
            expanded = expansion_table(own, labels, f"Expansion, split {split}")
            tables += [expanded] if expanded is not None else []
        return tables

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Figure]:
        """Return accuracy over document length for each split, all questions and by hop."""
        figures = []
        for split, own in splits(records):
            chosen = [(kind, [record for record in own if kind in (ALL, record.kind)]) for kind in (ALL, *HOPS)]
            panels = [(f"{kind}, split {split}", curves(some, labels, _right)) for kind, some in chosen if some]
            figures.append(Figure(f"accuracy-{split}", "document tokens", tuple(panels)))
        return figures


def _accuracy(records: Group, labels: Sequence[str], split: str) -> Table:
    kinds = [kind for kind in ALL_KINDS if any(record.kind == kind for record in records)]

    def cells(own: Group) -> list[Cell]:
        return [_right(own), *(_right([record for record in own if record.kind == kind]) for kind in kinds)]

    rows = grid(records, labels, cells)
    return Table(f"Accuracy, split {split}", ("tokens", "system"), (ALL, *kinds), rows, in_sentences(records))


def _refusals(records: Group, labels: Sequence[str], split: str) -> Table:
    """Return how often each system says that the text does not answer a question, rightly and wrongly."""
    rows = []
    for label in labels:
        own = of_system(records, label)
        refused = [record.error is None and normalise(record.answer) == normalise(ABSENT) for record in own]
        absent = [record.kind == ABSENT_KIND for record in own]
        cells = (
            proportion([answer for answer, kind in zip(refused, absent, strict=True) if kind]),
            proportion([answer for answer, kind in zip(refused, absent, strict=True) if not kind]),
            proportion([kind for answer, kind in zip(refused, absent, strict=True) if answer]),
        )
        rows.append(Row((label,), cells))
    columns = ("absent, refused", "answerable, refused", "refused, absent")
    note = f'A refusal is the answer "{ABSENT}".  The last column is the share of refusals that are right.'
    return Table(f"Refusals, split {split}", ("system",), columns, tuple(rows), note)


def _shares(records: Group, labels: Sequence[str], reference: str, split: str) -> Table:
    columns = lengths(records)

    def share(label: str, length: int | None) -> Cell:
        return _share(of_system(records, label, length), of_system(records, reference, length))

    others = [label for label in labels if label != reference]
    rows = tuple(Row((label,), tuple(share(label, length) for length in columns)) for label in others)
    note = f"Accuracy divided by that of `{reference}` on the same questions; interval by the paired bootstrap."
    return Table(f"Share of {reference}, split {split}", ("system",), tuple(map(shown, columns)), rows, note)


def _citations(records: Group, labels: Sequence[str], split: str) -> Table:
    rows = []
    for label in labels:
        own = of_system(records, label)
        right = [record for record in own if record.correct] if any(map(_cites, own)) else []
        shares = [proportion([record.figures.get(name, 0.0) == 1 for record in right]) for name in CITED]
        cited = mean([record.figures.get("cited_characters", 0.0) for record in right])
        rows.append(Row((label,), (*shares, cited)))
    note = (
        f"Of the right answers: do the first {FIRST} citations overlap one sentence of the evidence, or all of them?  "
        "Characters that they cite, since citing more hits more.  A system that never cites has no figure."
    )
    columns = ("one sentence", "all sentences", "characters cited")
    return Table(f"Citations, split {split}", ("system",), columns, tuple(rows), note)


def _cites(record: Record) -> bool:
    return CITED[0] in record.figures


def _right(records: Group) -> Cell:
    return proportion([record.correct for record in records], failures(records))


def _share(records: Group, reference: Group) -> Cell:
    """Return the ratio of accuracies over the cases that both sides have finished."""
    expected = {record.case: record.correct for record in reference}
    pairs = [(record.correct, expected[record.case]) for record in records if record.case in expected]
    return paired_ratio([correct for correct, _ in pairs], [correct for _, correct in pairs])
