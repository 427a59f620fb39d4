"""The longbench-v2 suite: multiple-choice questions about real documents, by domain and length, from local files.

Right is a reply that chooses the letter, by the rules of `choice_letter`; one without any letter may also be the words
of the choice.  Where a judge is named it decides.  Guessing reaches 25 per cent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.registry import COMPARED
from memfold.core.types import Memory, Trace
from memfold.evaluation import local_data
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import ALL, Group, curves, failures, grid
from memfold.evaluation.judging import JUDGED
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score
from memfold.evaluation.table import Cell, Figure, Table, proportion
from memfold.scoring.extraction import choice_letter, short_answer
from memfold.scoring.metrics import exact_match

LONGEST = 100_000  # as the pooled paper chooses


class LongBenchSuite:
    """See the module docstring."""

    name = "longbench-v2"
    reads: tuple[str, ...] = ("data", "judge")
    defaults = Options(lengths=(LONGEST,), questions=503)
    quick = Options(lengths=(LONGEST,), questions=8)
    temperature = 0.7
    candidates: tuple[str, ...] = COMPARED

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return what generates documents: they come from local files."""
        return local_data.ignored(options)

    def check(self, options: Options) -> None:
        """Raise a `MemfoldError` for data that cannot be what was meant."""
        local_data.sources(self.name, options.data, [self.name])

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """Yield the first questions whose context is short enough."""
        for name, paths in local_data.sources(self.name, options.data, [self.name]).items():
            yield from local_data.cases(self.name, name, paths, options.questions, options, model)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """Return the question with its choices."""
        return Job(candidate.system, memory, case.sample.question)

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """Return the letter, and whether there is one."""
        assert trace.answer is not None, "only traces without error are scored"
        letter = choice_letter(trace.answer.reply)
        answer = letter or short_answer(trace.answer.reply)
        right = letter == case.sample.target if letter else exact_match(answer, case.accepted)
        return Score(answer, right, {"letter": float(letter is not None)})

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """Return right answers by length and domain, and how many replies choose a letter."""
        domains = list(dict.fromkeys(record.kind for record in records if record.kind))

        def cells(own: Group) -> list[Cell]:
            by_domain = [[record for record in own if record.kind == domain] for domain in domains]
            letters = proportion([record.figures.get("letter") == 1 for record in own], failures(own))
            return [*map(_right, (own, *by_domain)), letters]

        columns = (ALL, *domains, "a letter was chosen")
        judge = "Right by the judge.  " if any(JUDGED in record.figures for record in records) else ""
        note = f"{judge}Guessing reaches 25 %.  Lengths are rounded up to a power of two."
        return [Table("Accuracy", ("tokens", "system"), columns, grid(records, labels, cells), note)]

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Figure]:
        """Return right answers over document length."""
        return [Figure("accuracy", "document tokens, up to", (("right answers", curves(records, labels, _right)),))]


def _right(records: Group) -> Cell:
    return proportion([record.correct for record in records], failures(records))
