"""The algorithm of a run: typed settings, presets of published algorithms, and overrides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memfold.core.config import build, require, require_known
from memfold.rl.advantages import CREDITS, ESTIMATES
from memfold.rl.losses import CLIPS, MEANS
from memfold.rl.ratios import RATIOS

TABLES: dict[str, Mapping[str, Any]] = {
    "advantage": ESTIMATES,
    "credit": CREDITS,
    "ratio": RATIOS,
    "clip": CLIPS,
    "mean": MEANS,
}


@dataclass(frozen=True)
class Algorithm:
    """Names from the tables of `advantages`, `ratios` and `losses`, with their parameters.

    `kl` says where the KL to the parent is applied, with weight `beta`; `entropy` is the weight of the entropy bonus.
    The last `overlong_buffer` tokens before the length limit are penalised, by up to `overlong_factor`.  With `dynamic`
    groups with equal rewards are dropped from step `warmup` on, and replaced at most `refills` times.
    """

    advantage: str = "grpo"
    credit: str = "trajectory"
    ratio: str = "token"
    clip: str = "symmetric"
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float = 3.0
    mean: str = "token"
    kl: Literal["none", "loss", "reward"] = "none"
    beta: float = 0.0
    entropy: float = 0.0
    overlong_buffer: int = 0
    overlong_factor: float = 0.0
    mask_truncated: bool = False
    dynamic: bool = False
    warmup: int = 0
    refills: int = 8

    def __post_init__(self) -> None:
        for name, table in TABLES.items():
            require_known(name, getattr(self, name), table)
        require(0 < self.clip_low < 1, "clip_low", self.clip_low, "between 0 and 1")
        require(self.clip_low <= self.clip_high < math.inf, "clip_high", self.clip_high, "clip_low or more")
        unequal = self.clip == "symmetric" and self.clip_high != self.clip_low
        require(not unequal, "clip_high", self.clip_high, f"clip_low, {self.clip_low}, with clip = 'symmetric'")
        require(1 < self.clip_dual < math.inf, "clip_dual", self.clip_dual, "above 1")
        require((self.kl == "none") == (self.beta == 0), "beta", self.beta, "above 0 with kl, 0 without")
        has_factor = self.overlong_factor > 0 or not self.overlong_buffer
        require(has_factor, "overlong_factor", self.overlong_factor, "above 0 with an overlong_buffer")
        for name in ("beta", "entropy", "overlong_buffer", "overlong_factor", "warmup", "refills"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more")


PRESETS: dict[str, dict[str, Any]] = {
    # DeepSeekMath (arXiv 2402.03300), section 4.1: sequence mean, KL to the parent in the loss with 0.04.
    "grpo": {"mean": "sequence", "kl": "loss", "beta": 0.04},
    # DAPO (arXiv 2503.14476) with the pooled paper's numbers: table 10.
    "dapo": {
        "clip": "higher",
        "clip_high": 0.28,
        "overlong_buffer": 100,
        "overlong_factor": 0.5,
        "dynamic": True,
        "warmup": 25,
    },
    # MemAgent (arXiv 2507.02259), equations 4 and 5, and its code: dual clip, KL 0.001, no clip-higher.
    "memagent": {"advantage": "mean", "clip": "dual", "kl": "loss", "beta": 0.001},
    # GSPO (arXiv 2507.18071), section 5.1: ranges of 3e-4 and 4e-4 around a length-normalised ratio.
    "gspo": {"ratio": "sequence", "clip": "higher", "clip_low": 3e-4, "clip_high": 4e-4, "mean": "sequence"},
    # LycheeMemory (arXiv 2602.08382), section 3.4.1: the ratio of GSPO, the mean over the tokens of each trajectory, KL
    # 0.001 in the loss.  The paper does not say what a sequence is, nor the clip ranges.  Here it is a turn, because
    # each has a prompt of its own.  The ranges are ten times those of GSPO: a note has about a hundredth of the tokens
    # of the replies that those were chosen for, so that the mean of its log-ratio varies ten times as much, and in
    # bfloat16 sampler and trainer already differ by about 1e-3 nats a token.
    "lychee": {
        "ratio": "sequence",
        "clip": "higher",
        "clip_low": 3e-3,
        "clip_high": 4e-3,
        "mean": "trajectory",
        "kl": "loss",
        "beta": 0.001,
    },
}


def make_algorithm(preset: str | None, overrides: Mapping[str, Any]) -> Algorithm:
    """Return a preset with the overrides of a recipe.

    Raises:
        ConfigError: for an unknown preset or setting (with the nearest name), or a value out of its range.
    """
    if preset is not None:
        require_known("preset", preset, PRESETS)
    return build(Algorithm, (PRESETS[preset] if preset else {}) | dict(overrides), "algorithm")
