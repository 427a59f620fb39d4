from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from memfold.core.document import Document
from memfold.core.errors import CallError, ConfigError, Failure
from memfold.core.types import Answer, Call, Reply, Sample, SamplingParams, Step, Trace
from memfold.rl.rewards import REWARDS, Judging, Reward, Rules, extract_answer, find_reward, scored_traces
from memfold.scoring.judge import Judge

DOCUMENT = Document("d", text="Ada lives in Velm.")
ONE = Sample("almanac", DOCUMENT, "Where does Ada live?", ("Velm", "the town of Velm"), kind="lookup")
NUMBER = Sample("almanac", DOCUMENT, "How many?", ("-1,250.50",), kind="lookup")
LIST = Sample("almanac", DOCUMENT, "Which towns?", ("Velm", "Sanu", "Tor Ban"), kind="listing")


def trace(reply: str, style: str = "recall", failure: Failure | None = None) -> Trace:
    step, answer = Step(Call("answer", ()), Reply(reply)), Answer("", reply) if failure is None else None
    return Trace("q", "pooled", {"style": style}, (step,), answer, failure=failure)


@pytest.mark.parametrize(
    ("reply", "style", "expected"),
    [
        (r"Ada lives there. \boxed{Velm}", "recall", "Velm"),
        (r"\boxed{no} then \boxed{Tor {x} Ban}", "recall", "Tor {x} Ban"),
        ("It is <answer> Velm </answer>.", "recall", "Velm"),
        (r"\boxed{no} <answer>Velm</answer>", "recall", "Velm"),
        (r"<answer>no</answer> \boxed{Velm}", "recall", "Velm"),
        (r"\boxed{<answer>Velm</answer>}", "recall", "Velm"),
        (r"<answer>\boxed{Velm}</answer>", "recall", "Velm"),
        (r"\boxed{Velm} or <answer>Tor", "recall", ""),
        (r"It is \boxed{Velm", "recall", ""),
        (r"It is \boxed{Velm", "bare", ""),
        ("It is Velm", "recall", ""),
        ("It is Velm", "free", ""),
        (r"\boxed{Velm}", "free", "Velm"),
        ("It is Velm", "bare", "It is Velm"),
        ("", "recall", ""),
        (r"\boxed{Velm} \boxed{}", "recall", "Velm"),
        (r"\boxed{Velm} \boxed{", "recall", "Velm"),
        (r"\boxed{Velm} <answer> </answer>", "recall", "Velm"),
        ("<answer>Velm</answer> <answer></answer>", "recall", "Velm"),
        (r"\boxed{Velm} \boxed{\text{}}", "recall", "Velm"),
        (r"\boxed{}", "recall", ""),
        (r"\boxed{\text{Velm}}", "recall", "Velm"),
        (r"\boxed{$\text{Velm}$}", "recall", "Velm"),
    ],
)
def test_the_answer_is_taken_strictly(reply: str, style: str, expected: str) -> None:
    assert extract_answer(trace(reply, style)) == expected


@pytest.mark.parametrize(
    ("name", "sample", "answer", "expected"),
    [
        ("exact", ONE, "velm.", 1.0),
        ("exact", ONE, "in Velm", 0.0),
        ("exact", LIST, "Tor Ban, Velm and Sanu", 1.0),
        ("exact", LIST, "Velm and Sanu", 0.0),
        ("sub-em", ONE, "in Velm, I think", 1.0),
        ("sub-em", ONE, "Velmar", 0.0),
        ("sub-em", LIST, "Sanu Velm Tor Ban Ost", 1.0),
        ("sub-em", LIST, "Sanu Velm", 0.0),
        ("exact", NUMBER, "\u22121250.5", 1.0),
        ("exact", NUMBER, "1250.5", 0.0),
        ("sub-em", NUMBER, "it is -1,250.5 coins", 1.0),
        ("share", NUMBER, "125050", 0.0),
        ("f1", ONE, "in town of Velm", 6 / 7),
        ("f1", LIST, "Velm", 2 / 6),
        ("share", LIST, "Velm or Sanu or Ost", 2 / 3),
        ("share", ONE, "Velm", 1 / 2),
    ],
)
def test_rewards_by_hand(name: str, sample: Sample, answer: str, expected: float) -> None:
    assert REWARDS[name](sample, trace(f"\\boxed{{{answer}}}")) == pytest.approx(expected)
    assert REWARDS[name](sample, trace(f"{answer} without a box")) == 0


def test_a_reward_that_raises_or_is_not_finite_is_an_error_of_its_trace() -> None:
    rewards = Rules(lambda sample, trace: {"a": 1.0, "b": math.nan, "c": math.inf}[extract_answer(trace)])(
        [(ONE, trace(f"\\boxed{{{answer}}}")) for answer in "abcd"]
    )
    assert rewards[0] == Reward(1.0)
    assert [str(reward) for reward in rewards[1:]] == [
        "reward: the value nan is not finite",
        "reward: the value inf is not finite",
        "reward: KeyError: 'd'",
    ]


def test_turn_rewards_need_one_for_each_call() -> None:
    given = [(ONE, trace("x"))]
    assert Rules(lambda sample, trace: Reward(1.0, (0.5,)))(given) == [Reward(1.0, (0.5,))]
    (error,) = Rules(lambda sample, trace: Reward(1.0, (0.5, 0.5)))(given)
    assert str(error) == "reward: expected 1 turn rewards, got 2"
    (error,) = Rules(lambda sample, trace: 1.0, turns=True)(given)
    assert str(error) == "reward: expected 1 turn rewards, got 0"


def test_a_reward_consists_of_numbers() -> None:
    given = [(ONE, trace("x"))]
    (reward,) = Rules(lambda sample, trace: Reward(torch.tensor(0.5), (np.float32(0.25),)))(given)  # type: ignore[arg-type]
    assert reward == Reward(0.5, (0.25,))
    assert isinstance(reward, Reward)
    assert [type(value) for value in (reward.value, *reward.turns)] == [float, float]
    for bad in (None, "much"):
        (error,) = Rules(lambda sample, trace, bad=bad: Reward(bad))(given)  # type: ignore[misc]
        assert str(error).startswith(("reward: TypeError", "reward: ValueError"))
    (error,) = Rules(lambda sample, trace: Reward(1.0, (math.inf,)))(given)
    assert str(error) == "reward: the value inf is not finite"


def test_a_failed_trace_is_not_asked_about() -> None:
    asked: list[str] = []

    def reward(sample: Sample, trace: Trace) -> float:
        asked.append(extract_answer(trace))
        return 0.25 if extract_answer(trace) == "Velm" else math.nan

    broken = Failure("policy", "CallError", "broken")
    traces = [trace("", failure=broken), trace(r"\boxed{Velm}"), trace(r"\boxed{x}")]
    done = scored_traces(Rules(reward), [ONE] * 3, traces)
    assert asked == ["Velm", "x"]
    infinite = Failure("reward", "CallError", "the value nan is not finite")
    assert [found.failure for found, _ in done] == [broken, None, infinite]
    assert [str(failure) for failure in (broken, infinite)] == [
        "policy: broken",
        "reward: the value nan is not finite",
    ]
    assert [found.reward for found, _ in done] == [None, 0.25, None]


def test_a_user_writes_a_reward_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def short(sample, trace):\n    return 1 / (1 + len(trace.answer.reply))\n")
    assert find_reward(f"{path}:short")(ONE, trace("abc")) == 0.25
    with pytest.raises(ConfigError, match="unknown reward function 'shrot'; nearest: 'short'"):
        find_reward(f"{path}:shrot")
    with pytest.raises(ConfigError, match=r"no file .*none.py; write path.py:function"):
        find_reward(f"{tmp_path}/none.py:short")
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Own:\n"
        "    value: float = 0.5\n\ndef own(sample, trace):\n    return Own().value\n"
    )
    assert find_reward(f"{path}:own")(ONE, trace("abc")) == 0.5
    path.write_text("def short(:\n")
    with pytest.raises(ConfigError, match="cannot be loaded: SyntaxError"):
        find_reward(f"{path}:short")
    with pytest.raises(ConfigError, match="unknown reward 'exakt'; nearest: 'exact'; known: exact, f1, judge"):
        find_reward("exakt")


def test_the_judge_is_asked_within_its_budget_and_never_gives_a_silent_zero(tmp_path: Path) -> None:
    messages: list[str] = []

    def ask(asked: Sequence[str], sampling: SamplingParams) -> list[Reply | CallError]:
        messages.extend(asked)
        verdicts = {"right": "yes", "wrong": "No.", "odd": "perhaps"}
        return [
            next((Reply(reply) for key, reply in verdicts.items() if f"\n{key}\n" in message), None)
            or CallError("policy", "the endpoint is gone")
            for message in asked
        ]

    judging = Judging(Judge("m", ask, tmp_path / "verdicts.jsonl"), budget=5)
    answers = ["right", "wrong", "odd", "gone", "right", "right"]
    found = judging([(ONE, trace(f"\\boxed{{{answer}}}")) for answer in answers])
    assert [reward for reward in found if isinstance(reward, Reward)] == [Reward(1.0), Reward(0.0), Reward(1.0)]
    assert [str(one) for one in found if isinstance(one, CallError)] == [
        "judge: m replied 'perhaps'; expected yes or no; use another judge",
        "policy: the endpoint is gone",
        "judge: the budget of 5 verdicts is spent; raise judge.budget in the recipe",
    ]
    assert (judging.spent, len(messages)) == (5, 4)
    assert [found.failure is None for found, _ in scored_traces(judging, [ONE], [trace(r"\boxed{right}")])] == [False]
