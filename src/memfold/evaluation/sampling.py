"""Sets how the replies of an evaluation are sampled: greedily, or with the settings of a publication.

Each question has its own seed, so its random numbers are the same in every system and batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

from memfold.core.errors import unknown
from memfold.core.job import Sampling
from memfold.core.types import Call, SamplingParams

GREEDY = "greedy"
SEEDS = 1 << 31  # the most that every endpoint takes


@dataclass(frozen=True)
class Preset:
    """What narrows the choice of a token; the temperature is that of the suite."""

    top_k: int
    top_p: float
    repetition_penalty: float


PRESETS = {
    # pooled, appendix H.1: the defaults of Qwen2.5, at 0.7 for questions, 0 for needles, 0.1 for reconstruction
    "paper": Preset(top_k=20, top_p=0.8, repetition_penalty=1.05),
    # the scripts of MemAgent, at 0.7 for ruler-hqa
    "memagent": Preset(top_k=0, top_p=0.95, repetition_penalty=1.0),
}
NAMES = (GREEDY, *PRESETS)


def check_sampling(name: str) -> None:
    """Raise a `ConfigError` for a name that stands for no settings."""
    if name not in NAMES:
        raise unknown("sampling", name, NAMES)


def sampling_of(name: str, temperature: float, seed: str) -> Sampling | None:
    """Return the sampling parameters of each call of a job, by the preset of that name; None for the calls' own."""
    if name == GREEDY:
        return None
    preset = asdict(PRESETS[name])

    def sampling(call: Call, number: int) -> SamplingParams:
        digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
        call_seed = int.from_bytes(digest[:8], "big") % SEEDS
        return replace(call.sampling, temperature=temperature, seed=call_seed, **preset)

    return sampling


def described(name: str, temperature: float) -> dict[str, Any]:
    """Return the sampling settings for a report."""
    return {"name": name} if name == GREEDY else {"name": name, "temperature": temperature} | asdict(PRESETS[name])
