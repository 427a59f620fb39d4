"""Defines recipes of reinforcement learning: the keys beyond those of all stages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from memfold.core.config import require, require_known
from memfold.core.errors import ConfigError
from memfold.core.prompt import STYLES, Style
from memfold.rl.algorithm import Algorithm, make_algorithm
from memfold.rl.engine import ENGINES, LOCAL
from memfold.rl.rewards import JUDGE, REWARDS
from memfold.training.recipe import StageRecipe

FROZEN, END_TO_END = "frozen", "end-to-end"
HEADS = "heads"


@dataclass(frozen=True)
class JudgeSettings:
    """The judge of `reward = "judge"`: its address, and the maximum number of verdicts in a run."""

    model: str = ""
    budget: int = 100_000

    def __post_init__(self) -> None:
        require(self.budget > 0, "budget", self.budget, "1 or more verdicts")


@dataclass(frozen=True)
class RlRecipe(StageRecipe):
    """A stage of reinforcement learning.

    A step draws `questions`, samples `rollouts` replies to each, and makes `updates` updates of equally many questions.
    With `objective = "reward"` the replies learn from their advantages.  With `"heads"` they are not trained: the
    questions have labels for what the heads of systems scored in the rollouts (`MemorySystem.labelled`).
    With `memory = "frozen"` memories come from the parent and only the decoder is trained; with `"end-to-end"`
    documents are compressed with gradient.  The two are the same for systems whose memory is text.  `reward` is a name
    of `memfold.rl.rewards`, `judge`, or `path.py:function`.  `preset` names an algorithm, `algorithm` overrides its
    settings.  `style` is the reply style that questions ask for; it becomes the default of the trained model.  Up to
    `max_concurrency` replies are sampled at a time, at temperature 1 from all tokens, so that the scored distribution
    is the sampled one.  `tokens` is the approximate size of a forward pass of the update.  `engine` is a name of
    `memfold.rl.engine`; `engine_memory` is the fraction of GPU memory for an engine beside the trainer.  A run stops
    when the log-probabilities of sampler and trainer differ by more than `max_logprob_gap` nats per token on average,
    or when more than the fraction `failures` of a step's rollouts fail.  `fqlora` must not use dropout, since replies
    are scored by the weights that sampled them.
    """

    stage: Literal["rl"]
    objective: Literal["reward", "heads"] = "reward"
    memory: Literal["frozen", "end-to-end"] = "frozen"
    reward: str = "exact"
    judge: JudgeSettings = JudgeSettings()
    preset: str | None = "dapo"
    algorithm: dict[str, Any] = field(default_factory=dict)
    questions: int = 16
    rollouts: int = 8
    updates: int = 1
    style: Style = "recall"
    max_concurrency: int = 64
    engine: str = LOCAL
    engine_memory: float = 0.4
    reply_tokens: int = 160
    max_logprob_gap: float = 0.02
    failures: float = 0.1
    validation_questions: int = 64
    precision: Literal["bfloat16", "float32"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("questions", "updates", "max_concurrency", "reply_tokens", "validation_questions"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        compared = "2 or more: a reply is compared with others of its group"
        require(self.rollouts >= 2, "rollouts", self.rollouts, compared)
        at_most = f"1 to the questions of a step, {self.questions}"
        require(self.updates <= self.questions, "updates", self.updates, at_most)
        require_known("style", self.style, STYLES)
        require_known("engine", self.engine, ENGINES)
        require(0 < self.engine_memory < 1, "engine_memory", self.engine_memory, "above 0, below 1")
        require(0 < self.max_logprob_gap < math.inf, "max_logprob_gap", self.max_logprob_gap, "above 0 nats per token")
        require(0 <= self.failures < 1, "failures", self.failures, "0 to below 1")
        if self.hardware.sharded and (self.memory != FROZEN or self.engine != LOCAL):
            raise ConfigError(
                f"hardware.sharded = true with memory = {self.memory!r} and engine = {self.engine!r} is not possible: "
                f"processes must run the same passes with the weights that they hold; use {FROZEN!r} and {LOCAL!r}"
            )
        if self.fqlora is not None:
            reason = "0: replies are scored by the weights that sampled them"
            require(self.fqlora.dropout == 0, "fqlora.dropout", self.fqlora.dropout, reason)
            if self.engine != LOCAL:
                raise ConfigError(
                    f"engine = {self.engine!r} with fqlora is not possible: it loads plain weights, not adapters on "
                    f"frozen layers; set engine = {LOCAL!r}"
                )
        if not self.mixture:
            raise ConfigError("a recipe of reinforcement learning has a mixture of at least one entry")
        if self.parent is None:
            raise ConfigError("a recipe of reinforcement learning names a parent to start from")
        if ":" not in self.reward:
            require_known("reward", self.reward, (*REWARDS, JUDGE))
        if (self.reward == JUDGE) != bool(self.judge.model):
            raise ConfigError(
                "reward 'judge' needs judge.model, an address http://HOST/v1#NAME; other rewards must not have it"
            )
        if self.options.credit == "turn" and ":" not in self.reward:
            raise ConfigError(
                f"algorithm.credit = 'turn' with reward {self.reward!r} is not possible: it rewards answers, not "
                "turns; use your own function, path.py:function, or credit = 'trajectory'"
            )
        if self.objective == HEADS and (self.options.dynamic or self.options.kl != "none"):
            raise ConfigError(
                f"algorithm.dynamic = {str(self.options.dynamic).lower()} and algorithm.kl = {self.options.kl!r} are "
                f"not possible with objective = {HEADS!r}, which learns nothing from rewards and replies; set dynamic "
                "= false, kl = 'none' and beta = 0"
            )
        buffer, limit = self.options.overlong_buffer, self.reply_tokens
        require(buffer <= limit, "algorithm.overlong_buffer", buffer, f"0 to reply_tokens, {limit}")

    @property
    def options(self) -> Algorithm:
        """The preset with the recipe's overrides."""
        return make_algorithm(self.preset, self.algorithm)

    @property
    def needs_encoder(self) -> bool:
        """Whether slots come from a frozen copy of the parent beside the model that is trained."""
        return self.memory == FROZEN and any(entry.kind().capabilities.slots for entry in self.mixture)

    @property
    def plan(self) -> str:
        """The size of a run in one line."""
        learned = f"reward {self.reward}, preset {self.preset}"
        if self.objective == HEADS:
            learned = f"heads learn from labels, reward {self.reward} is only measured"
        return (
            f"{self.steps:,} steps of {self.questions} questions x {self.rollouts} replies of at most "
            f"{self.reply_tokens} tokens; memory {self.memory}, {learned}, engine {self.engine}"
        )


RECIPE = RlRecipe  # what a recipe file of this package is built as
