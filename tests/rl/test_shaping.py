from __future__ import annotations

import pytest
import torch

from memfold.core.errors import ConfigError
from memfold.core.types import Call, HeadScore, Reply, Step, Trace
from memfold.rl.algorithm import PRESETS, make_algorithm
from memfold.rl.shaping import answering, counted, dynamic, informative, overlong


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, 0.0),
        (500, 0.0),
        (510, -0.05),
        (575, -0.375),
        (600, -0.5),
        (650, -0.5),
    ],
)
def test_soft_overlong_punishment_by_hand(length: int, expected: float) -> None:
    assert overlong(length, 600, 100, 0.5) == pytest.approx(expected)
    assert overlong(length, 600, 0, 0.5) == 0


def test_truncated_replies_are_left_out_if_masked() -> None:
    cut, ended = (
        Trace("q", "full", steps=(Step(Call("answer", ()), Reply("a", (1,), (-1.0,), finish)),))
        for finish in ("length", "stop")
    )
    assert [counted(trace, mask) for trace in (cut, ended) for mask in (True, False)] == [False, True, True, True]


def test_the_answer_is_what_is_measured_and_masked() -> None:
    """Not the note before it, which reaches its limit; a trace without an answering call has an empty reply."""
    note = Step(Call("update", ()), Reply("a", (1, 2, 3), (-1.0,) * 3, "length"))
    reply = Step(Call("answer", ()), Reply("b", (4,), (-1.0,)))
    gate = Step(Call("gate", (), HeadScore("g"), trained=False), Reply(score=-3.0))
    assert answering(Trace("q", "recurrent", steps=(note, reply))) == reply.reply
    assert counted(Trace("q", "recurrent", steps=(note, reply)), mask_truncated=True)
    for steps in ((), (gate,)):
        assert answering(Trace("q", "kvbank", steps=steps)).token_count == 0
        assert counted(Trace("q", "kvbank", steps=steps), mask_truncated=True)


def test_only_groups_that_differ_are_informative() -> None:
    assert informative(torch.tensor([0.0, 1.0, 0.0]))
    assert not informative(torch.tensor([1.0, 1.0, 1.0]))
    assert not informative(torch.tensor([0.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        ([(0.0, 1.0), (0.0, 0.0)], True),
        ([(0.0, 0.0), (0.0,)], False),
        ([(0.5, 1.0), (0.5,)], False),
        ([(), ()], False),
    ],
)
def test_turns_that_differ_from_the_same_turn_of_another_are_informative(
    turns: list[tuple[float, ...]], kept: bool
) -> None:
    equal = torch.tensor([1.0, 1.0])
    assert informative(equal, turns, "turn") == kept
    assert not informative(equal, turns, "trajectory")


def test_groups_are_dropped_after_the_warm_up() -> None:
    assert [dynamic(step, True, 25) for step in (0, 24, 25, 900)] == [False, False, True, True]
    assert not dynamic(900, False, 25)


def test_the_presets_are_those_of_their_papers() -> None:
    made = {name: make_algorithm(name, {}) for name in PRESETS}
    dapo, memagent, gspo, grpo = (made[name] for name in ("dapo", "memagent", "gspo", "grpo"))
    assert (dapo.advantage, dapo.mean, dapo.clip, dapo.clip_low, dapo.clip_high) == (
        "grpo",
        "token",
        "higher",
        0.2,
        0.28,
    )
    assert (dapo.kl, dapo.beta, dapo.entropy, dapo.dynamic, dapo.warmup) == ("none", 0, 0, True, 25)
    assert (dapo.overlong_buffer, dapo.overlong_factor) == (100, 0.5)
    assert (memagent.advantage, memagent.clip, memagent.clip_high, memagent.clip_dual) == ("mean", "dual", 0.2, 3.0)
    assert (memagent.kl, memagent.beta, memagent.mean) == ("loss", 0.001, "token")
    assert (gspo.ratio, gspo.mean, gspo.clip_low, gspo.clip_high) == ("sequence", "sequence", 3e-4, 4e-4)
    assert (grpo.mean, grpo.kl, grpo.dynamic) == ("sequence", "loss", False)
    lychee = made["lychee"]
    assert (lychee.advantage, lychee.ratio, lychee.mean) == ("grpo", "sequence", "trajectory")
    assert (lychee.kl, lychee.beta, lychee.credit) == ("loss", 0.001, "trajectory")
    assert lychee.clip_low < lychee.clip_high < 0.01  # around a mean of log-ratios, not around those of tokens


def test_overrides_change_a_preset() -> None:
    made = make_algorithm("dapo", {"clip_high": 0.4, "warmup": 2})
    assert (made.clip_high, made.warmup, made.overlong_factor) == (0.4, 2, 0.5)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("dapa", {}, "unknown preset 'dapa'; nearest: 'dapo'"),
        ("dapo", {"clip_hihg": 1.0}, "unknown key 'algorithm.clip_hihg'; nearest: 'algorithm.clip_high'"),
        (None, {"advantage": "gae"}, "unknown algorithm.advantage 'gae'; known: grpo, mean"),
        (None, {"clip_high": 0.1}, "algorithm.clip_high = 0.1 is not possible; allowed: clip_low or more"),
        (
            "dapo",
            {"clip": "symmetric"},
            "algorithm.clip_high = 0.28 is not possible; allowed: clip_low, 0.2, with clip",
        ),
        (
            None,
            {"overlong_buffer": 9},
            "algorithm.overlong_factor = 0.0 is not possible; allowed: above 0 with an over",
        ),
        (None, {"kl": "loss"}, "algorithm.beta = 0.0 is not possible; allowed: above 0 with kl, 0 without"),
        ("grpo", {"kl": "none"}, "algorithm.beta = 0.04 is not possible"),
        (None, {"entropy": -1.0}, "algorithm.entropy = -1.0 is not possible; allowed: 0 or more"),
    ],
)
def test_impossible_algorithms_are_refused(preset: str | None, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_algorithm(preset, overrides)
    assert str(raised.value).startswith(message)
