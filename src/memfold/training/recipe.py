"""A recipe: one stage of training as data, read from TOML.

The stages of the pooled paper (`base` is added here, for models trained from scratch) differ only in their recipes:
where the weights come from, the tasks and their weights, what is frozen, optimiser and schedule.  The keys of
reinforcement learning alone are in `memfold.rl.recipe`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from memfold.backbone.shapes import SHAPES
from memfold.core.config import build, require, require_known
from memfold.core.errors import ConfigError, unknown
from memfold.core.prompt import ChatTemplate
from memfold.core.registry import DEFAULT, SYSTEMS, AnySystem, SystemClass, system_class
from memfold.core.system import USUAL_RATIO
from memfold.tasks.datasets.table import DATASETS
from memfold.tasks.table import DATASET_TASKS, LOCAL, LONG_QUESTIONS, TASKS, kinds_of
from memfold.tasks.task import Places, TaskOptions
from memfold.training.fqlora import FQLoRA
from memfold.training.hardware import Hardware
from memfold.training.recipe_file import read_values

Stage = Literal["base", "cpt1", "cpt2", "sft"]


@dataclass(frozen=True)
class ModelSize:
    """The model that a `base` stage creates: Qwen3 architecture, tied embeddings, its own tokenizer."""

    vocabulary: int = 2048
    hidden: int = 384
    layers: int = 4
    heads: int = 6
    feedforward: int = 1024
    window: int = 32768
    rope_theta: float = 1e6
    init: float = 0.06
    tokenizer_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "hidden", "layers", "heads", "feedforward", "window"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        for name in ("rope_theta", "init"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        divisible = self.hidden % (2 * self.heads) == 0
        require(divisible, "hidden", self.hidden, f"a multiple of 2 x heads, {2 * self.heads}")


@dataclass(frozen=True)
class Entry:
    """One entry of a mixture: a task, the system that reads it, how often it occurs and how long its documents are.

    `weight` is relative to the other entries.  `sizes` lists document lengths in tokens, of which one is drawn.
    `settings` are those of the system, over the recipe's.  `samples` is the number of questions per document.  `files`
    are the local files or folders of a task on local data, `dataset` names their layout if they hold questions.
    `known`, `in_text` and `places` are those of `TaskOptions`, for such questions.
    """

    task: str
    weight: float
    sizes: tuple[int, ...]
    system: str = DEFAULT
    settings: dict[str, Any] = field(default_factory=dict)
    level: int = 3
    samples: int = 1
    kinds: tuple[str, ...] = ()
    filler: float = 0.0
    files: tuple[str, ...] = ()
    dataset: str | None = None
    known: tuple[str, ...] = ()
    in_text: bool = False
    places: Places = "random"

    def __post_init__(self) -> None:
        named = [("task", self.task, TASKS), ("system", self.system, SYSTEMS), ("dataset", self.dataset, DATASETS)]
        for kind, name, known in named:
            if name is not None:
                require_known(kind, name, known)
        self._check_kinds()
        require(0 < self.weight < math.inf, "weight", self.weight, "above 0")
        require(bool(self.sizes) and min(self.sizes) > 0, "sizes", self.sizes, "one or more positive numbers")
        self.options(None, held_out=False)  # which checks its own ranges
        if bool(self.files) != (self.task in LOCAL):
            raise ConfigError(
                f"task {self.task!r} with files = {list(self.files)} is not possible; only the tasks "
                f"{', '.join(LOCAL)} take files, and they require them"
            )
        if bool(self.dataset) != (self.task in DATASET_TASKS):
            raise ConfigError(
                f"task {self.task!r} with dataset = {self.dataset!r} is not possible; only the tasks "
                f"{', '.join(DATASET_TASKS)} take a dataset, and they require one"
            )
        if (self.known or self.in_text) and self.dataset is None:
            raise ConfigError(
                f"task {self.task!r} with known or in_text is not possible; only the tasks {', '.join(DATASET_TASKS)} "
                "take them"
            )
        if self.places != "random" and self.task != LONG_QUESTIONS:
            raise ConfigError(
                f"task {self.task!r} with places = {self.places!r} is not possible; only task {LONG_QUESTIONS!r} takes "
                "places"
            )

    def _check_kinds(self) -> None:
        """Refuse kinds that the task does not have."""
        known = kinds_of(self.task)
        if self.kinds and not known:
            raise ConfigError(f"kinds = {list(self.kinds)} is not possible: task {self.task!r} has none; leave it out")
        for name in self.kinds:
            require_known("kinds", name, known)

    @property
    def kind(self) -> SystemClass:
        """The class of its system."""
        return system_class(self.system)

    @property
    def label(self) -> str:
        """The name of the entry in metrics and curves."""
        return f"{self.system}/{self.task}"

    def options(self, ratio: int | None, held_out: bool) -> TaskOptions:
        """Return the options of its task, for a system at `ratio`."""
        return TaskOptions(
            level=self.level,
            samples=self.samples,
            kinds=self.kinds,
            ratio=ratio or USUAL_RATIO,
            filler=self.filler,
            files=self.files,
            dataset=self.dataset,
            held_out=held_out,
            known=self.known,
            in_text=self.in_text,
            places=self.places,
        )


@dataclass(frozen=True)
class SupervisedEntry(Entry):
    """An entry of supervised training, where replies are given rather than sampled.

    Sizes are drawn for each micro-batch.  `recall` is the fraction of questions answered after a recall;
    `free` is the fraction with one common instruction whose answers recall or not at random, so that the model can do
    both.  `language` is the loss weight of plain language modelling on a document that is read as text.  `bridges` are
    the minimum and maximum number of bridge chunks of a continuation.  With `folded` no gradient reaches the
    compressor, so that documents several times longer cost the same.
    """

    bridges: tuple[int, int] = (0, 0)
    recall: float = 0.5
    free: float = 0.0
    language: float = 0.5
    folded: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.recall <= 1, "recall", self.recall, "0 to 1")
        require(self.free >= 0 and self.recall + self.free <= 1, "free", self.free, "0 to 1 - recall")
        require(0 <= self.language < math.inf, "language", self.language, "0 or more")

    def options(self, ratio: int | None, held_out: bool) -> TaskOptions:
        """Return the options of its task, with the bridges of continuations."""
        return replace(super().options(ratio, held_out), bridges=self.bridges)


@dataclass(frozen=True)
class Group:
    """Optimiser settings of the parameters whose names match one of `match` (shell patterns; the first group wins)."""

    match: tuple[str, ...]
    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        require(bool(self.match), "match", self.match, "one or more patterns of parameter names")
        require(0 <= self.lr < math.inf, "lr", self.lr, "0 or more")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "0 or more")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers from 0 to below 1")


@dataclass(frozen=True)
class Schedule:
    """Learning rate schedule: a warm-up, then cosine decay, or constant with a linear decay at the end (trapezoid)."""

    kind: Literal["trapezoid", "cosine"] = "trapezoid"
    warmup: float = 0.02
    decay: float = 0.4
    floor: float = 0.02

    def __post_init__(self) -> None:
        require(0 <= self.warmup < 1, "warmup", self.warmup, "0 to below 1")
        require(0 < self.decay <= 1 - self.warmup, "decay", self.decay, "above 0, at most 1 - warmup")
        require(0 <= self.floor <= 1, "floor", self.floor, "0 to 1")

    def factor(self, step: int, steps: int) -> float:
        """Return the factor on all learning rates at a step."""
        progress = (step + 0.5) / steps
        if progress < self.warmup:
            return progress / self.warmup
        if self.kind == "cosine":
            progress = (progress - self.warmup) / (1 - self.warmup)
            return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
        return min(1.0, self.floor + (1 - self.floor) * (1 - progress) / self.decay)


@dataclass(frozen=True)
class StageRecipe:
    """The keys that recipes of all stages have, reinforcement learning included.

    `parent` is a model folder or a run folder; `settings` go to the systems that know them.  With `fqlora` only a part
    of the parent is trained in full, the rest through low-rank adapters.  `architecture` names the shape of the parent
    (`memfold.backbone.shapes`), so that its plan needs no weights.  `activation_checkpointing` saves memory by
    recomputing activations in the backward pass.
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
    activation_checkpointing: bool = False
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "validate_every", "checkpoint_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        require(0 < self.clip < math.inf, "clip", self.clip, "above 0")
        if self.architecture is not None:
            require_known("architecture", self.architecture, SHAPES)
        if self.hardware.sharded and any(group.kind == "muon" for group in self.groups):
            raise ConfigError(
                "hardware.sharded = true and a group of kind 'muon': Muon needs whole matrices; use adamw"
            )
        self._check_settings()
        if self.activation_checkpointing:
            self._check_activation_checkpointing()

    def system_settings(self, entry: Entry) -> dict[str, Any]:
        """Return the settings of an entry's system: those of the recipe that it has, and the entry's own over them."""
        known = entry.kind.setting_names()
        shared = {name: value for name, value in self.settings.items() if name in known}
        return shared | entry.settings | {"chat_template": self.chat_template}

    def system(self, entry: Entry) -> AnySystem:
        """Return the system of an entry, whatever the model was trained with before."""
        return entry.kind.of(self.system_settings(entry))

    def _check_settings(self) -> None:
        """Refuse settings that no system of the mixture has, those that are recipe keys, and impossible values."""
        kinds = {entry.kind for entry in self.mixture} or {system_class(name) for name in SYSTEMS}
        _check_names("settings", self.settings, kinds)
        for number, entry in enumerate(self.mixture):
            where = f"mixture[{number}].settings"
            try:
                self.system(entry)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}" if entry.settings else str(error)) from None
            _check_names(where, entry.settings, {entry.kind})

    def _check_activation_checkpointing(self) -> None:
        """Refuse systems whose calls need a key/value cache, which activation checkpointing turns off."""
        for entry in (entry for entry in self.mixture if not entry.kind().capabilities.activation_checkpointing):
            raise ConfigError(
                f"activation_checkpointing = true is not supported for system {entry.system!r}, whose calls may need a "
                "key/value cache; leave it out"
            )

    @property
    def plan(self) -> str:
        """The size of a run in one line."""
        return f"{self.steps:,} steps"


def _check_names(table: str, settings: Mapping[str, Any], kinds: Iterable[SystemClass]) -> None:
    """Refuse settings that no system has, that training draws for each batch, or that have a key of their own."""
    known = {name for kind in kinds for name in kind.setting_names() if name not in kind.drawn}
    known -= {"chat_template", "style"}
    for name in settings:
        if name not in known:
            raise unknown("key", name, known, table)


@dataclass(frozen=True)
class Recipe(StageRecipe):
    """A stage of supervised training.

    `encoder` is a model folder or a run folder whose model encodes documents; `tokens` is the size of a micro-batch;
    `preset` provides the mixture; `packed` puts several short documents into a row.
    """

    stage: Stage
    mixture: tuple[SupervisedEntry, ...] = ()
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
            raise ConfigError("a recipe has either a mixture of at least one entry or a preset that provides one")
        require(0 <= self.predecessor_loss < math.inf, "predecessor_loss", self.predecessor_loss, "0 or more")
        require(self.patience >= 0, "patience", self.patience, "0 (no early stopping) or more validations")
        if (self.parent is None) == (self.model is None):
            raise ConfigError(
                "a recipe names either a parent to start from or a [model] to create, not both or neither"
            )
        if self.fqlora is not None and self.parent is None:
            raise ConfigError("fqlora is not possible with a new [model], which has nothing to freeze; name a parent")
        if self.encoder is not None and (self.fqlora is not None or self.hardware.sharded):
            raise ConfigError(
                "encoder = ... with fqlora or hardware.sharded is not possible: they support one model only"
            )
        others = {"compile": self.compile, "predecessor_loss": bool(self.predecessor_loss)}  # hooks would run twice
        for name in (name for name, used in others.items() if used and self.activation_checkpointing):
            raise ConfigError(f"activation_checkpointing = true is not possible with {name}; leave one of them out")

    @property
    def plan(self) -> str:
        """The size of a run in one line."""
        batch = self.tokens * self.micro_batches
        return f"{self.steps:,} steps of about {batch:,} tokens, {self.steps * batch:,} in total"


RECIPE = Recipe  # what a recipe file of this package is built as


def read_recipe(path: Path) -> Recipe:
    """Return a recipe of supervised training from a TOML file.

    Raises:
        ConfigError: for TOML that cannot be read, an unknown key (with the nearest name) or an impossible value.
    """
    return build(Recipe, read_values(path))
