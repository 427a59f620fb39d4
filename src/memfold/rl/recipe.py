"""A recipe of reinforcement learning: what it says beyond the recipes of all stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from memfold.core.config import require
from memfold.core.errors import ConfigError, unknown
from memfold.core.prompt import STYLES, Style
from memfold.rl.algorithm import Algorithm, make_algorithm
from memfold.rl.engine import ENGINES, LOCAL
from memfold.rl.rewards import JUDGE
from memfold.training.recipe import StageRecipe

FROZEN, END_TO_END = "frozen", "end-to-end"


@dataclass(frozen=True)
class JudgeSettings:
    """The judge of `reward = "judge"`: its address, and the most verdicts that a run may ask for."""

    model: str = ""
    budget: int = 100_000

    def __post_init__(self) -> None:
        require(self.budget > 0, "judge.budget", self.budget, "1 or more verdicts")


@dataclass(frozen=True)
class RlRecipe(StageRecipe):
    """A stage of reinforcement learning.

    A step draws `questions`, samples `rollouts` replies to each, and makes `updates` updates of as many questions each.
    `memory`: read from the parent as it is, only the decoder is trained (`frozen`), or compressed again with gradient
    (`end-to-end`).  `reward` is a name of `memfold.rl.rewards`, `judge`, or `path.py:function`.  `preset` names an
    algorithm, `algorithm` says what is different.  `style` is how replies are asked for, in the run and, without
    another, of the trained model.  `places` replies are sampled at a time, at temperature 1 from all tokens: what is
    scored is the distribution that they were drawn from.  `tokens` are about those of a forward pass of the update.
    `engine` is a name of `memfold.rl.engine`, `engine_memory` the share of the card's memory that one beside the
    trainer takes.  A run stops when sampler and trainer differ by more than `drift` nats a token on average, or more
    than the share `failures` of a step's rollouts failed.  An `fqlora` has no dropout: replies are scored by the
    weights that sampled them.
    """

    stage: Literal["rl"]
    memory: Literal["frozen", "end-to-end"] = "frozen"
    reward: str = "exact"
    judge: JudgeSettings = JudgeSettings()
    preset: str | None = "dapo"
    algorithm: dict[str, Any] = field(default_factory=dict)
    questions: int = 16
    rollouts: int = 8
    updates: int = 1
    style: Style = "recall"
    places: int = 64
    engine: str = LOCAL
    engine_memory: float = 0.4
    reply_tokens: int = 160
    drift: float = 0.02
    failures: float = 0.1
    validation_questions: int = 64
    precision: Literal["bfloat16", "float32"] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("questions", "updates", "places", "reply_tokens", "validation_questions"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        require(
            self.rollouts >= 2, "rollouts", self.rollouts, "2 or more: a reply is compared with others of its group"
        )
        require(
            self.updates <= self.questions, "updates", self.updates, f"1 to the questions of a step, {self.questions}"
        )
        require(self.style in STYLES, "style", self.style, ", ".join(STYLES))
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        require(0 < self.engine_memory < 1, "engine_memory", self.engine_memory, "above 0, below 1")
        require(self.drift > 0, "drift", self.drift, "above 0 nats a token")
        require(0 <= self.failures < 1, "failures", self.failures, "0 to below 1")
        if self.hardware.sharded and (self.memory != FROZEN or self.engine != LOCAL):
            raise ConfigError(
                f"hardware.sharded = true with memory = {self.memory!r} and engine = {self.engine!r} is not possible: "
                f"processes must run the same passes, on weights that they have; use {FROZEN!r} and {LOCAL!r}"
            )
        if self.fqlora is not None:
            require(self.fqlora.dropout == 0, "fqlora.dropout", self.fqlora.dropout,
                    "0: replies are scored by the weights that sampled them")  # fmt: skip
            if self.engine != LOCAL:
                raise ConfigError(
                    f"engine = {self.engine!r} with fqlora is not possible: it takes plain weights over, not adapters "
                    f"beside frozen layers; write engine = {LOCAL!r}"
                )
        if not self.mixture:
            raise ConfigError("a recipe of reinforcement learning has a mixture of one entry or more")
        if self.parent is None:
            raise ConfigError("a recipe of reinforcement learning names a parent to start from")
        if (self.reward == JUDGE) != bool(self.judge.model):
            raise ConfigError(
                "reward 'judge' needs judge.model, an address http://HOST/v1#NAME, and no other reward does"
            )
        if self.options.credit == "turn" and ":" not in self.reward:
            raise ConfigError(
                f"algorithm.credit = 'turn' with reward {self.reward!r} is not possible: it rewards an answer, not the "
                "turns; name a function of your own, path.py:function, or leave credit at 'trajectory'"
            )
        most = self.options.overlong_buffer
        require(most <= self.reply_tokens, "algorithm.overlong_buffer", most, f"0 to reply_tokens, {self.reply_tokens}")

    @property
    def options(self) -> Algorithm:
        """The preset with what is said over it."""
        return make_algorithm(self.preset, self.algorithm)

    @property
    def plan(self) -> str:
        """What a run comes to."""
        return (
            f"{self.steps:,} steps of {self.questions} questions x {self.rollouts} replies of at most "
            f"{self.reply_tokens} tokens; memory {self.memory}, reward {self.reward}, preset {self.preset}, "
            f"engine {self.engine}"
        )
