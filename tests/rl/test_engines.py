"""Engines that sample; vLLM is a stand-in with a torch model in it, so its log-probabilities can be the trainer's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stand_in_vllm
import torch

from memfold.backbone.adapters import add_role
from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.score import logprobs
from memfold.core.errors import CallError, ConfigError
from memfold.core.registry import AnySystem
from memfold.core.system import Prefix
from memfold.core.types import Reply, SamplingParams
from memfold.rl.engine import open_engine
from memfold.rl.engines.vllm import VllmEngine
from memfold.rl.loop import prepare, step, train
from memfold.rl.questions import Draws
from memfold.rl.recipe import RlRecipe
from memfold.rl.rollout import Rollouts, RolloutSampling, roll_out

SETTINGS = {"positions": "consecutive", "wrapper": "span"}


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm.module())


@pytest.fixture
def chosen(recipe: RlRecipe) -> RlRecipe:
    return replace(recipe, engine="vllm", settings=SETTINGS, max_logprob_gap=1e-3)


def rolled(engine: Any, recipe: RlRecipe, backbone: Backbone, max_concurrency: int = 12) -> list[Rollouts]:
    questions = Draws(recipe, backbone, 0).take(4)
    return roll_out(questions, backbone, engine, RolloutSampling(reply_tokens=12), 3, max_concurrency, 0, 0)


def logprob_gap(found: list[Rollouts], backbone: Backbone) -> float:
    """The largest difference between log-probabilities of sampler and backbone."""
    most = 0.0
    for one in found:
        scores = logprobs(backbone, one.question.system, [(one.memory, one.traces)])
        sampled = torch.tensor([value for trace in one.traces for value in trace.steps[0].reply.logprobs])
        most = max(most, float((scores.logprobs.detach() - sampled).abs().max()))
    return most


def test_replies_of_vllm_replay_before_and_after_an_update(chosen: RlRecipe) -> None:
    """Slots and text, with weights loaded from files; the prefix cache of earlier weights is not reused."""
    backbone = load_backbone(str(chosen.parent))
    engine = VllmEngine(chosen, backbone, 1)
    first = rolled(engine.policy(), chosen, backbone)
    assert logprob_gap(first, backbone) < 1e-4
    assert {one.question.system.name for one in first} == {"pooled", "full"}
    for reply in (trace.steps[0].reply for one in first for trace in one.traces):
        ended = reply.tokens[-1] == backbone.end_token
        assert (reply.finish == "stop") == ended
        assert ended or len(reply.tokens) == 12
        assert reply.text == backbone.decode(reply.tokens)
        assert reply.positions > 0
    with torch.no_grad():
        dict(backbone.model.named_parameters())["model.layers.0.mlp.up_proj.weight"] += 0.1
    assert logprob_gap(rolled(engine, chosen, backbone), backbone) > 1e-2
    assert logprob_gap(rolled(engine.policy(), chosen, backbone), backbone) < 1e-4
    read = engine._model._llm.read
    assert len(set(read)) == 2
    assert [Path(folder).exists() for folder in read] == [True, False]


def test_every_call_has_its_own_seed(chosen: RlRecipe, backbone: Backbone) -> None:
    policy = VllmEngine(chosen, backbone, 1).policy()
    together, alone = rolled(policy, chosen, backbone), rolled(policy, chosen, backbone, max_concurrency=1)
    tokens = [[trace.steps[0].reply.tokens for one in found for trace in one.traces] for found in (together, alone)]
    assert tokens[0] == tokens[1]
    assert len(set(tokens[0])) > 9


def test_a_reply_ends_with_the_end_token(chosen: RlRecipe, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VllmEngine(chosen, backbone, 1)
    engine.policy()
    prompt, sampling = torch.randn(5, backbone.hidden_size), [SamplingParams(12, 1.0, seed=5)]
    (whole,) = engine._model.generate([prompt], sampling, ends=[-1])
    assert isinstance(whole, Reply)
    assert (whole.finish, len(whole.tokens)) == ("length", 12)
    (cut,) = engine._model.generate([prompt], sampling, ends=[whole.tokens[3], 10**6])
    assert isinstance(cut, Reply)
    assert (cut.finish, cut.tokens) == ("stop", whole.tokens[: whole.tokens.index(whole.tokens[3]) + 1])
    monkeypatch.setattr(stand_in_vllm.LLM, "_one", lambda *given: SimpleNamespace(finish_reason="abort"))
    (broken,) = engine._model.generate([prompt], sampling, ends=[-1])
    assert str(broken) == "policy: vLLM ended a reply with 'abort'; expected: stop, length"


def test_a_run_with_vllm_stays_on_policy(chosen: RlRecipe, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    train(chosen, tmp_path, report=heard.append)
    assert len(heard) == 4
    assert all(line["figures"]["logprob_gap"] < 1e-4 and line["norm"] > 0 for line in heard[1:])


def test_a_stale_engine_stops_the_run(chosen: RlRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(chosen, tmp_path)
    step(run)
    monkeypatch.setattr(stand_in_vllm.LLM, "collective_rpc", lambda *args, **kwargs: [None])
    with pytest.raises(CallError, match=r"sampler and trainer differ by .* in step 2"):
        step(run)
    monkeypatch.setattr(stand_in_vllm.LLM, "reset_prefix_cache", lambda self: False)
    with pytest.raises(CallError, match="vLLM did not clear its prefix cache"):
        step(run)


def _without(name: str) -> Callable[..., Any]:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(f"{name} is too small\nmore lines")

    return broken


def test_one_line_says_what_is_missing(
    chosen: RlRecipe, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in_vllm.LLM, "__init__", _without("memory"))
    with pytest.raises(ConfigError, match=r"^vLLM does not start with engine_memory = 0.4: memory is too small$"):
        VllmEngine(chosen, backbone, 1).policy()
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"^engine 'vllm' needs vLLM \(.*\); pip install 'memfold\[gpu\]'$") as caught:
        prepare(chosen, tmp_path / "run")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused_before_vllm_starts(chosen: RlRecipe, backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="engine 'vllm' supports one process, not 2"):
        open_engine(chosen, backbone, 2)


@pytest.mark.parametrize("settings", [{"positions": "strided"}, {"positions": "consecutive", "max_gap": 1000}], ids=str)
def test_settings_that_leave_positions_out_are_refused(
    chosen: RlRecipe, tmp_path: Path, settings: dict[str, Any]
) -> None:
    recipe = replace(chosen, mixture=chosen.mixture[:1], settings=settings)
    with pytest.raises(ConfigError, match="the settings of system 'pooled' leave token positions out"):
        prepare(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_randomised_positions_are_consecutive_in_rollouts(chosen: RlRecipe, tmp_path: Path) -> None:
    run = prepare(replace(chosen, settings={"positions": "randomised"}), tmp_path)
    assert step(run)["figures"]["logprob_gap"] < 1e-4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prefix": Prefix(())}, "system 'pooled' makes calls that engine 'vllm' cannot answer"),
        ({"positions": [7]}, "the settings of system 'pooled' leave token positions out"),
    ],
)
def test_calls_that_are_not_plain_embeddings_are_refused(
    chosen: RlRecipe, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], message: str
) -> None:
    engine = VllmEngine(replace(chosen, mixture=chosen.mixture[:1]), backbone, 1)
    (question,) = Draws(replace(chosen, mixture=chosen.mixture[:1]), backbone, 0).take(1)
    render = type(question.system).render

    def other(self: AnySystem, *given: Any) -> Any:
        return replace(render(self, *given), **changed)

    monkeypatch.setattr(type(question.system), "render", other)
    with pytest.raises(ConfigError, match=message):
        roll_out([question], backbone, engine, RolloutSampling(4), 1, 1)


def test_adapters_stay_out_of_vllm_and_calls_with_one_are_refused(chosen: RlRecipe) -> None:
    backbone = load_backbone(str(chosen.parent))
    add_role(backbone, "pooled", 2, 4.0, ("q_proj",))
    engine = VllmEngine(chosen, backbone, 1)
    assert logprob_gap(rolled(engine.policy(), chosen, backbone), backbone) < 1e-4
    adapted = replace(chosen, mixture=chosen.mixture[:1], settings=SETTINGS | {"adapters": True})
    with pytest.raises(ConfigError, match="'pooled' makes calls with the adapter 'pooled', but engine 'vllm' loads"):
        rolled(engine.policy(), adapted, backbone)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"engine": "vlm"}, "unknown engine 'vlm'; nearest: 'vllm'"),
        ({"engine_memory": 1.0}, "engine_memory = 1.0 is not possible"),
    ],
)
def test_a_recipe_names_a_known_engine(recipe: RlRecipe, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(recipe, **changed)
