from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from all_knowing import KnowsEverything
from scripted_policy import scripted

from memfold.core.errors import ConfigError
from memfold.core.job import Job
from memfold.core.scheduler import answer
from memfold.core.system import AnswerSteps, ask, ask_all
from memfold.core.types import Answer, Call, Generate, Memory, SamplingParams, Trace
from memfold.evaluation.runner import Evaluation, run
from memfold.evaluation.sampling import sampling_of
from memfold.evaluation.suite import SUITES, Options, load_suite, with_options
from memfold.systems.full.system import Full

Evaluate = Callable[..., Evaluation]
MEMORY = Memory("m", "full", {}, "", (), [])


class Steps(Full):
    """One call, then two at once."""

    def answer(self, memory: Memory, question: str) -> AnswerSteps:
        first = yield from ask(Call("update", (), Generate(SamplingParams(max_tokens=5))))
        both = yield from ask_all([Call("update", ()), Call("answer", (), Generate(attention=True))])
        return Answer(" ".join(reply.text for reply in (first, *both)))


def traced(name: str, seed: str) -> Trace:
    """What comes of a question whose replies are drawn so."""
    return answer(Job(Steps(), MEMORY, "?", sampling_of(name, 0.7, seed)), scripted("a", "b", "c"))


def test_every_call_is_drawn_with_the_settings_and_numbers_of_its_own() -> None:
    trace = traced("paper", "seed")
    params = [step.call.sampling for step in trace.steps]
    assert len({sampling.seed for sampling in params}) == len(params) == 3
    assert max(sampling.seed for sampling in params) < 1 << 31
    plain = replace(params[0], seed=0)
    assert plain == SamplingParams(max_tokens=5, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
    wants = [step.call.wants for step in trace.steps]
    assert [isinstance(wanted, Generate) and wanted.attention for wanted in wants] == [False, False, True]
    assert trace.answer == Answer("a b c")


def test_greedy_leaves_the_calls_of_the_system() -> None:
    assert sampling_of("greedy", 0.7, "seed") is None
    first = next(Steps().answer(MEMORY, "?"))
    assert (traced("greedy", "seed").steps[0].call,) == first


def test_the_seed_of_a_question_decides_the_numbers_of_its_calls() -> None:
    once, again, other = ([step.call for step in traced("paper", seed).steps] for seed in ("seed", "seed", "other"))
    assert again == once
    assert again[0].sampling.seed != other[0].sampling.seed


def test_temperatures_are_those_of_the_paper() -> None:
    found = {name: load_suite(name).temperature for name in SUITES}
    assert found == {
        "almanac": 0.7,
        "multihop": 0.7,
        "ruler-hqa": 0.7,
        "qa": 0.7,
        "longbench-v2": 0.7,
        "needle": 0,
        "ruler": 0,
        "strings": 0,
        "fidelity": 0.1,
        "reconstruction": 0.1,
    }


def test_a_run_is_asked_with_the_settings_that_it_records(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluation = evaluate("full", "pooled", lengths=(96,), questions=2, splits=("in",), sampling="paper")
    policy = KnowsEverything(evaluation)
    run(evaluation, tmp_path, policy)
    assert [call.sampling.temperature for call in policy.calls] == [0.7] * 4
    assert len({call.sampling.seed for call in policy.calls}) == 2, "every system draws the same numbers for a question"
    assert evaluation.arguments()["sampling"] == "paper"


def test_graded_cells_have_fewer_questions_the_longer_they_are() -> None:
    options = Options((1024, 4096, 8192, 32768, 122880), 5, ("in",), per_cell="graded")
    assert [questions for _, _, questions in options.cells()] == [1000, 1000, 128, 128, 32]
    assert options.total == 2288
    longer = Options((7168, 229_376, 458_752, 917_504, 1_835_008), 5, ("in",), per_cell="long")
    assert [questions for _, _, questions in longer.cells()] == [256, 256, 64, 64, 16]
    suite = load_suite("needle")
    suite.check(options)
    told = "--cells graded sets the number of questions; leave --questions out"
    with pytest.raises(ConfigError, match=told):
        with_options(suite, suite.defaults, {"per_cell": "graded", "questions": 3})
    with pytest.raises(ConfigError, match="--cells has no effect in suite 'qa'; leave it out, or use suite almanac"):
        with_options(load_suite("qa"), options, {"per_cell": "graded"})
    with pytest.raises(ConfigError, match="unknown cells 'grad'; nearest: 'graded'; known: even, graded, long"):
        Options((64,), 4, per_cell="grad")
    with pytest.raises(ConfigError, match="unknown sampling 'papre'; nearest: 'paper'"):
        Options((64,), 4, sampling="papre")
