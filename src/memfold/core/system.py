"""The interface of memory systems: settings, folding, answering, training and costs.

A system is written as straight-line code for one question: `answer` yields calls and receives their replies.  The
scheduler batches the calls and the policy computes the replies.  A system also defines how it is trained: what it adds
to a model, its record in the model folder, what a training batch samples, its losses and its costs.  Code outside the
folder of a system neither checks for a particular system nor looks up its settings by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from memfold.core.config import build
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError, unknown
from memfold.core.footprint import Footprint
from memfold.core.model import Model, ModelRecord
from memfold.core.prompt import Style
from memfold.core.settings import ReadSettings, TrainSettings
from memfold.core.types import Answer, Block, Call, Memory, Passage, Reply, Sample, Step, Trace

if TYPE_CHECKING:
    from torch import Tensor, nn

    from memfold.backbone.model import Backbone

AnswerSteps = Generator[tuple[Call, ...], tuple[Reply, ...], Answer]

ANSWER = "answer"  # purpose of the calls that answer a question
GATE, UPDATE = "gate", "update"  # purposes of calls that score a block, and that write a note
ADDITION = "addition"  # purpose of calls that write a note of which only what is new is added to a shared one
SLOT = -1  # placeholder for a slot in `Rendered.tokens`
USUAL_RATIO = 16  # tokens per group in tasks that are cut into groups, for systems without slots


def ask(call: Call) -> Generator[tuple[Call, ...], tuple[Reply, ...], Reply]:
    """Make one call and return its reply: `reply = yield from ask(call)`."""
    (reply,) = yield (call,)
    return reply


def ask_all(calls: Sequence[Call]) -> Generator[tuple[Call, ...], tuple[Reply, ...], tuple[Reply, ...]]:
    """Make independent calls together and return their replies in order: `replies = yield from ask_all(calls)`."""
    return (yield tuple(calls)) if calls else ()


@dataclass(frozen=True, eq=False)
class Prefix:
    """Precomputed keys and values that a sequence attends to.

    `layers` has one (keys, values) pair per layer, each of shape [heads, p, head size] for p prefix positions.  Rows
    share a prefix if it is the same object, so a system that renders several calls with the same blocks caches the
    prefix on the memory (`Memory.cached`).
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Number of positions in the prefix."""
        return int(self.layers[0][0].shape[1])


@dataclass(frozen=True)
class Rendered:
    """One rendered call: a sequence of t token positions, each of them a token or a slot.

    `tokens` [t] holds token ids, with `SLOT` at the positions of `slots` [n, d], in their order.  `positions` [t] holds
    the position ids for the rotary embedding.  `lengths` holds the number of token positions of each part of the call.
    `memory_positions` counts the positions of the memory, including wrapper tokens and the prefix.  The sequence
    attends to `prefix`, with `adapter` active.  `room` is how many tokens of a reply fit into the context window after
    it; None if the window does not limit it.
    """

    tokens: list[int]
    positions: list[int]
    lengths: tuple[int, ...]
    slots: Tensor | None = None
    memory_positions: int = 0
    prefix: Prefix | None = None
    adapter: str | None = None
    room: int | None = None

    @property
    def length(self) -> int:
        """Positions of the call in the key/value cache, those of its prefix included."""
        return len(self.tokens) + (0 if self.prefix is None else self.prefix.length)

    def slots_between(self, start: int, end: int) -> Tensor | None:
        """Return the slots at token positions `start` to `end` (excluded); None if there are none."""
        before, count = self.tokens[:start].count(SLOT), self.tokens[start:end].count(SLOT)
        return self.slots[before : before + count] if self.slots is not None and count else None


@dataclass(frozen=True)
class Capabilities:
    """Properties of a system that shared code may rely on.

    `slots`: blocks hold slots, which only a model with local weights can read; otherwise the memory is the text itself.
    `unfolds`: the system can read cited text again.  `rereads_text`: it does so with its current settings.
    `activation_checkpointing`: its calls are sequences of tokens and slots without a prefix, so activations can be
    recomputed in the backward pass.  `consecutive`: the token positions of its calls count 0, 1, 2, ..., as
    inference engines number them.  `pass_tokens`: the maximum number of tokens in one forward pass of the encoder;
    None if nothing is encoded.  `untrained`: it works with models that were not trained for it.  `call_positions`: the
    most positions of one call, without prompt and answer, however long the documents are; None if they grow with the
    documents.  `questions`: how many questions one reading of a memory may serve (`MemorySystem.about`).
    """

    slots: bool = False
    unfolds: bool = False
    rereads_text: bool = False
    activation_checkpointing: bool = False
    consecutive: bool = True
    pass_tokens: int | None = None
    untrained: bool = True
    call_positions: int | None = None
    questions: int = 1


@dataclass(frozen=True)
class HeadOutput:
    """The output of a head for one trained call: its trace, its step, and the score with its gradient graph."""

    trace: Trace
    step: Step
    score: Tensor


FoldT = TypeVar("FoldT")
ReadT = TypeVar("ReadT", bound=ReadSettings)
TrainT = TypeVar("TrainT", bound=TrainSettings)
SystemT = TypeVar("SystemT", bound="MemorySystem[Any, Any, Any]")


class MemorySystem(ABC, Generic[FoldT, ReadT, TrainT]):
    """Base class of memory systems; see the module docstring.

    A subclass sets `name` and `groups`, the three dataclasses of its settings: settings fixed when folding, settings
    that can change when reading, and settings that training varies.  A setting name occurs in one group only.
    """

    name: ClassVar[str]
    groups: ClassVar[tuple[type, type, type]]
    drawn: ClassVar[tuple[str, ...]] = ()  # settings that `draw` samples for each training batch
    tokens: ClassVar[tuple[str, ...]] = ()  # special tokens that the system adds to a tokenizer
    kept: ClassVar[tuple[str, ...]] = ()  # folding settings that a memory keeps whatever its model was trained with

    def __init__(self, fold: FoldT | None = None, read: ReadT | None = None, train: TrainT | None = None) -> None:
        fold_group, read_group, train_group = self.groups
        self.fold: FoldT = fold_group() if fold is None else fold
        self.read: ReadT = read_group() if read is None else read
        self.train: TrainT = train_group() if train is None else train

    # --- settings

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """Return the names of all settings, in the order of the three groups."""
        return tuple(field.name for group in cls.groups for field in fields(group))

    @classmethod
    def of(cls: type[SystemT], settings: Mapping[str, Any]) -> SystemT:
        """Create a system from a flat mapping of settings; the names determine the groups.

        Raises:
            ConfigError: for an unknown setting (the message names the nearest one) or a value out of range.
        """
        known = cls.setting_names()
        for name in settings:
            if name not in known:
                raise unknown(f"{cls.name} setting", name, known)
        groups: list[Any] = []
        for group in cls.groups:
            names = {field.name for field in fields(group)}
            groups.append(build(group, {name: value for name, value in settings.items() if name in names}))
        return cls(*groups)

    @classmethod
    def fitting(cls, model: ModelRecord) -> dict[str, Any]:
        """Return the settings that suit a model, by its window or its training, and replace the defaults."""
        return {}

    def changed(self: SystemT, **settings: Any) -> SystemT:
        """Return a copy of the system with some settings changed."""
        groups: tuple[Any, ...] = (self.fold, self.read, self.train)
        current = {field.name: getattr(group, field.name) for group in groups for field in fields(group)}
        return self.of(current | settings)

    @classmethod
    def published(cls: type[SystemT]) -> SystemT:
        """Create the system with the settings of the paper that describes it; by default, with the default settings."""
        return cls()

    @property
    def settings(self) -> dict[str, Any]:
        """The folding and reading settings, which a trace or a memory file records to render a call again."""
        groups: tuple[Any, ...] = (self.fold, self.read)
        return {name: value for group in groups for name, value in asdict(group).items()}

    @property
    def answering_settings(self) -> tuple[str, ...]:
        """Names of the settings that users can change per answer; the chat template is a property of the model."""
        group: Any = self.read
        return tuple(field.name for field in fields(group) if field.name not in ("chat_template", *self.drawn))

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that must be equal in a memory and in the system that reads it; none for a memory of text."""
        return {}

    def settled(self: SystemT, documents: Sequence[Document], model: Model) -> SystemT:
        """Return the system with which these documents are folded: what depends on their length is decided."""
        return self

    # --- capabilities and ratios

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities of the system; by default, those of a memory of text."""
        return Capabilities()

    @property
    def stores_slots(self) -> bool:
        """Whether a memory stores slots; otherwise it stores the text alone."""
        return self.capabilities.slots

    @property
    def ratio(self) -> int | None:
        """Document tokens per slot; None for a memory of text."""
        return None

    def at_ratio(self: SystemT, ratio: int) -> SystemT:
        """Return a copy of the system at another ratio.

        Raises:
            ConfigError: for a system without ratios.
        """
        raise ConfigError(
            f"ratio {ratio} is not possible: system {self.name!r} keeps the text as it is; leave the ratio out"
        )

    def unfolding(self: SystemT, tokens: int) -> SystemT:
        """Return a copy of the system that reads about `tokens` tokens of cited text again, or none, before its answer.

        Raises:
            ConfigError: for a system that cannot unfold.
        """
        read = "nothing but slots" if self.capabilities.slots else "the text itself"
        raise ConfigError(f"system {self.name!r} cannot unfold: it reads {read}; leave unfolding out")

    def doubting(self: SystemT, tokens: int) -> SystemT:
        """Return a copy of the system that reads cited text again if the text does not support a reply.

        `tokens` is the approximate length of that text; 0 is never.  A system that reads the text itself is unchanged.
        """
        return self

    @abstractmethod
    def effective_ratio(self, tokens: int, slots: int | None = None) -> float | None:
        """Return document tokens per decoder position of the memory; None if the decoder reads only a part of it.

        `slots` is the number of slots of the memory; it is estimated if not given.
        """

    # --- folding and answering

    @abstractmethod
    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Yield the blocks of one or more documents, in order.

        Compression is streaming, batched over documents and independent of any question.  Slots carry gradients if
        autograd is enabled.  The first `done` blocks are skipped, and not computed if possible; the remaining blocks
        are bitwise equal to those of a run with `done` 0.
        """

    @abstractmethod
    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Generate the answer to a question: yield calls (`ask`, `ask_all`), receive replies, return the `Answer`."""

    def about(self: SystemT, questions: Sequence[str]) -> SystemT:
        """Return the system that makes the same calls, except the last, for each of these questions."""
        return self

    def may_answer(self, call: Call) -> bool:
        """Return whether the reply to a call may be the answer, so that users see it as it is written."""
        return call.purpose == ANSWER

    @abstractmethod
    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """Convert a call to model input; only this method turns a block into embeddings, keys and values, or tokens."""

    def passage(self, memory: Memory, call: Call, slot: int, model: Model) -> Passage:
        """Return the document passage that a slot of a rendered call stands for; `slot` counts from 0.

        Raises:
            ConfigError: for a system whose calls have no slots.
        """
        raise ConfigError(f"system {self.name!r} has no slots that a reply could attend to")

    def slot_size(self, model: Model) -> int | None:
        """Return the number of values of a slot that a memory stores; None if it stores none, or if any will do."""
        return None

    def slot_parts(self, model: Model) -> int:
        """Return the number of equal parts of a slot whose values differ in size, and have a scale each in int8."""
        return 1

    def check_memory(self, memory: Memory) -> None:
        """Raise a `DataError`, with both values, if the blocks of a memory do not match the settings of the system."""

    # --- training

    @abstractmethod
    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """Return the trace of a supervised sample: its calls with the expected replies as training targets."""

    def prepare(self, backbone: Backbone) -> None:
        """Add to a model what the system needs for training: tokens, heads, adapters.  Existing ones are kept.

        Raises:
            CheckpointError: for an existing part that does not match the settings.
        """

    @classmethod
    def read_head(cls, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Build the head of the system from the named tensors of a model folder.

        Raises:
            CheckpointError: for a system without heads, or tensors of another kind of head.
        """
        raise CheckpointError(f"system {cls.name!r} has no head, but the model folder has one; remove it there")

    def record(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record of the system for the model folder after training; `previous` is the old record, or {}."""
        group: Any = self.fold
        return asdict(group)

    @classmethod
    def trained_settings(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings to use with a model whose folder has this record."""
        return dict(record)

    def trained_at(self, record: Mapping[str, Any]) -> bool:
        """Return whether a model whose folder has this record can be used with the current settings."""
        return True

    @classmethod
    def trained_ratios(cls, record: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the ratios that a model with this record was trained at; none for a memory of text."""
        return ()

    def draw(self: SystemT, rng: Random, seed: int | None) -> SystemT:
        """Return the system with the settings sampled for one training batch.

        `seed` differs between batches and is None in validation.  Every system consumes the same random numbers from
        `rng` where it varies no setting, so the documents of such a batch do not depend on the system.
        """
        rng.choice((USUAL_RATIO,))
        rng.random()
        return self

    def labelled(self, sample: Sample, memory: Memory, trace: Trace) -> Trace:
        """Return the trace of a rollout with labels as the scores of heads, and nothing else to train."""
        raise ConfigError(f"system {self.name!r} has no head that learns from labels; use objective = 'reward'")

    def losses(self, outputs: Sequence[HeadOutput]) -> dict[str, Tensor]:
        """Return additional losses by name, already weighted, from the head outputs of the trained calls."""
        return {}

    # --- costs

    def costliest(self: SystemT) -> SystemT:
        """Return the most expensive of the systems that training can sample (`draw`)."""
        return self

    def footprint(self, tokens: float) -> Footprint:
        """Return the cost of a document of `tokens` tokens; by default, every token takes one decoder position."""
        return Footprint(positions=tokens)

    def parameters(self, hidden_size: int) -> dict[str, int]:
        """Return the number of elements of each parameter that the system adds to a model, by parameter name."""
        return {}

    def beside(self, modules: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """Return the same for the parameters that it adds beside linear modules: adapters and other projections.

        `modules` maps the names of the linear modules of a model to their input and output sizes.
        """
        return {}

    def encode_only(self, tokens: Sequence[int], backbone: Backbone) -> None:
        """Run only the forward passes that compressing these tokens needs, as a baseline for benchmarks."""

    def layouts(self: SystemT) -> dict[str, SystemT]:
        """Return variants of the system that lay out a memory differently for the decoder; the default is first."""
        return {self.name: self}
