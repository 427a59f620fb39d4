"""Closed book: the same model, the same question, no memory at all.  What it answers, it knew or guessed.

It exists for evaluation only and is no system of the registry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from memfold.backbone.model import Backbone
from memfold.core.config import require
from memfold.core.document import Document
from memfold.core.errors import CallError
from memfold.core.prompt import STYLES, ChatTemplate, Style, after_memory, before_memory, final_answer
from memfold.core.system import AnswerSteps, Inputs
from memfold.core.types import Answer, Block, Call, Limits, Memory, Reply, Sample, Text, Trace
from memfold.systems.shared.blocks import text_inputs


class ClosedBook:
    """One call without blocks."""

    name = "closed-book"

    def __init__(self, chat_template: ChatTemplate = "flat", style: Style = "recall") -> None:
        require(style in STYLES, "style", style, ", ".join(STYLES))
        self.chat_template: ChatTemplate = chat_template
        self.style: Style = style

    @property
    def settings(self) -> dict[str, Any]:
        """What a trace must record."""
        return {"style": self.style, "chat_template": self.chat_template}

    def effective_ratio(self, tokens: int) -> None:
        """None: nothing is read."""

    def compress(self, documents: Sequence[Document], backbone: Backbone) -> Iterator[Block]:
        """Nothing is kept of a document."""
        yield from ()

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """One call that holds the question alone."""
        parts = (Text(before_memory(self.chat_template)), Text(after_memory(self.chat_template, question, self.style)))
        reply = yield Call("answer", parts, Limits(max_tokens=160))
        assert isinstance(reply, Reply)
        return Answer(final_answer(reply.text, self.style), reply.text)

    def script(self, sample: Sample, backbone: Backbone, style: Style) -> Trace:
        """Nobody trains a model to answer without its text.

        Raises:
            CallError: always.
        """
        raise CallError("system", "closed-book is asked questions only; name another system for this suite")

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Inputs:
        """Tokens only."""
        return text_inputs(memory, call, backbone)
