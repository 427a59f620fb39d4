r"""Rewards: plain functions of a sample and its trace, a function from a user's file, or a judge.

Answers are extracted strictly: from the last `\boxed{}` or `<answer>` tag of a reply that holds something, whichever
comes later; the answer is empty if there is neither, or if it is not closed.  They are compared as in evaluation
(`memfold.scoring.metrics`).  A trace that cannot be scored is an error, never a zero.  The length penalty is in
`shaping`.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from memfold.core.errors import CallError, ConfigError, Failure, unknown
from memfold.core.prompt import BOX, last_box
from memfold.core.types import Sample, Trace
from memfold.scoring.judge import Claim, Judge
from memfold.scoring.metrics import answered, sub_span_match, token_f1

JUDGE = "judge"
TAG, END_TAG = "<answer>", "</answer>"


@dataclass(frozen=True)
class Reward:
    """The reward of a trajectory; `turns` holds one more for each of its calls, or is empty."""

    value: float
    turns: tuple[float, ...] = ()


RewardFunction = Callable[[Sample, Trace], "float | Reward"]


class Scorer(Protocol):
    """Scores many traces at once; the result of each is a reward or an error."""

    def __call__(self, scored: Sequence[tuple[Sample, Trace]]) -> list[Reward | CallError]:
        """Return the results in the order of the traces."""
        ...


def extract_answer(trace: Trace) -> str:
    r"""Return what the last `\boxed{}` or `<answer>` tag holds; the whole reply in style `bare`; otherwise empty.

    A box or tag that holds nothing is no answer if an earlier one holds one.

    >>> from memfold.core.types import Answer
    >>> extract_answer(Trace("q", "full", {"style": "recall"}, answer=Answer("", r"It is so. \boxed{Velm}")))
    'Velm'
    """
    reply = trace.answer.reply if trace.answer else ""
    box, tag = last_box(reply), _last_tag(reply)
    if box is None and tag is None:
        bare = trace.settings.get("style") == "bare" and BOX not in reply and TAG not in reply
        return reply.strip() if bare else ""
    _, text, closed = max(filter(None, (box, tag)))
    return text if closed else ""


def _last_tag(reply: str) -> tuple[int, str, bool] | None:
    """Return the last `<answer>` tag that holds something: where it begins, its text, and whether it is closed."""
    start = reply.rfind(TAG)
    while start >= 0:
        inside, end, _ = reply[start + len(TAG) :].partition(END_TAG)
        if inside.strip():
            return start, inside.strip(), bool(end)
        start = reply.rfind(TAG, 0, start)
    return None


def exact(sample: Sample, trace: Trace) -> float:
    """Return 1 if the answer equals an accepted one after normalisation; a listing must have every item."""
    return float(answered(sample, extract_answer(trace)))


def sub_span(sample: Sample, trace: Trace) -> float:
    """Return 1 if the answer contains an accepted one as whole words; a listing needs every item."""
    answer = extract_answer(trace)
    if sample.kind == "listing":
        return float(all(sub_span_match(answer, [item]) for item in sample.answers))
    return float(sub_span_match(answer, sample.answers))


def f1(sample: Sample, trace: Trace) -> float:
    """Return token F1, the maximum over accepted answers; for a listing, with all items together."""
    references = (sample.expected,) if sample.kind == "listing" else sample.answers
    return max(token_f1(extract_answer(trace), reference) for reference in references)


def share(sample: Sample, trace: Trace) -> float:
    """Return the fraction of the gold answers that the answer contains (MemAgent, equation 7)."""
    answer = extract_answer(trace)
    return sum(sub_span_match(answer, [gold]) for gold in sample.answers) / len(sample.answers)


REWARDS: dict[str, RewardFunction] = {"exact": exact, "sub-em": sub_span, "f1": f1, "share": share}


class Judging:
    """The verdicts of a judge: 1 for yes, 0 for no, an error for anything else or once `budget` is spent."""

    def __init__(self, judge: Judge, budget: int) -> None:
        self.judge, self.budget, self.spent = judge, budget, 0

    def __call__(self, scored: Sequence[tuple[Sample, Trace]]) -> list[Reward | CallError]:
        """Ask for all verdicts together, as far as the budget goes."""
        claims = [
            Claim(sample.question, sample.answers, extract_answer(trace), every=sample.kind == "listing")
            for sample, trace in scored
        ]
        affordable = claims[: max(0, self.budget - self.spent)]
        self.spent += len(affordable)
        verdicts = self.judge.verdicts(affordable) if affordable else []
        spent = CallError(JUDGE, f"the budget of {self.budget} verdicts is spent; raise judge.budget in the recipe")
        rewards = [v if isinstance(v, CallError) else Reward(float(v)) for v in verdicts]
        return [*rewards, *[spent] * (len(claims) - len(affordable))]


class Rules:
    """Applies a reward function to traces; an exception or a value that is not finite is an error of that trace.

    With `turns` the function must also reward every call.
    """

    def __init__(self, function: RewardFunction, turns: bool = False) -> None:
        self.function, self.turns = function, turns

    def __call__(self, scored: Sequence[tuple[Sample, Trace]]) -> list[Reward | CallError]:
        """Score one by one."""
        return [self._score(sample, trace) for sample, trace in scored]

    def _score(self, sample: Sample, trace: Trace) -> Reward | CallError:
        try:
            result = self.function(sample, trace)
            value, turns = (result.value, result.turns) if isinstance(result, Reward) else (result, ())
            reward = Reward(float(value), tuple(map(float, turns)))  # converts NumPy and PyTorch scalars
        except Exception as error:  # a user's function may raise anything
            return CallError("reward", f"{type(error).__name__}: {error}")
        infinite = [value for value in (reward.value, *reward.turns) if not math.isfinite(value)]
        if infinite:
            return CallError("reward", f"the value {infinite[0]} is not finite")
        if (reward.turns or self.turns) and len(reward.turns) != len(trace.steps):
            return CallError("reward", f"expected {len(trace.steps)} turn rewards, got {len(reward.turns)}")
        return reward


def find_reward(name: str) -> RewardFunction:
    """Return a reward function of the table, or one from a file: `path.py:function`.

    Raises:
        ConfigError: for an unknown name, a file that cannot be loaded, or a function that is not in it.
    """
    path, colon, function = name.rpartition(":")
    if not colon:
        if name not in REWARDS:
            raise unknown("reward", name, [*REWARDS, JUDGE])
        return REWARDS[name]
    if not Path(path).is_file():
        raise ConfigError(f"reward {name!r}: no file {path}; write path.py:function, relative to the working directory")
    specification = importlib.util.spec_from_file_location("memfold_reward", path)
    if specification is None or specification.loader is None:
        raise ConfigError(f"reward {name!r}: {path} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"reward {name!r}: {path} cannot be loaded: {type(error).__name__}: {error}") from error
    loaded = getattr(module, function, None)
    if not callable(loaded):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown("reward function", function, known)
    return loaded  # type: ignore[no-any-return]


def scored_traces(scorer: Scorer, samples: Sequence[Sample], traces: Sequence[Trace]) -> list[tuple[Trace, Reward]]:
    """Return traces with their rewards; a trace that failed or cannot be scored has a failure and a reward of 0."""
    good = [number for number, trace in enumerate(traces) if trace.failure is None]
    rewards = scorer([(samples[number], traces[number]) for number in good])
    done = [(trace, Reward(0.0)) for trace in traces]
    for number, reward in zip(good, rewards, strict=True):
        trace = traces[number]
        if isinstance(reward, CallError):
            done[number] = (replace(trace, failure=Failure.of("reward", reward)), Reward(0.0))
        else:
            done[number] = (trace.with_reward(reward.value), reward)
    return done
