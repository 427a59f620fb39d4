"""The records that every system, driver, trainer and suite share.

A call names blocks, never tensors, so that a trace can be stored, replayed after a weight update and turned into a
training row.  Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.core.document import Document

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Span:
    """A stretch of a document's text, in characters: `text[start:end]`."""

    start: int
    end: int


@dataclass(frozen=True)
class Text:
    """A part of a call: a string, or token ids where a border must not be tokenised again."""

    text: str = ""
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BlockRef:
    """A part of a call: block `index` of the memory named `memory`."""

    memory: str
    index: int


Part = Text | BlockRef


@dataclass(frozen=True)
class Limits:
    """How a reply is sampled and when it ends.  `temperature` 0 is greedy; `reads` asks for `Reply.reads`."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    reads: bool = False


@dataclass(frozen=True)
class Call:
    """One request to the backbone.  `trained` says whether its reply is a training target."""

    purpose: str
    parts: tuple[Part, ...]
    limits: Limits = Limits()
    adapter: str | None = None
    trained: bool = True


@dataclass(frozen=True)
class Read:
    """A stretch of document `source`, in characters, that a reply attended to with this weight."""

    source: int
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Usage:
    """Tokens that an endpoint has read and written for one call: as it counts them, else estimated from the text."""

    prompt: int
    reply: int


@dataclass(frozen=True)
class Reply:
    """What came back.  `logprobs` are untempered, one for each of `tokens`; `positions` those that the memory took.

    An endpoint gives text without tokens, and their number in `usage`.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: Finish = "stop"
    score: float | None = None
    positions: int = 0
    reads: tuple[Read, ...] = ()
    usage: Usage | None = None

    @property
    def token_count(self) -> int:
        """Tokens of the reply."""
        return len(self.tokens) if self.usage is None else self.usage.reply


@dataclass(frozen=True)
class Citation:
    """A passage that an answer rests on; `text` is empty when the memory holds none."""

    source: str
    start: int
    end: int
    text: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What a system returns for one question: the bare answer, and the whole reply it was taken from."""

    text: str
    reply: str = ""
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True)
class Step:
    """One call of a trace and its reply."""

    call: Call
    reply: Reply


@dataclass(frozen=True)
class Cost:
    """What one question cost; `positions` are those that the decoder saw, wrappers included."""

    calls: int = 0
    document_tokens: int = 0
    slots: int = 0
    positions: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0

    @property
    def effective_ratio(self) -> float:
        """Document tokens divided by the memory positions that the decoder really sees."""
        return self.document_tokens / self.positions if self.positions else 0.0


@dataclass(frozen=True)
class Trace:
    """Everything that happened for one question.  `settings` are those that scoring needs to render it again."""

    question: str
    system: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    answer: Answer | None = None
    reward: float | None = None
    error: str | None = None
    cost: Cost = Cost()

    def with_reward(self, reward: float) -> Trace:
        """The same trace with its reward."""
        return replace(self, reward=reward)


@dataclass(frozen=True)
class Sample:
    """A question about a document, with what is needed to train on it and to score it.

    `target` is the reply that a model should have given: text, or token ids for the tasks that work on tokens.
    `answers` are the accepted answers to a question; for the kind `listing`, all the items that it asks for.
    `bridge` are the token ids kept uncompressed between the memory and the target, `support` the sentences behind the
    answer in the order in which they are recalled, `evidence` where they stand; with `recall` false a written reply
    leaves them out.
    """

    task: str
    document: Document
    question: str
    answers: tuple[str, ...] = ()
    target: str | tuple[int, ...] = ""
    bridge: tuple[int, ...] = ()
    evidence: tuple[Span, ...] = ()
    support: tuple[str, ...] = ()
    kind: str = ""
    hops: int = 0
    split: str = "in"
    level: int = 0
    recall: bool = True

    @property
    def recalled(self) -> tuple[str, ...]:
        """The sentences that a written reply recalls where its style has any."""
        return self.support if self.recall else ()

    @property
    def expected(self) -> str:
        """The answer as it should be written: all items of a listing, else the first of the accepted answers."""
        if self.kind != "listing" or len(self.answers) < 2:
            return self.answers[0] if self.answers else ""
        return f"{', '.join(self.answers[:-1])} and {self.answers[-1]}"


class StoredText(Protocol):
    """A block's text that stays in its memory file until somebody reads it."""

    def read(self) -> str:
        """The text of the chunk, read anew each time."""
        ...


@dataclass(frozen=True)
class Block:
    """One chunk's share of a memory.

    `slots` is [n, d] for a memory of embeddings, None for systems whose memory is the text itself.  `starts` holds
    the first token of each slot, counted from the start of its document (the strided position rule needs it).
    A block made by folding carries its `text`, one from a memory file where it is `stored`: `read` serves both.
    """

    index: int
    source: int  # which document of the memory
    token_start: int
    token_end: int
    char_start: int
    char_end: int
    slots: Tensor | None = None
    starts: tuple[int, ...] = ()
    text: str | None = None
    stored: StoredText | None = field(default=None, repr=False, compare=False)

    @property
    def token_count(self) -> int:
        """Tokens of the document that this block stands for."""
        return self.token_end - self.token_start

    def read(self) -> str | None:
        """The text of the chunk; None when the memory holds none."""
        return self.stored.read() if self.text is None and self.stored is not None else self.text


@dataclass
class Memory:
    """An ordered list of blocks, the settings they were made with, and the fingerprint of their encoder."""

    name: str
    system: str
    settings: Mapping[str, Any]
    fingerprint: str
    sources: tuple[str, ...]
    blocks: list[Block]
    sha256: tuple[str, ...] = ()

    @property
    def token_count(self) -> int:
        """Tokens of all documents."""
        return sum(block.token_count for block in self.blocks)

    @property
    def slot_count(self) -> int:
        """Slots of all blocks; none for a memory of text."""
        return sum(len(block.starts) for block in self.blocks)
