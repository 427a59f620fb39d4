"""The one interface of all memory systems: what a system is, what it learns, and how it is asked.

A system is straight-line code for one sample: `answer` yields the calls it wants made and receives their replies.  The
scheduler batches, the policy computes.  A system owns its learning too: what it adds to a model, what a model folder
says of it, what a training batch draws, its losses and its costs.  Nothing outside a system's folder asks which system
it has, or looks up one of its settings by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from memfold.core.config import build, require
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError, unknown
from memfold.core.model import Model
from memfold.core.prompt import CHAT_TEMPLATES, STYLES, ChatTemplate, Style
from memfold.core.types import Answer, Block, Call, Memory, Passage, Reply, Sample, Step, Trace

if TYPE_CHECKING:
    from torch import Tensor, nn

    from memfold.backbone.model import Backbone

AnswerSteps = Generator[tuple[Call, ...], tuple[Reply, ...], Answer]

DRAWN = {"drawn": True}  # metadata of a reading setting that training draws, and that no user sets
SLOT = -1  # stands in `Rendered.tokens` where a slot does
USUAL_RATIO = 16  # tokens to a group in tasks that are cut into groups, for systems without slots


def ask(call: Call) -> Generator[tuple[Call, ...], tuple[Reply, ...], Reply]:
    """`reply = yield from ask(call)`"""
    (reply,) = yield (call,)
    return reply


def ask_all(calls: Sequence[Call]) -> Generator[tuple[Call, ...], tuple[Reply, ...], tuple[Reply, ...]]:
    """`replies = yield from ask_all(calls)`: independent calls, answered together, their replies in the same order."""
    return (yield tuple(calls)) if calls else ()


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values that a sequence is read behind: one pair [heads, p, size] for each layer.

    Two rows share a prefix when it is the same object; a system that renders several calls behind the same blocks keeps
    the prefix on the memory (`Memory.cached`).
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """How many positions it holds."""
        return int(self.layers[0][0].shape[1])


@dataclass(frozen=True)
class Rendered:
    """One rendered call, for one sample: a sequence of t token positions, each a token or a slot.

    `tokens` [t] holds token ids, `SLOT` where one of `slots` [n, d] stands, in their order; `positions` [t] are what
    the rotary embedding sees; `lengths` counts the token positions of each part of the call; `memory_positions` those
    that stand for the memory, wrappers and prefix included.  All of it is read behind `prefix`, with `adapter` active.
    """

    tokens: list[int]
    positions: list[int]
    lengths: tuple[int, ...]
    slots: Tensor | None = None
    memory_positions: int = 0
    prefix: Prefix | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Capabilities:
    """What shared code may rely on.

    `slots`: blocks hold slots, which only a model with weights here can read; else the memory is the text itself.
    `unfolds`: the system can read cited text again; `rereads_text`: with these settings it does.
    `activation_checkpointing`: its calls are sequences of tokens and slots without prefixes, so that activations may be
    computed again in the backward pass.  `pass_tokens`: how many tokens one pass of its encoder takes at most; None
    where nothing is encoded.
    """

    slots: bool = False
    unfolds: bool = False
    rereads_text: bool = False
    activation_checkpointing: bool = False
    pass_tokens: int | None = None


@dataclass(frozen=True)
class Pass:
    """`count` forward passes of an encoder over `tokens` tokens each, which see each other or those before them."""

    count: int
    tokens: int
    causal: bool = True


@dataclass(frozen=True)
class Footprint:
    """What a document of some length costs: tokens encoded in `passes`, slots projected, positions of the decoder."""

    positions: float
    encoded: float = 0.0
    slots: int = 0
    passes: Pass | None = None


@dataclass(frozen=True)
class HeadOutput:
    """What a head gave for one trained call: the trace it belongs to, the step, and the score with its gradient."""

    trace: Trace
    step: Step
    score: Tensor


@dataclass(frozen=True)
class ReadSettings:
    """What reading may change in every system: how a reply is asked for, and the chat template around it."""

    style: Style = "recall"
    chat_template: ChatTemplate = "flat"

    def __post_init__(self) -> None:
        require(self.style in STYLES, "style", self.style, ", ".join(STYLES))
        require(self.chat_template in CHAT_TEMPLATES, "chat_template", self.chat_template, ", ".join(CHAT_TEMPLATES))


@dataclass(frozen=True)
class TrainSettings:
    """What training varies; nothing, unless a system says more."""


FoldT = TypeVar("FoldT")
ReadT = TypeVar("ReadT", bound=ReadSettings)
TrainT = TypeVar("TrainT", bound=TrainSettings)
SystemT = TypeVar("SystemT", bound="MemorySystem[Any, Any, Any]")


class MemorySystem(ABC, Generic[FoldT, ReadT, TrainT]):
    """See the module docstring.

    A class has a `name`, and in `groups` the three dataclasses of its settings: what folding fixes, what reading may
    change, what training varies.  No two of them share a name.
    """

    name: ClassVar[str]
    groups: ClassVar[tuple[type, type, type]]
    tokens: ClassVar[tuple[str, ...]] = ()  # special tokens that a tokenizer needs for this system

    def __init__(self, fold: FoldT | None = None, read: ReadT | None = None, train: TrainT | None = None) -> None:
        fold_group, read_group, train_group = self.groups
        self.fold: FoldT = fold_group() if fold is None else fold
        self.read: ReadT = read_group() if read is None else read
        self.train: TrainT = train_group() if train is None else train

    # --- settings

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """Everything that can be set, in the order of the three groups."""
        return tuple(field.name for group in cls.groups for field in fields(group))

    @classmethod
    def of(cls: type[SystemT], settings: Mapping[str, Any]) -> SystemT:
        """A system from settings by name, the groups aside.

        Raises:
            ConfigError: for a setting that the system does not have, with the nearest, or an impossible value.
        """
        known = cls.setting_names()
        for name in settings:
            if name not in known:
                raise unknown(f"setting of system {cls.name!r}", name, known)
        groups: list[Any] = []
        for group in cls.groups:
            names = {field.name for field in fields(group)}
            groups.append(build(group, {name: value for name, value in settings.items() if name in names}))
        return cls(*groups)

    def changed(self: SystemT, **settings: Any) -> SystemT:
        """The same system with some settings changed."""
        groups: tuple[Any, ...] = (self.fold, self.read, self.train)
        current = {field.name: getattr(group, field.name) for group in groups for field in fields(group)}
        return self.of(current | settings)

    @classmethod
    def published(cls: type[SystemT]) -> SystemT:
        """With the settings of the publication that it comes from; the defaults, unless a system says more."""
        return cls()

    @property
    def settings(self) -> dict[str, Any]:
        """What a trace or a memory file must record to render a call again."""
        groups: tuple[Any, ...] = (self.fold, self.read)
        return {name: value for group in groups for name, value in asdict(group).items()}

    @property
    def answering_settings(self) -> tuple[str, ...]:
        """What a user may change for one answer; the chat template is the model's."""
        group: Any = self.read
        return tuple(
            field.name for field in fields(group) if field.name != "chat_template" and not field.metadata.get("drawn")
        )

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that a memory and its reader must share; none for a memory of text."""
        return {}

    # --- what it can do

    @property
    def capabilities(self) -> Capabilities:
        """A memory of text, unless a system says more."""
        return Capabilities()

    @property
    def ratio(self) -> int | None:
        """Tokens per slot; None for a memory of text."""
        return None

    def at_ratio(self: SystemT, ratio: int) -> SystemT:
        """The same system at another ratio.

        Raises:
            ConfigError: for a system without ratios.
        """
        raise ConfigError(f"ratio {ratio} is not possible: system {self.name!r} keeps the text as it is")

    def unfolding(self: SystemT, tokens: int) -> SystemT:
        """The same system, which reads about `tokens` tokens of cited text again before it answers (0: none).

        Raises:
            ConfigError: for a system that cannot.
        """
        raise ConfigError(f"system {self.name!r} cannot unfold: it reads the text itself; leave unfolding out")

    @abstractmethod
    def effective_ratio(self, tokens: int) -> float | None:
        """Document tokens for each memory position of the decoder; None where it does not read all of the memory."""

    # --- folding and asking

    @abstractmethod
    def compress(self, documents: Sequence[Document], model: Model, done: int = 0) -> Iterator[Block]:
        """Blocks of one document or several, in their order: question-free, streaming, batched over documents.

        With gradient where autograd is on.  The first `done` blocks are left out, and not computed where they need not
        be; the others have the same bits as without it.
        """

    @abstractmethod
    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """Asks (`ask`, `ask_all`) and returns the answer."""

    @abstractmethod
    def render(self, memory: Memory, call: Call, model: Model) -> Rendered:
        """The only place where a block becomes embeddings, keys and values, or tokens."""

    def passage(self, memory: Memory, call: Call, slot: int, model: Model) -> Passage:
        """What stands behind a slot of a rendered call, counted from 0.

        Raises:
            ConfigError: for a system whose calls have no slots.
        """
        raise ConfigError(f"system {self.name!r} has no slots that a reply could attend to")

    def check_memory(self, memory: Memory) -> None:
        """Refuse a memory whose blocks are not what these settings make.

        Raises:
            DataError: naming both values.
        """

    # --- learning

    @abstractmethod
    def script(self, sample: Sample, model: Model, style: Style) -> Trace:
        """The trace of a supervised sample: the calls with the replies they should have had."""

    def prepare(self, backbone: Backbone) -> None:
        """Give a model what this system needs to be trained: tokens, heads, adapters; what is there already stays.

        Raises:
            CheckpointError: for something there that does not fit the settings.
        """

    @classmethod
    def read_head(cls, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The head of this system that a model folder holds, from its tensors by name.

        Raises:
            CheckpointError: for a system without heads, or tensors that are none of its heads.
        """
        raise CheckpointError(f"system {cls.name!r} has no head, and the folder holds one; it does not belong here")

    def record(self, previous: Mapping[str, Any]) -> dict[str, Any]:
        """What a model folder says of this system after training; `previous` is what it said before, or {}."""
        group: Any = self.fold
        return asdict(group)

    @classmethod
    def trained_settings(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """The settings to use with a model whose folder says `record`."""
        return dict(record)

    def trained_at(self, record: Mapping[str, Any]) -> bool:
        """Whether a model whose folder says `record` was trained with these settings, as far as that matters."""
        return True

    @classmethod
    def trained_ratios(cls, record: Mapping[str, Any]) -> tuple[int, ...]:
        """The ratios that a model whose folder says `record` was trained at; none for a memory of text."""
        return ()

    def draw(self: SystemT, rng: Random, seed: int | None) -> SystemT:
        """The system as one training batch uses it; `seed` is another number for each batch, None in validation.

        Every system takes the same numbers from `rng`, so that a batch has the same documents whichever reads them.
        """
        rng.choice((USUAL_RATIO,))
        rng.random()
        return self

    def losses(self, outputs: Sequence[HeadOutput]) -> dict[str, Tensor]:
        """Losses beyond likelihood, by name and already weighted, from what heads gave for the trained calls."""
        return {}

    # --- costs

    def costliest(self: SystemT) -> SystemT:
        """Of what training may draw (`draw`), the system that costs most."""
        return self

    def footprint(self, tokens: float) -> Footprint:
        """What a document of so many tokens costs; by default every token is a position of the decoder."""
        return Footprint(positions=tokens)

    def parameters(self, hidden_size: int) -> dict[str, int]:
        """How many parameters it adds to a model, by their names."""
        return {}

    def encode_only(self, tokens: Sequence[int], backbone: Backbone) -> None:
        """The forward passes that compressing these tokens needs, without all the rest; benchmarks compare with it."""

    def layouts(self: SystemT) -> dict[str, SystemT]:
        """Ways of laying the same memory out for the decoder, whose costs differ; the default first."""
        return {self.name: self}
