"""A recipe: one stage of training as data, read from TOML.

The stages of the pooled paper (`base` is ours, for models made from scratch) differ only in what their recipes say:
where the weights come from, which tasks in which shares, what is frozen, which optimiser and schedule.  What only
reinforcement learning says is in `memfold.rl.recipe`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from memfold.backbone.shapes import SHAPES
from memfold.core.config import build, require
from memfold.core.errors import ConfigError
from memfold.core.prompt import ChatTemplate
from memfold.core.registry import SYSTEMS
from memfold.tasks.datasets.table import DATASETS
from memfold.tasks.table import LOCAL, TASKS
from memfold.training.fqlora import FQLoRA
from memfold.training.hardware import Hardware
from memfold.training.recipe_file import read_values

Stage = Literal["base", "cpt1", "cpt2", "sft"]
RECOMPUTED = ("pooled", "full")  # systems whose calls are sequences of tokens and slots, and nothing else


@dataclass(frozen=True)
class ModelSize:
    """The model that a `base` stage makes: Qwen3 architecture, tied embeddings, its own tokenizer."""

    vocabulary: int = 2048
    hidden: int = 384
    layers: int = 4
    heads: int = 6
    feedforward: int = 1024
    window: int = 32768
    rope_theta: float = 1e6
    init: float = 0.06
    tokenizer_seed: int = 0


@dataclass(frozen=True)
class Entry:
    """One entry of a mixture: which task, read through which system, how often and how large.

    `share` is a weight among the entries; `sizes` are document lengths in tokens, `ratios` tokens per slot for systems
    with a ratio, of each of which one is drawn; `samples` are the questions asked about a document; some batches leave
    up to `gap` positions empty between a memory and what follows.  `files` are the local files or folders of a task on
    local data, `dataset` whose layout they have where they hold questions.
    """

    task: str
    share: float
    sizes: tuple[int, ...]
    system: str = "pooled"
    ratios: tuple[int, ...] = (16,)
    level: int = 3
    samples: int = 1
    kinds: tuple[str, ...] = ()
    filler: float = 0.0
    gap: int = 0
    files: tuple[str, ...] = ()
    dataset: str | None = None

    def __post_init__(self) -> None:
        require(self.task in TASKS, "task", self.task, ", ".join(TASKS))
        require(self.system in SYSTEMS, "system", self.system, ", ".join(SYSTEMS))
        require(self.share > 0, "share", self.share, "above 0")
        require(bool(self.sizes) and min(self.sizes) > 0, "sizes", self.sizes, "one or more positive numbers")
        require(bool(self.ratios) and min(self.ratios) > 0, "ratios", self.ratios, "one or more positive numbers")
        require(self.gap >= 0, "gap", self.gap, "0 or more positions")
        require(self.dataset in (None, *DATASETS), "dataset", self.dataset, ", ".join(DATASETS))
        if bool(self.files) != (self.task in LOCAL):
            raise ConfigError(
                f"task {self.task!r} and files = {list(self.files)}: tasks on files are {', '.join(LOCAL)}"
            )
        if bool(self.dataset) != (self.task == "questions"):
            raise ConfigError(
                f"task {self.task!r} and dataset = {self.dataset!r}: only 'questions' has one, and needs it"
            )

    @property
    def label(self) -> str:
        """Its name in metrics and curves."""
        return f"{self.system}/{self.task}"


@dataclass(frozen=True)
class Share(Entry):
    """An entry of supervised training, where replies are written rather than sampled.

    Sizes and ratios are drawn for each micro-batch; `recall` is the share of questions answered by recall, `free` that
    of those answered by recall or not, as a coin falls, after one cue, so that a model may choose; `language` weighs
    the plain language modelling of a document that is read as text; `bridges` are the fewest and the most bridge chunks
    of a continuation; `folded` takes memories as they are, with no gradient through the compressor: documents several
    times longer then cost the same.
    """

    bridges: tuple[int, int] = (0, 0)
    recall: float = 0.5
    free: float = 0.0
    language: float = 0.5
    folded: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.bridges[0] <= self.bridges[1], "bridges", self.bridges, "the fewest, then the most")
        require(0 <= self.recall <= 1, "recall", self.recall, "0 to 1")
        require(self.free >= 0 and self.recall + self.free <= 1, "free", self.free, "0 to what recall leaves of 1")


@dataclass(frozen=True)
class Group:
    """Parameters whose names match one of `match` (shell patterns; the first group that matches wins)."""

    match: tuple[str, ...]
    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the stage: a warm-up, then a cosine, or flat with a linear decay at the end (trapezoid)."""

    kind: Literal["trapezoid", "cosine"] = "trapezoid"
    warmup: float = 0.02
    decay: float = 0.4
    floor: float = 0.02

    def __post_init__(self) -> None:
        require(0 <= self.warmup < 1, "schedule.warmup", self.warmup, "0 to 1")
        require(0 < self.decay <= 1 - self.warmup, "schedule.decay", self.decay, "above 0, at most 1 - warmup")

    def factor(self, step: int, steps: int) -> float:
        """What the learning rates are multiplied by at a step."""
        progress = (step + 0.5) / steps
        if progress < self.warmup:
            return progress / self.warmup
        if self.kind == "cosine":
            progress = (progress - self.warmup) / (1 - self.warmup)
            return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
        return min(1.0, self.floor + (1 - self.floor) * (1 - progress) / self.decay)


@dataclass(frozen=True)
class StageRecipe:
    """What the recipes of all stages say, reinforcement learning included.

    `parent` is a model folder or a run folder; `settings` are those of the systems that have them.  With `fqlora` only
    a part of the parent is trained in full, and low-rank adapters beside the rest.  `architecture` names the shape of
    the parent (`memfold.backbone.shapes`), so that its plan needs no weights; `checkpointing` computes activations
    again in the backward pass.
    """

    stage: str
    steps: int
    mixture: tuple[Entry, ...] = ()
    parent: str | None = None
    chat_template: ChatTemplate = "flat"
    settings: dict[str, Any] = field(default_factory=dict)
    fqlora: FQLoRA | None = None
    groups: tuple[Group, ...] = (Group(("*",)),)
    schedule: Schedule = Schedule()
    freeze: tuple[str, ...] = ()
    seed: int = 0
    tokens: int = 4096
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    attention: Literal["sdpa", "eager"] = "sdpa"
    clip: float = 1.0
    validate_every: int = 200
    checkpoint_every: int = 200
    architecture: str | None = None
    checkpointing: bool = False
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "validate_every", "checkpoint_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        if self.architecture is not None:
            require(self.architecture in SHAPES, "architecture", self.architecture, ", ".join(SHAPES))
        if self.hardware.sharded and any(group.kind == "muon" for group in self.groups):
            raise ConfigError(
                "hardware.sharded = true and a group of kind 'muon': Muon needs whole matrices; use adamw"
            )
        if self.checkpointing:
            self._check_recomputed()

    def _check_recomputed(self) -> None:
        """Recomputation drops keys and values that a call stands on."""
        for entry in (entry for entry in self.mixture if entry.system not in RECOMPUTED):
            raise ConfigError(
                f"checkpointing = true is not known to be sound for system {entry.system!r} (recomputation drops keys "
                f"and values that a call stands on), only for {', '.join(RECOMPUTED)}; leave it out"
            )

    @property
    def plan(self) -> str:
        """What a run comes to."""
        return f"{self.steps:,} steps"


@dataclass(frozen=True)
class Recipe(StageRecipe):
    """A stage of supervised training.

    `encoder` is a model folder or a run folder whose model is to encode documents; `tokens` are those of one
    micro-batch; `preset` brings its own mixture; `packed` puts several short documents into a row.
    """

    stage: Stage
    mixture: tuple[Share, ...] = ()
    preset: Literal["paper"] | None = None
    encoder: str | None = None
    model: ModelSize | None = None
    micro_batches: int = 2
    compile: bool = False
    predecessor_loss: float = 0.0
    validation_batches: int = 4
    patience: int = 0
    packed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("micro_batches", "validation_batches"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        if bool(self.mixture) == bool(self.preset):
            raise ConfigError("a recipe has either a mixture of one entry or more, or a preset that brings its own")
        require(self.patience >= 0, "patience", self.patience, "0 (no early stopping) or more validations")
        if (self.parent is None) == (self.model is None):
            raise ConfigError("a recipe names either a parent to start from or a [model] to make, not both or neither")
        if self.fqlora is not None and self.parent is None:
            raise ConfigError("fqlora trains adapters on a parent; a [model] made from nothing has nothing to keep")
        if self.encoder is not None and (self.fqlora is not None or self.hardware.sharded):
            raise ConfigError("encoder = ... with fqlora or hardware.sharded is not possible: they know one model only")
        others = {"compile": self.compile, "predecessor_loss": bool(self.predecessor_loss)}  # hooks would run twice
        for name in (name for name, used in others.items() if used and self.checkpointing):
            raise ConfigError(f"checkpointing = true is not sound with {name}; leave one of them out")

    @property
    def plan(self) -> str:
        """What a run comes to."""
        each = self.tokens * self.micro_batches
        return f"{self.steps:,} steps of about {each:,} tokens, {self.steps * each:,} in all"


def read_recipe(path: Path) -> Recipe:
    """A recipe of supervised training from a TOML file.

    Raises:
        ConfigError: for TOML that cannot be read, an unknown key (with the nearest name) or an impossible value.
    """
    return build(Recipe, read_values(path))
