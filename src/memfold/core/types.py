"""The records that every system, scheduler, trainer and suite share.

A call names blocks, never tensors, so that a trace can be stored, replayed after a weight update and turned into a
training row.  Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from memfold.core.errors import Failure

if TYPE_CHECKING:
    from torch import Tensor

    from memfold.core.document import Document

Finish = Literal["stop", "length", "cancelled"]
Cached = TypeVar("Cached")


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
class SamplingParams:
    """How a reply is sampled and when it ends.  `temperature` 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Generate:
    """A call wants a sampled reply; with `attention` also what it attended to most."""

    sampling: SamplingParams = SamplingParams()
    attention: bool = False


@dataclass(frozen=True)
class Likelihood:
    """A call wants the log-probability of each token of a given reply."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class HeadScore:
    """A call wants one number: what the head of that name makes of the last position's hidden state."""

    head: str


Wants = Generate | Likelihood | HeadScore


@dataclass(frozen=True)
class Call:
    """One request to the backbone: what it reads (`parts`), what it wants, and the adapter that is active meanwhile.

    `trained` says whether its reply is a training target.
    """

    purpose: str
    parts: tuple[Part, ...]
    wants: Wants = Generate()
    adapter: str | None = None
    trained: bool = True

    @property
    def sampling(self) -> SamplingParams:
        """How the reply is sampled; the defaults for a call that wants none."""
        return self.wants.sampling if isinstance(self.wants, Generate) else SamplingParams()

    def sampled(self, sampling: SamplingParams) -> Call:
        """The same call with other sampling parameters; one that wants no sampled reply stays as it is."""
        if not isinstance(self.wants, Generate):
            return self
        return replace(self, wants=replace(self.wants, sampling=sampling))


@dataclass(frozen=True)
class Passage:
    """A stretch of document number `source` of a memory; `weight` says how much a reply attended to it."""

    source: int
    span: Span
    weight: float = 0.0


@dataclass(frozen=True)
class Usage:
    """Tokens that an endpoint has read and written for one call: as it counts them, else estimated from the text."""

    prompt: int
    reply: int


@dataclass(frozen=True)
class Reply:
    """What came back for a call.

    `logprobs` are untempered, one for each of `tokens`; `score` is what a head gave; `positions` are those that the
    memory took; `attention` is what stands behind the most attended slots, highest weight first.  An endpoint gives
    text without tokens, and their number in `usage`.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: Finish = "stop"
    score: float | None = None
    positions: int = 0
    attention: tuple[Passage, ...] = ()
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
    """Everything that happened for one question.  `settings` are those that scoring needs to render it again.

    A trace has an `answer`, or a `failure` that says why there is none.
    """

    question: str
    system: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    answer: Answer | None = None
    reward: float | None = None
    failure: Failure | None = None
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

    `slots` is [n, d] for a memory of slots, None for systems whose memory is the text itself; what the d numbers of a
    slot mean is for the system to say (an embedding, the keys and values of a position).  A block made by folding
    carries its `text`, one from a memory file where it is `stored`: `read` serves both.
    """

    index: int
    source: int  # which document of the memory
    token_start: int
    token_end: int
    char_start: int
    char_end: int
    slots: Tensor | None = None
    text: str | None = None
    stored: StoredText | None = field(default=None, repr=False, compare=False)

    @property
    def token_count(self) -> int:
        """Tokens of the document that this block stands for."""
        return self.token_end - self.token_start

    @property
    def slot_count(self) -> int:
        """Slots of the block; none for a block of text."""
        return 0 if self.slots is None else len(self.slots)

    def read(self) -> str | None:
        """The text of the chunk; None when the memory holds none."""
        return self.stored.read() if self.text is None and self.stored is not None else self.text


@dataclass
class Memory:
    """An ordered list of blocks, the settings they were made with, and the fingerprint of their encoder.

    What a system derives from the blocks and needs again (a search index, a rotated prefix) is kept on the memory, by
    `cached`, so that it lives as long as the memory does.
    """

    name: str
    system: str
    settings: Mapping[str, Any]
    fingerprint: str
    sources: tuple[str, ...]
    blocks: list[Block]
    sha256: tuple[str, ...] = ()
    _cache: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def token_count(self) -> int:
        """Tokens of all documents."""
        return sum(block.token_count for block in self.blocks)

    @property
    def slot_count(self) -> int:
        """Slots of all blocks; none for a memory of text."""
        return sum(block.slot_count for block in self.blocks)

    @property
    def holds_text(self) -> bool:
        """Whether the documents' text can be read from it."""
        return bool(self.blocks) and self.blocks[0].read() is not None

    def cached(self, key: Hashable, make: Callable[[], Cached]) -> Cached:
        """What `make` gives, made once for this memory."""
        if key not in self._cache:
            self._cache[key] = make()
        value: Cached = self._cache[key]
        return value
