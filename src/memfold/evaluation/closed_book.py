"""Closed book: the same model, the same question, no memory at all.  What it answers, it knew or guessed.

It exists for evaluation only and is no system of the registry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.model import Model
from memfold.core.prompt import Style, after_memory, before_memory, final_answer
from memfold.core.registry import CLOSED_BOOK
from memfold.core.system import AnswerSteps, MemorySystem, ReadSettings, Rendered, TrainSettings, ask
from memfold.core.types import Answer, Block, Call, Generate, Memory, Sample, Text, Trace
from memfold.systems.shared.blocks import render_text
from memfold.systems.shared.replies import ANSWER_SAMPLING


@dataclass(frozen=True)
class NoFold:
    """Nothing is folded, so nothing is fixed."""


class ClosedBook(MemorySystem[NoFold, ReadSettings, TrainSettings]):
    """One call without blocks."""

    name = CLOSED_BOOK
    groups = (NoFold, ReadSettings, TrainSettings)

    def effective_ratio(self, tokens: int, slots: int | None = None) -> None:
        """None: nothing is read."""

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Nothing is kept of a document."""
        yield from ()

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """One call that holds the question alone."""
        template, style = self.read.chat_template, self.read.style
        parts = (Text(before_memory(template)), Text(after_memory(template, question, style)))
        reply = yield from ask(Call("answer", parts, Generate(ANSWER_SAMPLING)))
        return Answer(final_answer(reply.text, style), reply.text)

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """A model is never trained to answer without its text.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name} is asked questions only; name another system for this suite")

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Tokens only."""
        return render_text(memory, call, model)
