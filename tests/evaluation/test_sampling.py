from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything

from memfold.core.errors import ConfigError
from memfold.core.system import AnswerSteps
from memfold.core.types import Answer, Call, Memory, Reply, SamplingParams
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.sampling import sampled
from memfold.evaluation.suite import SUITES, Options, load_suite, with_options
from memfold.systems.full.system import Full

Evaluate = Callable[..., Evaluation]
MEMORY = Memory("m", "full", {}, "", (), [])


class Steps(Full):
    """One call, then two at once."""

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        first = yield Call("update", (), SamplingParams(max_tokens=5))
        assert isinstance(first, Reply)
        both = yield [Call("update", ()), Call("answer", (), SamplingParams(reads=True))]
        assert isinstance(both, list)
        return Answer(" ".join(reply.text for reply in (first, *both)))


def test_every_call_is_drawn_with_the_settings_and_numbers_of_its_own() -> None:
    steps = sampled(Steps(), "paper", 0.7, "seed").answer(MEMORY, "?")
    first = next(steps)
    assert isinstance(first, Call)
    both = steps.send(Reply("a"))
    assert isinstance(both, list)
    limits = [call.limits for call in (first, *both)]
    assert len({limit.seed for limit in limits}) == 3
    assert max(limit.seed for limit in limits) < 1 << 31
    plain = replace(limits[0], seed=0)
    assert plain == SamplingParams(max_tokens=5, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
    assert [limit.reads for limit in limits] == [False, False, True]
    with pytest.raises(StopIteration) as stop:
        steps.send([Reply("b"), Reply("c")])
    assert stop.value.value == Answer("a b c")


def test_greedy_is_the_system_itself() -> None:
    system = Steps()
    assert sampled(system, "greedy", 0.7, "seed") is system
    again, other = (next(sampled(system, "paper", 0.7, seed).answer(MEMORY, "?")) for seed in ("seed", "other"))
    assert isinstance(again, Call)
    assert isinstance(other, Call)
    assert again == next(sampled(system, "paper", 0.7, "seed").answer(MEMORY, "?"))
    assert again.limits.seed != other.limits.seed


def test_temperatures_are_those_of_the_paper() -> None:
    found = {name: load_suite(name).temperature for name in SUITES}
    assert found == {
        "almanac": 0.7, "multihop": 0.7, "qa": 0.7, "longbench-v2": 0.7, "needle": 0, "strings": 0,
        "reconstruction": 0.1,
    }  # fmt: skip


def test_a_run_is_asked_with_the_settings_that_it_records(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled", lengths=(96,), questions=2, splits=("in",), sampling="paper")
    asked: list[SamplingParams] = []

    class Listens(KnowsEverything):
        def generate(self, requests, *rest):  # type: ignore[no-untyped-def]
            asked.extend(call.limits for _, _, call in requests)
            return super().generate(requests, *rest)

    run(evaluation, tmp_path, Listens(evaluation))
    assert [limits.temperature for limits in asked] == [0.7] * 4
    assert len({limits.seed for limits in asked}) == 2, "every system draws the same numbers for a question"
    assert evaluation.arguments()["sampling"] == "paper"


def test_full_cells_have_fewer_questions_the_longer_they_are() -> None:
    options = Options((1024, 4096, 8192, 32768, 122880), 5, ("in",), per_cell="full")
    assert [questions for _, _, questions in options.cells()] == [1000, 1000, 128, 128, 32]
    assert options.total == 2288
    suite = load_suite("needle")
    suite.check(options)
    with pytest.raises(ConfigError, match="--cells full says how many questions each cell has; leave --questions out"):
        with_options(suite, suite.defaults, {"per_cell": "full", "questions": 3})
    with pytest.raises(ConfigError, match="--cells means nothing to suite 'qa'; leave it out, or use almanac"):
        with_options(load_suite("qa"), options, {"per_cell": "full"})
    with pytest.raises(ConfigError, match="cells = 'ful' is not possible; allowed: even, full"):
        Options((64,), 4, per_cell="ful")
    with pytest.raises(ConfigError, match="unknown sampling 'papre'; nearest: 'paper'"):
        Options((64,), 4, sampling="papre")
