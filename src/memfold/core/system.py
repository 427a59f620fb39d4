"""The one interface of all memory systems, and what a backbone must offer them.

A system is straight-line code for one sample: `answer` yields the calls it wants made and receives their replies.  The
driver batches, the policy computes.  Nothing outside a system's folder asks which system it has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from memfold.core.document import Document
from memfold.core.prompt import Style
from memfold.core.types import Answer, Block, Call, Memory, Reply, Sample, Trace

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.backbone.model import Backbone

Calls = Call | list[Call]
Replies = Reply | list[Reply]
AnswerSteps = Generator[Calls, Replies, Answer]


SLOT = -1  # stands in `Inputs.tokens` where a slot does


@dataclass(frozen=True)
class Inputs:
    """One rendered call, for one sample: a sequence of t places, each a token or a slot.

    `tokens` [t] holds token ids, `SLOT` at the places of `slots` [n, d] in their order; `positions` [t] are what the
    rotary embedding sees; `lengths` are the places that each part of the call took; `memory_positions` counts those
    that stand for the memory, wrappers included.  `key_values` (one pair [heads, p, size] for each layer) come before.
    """

    tokens: list[int]
    positions: list[int]
    lengths: tuple[int, ...]
    slots: Tensor | None = None
    memory_positions: int = 0
    key_values: list[tuple[Tensor, Tensor]] | None = None
    adapter: str | None = None


class MemorySystem(Protocol):
    """See the module docstring.  `settings` is what a trace or a memory file must record to render a call again."""

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """What rendering a call needs besides the memory."""
        ...

    def effective_ratio(self, tokens: int) -> float | None:
        """Document tokens for each memory position of the decoder; None where it does not read all of the memory."""
        ...

    def compress(self, documents: Sequence[Document], backbone: Backbone, done: int = 0) -> Iterator[Block]:
        """Blocks of one document or several, in their order: question-free, streaming, batched over documents.

        With gradient where autograd is on.  The first `done` blocks are left out, and not computed where they need not
        be; the others have the same bits as without it.
        """
        ...

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Yields a call or several independent ones, receives as many replies, returns the answer."""
        ...

    def script(self, sample: Sample, backbone: Backbone, style: Style) -> Trace:
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
