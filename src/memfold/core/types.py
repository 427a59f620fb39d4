"""Data types shared by systems, the scheduler, training and evaluation.

A call refers to blocks by index and holds no tensors, so a trace can be stored, replayed after a weight update and
turned into a training row.  This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from memfold.core.block import Block as Block
from memfold.core.errors import Failure

if TYPE_CHECKING:
    from memfold.core.document import Document

Finish = Literal["stop", "length", "repetition", "cancelled"]
Penalised = Literal["all", "reply"]
Cached = TypeVar("Cached")


@dataclass(frozen=True)
class Span:
    """A range of characters in the text of a document: `text[start:end]`."""

    start: int
    end: int


@dataclass(frozen=True)
class Text:
    """A text part of a call: a string, or token ids if the token boundaries must be preserved."""

    text: str = ""
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BlockRef:
    """A memory part of a call: block `index` of the memory named `memory`."""

    memory: str
    index: int


@dataclass(frozen=True)
class TemplatePart:
    """A part of a call that the model's chat template writes: before a user's message, or after it up to the reply."""

    side: Literal["before", "after"]


Part = Text | BlockRef | TemplatePart


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters and length limit of a reply.  `temperature` 0 is greedy decoding; `top_k` 0 is no limit.

    `penalised`: the repetition penalty applies to the tokens of the prompt and the reply, or to those of the reply.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    penalised: Penalised = "all"


@dataclass(frozen=True)
class Generate:
    """Request a sampled reply; with `attention`, also the passages that the reply attended to most."""

    sampling: SamplingParams = SamplingParams()
    attention: bool = False


@dataclass(frozen=True)
class Likelihood:
    """Request the log-probability of each token of a given reply: its tokens, or a text that the model encodes."""

    tokens: tuple[int, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class HeadScore:
    """Request a score: the output of the named head for the hidden state at the last position."""

    head: str


Wants = Generate | Likelihood | HeadScore


@dataclass(frozen=True)
class Call:
    """One request to the backbone: its input (`parts`), the kind of result (`wants`) and the active adapter.

    `purpose` is a label, such as `answer`.  `trained` says whether the reply is a training target.
    """

    purpose: str
    parts: tuple[Part, ...]
    wants: Wants = Generate()
    adapter: str | None = None
    trained: bool = True

    @property
    def sampling(self) -> SamplingParams:
        """Sampling parameters of the reply; the defaults if the call does not request a sampled reply."""
        return self.wants.sampling if isinstance(self.wants, Generate) else SamplingParams()

    def sampled(self, sampling: SamplingParams) -> Call:
        """Return the call with other sampling parameters; a call without a sampled reply is returned unchanged."""
        if not isinstance(self.wants, Generate):
            return self
        return replace(self, wants=replace(self.wants, sampling=sampling))


@dataclass(frozen=True)
class Passage:
    """A range of characters in document number `source` of a memory; `weight` is the attention it received."""

    source: int
    span: Span
    weight: float = 0.0


@dataclass(frozen=True)
class Usage:
    """Prompt and reply tokens of one call to an endpoint, as reported by it or else estimated from the text."""

    prompt: int
    reply: int


@dataclass(frozen=True)
class Reply:
    """The result of a call.

    `text` is the reply without the thoughts of a reasoning model, which are in `thinking`; `tokens` are those of both.
    `logprobs` has the log-probability of each of `tokens`, before temperature is applied; `score` is the output of a
    head; `positions` is the number of token positions taken by the memory; `attention` lists the passages of the most
    attended slots, by descending weight.  A reply of an endpoint has no `tokens`; its token counts are in `usage`.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: Finish = "stop"
    score: float | None = None
    positions: int = 0
    attention: tuple[Passage, ...] = ()
    usage: Usage | None = None
    thinking: str = ""

    @property
    def token_count(self) -> int:
        """Number of tokens in the reply."""
        return len(self.tokens) if self.usage is None else self.usage.reply

    @property
    def is_cut(self) -> bool:
        """Whether the reply did not end by itself: it reached its limit, or went round in a circle."""
        return self.finish in ("length", "repetition")


@dataclass(frozen=True)
class Citation:
    """A passage that supports an answer, in characters of a document; `text` is empty if the memory holds no text."""

    source: str
    start: int
    end: int
    text: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Recall:
    """A sentence that a reply recalled: whether the text of the memory contains it, and the passage nearest to it."""

    text: str
    supported: bool
    nearest: Citation | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to one question (`text`), the full reply that it was extracted from, and its citations.

    `warning` says what the system met that makes the answer unreliable, such as blocks that it could not read.
    """

    text: str
    reply: str = ""
    citations: tuple[Citation, ...] = ()
    warning: str | None = None


@dataclass(frozen=True)
class Step:
    """One call of a trace and its reply."""

    call: Call
    reply: Reply


@dataclass(frozen=True)
class Cost:
    """The cost of one question; `positions` counts the decoder positions of the memory, including wrapper tokens."""

    calls: int = 0
    document_tokens: int = 0
    slots: int = 0
    positions: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0

    @property
    def effective_ratio(self) -> float:
        """Document tokens divided by the decoder positions of the memory; 0 if there are none."""
        return self.document_tokens / self.positions if self.positions else 0.0


@dataclass(frozen=True)
class Trace:
    """The complete record of one question.  `settings` are the system settings needed to render its calls again.

    A trace has either an `answer` or a `failure`.
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
        """Return a copy of the trace with a reward."""
        return replace(self, reward=reward)


@dataclass(frozen=True)
class Sample:
    """A question about a document, with the data for training on it and for scoring replies to it.

    `target` is the expected reply: text, or token ids for tasks defined on tokens.  `answers` are the accepted answers;
    for the kind `listing`, they are all the items that the question asks for.  `bridge` holds token ids that are kept
    uncompressed between the memory and the target.  `support` holds the supporting sentences in the order of recall,
    and `evidence` their character ranges; if `recall` is false, the expected reply omits them.
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
        """The sentences that the expected reply recalls, in the styles that recall sentences."""
        return self.support if self.recall else ()

    @property
    def expected(self) -> str:
        """The expected answer as text: all items of a listing, otherwise the first accepted answer."""
        if self.kind != "listing" or len(self.answers) < 2:
            return self.answers[0] if self.answers else ""
        return f"{', '.join(self.answers[:-1])} and {self.answers[-1]}"


@dataclass
class Memory:
    """An ordered list of blocks, with the settings of the system and the fingerprint of the encoder that made slots.

    `dtype` is the data type in which the memory file stores slots; None for a memory that was not read from a file.
    Data that a system derives from the blocks and reuses, such as a search index, is cached on the memory (`cached`)
    and freed together with it.
    """

    name: str
    system: str
    settings: Mapping[str, Any]
    fingerprint: str
    sources: tuple[str, ...]
    blocks: list[Block]
    sha256: tuple[str, ...] = ()
    dtype: str | None = None
    _cache: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<Memory {self.name!r} of system {self.system!r}: {self.counts}>"

    @property
    def counts(self) -> str:
        """How much the memory holds, for people."""
        many = "" if len(self.sources) == 1 else "s"
        return f"{len(self.sources)} document{many}, {self.token_count} tokens, {self.slot_count} slots"

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for pickling, without the cache, which is made again on demand."""
        return vars(self) | {"_cache": {}}

    @property
    def token_count(self) -> int:
        """Number of tokens of all documents."""
        return sum(block.token_count for block in self.blocks)

    @property
    def slot_count(self) -> int:
        """Number of slots of all blocks; 0 for a memory of text."""
        return sum(block.slot_count for block in self.blocks)

    @property
    def holds_text(self) -> bool:
        """Whether the memory holds the text of its documents."""
        return bool(self.blocks) and self.blocks[0].read() is not None

    def cached(self, key: Hashable, make: Callable[[], Cached]) -> Cached:
        """Return the value cached under `key`, calling `make` on the first request."""
        if key not in self._cache:
            self._cache[key] = make()
        value: Cached = self._cache[key]
        return value
