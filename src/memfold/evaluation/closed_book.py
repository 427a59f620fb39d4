"""The closed-book baseline: the model answers the question without any memory, from what it knows or by guessing.

It is used in evaluation only and is not in the table of systems.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.model import Model
from memfold.core.prompt import Style, after_memory, final_answer, user_message
from memfold.core.registry import CLOSED_BOOK
from memfold.core.settings import ReadSettings, TrainSettings
from memfold.core.system import AnswerSteps, MemorySystem, Rendered, ask
from memfold.core.types import Answer, Block, Call, Generate, Memory, Sample, Text, Trace
from memfold.systems.shared.blocks import render_text


@dataclass(frozen=True)
class NoFold:
    """Nothing is folded, so nothing is fixed."""


class ClosedBook(MemorySystem[NoFold, ReadSettings, TrainSettings]):
    """One call without blocks."""

    name = CLOSED_BOOK
    groups = (NoFold, ReadSettings, TrainSettings)

    def effective_ratio(self, tokens: int, slots: int | None = None) -> None:
        """Return None: no document is read."""

    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Yield nothing: no document is kept."""
        yield from ()

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Answer with one call that holds only the question."""
        template, style = self.read.chat_template, self.read.style
        parts = user_message(Text(after_memory(template, question, style)))
        reply = yield from ask(Call("answer", parts, Generate(self.read.sampling())))
        return Answer(final_answer(reply.text, style), reply.text)

    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Refuse training, because no model is trained to answer without its text.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name} only answers questions; name another system for this suite")

    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Render the call as tokens."""
        return render_text(memory, call, model, self.read.chat_template)
