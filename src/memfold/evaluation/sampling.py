"""How the replies of an evaluation are drawn: greedily, or with the settings that the pooled paper gives its models.

The settings are put on every call that a system makes, so that a trace records those it was answered with.  Each
question has a seed of its own: asked again, by any system and in any batch, it draws the same numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from memfold.core.errors import unknown
from memfold.core.system import AnswerSteps, Calls, MemorySystem, Replies
from memfold.core.types import Call, Limits, Memory
from memfold.evaluation.wrapped import Wrapped

GREEDY = "greedy"
SEEDS = 1 << 31  # the most that every endpoint takes


@dataclass(frozen=True)
class Sampling:
    """What narrows the choice of a token; the temperature is that of the suite."""

    top_k: int
    top_p: float
    repetition_penalty: float


# Appendix H.1: the defaults of Qwen2.5 for all suites, at 0.7 for questions, 0 for needles, 0.1 for reconstruction.
SAMPLINGS = {"paper": Sampling(top_k=20, top_p=0.8, repetition_penalty=1.05)}
NAMES = (GREEDY, *SAMPLINGS)


class Sampled(Wrapped):
    """A system whose replies are drawn at this temperature, from `seed` on."""

    def __init__(self, system: MemorySystem, sampling: Sampling, temperature: float, seed: str) -> None:
        super().__init__(system)
        self.sampling, self.temperature, self.seed = sampling, temperature, seed

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        """The system's calls with other limits."""
        steps = self.system.answer(memory, question)
        replies: Replies | None = None
        made = 0
        while True:
            try:
                calls = steps.send(cast(Replies, replies))
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            several = calls if isinstance(calls, list) else [calls]
            limited = [self._limited(call, made + number) for number, call in enumerate(several)]
            made += len(limited)
            sent: Calls = limited if isinstance(calls, list) else limited[0]
            replies = yield sent

    def _limited(self, call: Call, number: int) -> Call:
        digest = hashlib.sha256(f"{self.seed}/{number}".encode()).digest()
        limits: Limits = replace(
            call.limits,
            temperature=self.temperature,
            seed=int.from_bytes(digest[:8], "big") % SEEDS,
            **asdict(self.sampling),
        )
        return replace(call, limits=limits)


def check_sampling(name: str) -> None:
    """Raise a `ConfigError` for a name that stands for no settings."""
    if name not in NAMES:
        raise unknown("sampling", name, NAMES)


def sampled(system: MemorySystem, name: str, temperature: float, seed: str) -> MemorySystem:
    """The system with its replies drawn by the settings of that name."""
    return system if name == GREEDY else Sampled(system, SAMPLINGS[name], temperature, seed)


def described(name: str, temperature: float) -> dict[str, Any]:
    """What a report says of the settings."""
    return {"name": name} if name == GREEDY else {"name": name, "temperature": temperature} | asdict(SAMPLINGS[name])
