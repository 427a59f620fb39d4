from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import ChatServer
from torch import Tensor

from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import CallError, CheckpointError, ConfigError
from memfold.core.registry import make_system
from memfold.rl import update
from memfold.rl.loop import prepare, step, train
from memfold.rl.recipe import JudgeSettings, RlRecipe
from memfold.rl.update import Sums
from memfold.systems.pooled.system import Pooled
from memfold.training.recipe import Entry, Group

TIMED = ("seconds", "tokens_per_second")


def weights(backbone: Backbone) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in backbone.parameters()}


def metrics(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in found]


def test_a_run_records_its_recipe_metrics_and_model(recipe: RlRecipe, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    train(recipe, tmp_path, report=heard.append)
    assert {path.name for path in tmp_path.iterdir()} == {
        "recipe.json",
        "metrics.jsonl",
        "model",
        "encoder",
        "traces",
        "step-000002",
        "step-000003",
    }
    assert [line["step"] for line in heard] == [0, 1, 2, 3]
    assert ["validation" in line for line in heard] == [True, False, True, True]
    held_out = heard[-1]["validation"]["0:pooled/almanac"]
    assert held_out.keys() == {"reward", "length", "truncated", "expanding"}
    assert heard[-1]["validation"].keys() == heard[0]["validation"].keys() == {"0:pooled/almanac", "1:full/almanac"}
    assert heard[0]["figures"] == heard[0]["rewards"] == {}  # nothing is sampled before the first step
    for line in heard[1:]:
        figures = line["figures"]
        assert figures.keys() == {
            "reward",
            "length",
            "truncated",
            "equal",
            "dropped",
            "failed",
            "loss",
            "clipped",
            "logprob_gap",
            "logprob_gap_kl",
        }
        assert figures["logprob_gap"] < 1e-5
        assert 0 < figures["length"] <= 6
        assert 0 <= figures["reward"] <= 1
        assert line["norm"] > 0
    assert {path.name for path in (tmp_path / "traces").iterdir()} == {"step-000002.jsonl", "step-000003.jsonl"}


def test_resuming_equals_an_unbroken_run(recipe: RlRecipe, rewards: Path, tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    recipe = replace(recipe, reward=f"{rewards}:drawn")

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, broken, report=stop)
    assert [path.name for path in broken.glob("step-*")] == ["step-000001"]
    torch.manual_seed(99)  # the random state in between must not matter
    random.seed(99)
    train(recipe, broken, resume=True)
    train(recipe, whole)
    assert metrics(broken) == metrics(whole)
    for name in (
        "model/model.safetensors",
        "model/heads.safetensors",
        "model/memfold.json",
        "model/encoder/model.safetensors",
        "recipe.json",
        "traces/step-000003.jsonl",
    ):
        if name.startswith("traces"):
            assert without_seconds(broken / name) == without_seconds(whole / name)
        else:
            assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    states = [torch.load(run / "step-000003" / "training.pt", weights_only=True) for run in (broken, whole)]
    (ours,), (theirs,) = (state["extra"]["processes"] for state in states)
    assert ours["python"] == theirs["python"]
    assert torch.equal(ours["torch"], theirs["torch"])


def without_seconds(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["trace"]["cost"] = None
    return lines


def test_a_constant_reward_gives_no_gradient_and_is_refilled(recipe: RlRecipe, rewards: Path, tmp_path: Path) -> None:
    run = prepare(replace(recipe, reward=f"{rewards}:constant"), tmp_path)
    before = weights(run.backbone)
    line = step(run)
    assert run.groups == []
    assert line["figures"]["equal"] == 1
    assert line["figures"]["reward"] == 1
    assert line["norm"] == 0
    assert all(torch.equal(weight, before[name]) for name, weight in weights(run.backbone).items())
    patient = replace(recipe, reward=f"{rewards}:constant", algorithm={"warmup": 1, "overlong_buffer": 0})
    run = prepare(patient, tmp_path / "patient")
    assert (step(run)["figures"]["equal"], len(run.groups)) == (1, 3)
    assert (step(run)["figures"]["equal"], len(run.groups)) == (1, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(run.backbone).items())


def test_dropped_groups_are_refilled(recipe: RlRecipe, tmp_path: Path) -> None:
    many = replace(recipe, questions=6, rollouts=2, algorithm={"warmup": 0, "overlong_buffer": 0, "refills": 20})
    run = prepare(many, tmp_path)
    line = step(run)
    assert line["figures"]["equal"] > 0
    assert len(run.groups) == 6
    assert all(len({reward.value for reward in group.rewards}) == 2 for group in run.groups)
    assert len({group.question.name for group in run.groups}) == 6


@pytest.mark.parametrize("memory", ["frozen", "end-to-end"])
def test_the_gradient_reaches_the_encoder_only_end_to_end(recipe: RlRecipe, tmp_path: Path, memory: str) -> None:
    pooled = replace(recipe, memory=memory, mixture=recipe.mixture[:1], algorithm={"warmup": 9, "overlong_buffer": 0})
    run = prepare(pooled, tmp_path)
    before = weights(run.backbone.compressor)
    step(run)
    after = weights(run.backbone.compressor)
    head = "heads.pooled.weight"
    assert torch.equal(before[head], after[head]) == (memory == "frozen")
    assert all(torch.equal(before[name], after[name]) for name in before) == (memory == "frozen")
    assert (run.backbone.compressor is run.backbone) == (memory == "end-to-end")
    start = weights(load_backbone(str(recipe.parent)))
    trained = weights(run.backbone)
    assert not torch.equal(start["model.embed_tokens.weight"], trained["model.embed_tokens.weight"])


def test_a_trained_decoder_keeps_the_encoder_that_it_reads(recipe: RlRecipe, tmp_path: Path) -> None:
    train(replace(recipe, steps=1), tmp_path / "one")
    origin = load_backbone(str(recipe.parent))
    decoder = load_backbone(tmp_path / "one" / "model")
    assert decoder.readable == (origin.fingerprint(),)
    assert decoder.fingerprint() != origin.fingerprint()
    assert decoder.compressor.fingerprint() == origin.fingerprint()
    train(replace(recipe, steps=1, parent=str(tmp_path / "one")), tmp_path / "two")
    assert load_backbone(tmp_path / "two" / "model").readable == (origin.fingerprint(),)
    with pytest.raises(ConfigError, match=r"memory = 'end-to-end' is not possible: .* reads memories of a separate"):
        prepare(replace(recipe, memory="end-to-end", parent=str(tmp_path / "one")), tmp_path / "three")


def test_the_settings_of_the_parent_stay_unless_the_recipe_says_others(
    recipe: RlRecipe, parent: str, tmp_path: Path
) -> None:
    wrapped = load_backbone(parent)
    wrapped.trained["pooled"] = {"wrapper": "none", "positions": "consecutive", "ratios": [8, 16]}
    save_backbone(wrapped, tmp_path / "wrapped")
    run = prepare(
        replace(recipe, parent=str(tmp_path / "wrapped"), settings={"positions": "strided"}), tmp_path / "run"
    )
    found = run.backbone.trained["pooled"]
    assert (found["wrapper"], found["positions"], found["ratios"]) == ("none", "strided", [4, 8, 16])
    step(run)
    systems = {group.question.label: group.question.system.settings for group in run.groups}
    assert (systems["0:pooled/almanac"]["wrapper"], systems["0:pooled/almanac"]["positions"]) == ("none", "strided")


def test_replies_are_asked_for_in_the_style_of_the_recipe(recipe: RlRecipe, tmp_path: Path) -> None:
    backbone = train(replace(recipe, steps=1, style="free", validate_every=1), tmp_path)
    asked = [json.dumps(json.loads(line)["trace"]) for line in next(tmp_path.glob("traces/*.jsonl")).open()]
    assert asked
    assert all("Recall?" in one for one in asked)
    assert make_system("pooled", backbone).settings["style"] == "free"
    assert make_system("pooled", load_backbone(tmp_path / "model")).settings["style"] == "free"


def test_any_system_is_trained_and_describes_itself(recipe: RlRecipe, tmp_path: Path) -> None:
    entry = Entry("almanac", 1.0, (48,), system="recurrent", level=0)
    backbone = train(replace(recipe, steps=1, mixture=(entry,), settings={"note": 8, "chunk": 32}), tmp_path / "run")
    assert backbone.trained["recurrent"] == {"note": 8, "chunk": 32, "passes": 1, "style": "recall"}
    traces = [json.loads(line)["trace"] for line in next(tmp_path.glob("run/traces/*.jsonl")).open()]
    assert all(len(trace["steps"]) > 2 for trace in traces)
    with pytest.raises(ConfigError, match=r"unknown key 'settings\.wrapper'"):
        train(replace(recipe, mixture=(entry,), settings={"wrapper": "slot"}), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_parent_without_heads_is_trained_for_a_system_of_text(
    recipe: RlRecipe, new_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    plain = new_backbone()
    plain.heads.clear()
    save_backbone(plain, tmp_path / "plain")
    entry = Entry("almanac", 1.0, (48,), system="recurrent", level=0, settings={"note": 8})
    alone = replace(recipe, steps=1, parent=str(tmp_path / "plain"), mixture=(entry,), settings={"chunk": 32})
    train(alone, tmp_path / "run")
    loaded = load_backbone(tmp_path / "run" / "model")
    assert loaded.trained == {"recurrent": {"note": 8, "chunk": 32, "passes": 1, "style": "recall"}}
    assert list(loaded.heads) == list(loaded.compressor.heads) == []
    system = make_system("recurrent", loaded)
    assert {name: system.settings[name] for name in ("note", "chunk", "passes", "style")} == loaded.trained["recurrent"]


def test_a_system_of_slots_needs_a_parent_that_was_trained_for_it(
    recipe: RlRecipe, new_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    save_backbone(new_backbone(), tmp_path / "untrained")
    untrained = replace(recipe, parent=str(tmp_path / "untrained"))
    with pytest.raises(CheckpointError, match=r"untrained was not trained for system 'pooled'; name a run of a super"):
        prepare(untrained, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    prepare(replace(untrained, mixture=recipe.mixture[1:]), tmp_path / "run")


def test_a_parent_keeps_the_kind_of_its_head(
    recipe: RlRecipe, new_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    system = Pooled.of({"pooling": "gqa", "projection": "mlp", "ratios": (4, 8)})
    rich = new_backbone()
    system.prepare(rich)
    rich.trained["pooled"] = system.record({})
    save_backbone(rich, tmp_path / "rich")
    pooled = replace(recipe, parent=str(tmp_path / "rich"), mixture=recipe.mixture[:1])
    run = prepare(pooled, tmp_path / "run")
    step(run)
    record = run.backbone.trained["pooled"]
    assert (record["pooling"], record["projection"]) == ("gqa", "mlp")
    head = rich.heads["pooled"].state_dict()
    kept = run.backbone.compressor.heads["pooled"].state_dict()
    assert kept.keys() == head.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in head.items())
    with pytest.raises(CheckpointError, match="pooling gqa and projection mlp, but the settings require mean"):
        prepare(replace(pooled, settings={"pooling": "mean"}), tmp_path / "other")


def test_a_judge_rewards_and_what_it_has_cost_is_kept_on_resume(
    recipe: RlRecipe, chat_server: ChatServer, tmp_path: Path
) -> None:
    judge = JudgeSettings(f"{chat_server.url}#m", 10_000)
    judged = replace(
        recipe, steps=2, style="bare", reward="judge", judge=judge, algorithm={"overlong_buffer": 0, "dynamic": False}
    )

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise KeyboardInterrupt

    train(judged, tmp_path / "whole")
    assert len(chat_server.messages) > 0
    assert [line["figures"]["reward"] for line in metrics(tmp_path / "whole")[1:]] == [
        1,
        1,
    ]  # the judge says yes to all
    with pytest.raises(KeyboardInterrupt):
        train(judged, tmp_path / "broken", report=stop)
    train(judged, tmp_path / "broken", resume=True)
    spent = [prepare(judged, tmp_path / name, resume=True).scorer.spent for name in ("whole", "broken")]  # type: ignore[attr-defined]
    validated = 2 * 2 * judged.validation_questions  # twice, of both entries
    assert spent == [2 * judged.questions * judged.rollouts + validated] * 2


def test_a_decoder_of_16_bits_has_an_encoder_of_16_bits(recipe: RlRecipe, tmp_path: Path) -> None:
    trained = train(replace(recipe, steps=1), tmp_path / "run")
    assert (tmp_path / "run/encoder/model.safetensors").samefile(tmp_path / "run/model/encoder/model.safetensors")
    save_backbone(load_backbone(tmp_path / "run" / "model"), tmp_path / "half", dtype="bfloat16")
    half = load_backbone(tmp_path / "half")
    assert half.readable == (half.compressor.fingerprint(),) != trained.readable
    weight, whole = (dict(one.compressor.parameters())["model.norm.weight"] for one in (half, trained))
    assert torch.equal(weight, whole.bfloat16().float())
    save_backbone(half, tmp_path / "again")
    assert load_backbone(tmp_path / "again").readable == half.readable  # files in a narrower dtype are copied unchanged


def test_a_model_learns_what_is_rewarded(recipe: RlRecipe, tmp_path: Path) -> None:
    """A one-token bandit: the lower half of the vocabulary against the upper half."""
    bandit = replace(
        recipe,
        steps=20,
        mixture=recipe.mixture[:1],
        questions=4,
        rollouts=8,
        max_concurrency=32,
        reply_tokens=1,
        tokens=2000,
        groups=(Group(("*",), lr=2e-2),),
        algorithm={"warmup": 99, "overlong_buffer": 0},
        validate_every=99,
        validation_questions=1,
        checkpoint_every=99,
    )
    heard: list[dict[str, Any]] = []
    train(bandit, tmp_path, report=heard.append)
    rewards = [line["figures"]["reward"] for line in heard[1:]]
    assert sum(rewards[:2]) / 2 < 0.75
    assert sum(rewards[-2:]) / 2 > 0.9


def test_too_many_failures_stop_the_run_with_their_reasons(recipe: RlRecipe, rewards: Path, tmp_path: Path) -> None:
    run = prepare(replace(recipe, reward=f"{rewards}:broken"), tmp_path)
    with pytest.raises(
        CallError,
        match=r"12 of 12 rollouts of step 1 failed, more than failures = 0.1 in .*: "
        r"12 x reward: ValueError: no such answer",
    ):
        step(run)


def test_a_document_that_does_not_fit_fails_on_its_trace(recipe: RlRecipe, tmp_path: Path) -> None:
    long = replace(recipe, mixture=(Entry("almanac", 1, (2046,), system="full", level=0),))
    with pytest.raises(
        CallError,
        match=r"24 of 36 .*: 8 x policy: DataError: the text takes \d+ tokens .* window is 2048",
    ):
        step(prepare(long, tmp_path))


def test_a_gap_between_sampler_and_trainer_stops_the_run(
    recipe: RlRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(recipe, tmp_path)
    before = weights(run.backbone)
    score = update.score
    monkeypatch.setattr(update, "score", lambda backbone, given: shifted(score(backbone, given), 0.5))
    with pytest.raises(
        CallError, match=r"sampler and trainer differ by 0.5 nats per token in step 1, the recipe's max_logprob_gap"
    ):
        step(run)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(run.backbone).items())


@pytest.mark.parametrize("preset", ["gspo", "dapo"])
def test_the_first_update_does_not_clip_rounding_errors(
    recipe: RlRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    """GSPO's clip range of 3e-4 is narrower than the allowed gap between sampler and trainer."""
    run = prepare(replace(recipe, preset=preset, algorithm={"overlong_buffer": 0, "dynamic": False}), tmp_path)
    score = update.score
    monkeypatch.setattr(update, "score", lambda backbone, given: shifted(score(backbone, given), 0.01))
    line = step(run)
    assert line["figures"]["clipped"] == 0
    assert line["figures"]["logprob_gap"] == pytest.approx(0.01, abs=1e-4)
    assert line["norm"] > 0


def test_a_loss_that_is_not_finite_names_step_and_traces(
    recipe: RlRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(recipe, tmp_path)
    step(run)
    score = update.score
    monkeypatch.setattr(update, "score", lambda backbone, given: shifted(score(backbone, given), float("nan")))
    with pytest.raises(CallError, match=r"the loss of step 2 \(traces almanac-\d+/0, trajectory \d+; .*\) is nan"):
        step(run)


def shifted(scores: Any, by: float) -> Any:
    return replace(scores, logprobs=scores.logprobs + by)


def test_the_kl_to_the_parent_is_zero_at_first_and_then_grows(recipe: RlRecipe, tmp_path: Path) -> None:
    run = prepare(replace(recipe, preset="memagent", algorithm={}, groups=(Group(("*",), lr=1e-2),)), tmp_path)
    first, second = step(run)["figures"]["kl"], step(run)["figures"]["kl"]
    assert first == pytest.approx(0, abs=1e-6)
    assert second > 1e-4


def test_a_kl_in_the_reward_is_subtracted(recipe: RlRecipe, tmp_path: Path) -> None:
    run = prepare(replace(recipe, preset=None, algorithm={"kl": "reward", "beta": 0.5}), tmp_path)
    step(run)
    group = run.groups[0]
    reference = run.trainer.reference
    assert reference is not None
    sampled = [sum(trace.steps[0].reply.logprobs) for trace in group.traces]
    from memfold.backbone.score import logprobs

    scored = [(group.memory, [trace]) for trace in group.traces]
    against = [float(logprobs(reference, group.question.system, [one]).logprobs.sum()) for one in scored]
    expected = group.reward_values - 0.5 * (torch.tensor(sampled) - torch.tensor(against))
    from memfold.rl.replay import turns_of

    own, sums = turns_of(group.question, group.memory, group.traces), Sums()
    torch.testing.assert_close(run.trainer.shaped(group, own, sums), expected, atol=1e-4, rtol=1e-4)
    assert sums.kl == pytest.approx(sum(sampled) - sum(against), abs=1e-3)
    assert sums.compared == sum(len(trace.steps[0].reply.tokens) for trace in group.traces)
    assert "kl" in step(run)["figures"]


@pytest.mark.parametrize(
    "algorithm",
    [
        {"preset": "dapo"},
        {"preset": "memagent"},
        {"preset": "gspo"},
        {"preset": "grpo"},
        {"mean": "trajectory"},
        {"mean": "fixed"},
        {"advantage": "mean"},
        {"clip": "dual"},
        {"ratio": "sequence"},
    ],
    ids=str,
)
def test_every_choice_makes_a_step_that_changes_the_weights(
    recipe: RlRecipe, tmp_path: Path, algorithm: dict[str, str]
) -> None:
    options: dict[str, Any] = {**algorithm, "overlong_buffer": 2, "overlong_factor": 0.5}
    run = prepare(replace(recipe, preset=options.pop("preset", None), algorithm=options), tmp_path)
    before = weights(run.backbone)
    line = step(run)
    assert line["norm"] > 0
    assert line["figures"]["logprob_gap"] < 1e-5
    assert any(not torch.equal(weight, before[name]) for name, weight in weights(run.backbone).items())


def test_truncated_replies_leave_the_loss_if_masked(recipe: RlRecipe, tmp_path: Path) -> None:
    sizes = {}
    for masked in (False, True):
        algorithm = {"mask_truncated": masked}
        run = prepare(replace(recipe, preset=None, algorithm=algorithm), tmp_path / str(masked))
        step(run)
        group = run.groups[0]
        last = group.traces[0].steps[-1]
        ended = replace(last, reply=replace(last.reply, finish="stop"))
        assert {trace.steps[-1].reply.finish for trace in group.traces} == {"length"}
        group = replace(group, traces=(replace(group.traces[0], steps=(ended,)), *group.traces[1:]))
        sizes[masked] = len(run.trainer.learned([group], Sums()))
    assert sizes == {False: 4, True: 1}


def test_rewards_of_turns_teach_where_answers_are_alike(recipe: RlRecipe, rewards: Path, tmp_path: Path) -> None:
    by_turn = {"credit": "turn", "dynamic": True, "warmup": 0}
    run = prepare(replace(recipe, reward=f"{rewards}:by_turn", preset=None, algorithm=by_turn), tmp_path)
    line = step(run)
    assert line["figures"]["reward"] == 1
    assert line["figures"]["equal"] < 1
    assert len(run.groups) == recipe.questions
    assert line["norm"] > 0
    with pytest.raises(ConfigError, match=r"algorithm.credit = 'turn' with reward 'exact' is not possible"):
        replace(recipe, reward="exact", algorithm={"credit": "turn"})


def test_a_gradient_that_is_not_finite_changes_nothing(
    recipe: RlRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(replace(recipe, steps=1), tmp_path / "whole")
    run = prepare(recipe, tmp_path / "run")
    before = weights(run.backbone)
    monkeypatch.setattr(update, "clip_gradients", lambda parameters, most: torch.tensor(float("inf")))
    with pytest.raises(CallError, match=r"the gradient of step 1 \(traces almanac-\d+/0, trajectory \d+; .*\) is inf"):
        step(run)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(run.backbone).items())


def test_a_step_that_stops_the_run_leaves_its_traces_and_the_last_checkpoint(
    recipe: RlRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            score = update.score
            monkeypatch.setattr(update, "score", lambda backbone, given: shifted(score(backbone, given), float("nan")))

    with pytest.raises(CallError, match="the loss of step 3"):
        train(recipe, tmp_path, report=spoil)
    assert (tmp_path / "traces" / "step-000003.jsonl").stat().st_size > 0
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    assert train(recipe, tmp_path, resume=True)


def test_an_entropy_bonus_is_measured_and_changes_the_gradient(recipe: RlRecipe, tmp_path: Path) -> None:
    plain = prepare(replace(recipe, preset=None, algorithm={}), tmp_path / "plain")
    bonus = prepare(replace(recipe, preset=None, algorithm={"entropy": 0.1}), tmp_path / "bonus")
    norms = [step(run)["norm"] for run in (plain, bonus)]
    assert norms[0] != norms[1]
    assert 0 < step(bonus)["figures"]["entropy"] < 6.3


def test_what_a_run_cannot_start_from_is_refused(recipe: RlRecipe, tmp_path: Path) -> None:
    unanswered = replace(recipe, mixture=(Entry("reconstruction", 1, (64,), settings={"ratios": [8]}),), reward="exact")
    with pytest.raises(ConfigError, match="task 'reconstruction' has no answers, which reward 'exact' needs"):
        prepare(unanswered, tmp_path)
    with pytest.raises(ConfigError, match="unknown reward 'exakt'; nearest: 'exact'"):
        prepare(replace(recipe, reward="exakt"), tmp_path)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(recipe, tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []
