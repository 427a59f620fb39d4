"""A system as it is, to be changed in the one method that an evaluation needs otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from memfold.backbone.model import Backbone
from memfold.core.document import Document
from memfold.core.prompt import Style
from memfold.core.system import AnswerSteps, Inputs, MemorySystem
from memfold.core.types import Block, Call, Memory, Sample, Trace


class Wrapped:
    """Does everything as `system` does."""

    def __init__(self, system: MemorySystem) -> None:
        self.name = system.name
        self.system = system

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the system."""
        return self.system.settings

    def effective_ratio(self, tokens: int) -> float | None:
        """As the system's."""
        return self.system.effective_ratio(tokens)

    def compress(self, documents: Sequence[Document], backbone: Backbone, done: int = 0) -> Iterator[Block]:
        """As the system does."""
        return self.system.compress(documents, backbone, done)

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """As the system does."""
        return self.system.answer(memory, question)

    def script(self, sample: Sample, backbone: Backbone, style: Style) -> Trace:
        """As the system does."""
        return self.system.script(sample, backbone, style)

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Inputs:
        """As the system does."""
        return self.system.render(memory, call, backbone)
