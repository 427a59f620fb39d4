"""The reconstruction suite: how much of a text comes back out of its memory, word for word, by document length.

The prompt is the one that training uses (the system's own `script`), only the length of the reply is set here:
a little more than the document's.  Needs the rouge-score library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from memfold.core.errors import ConfigError
from memfold.core.job import Job
from memfold.core.model import Model
from memfold.core.registry import DEFAULT
from memfold.core.system import AnswerSteps, ask
from memfold.core.types import Answer, BlockRef, Call, Memory, SamplingParams, Trace
from memfold.evaluation.candidate import Candidate
from memfold.evaluation.grouping import Group, curves, failures, grid, splits
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score, document_seed
from memfold.evaluation.table import Cell, Figure, Table, mean, proportion
from memfold.scoring.rewriting import exact_strings, rouge, token_accuracy
from memfold.tasks.reconstruction import reconstruction
from memfold.tasks.task import TaskOptions

SPARE_TOKENS = 32  # so that a reply which goes on too long is seen to
FIGURES = {"rouge1": "ROUGE-1", "rougeL": "ROUGE-L", "tokens": "token accuracy", "strings": "exact strings"}


class ReconstructionSuite:
    """See the module docstring."""

    name = "reconstruction"
    reads: tuple[str, ...] = ("per_cell",)
    defaults = Options(lengths=(256, 512, 1024, 2048, 4096), questions=100, splits=("in",))
    quick = Options(lengths=(256,), questions=4, splits=("in",))
    temperature = 0.1
    candidates: tuple[str, ...] = (DEFAULT,)

    def ignored(self, options: Options) -> tuple[str, ...]:
        """Return the number of questions about a document, which has one, and the limit of replies, which it sets."""
        return ("per_document", "max_tokens")

    def check(self, options: Options) -> None:
        """Raise a `ConfigError` without the rouge-score library."""
        rouge("", "")

    def cases(self, options: Options, model: Model) -> Iterator[Case]:
        """One document each."""
        for split, length, documents in options.cells():
            task = TaskOptions(level=options.level, split=split)
            for number in range(documents):
                seed = document_seed(self.name, options.seed, options.level, split, length, number)
                sample = reconstruction(seed, length, task, model.encode)[0]
                text = model.decode(sample.document.tokens or ())
                yield Case(f"{split}/{length}/{number}", sample, (text,), seed, length, length + SPARE_TOKENS)

    def job(self, candidate: Candidate, case: Case, memory: Memory, model: Model) -> Job:
        """The call of the system's own training sample.

        Raises:
            ConfigError: for a system whose memory is text, since the documents here are tokens, and for an endpoint.
        """
        if not model.has_weights:
            raise ConfigError(
                f"suite {self.name!r} compares tokens, and the endpoint of model {model.name!r} gives none; give a "
                "--model with weights here"
            )
        trace = candidate.system.script(case.sample, model, "bare")
        call = next(step.call for step in trace.steps if step.call.purpose == "answer")
        read = [memory.blocks[part.index] for part in call.parts if isinstance(part, BlockRef)]
        if any(block.slots is None and not block.read() for block in read):
            raise ConfigError(
                f"system {candidate.label!r} keeps text and has none of a document given as tokens; "
                f"suite {self.name!r} is for systems that read a document's tokens"
            )
        wanted = call.sampled(SamplingParams(max_tokens=case.reply_tokens))
        return Job(candidate.system, memory, case.sample.question, ask=partial(_rewrite, wanted))

    def score(self, case: Case, trace: Trace, model: Model) -> Score:
        """ROUGE, token accuracy and exact strings; right is a text that came back whole."""
        assert trace.answer is not None, "only traces without error are scored"
        source = list(case.sample.document.tokens or ())
        tokens = [token for token in trace.steps[-1].reply.tokens if token != model.end_token]
        original, rewritten = case.accepted[0], trace.answer.reply
        figures = rouge(original, rewritten) | {"tokens": token_accuracy(source, tokens)}
        strings = exact_strings(original, rewritten)
        if strings is not None:
            figures["strings"] = strings
        return Score(rewritten, tokens == source, figures)

    def tables(self, records: Sequence[Record], labels: Sequence[str]) -> list[Table]:
        """For each split: the figures and the share of texts that came back whole."""
        columns = (*FIGURES.values(), "whole text")
        note = "Means over documents.  Exact strings: codes, dates and numbers of the source, found in its order."
        return [
            Table(f"Reconstruction, split {split}", ("tokens", "system"), columns, grid(own, labels, _cells), note)
            for split, own in splits(records)
        ]

    def plots(self, records: Sequence[Record], labels: Sequence[str]) -> list[Figure]:
        """Every figure over document length."""
        return [
            Figure(
                f"reconstruction-{split}",
                "document tokens",
                tuple((title, curves(own, labels, partial(_figure, name))) for name, title in FIGURES.items()),
            )
            for split, own in splits(records)
        ]


def _rewrite(call: Call, memory: Memory, question: str) -> AnswerSteps:
    """Answers with the reply to one call."""
    reply = yield from ask(call)
    return Answer(reply.text, reply.text)


def _cells(records: Group) -> list[Cell]:
    whole = proportion([record.correct for record in records], failures(records))
    return [*(_figure(name, records) for name in FIGURES), whole]


def _figure(name: str, records: Group) -> Cell:
    """A mean over documents; one that failed counts as nothing, one without exact strings not at all."""
    values = [0.0 if record.error else record.figures.get(name, math.nan) for record in records]
    return mean(values, failures(records))
