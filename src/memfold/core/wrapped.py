"""A system that does as another one but for one method; and one whose calls have other limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from memfold.core.document import Document
from memfold.core.prompt import Style
from memfold.core.system import AnswerSteps, Inputs, MemorySystem, Replies
from memfold.core.types import Block, Call, Limits, Memory, Sample, Trace

if TYPE_CHECKING:
    from memfold.backbone.model import Backbone

NewLimits = Callable[[Call, int], Limits]


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


class Limited(Wrapped):
    """A system whose calls have the limits that `limits` gives for each and its number, counted from 0.

    They are put on the calls themselves, so that a trace records those it was answered with.
    """

    def __init__(self, system: MemorySystem, limits: NewLimits) -> None:
        super().__init__(system)
        self.limits = limits

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """The system's calls with other limits."""
        steps = self.system.answer(memory, question)
        replies: Replies | None = None
        made = 0
        while True:
            try:
                calls = steps.send(cast(Replies, replies))
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            several = calls if isinstance(calls, list) else [calls]
            limited = [replace(call, limits=self.limits(call, made + number)) for number, call in enumerate(several)]
            made += len(limited)
            replies = yield limited if isinstance(calls, list) else limited[0]
