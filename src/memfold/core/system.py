"""The one interface of all memory systems, and what a backbone must offer them.

A system is straight-line code for one sample: `answer` yields the calls it wants made and receives their replies.  The
driver batches, the policy computes.  Nothing outside a system's folder asks which system it has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from memfold.core.document import Document
from memfold.core.types import Answer, Block, Call, Memory, Reply, Sample, Trace

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.backbone.model import Backbone

Calls = Call | list[Call]
Replies = Reply | list[Reply]
AnswerSteps = Generator[Calls, Replies, Answer]


@dataclass(frozen=True)
class Inputs:
    """One rendered call, for one sample.

    `embeddings` [t, d] and `positions` [t]; `memory_positions` counts those that stand for the memory, wrappers
    included; `slots` [n] gives the positions in the sequence that hold slots (for attention over them).
    """

    embeddings: Tensor
    positions: Tensor
    memory_positions: int = 0
    slots: tuple[int, ...] = ()
    adapter: str | None = None


class MemorySystem(Protocol):
    """See the module docstring.  `settings` is what a trace or a memory file must record to render a call again."""

    name: str

    @property
    def settings(self) -> dict[str, Any]: ...

    def compress(self, document: Document, backbone: Backbone) -> Iterator[Block]:
        """Blocks of a document, question-free and streaming; with gradient where autograd is on."""
        ...

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Yields a call or several independent ones, receives as many replies, returns the answer."""
        ...

    def script(self, sample: Sample, memory: Memory, backbone: Backbone) -> Trace:
        """The trace of a supervised sample: the calls with the replies they should have had."""
        ...

    def render(self, memory: Memory, call: Call, backbone: Backbone) -> Inputs:
        """The only place where a block becomes embeddings, keys and values, or tokens."""
        ...


class Policy(Protocol):
    """What makes replies.  `generate` batches calls of any systems."""

    def generate(
        self,
        requests: Sequence[tuple[MemorySystem, Memory, Call]],
        on_token: Callable[[int, str], None] | None = None,
        cancel: Callable[[int], bool] | None = None,
    ) -> list[Reply | Exception]:
        """One reply for each request, or the exception that its own rendering raised."""
        ...
