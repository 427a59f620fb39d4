"""The reconstruction suite: how much of a text comes back out of its memory, word for word, by document length.

The prompt is the one that training uses (the system's own `script`), only the limits of the reply are set here:
greedy, and a little longer than the document.  Needs the rouge-score library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memfold.backbone.model import Backbone
from memfold.core.driver import Job
from memfold.core.errors import ConfigError
from memfold.core.system import AnswerSteps, Inputs, MemorySystem
from memfold.core.types import Answer, BlockRef, Call, Limits, Memory, Reply, Trace
from memfold.evaluation.contender import Contender
from memfold.evaluation.records import Record
from memfold.evaluation.suite import Case, Options, Score, document_seed
from memfold.evaluation.table import Cell, Figure, Row, Table, mean, proportion
from memfold.scoring.rewriting import exact_strings, rouge, token_accuracy
from memfold.tasks.reconstruction import reconstruction
from memfold.tasks.task import TaskOptions

SPARE_TOKENS = 32  # so that a reply which goes on too long is seen to
FIGURES = {"rouge1": "ROUGE-1", "rougeL": "ROUGE-L", "tokens": "token accuracy", "strings": "exact strings"}


@dataclass(frozen=True)
class Scripted:
    """A system that is asked one call made beforehand, and answers with its reply."""

    system: MemorySystem
    call: Call

    @property
    def name(self) -> str:
        return self.system.name

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the system."""
        return self.system.settings

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """The call."""
        reply = yield self.call
        assert isinstance(reply, Reply)
        return Answer(reply.text, reply.text)

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Inputs:
        """As the system does."""
        return self.system.render(memory, call, backbone)


class ReconstructionSuite:
    """See the module docstring."""

    name = "reconstruction"
    defaults = Options(lengths=(256, 512, 1024, 2048, 4096), questions=100, splits=("in",))
    quick = Options(lengths=(256,), questions=4, splits=("in",))
    contenders: tuple[str, ...] = ("pooled",)

    def check(self) -> None:
        """Raise a `ConfigError` without the rouge-score library."""
        rouge("", "")

    def cases(self, options: Options, backbone: Backbone) -> Iterator[Case]:
        """One document each."""
        for split, length, documents in options.cells():
            task = TaskOptions(level=options.level, split=split)
            for number in range(documents):
                seed = document_seed(self.name, options.seed, options.level, split, length, number)
                sample = reconstruction(seed, length, task, backbone.encode)[0]
                text = backbone.decode(sample.document.tokens or ())
                yield Case(f"{split}/{length}/{number}", replace(sample, answers=()), seed, length,
                           length + SPARE_TOKENS) if text else None  # fmt: skip

    def job(self, contender: Contender, case: Case, memory: Memory, backbone: Backbone) -> Job:
        """The call of the system's own training sample.

        Raises:
            ConfigError: for a system whose memory is text, since the documents here are tokens.
        """
        trace = contender.system.script(case.sample, backbone, "bare")
        call = next(step.call for step in trace.steps if step.call.purpose == "answer")
        read = [memory.blocks[part.index] for part in call.parts if isinstance(part, BlockRef)]
        if any(block.slots is None and not block.read() for block in read):
            raise ConfigError(f"system {contender.label!r} keeps text and has none of a document given as tokens; "
                              "the suite 'reconstruction' is for pooled and full")  # fmt: skip
        limited = replace(call, limits=Limits(max_tokens=case.reply_tokens))
        return Job(Scripted(contender.system, limited), memory, case.sample.question)

    def score(self, case: Case, trace: Trace, backbone: Backbone) -> Score:
        """ROUGE, token accuracy and exact strings; right is a text that came back whole."""
        assert trace.answer is not None, "only traces without error are scored"
        source = list(case.sample.document.tokens or ())
        tokens = [token for token in trace.steps[-1].reply.tokens if token != backbone.end_token]
        original, rewritten = backbone.decode(source), trace.answer.reply
        figures = rouge(original, rewritten) | {"tokens": token_accuracy(source, tokens)}
        strings = exact_strings(original, rewritten)
        if strings is not None:
            figures["strings"] = strings
        return Score(rewritten, tokens == source, figures)
