r"""What a reply is worth: plain functions of a sample and its trace, a user's own in a file, or a judge.

Answers are taken strictly: what stands in the last `\boxed{}` or `<answer>` tag of a reply, whichever comes later, and
nothing where there is neither, or where it is not closed.  What cannot be scored is an error, never a zero.  Left out:
what length costs (`shaping`).
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from memfold.core.errors import CallError, ConfigError, unknown
from memfold.core.prompt import BOX, in_box
from memfold.core.types import Sample, Trace
from memfold.scoring.judge import Claim, Judge
from memfold.scoring.metrics import answered, sub_span_match, token_f1

JUDGE = "judge"
TAG, END_TAG = "<answer>", "</answer>"


@dataclass(frozen=True)
class Worth:
    """A reward, and one for each conversation where turns are rewarded too (empty: they are not)."""

    value: float
    turns: tuple[float, ...] = ()


Reward = Callable[[Sample, Trace], "float | Worth"]


class Scorer(Protocol):
    """Rewards for many traces at once, each a worth or the reason why there is none."""

    def __call__(self, scored: Sequence[tuple[Sample, Trace]]) -> list[Worth | CallError]:
        """In their order."""
        ...


def said(trace: Trace) -> str:
    r"""The answer in the last `\boxed{}` or `<answer>` tag; of a bare reply all of it; else empty.

    >>> from memfold.core.types import Answer
    >>> said(Trace("q", "full", {"style": "recall"}, answer=Answer("", r"It is so. \boxed{Velm}")))
    'Velm'
    """
    reply = trace.answer.reply if trace.answer else ""
    box, tag = reply.rfind(BOX), reply.rfind(TAG)
    if max(box, tag) < 0:
        return reply.strip() if trace.settings.get("style") == "bare" else ""
    if box > tag:
        inside, closed = in_box(reply, box)
    else:
        inside, end, _ = reply[tag + len(TAG) :].partition(END_TAG)
        closed = bool(end)
    return inside.strip() if closed else ""


def exact(sample: Sample, trace: Trace) -> float:
    """1 where the answer equals an accepted one after SQuAD's normalisation; a listing has every item."""
    return float(answered(sample, said(trace)))


def sub_span(sample: Sample, trace: Trace) -> float:
    """1 where an accepted answer stands in the answer as whole words; of a listing, every item (RULER's sub-EM)."""
    answer = said(trace)
    if sample.kind == "listing":
        return float(all(sub_span_match(answer, [item]) for item in sample.answers))
    return float(sub_span_match(answer, sample.answers))


def f1(sample: Sample, trace: Trace) -> float:
    """SQuAD's token F1 with the accepted answer that it is closest to; of a listing, with all items together."""
    wanted = (sample.expected,) if sample.kind == "listing" else sample.answers
    return max(token_f1(said(trace), one) for one in wanted)


def share(sample: Sample, trace: Trace) -> float:
    """The share of the gold answers that stand in the answer (MemAgent, equation 7)."""
    answer = said(trace)
    return sum(sub_span_match(answer, [gold]) for gold in sample.answers) / len(sample.answers)


REWARDS: dict[str, Reward] = {"exact": exact, "sub-em": sub_span, "f1": f1, "share": share}


class Judging:
    """The verdict of a judge: 1 for yes, 0 for no, an error for anything else and beyond `budget` verdicts."""

    def __init__(self, judge: Judge, budget: int) -> None:
        self.judge, self.budget, self.spent = judge, budget, 0

    def __call__(self, scored: Sequence[tuple[Sample, Trace]]) -> list[Worth | CallError]:
        """Asks for all of them together, as far as the budget goes."""
        claims = [
            Claim(sample.question, sample.answers, said(trace), every=sample.kind == "listing")
            for sample, trace in scored
        ]
        asked = claims[: max(0, self.budget - self.spent)]
        self.spent += len(asked)
        verdicts = self.judge.verdicts(asked) if asked else []
        spent = CallError(JUDGE, f"the budget of {self.budget} verdicts is spent; raise judge.budget in the recipe")
        found = [one if isinstance(one, CallError) else Worth(float(one)) for one in verdicts]
        return [*found, *[spent] * (len(claims) - len(asked))]


class Rules:
    """A reward function over many traces; one that raises, or gives no finite number, is an error of that trace.

    With `turns` it has to reward every conversation too.
    """

    def __init__(self, reward: Reward, turns: bool = False) -> None:
        self.reward, self.turns = reward, turns

    def __call__(self, scored: Sequence[tuple[Sample, Trace]]) -> list[Worth | CallError]:
        """One by one."""
        return [self._one(sample, trace) for sample, trace in scored]

    def _one(self, sample: Sample, trace: Trace) -> Worth | CallError:
        try:
            found = self.reward(sample, trace)
            value, turns = (found.value, found.turns) if isinstance(found, Worth) else (found, ())
            worth = Worth(float(value), tuple(map(float, turns)))  # numbers of any library
        except Exception as error:  # a user's function may raise anything
            return CallError("reward", f"{type(error).__name__}: {error}")
        unfit = [value for value in (worth.value, *worth.turns) if not math.isfinite(value)]
        if unfit:
            return CallError("reward", f"the value {unfit[0]} is no finite number")
        if (worth.turns or self.turns) and len(worth.turns) != len(trace.steps):
            return CallError("reward", f"{len(worth.turns)} turn rewards for {len(trace.steps)} conversations")
        return worth


def find_reward(name: str) -> Reward:
    """A reward of the table, or a user's: `path.py:function`.

    Raises:
        ConfigError: for an unknown name, a file that cannot be loaded, or a function that is not in it.
    """
    path, colon, function = name.rpartition(":")
    if not colon:
        if name not in REWARDS:
            raise unknown("reward", name, [*REWARDS, JUDGE])
        return REWARDS[name]
    if not Path(path).is_file():
        raise ConfigError(f"reward {name!r}: no file {path}; write path.py:function, seen from where memfold runs")
    specification = importlib.util.spec_from_file_location("memfold_reward", path)
    if specification is None or specification.loader is None:
        raise ConfigError(f"reward {name!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # where a dataclass looks its module up
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"reward {name!r}: {path} cannot be loaded: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown("reward function", function, known)
    return found  # type: ignore[no-any-return]


def scored_traces(scorer: Scorer, samples: Sequence[Sample], traces: Sequence[Trace]) -> list[tuple[Trace, Worth]]:
    """Traces with their rewards; those without an answer, or that cannot be scored, have an error and a worth of 0."""
    good = [number for number, trace in enumerate(traces) if trace.error is None]
    worths = scorer([(samples[number], traces[number]) for number in good])
    done = [(trace, Worth(0.0)) for trace in traces]
    for number, worth in zip(good, worths, strict=True):
        trace = traces[number]
        if isinstance(worth, CallError):
            done[number] = (replace(trace, error=str(worth)), Worth(0.0))
        else:
            done[number] = (trace.with_reward(worth.value), worth)
    return done
