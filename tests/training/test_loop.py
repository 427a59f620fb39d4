from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.score import ScoredCall, logprobs
from memfold.core.errors import CallError, CheckpointError, ConfigError
from memfold.core.registry import make_system
from memfold.systems.pooled.system import Pooled
from memfold.training import loop, scratch
from memfold.training.batches import batch
from memfold.training.loop import prepare, step, train, validate
from memfold.training.optimisers import Optimisers
from memfold.training.recipe import Group, ModelSize, Recipe, Schedule, SupervisedEntry


def weights(backbone: Backbone) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in backbone.parameters()}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_records_its_recipe_metrics_and_model(recipe: Recipe, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    trained = train(recipe, tmp_path, report=heard.append)
    assert {path.name for path in tmp_path.iterdir()} == {
        "recipe.json",
        "metrics.jsonl",
        "model",
        "step-000002",
        "step-000004",
    }
    assert lines(tmp_path) == heard
    assert [line["step"] for line in heard] == [1, 2, 3, 4]
    assert ["validation" in line for line in heard] == [False, True, False, True]
    assert [line["rate"] for line in heard] == [recipe.schedule.factor(number, 4) for number in range(4)]
    assert heard[-1]["validation"].keys() == {
        "0:pooled/group/answer",
        "1:pooled/almanac/answer",
        "2:full/almanac/language",
        "2:full/almanac/answer",
    }
    again = load_backbone(tmp_path / "model")
    assert all(torch.equal(weight, weights(again)[name]) for name, weight in weights(trained).items())
    assert again.trained["pooled"] == {
        "ratios": [4, 8],
        "groups": "fixed",
        "shortest": 0,
        "longest": 0,
        "adapters": False,
        "window": 64,
        "mask": "bidirectional",
        "pooling": "mean",
        "projection": "linear",
        "wrapper": "span",
        "positions": "strided",
        "chunk": 4096,
        "start_token": "<MEM_START>",
        "end_token": "<MEM_END>",
    }


def test_the_reported_losses_are_those_of_the_batches(recipe: Recipe, tmp_path: Path) -> None:
    run = prepare(recipe, tmp_path)
    sums: dict[str, list[float]] = {}
    tokens = 0
    with torch.no_grad():
        for number in (0, 1):
            work = batch(recipe, run.backbone, number)
            tokens += work.tokens
            for call, values, _ in logprobs(run.backbone, work.system, work.scored).parts():
                sums.setdefault(f"{work.entry.label}/{call.purpose}", []).extend((-values).tolist())
    metrics = step(run)
    assert metrics["loss"] == pytest.approx(
        {name: sum(values) / len(values) for name, values in sums.items()}, abs=1e-4
    )
    assert (metrics["step"], metrics["tokens"]) == (1, tokens)


def test_validation_measures_by_hand(recipe: Recipe, tmp_path: Path) -> None:
    run = prepare(replace(recipe, mixture=recipe.mixture[:1], validation_batches=2), tmp_path)
    found: list[tuple[ScoredCall, list[float], list[bool]]] = []
    with torch.no_grad():
        for number in (0, 1):
            work = batch(run.recipe, run.backbone, number, "validation-0", run.recipe.mixture[0])
            parts = logprobs(run.backbone, work.system, work.scored).parts()
            found += [(call, values.tolist(), correct.tolist()) for call, values, correct in parts]
    losses = [-value for _, values, _ in found for value in values]
    right = [one for _, _, correct in found for one in correct]
    assert validate(run)["0:pooled/group/answer"] == pytest.approx(
        {
            "loss": sum(losses) / len(losses),
            "accuracy": sum(right) / len(right),
            "whole": sum(all(correct) for _, _, correct in found) / len(found),
        },
        abs=1e-4,
    )


@pytest.mark.parametrize("language", [0.25, 1.0])
def test_purposes_are_averaged_separately_and_reading_is_weighted(
    recipe: Recipe, tmp_path: Path, language: float
) -> None:
    entry = replace(recipe.mixture[2], language=language)
    run = prepare(replace(recipe, mixture=(entry,)), tmp_path)
    work = batch(run.recipe, run.backbone, 0)
    scores = logprobs(run.backbone, work.system, work.scored)
    means = {
        purpose: torch.cat([-values for call, values, _ in scores.parts() if call.purpose == purpose]).mean()
        for purpose in ("language", "answer")
    }
    expected = means["answer"] + language * means["language"]
    torch.testing.assert_close(loop._loss(run, work, scores, {}), expected)


def test_reading_alone_has_its_full_weight(recipe: Recipe, tmp_path: Path) -> None:
    entry = SupervisedEntry("prose", 1, (48,), system="full", level=1, language=0.25)
    run = prepare(replace(recipe, mixture=(entry,)), tmp_path)
    work = batch(run.recipe, run.backbone, 0)
    scores = logprobs(run.backbone, work.system, work.scored)
    torch.testing.assert_close(loop._loss(run, work, scores, {}), -scores.logprobs.mean())


def test_micro_batches_add_up_to_their_mean(recipe: Recipe, tmp_path: Path) -> None:
    plain = (Group(("*",), lr=0.0),)
    run = prepare(replace(recipe, groups=plain, micro_batches=3, clip=1e9), tmp_path)
    expected: dict[str, Tensor] = {}
    for number in range(3):
        work = batch(run.recipe, run.backbone, number)
        scores = logprobs(run.backbone, work.system, work.scored)
        scores.backward(loop._loss(run, work, scores, {}) / 3)
    expected = {name: weight.grad.clone() for name, weight in run.backbone.parameters() if weight.grad is not None}
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    run.backbone.model.zero_grad()
    run.backbone.heads.zero_grad()
    assert step(run)["norm"] == pytest.approx(float(norm), rel=1e-3)


def test_the_frozen_projection_stays_bit_equal_in_sft(recipe: Recipe, parent: str, tmp_path: Path) -> None:
    before = weights(load_backbone(parent))
    after = weights(train(replace(recipe, stage="sft", freeze=("heads.pooled.*",)), tmp_path))
    unchanged = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert unchanged == {"heads.pooled.weight"}
    loose = weights(train(recipe, tmp_path / "loose"))
    assert not torch.equal(loose["heads.pooled.weight"], before["heads.pooled.weight"])


def test_training_stops_when_validation_no_longer_falls(recipe: Recipe, tmp_path: Path) -> None:
    still = replace(recipe, groups=(Group(("*",), lr=0.0),), steps=40, patience=2, checkpoint_every=40)
    heard: list[int] = []
    train(still, tmp_path, report=lambda metrics: heard.append(metrics["step"]))
    assert heard == [1, 2, 3, 4, 5, 6]  # validated at 2, 4 and 6: the first is the best, the patience is two
    assert (tmp_path / "step-000006").is_dir()
    train(still, tmp_path, resume=True, report=lambda metrics: heard.append(metrics["step"]))
    assert heard == [1, 2, 3, 4, 5, 6]


def test_training_goes_on_while_validation_falls(recipe: Recipe, tmp_path: Path) -> None:
    falling = replace(recipe, mixture=recipe.mixture[:1], groups=(Group(("*",), lr=1e-3),), steps=8, patience=1)
    train(falling, tmp_path)
    losses = [line["validation"]["0:pooled/group/answer"]["loss"] for line in lines(tmp_path) if "validation" in line]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 4


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []

    def poisoned(*given: Any) -> Any:
        scores = logprobs(*given)
        return replace(scores, logprobs=scores.logprobs * math.nan) if len(heard) == 3 else scores

    short = replace(recipe, checkpoint_every=3, validate_every=50, steps=9)
    monkeypatch.setattr(loop, "logprobs", poisoned)
    with pytest.raises(
        CallError, match=r"the loss of step 4 \((pooled|full)/\w+\) is nan; lower the learning rate and start again"
    ):
        train(short, tmp_path, report=heard.append)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000003"]
    assert all(
        bool(torch.isfinite(weight).all()) for weight in weights(load_backbone(tmp_path / "step-000003/model")).values()
    )
    monkeypatch.undo()
    continued = train(replace(recipe, parent=str(tmp_path), steps=1), tmp_path / "next")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights(continued).values())


def test_a_gradient_that_is_not_finite_changes_no_weight(recipe: Recipe, tmp_path: Path) -> None:
    run = prepare(recipe, tmp_path)
    step(run)
    before = weights(run.backbone)
    dict(run.backbone.parameters())["model.norm.weight"].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(
        CallError, match=r"the gradient of step 2 is (inf|nan); lower the learning rate and start again"
    ):
        step(run)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(run.backbone).items())


def test_a_folder_with_a_run_is_not_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    train(replace(recipe, steps=2), tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match="already holds a run; add --resume to continue, or name another --out"):
        train(recipe, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == metrics


def test_a_run_is_resumed_under_its_own_recipe_only(recipe: Recipe, tmp_path: Path) -> None:
    train(replace(recipe, steps=2), tmp_path)
    with pytest.raises(CheckpointError, match="was started with seed = 0, not 7; use another --out"):
        train(replace(recipe, steps=2, seed=7), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="nothing to resume in"):
        train(recipe, tmp_path / "empty", resume=True)


def test_a_missing_parent_is_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no model in {tmp_path}/none; train its recipe first"):
        train(replace(recipe, parent=str(tmp_path / "none")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_a_recipe_reach_the_system(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'settings\.wraper'; nearest: 'settings\.wrapper'"):
        prepare(replace(recipe, settings={"wraper": "span"}), tmp_path / "wrong")
    run = prepare(replace(recipe, settings={"wrapper": "none"}, chat_template="chatml"), tmp_path / "right")
    work = batch(run.recipe, run.backbone, 0)
    assert (work.system.settings["wrapper"], work.system.settings["chat_template"]) == ("none", "chatml")
    assert (run.backbone.trained["pooled"]["wrapper"], run.backbone.chat_template) == ("none", "chatml")


@pytest.mark.parametrize("level", ["recipe", "entry"])
def test_a_recipe_of_recurrent_alone_writes_a_model_folder_that_says_so(
    recipe: Recipe, plain_parent: str, tmp_path: Path, level: str
) -> None:
    entry = SupervisedEntry("almanac", 1, (64,), system="recurrent", samples=2, level=0)
    settings = {"chunk": 32, "note": 24}
    if level == "recipe":
        alone = replace(recipe, parent=plain_parent, mixture=(entry,), settings=settings)
    else:
        entry = replace(entry, settings={"note": 24})
        alone = replace(recipe, parent=plain_parent, mixture=(entry,), settings={"chunk": 32, "note": 512})
    before = weights(load_backbone(plain_parent))
    trained = train(alone, tmp_path)
    loaded = load_backbone(tmp_path / "model")
    assert trained.trained == loaded.trained == {"recurrent": settings | {"passes": 1}}
    assert list(trained.heads) == list(loaded.heads) == []
    assert load_file(tmp_path / "model" / "heads.safetensors") == {}
    assert lines(tmp_path)[-1]["loss"].keys() == {"recurrent/almanac/update", "recurrent/almanac/answer"}
    assert not any(torch.equal(weight, before[name]) for name, weight in weights(loaded).items())
    system = make_system("recurrent", loaded)
    assert {name: system.settings[name] for name in settings} == settings
    calls = [step.call for _, traces in batch(alone, trained, 0).scored for step in traces[0].steps]
    assert {call.sampling.max_tokens for call in calls if call.purpose == "update"} == {24}


def test_a_model_from_scratch_has_the_tokens_of_its_systems(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Sequence[str]] = []

    def train_tokenizer(vocabulary: int, seed: int, tokens: Sequence[str]) -> PreTrainedTokenizerFast:
        given.append(tuple(tokens))
        return tokenizer

    monkeypatch.setattr(scratch, "train_tokenizer", train_tokenizer)
    size = ModelSize(vocabulary=512, hidden=32, layers=2, heads=4, feedforward=64)
    groups = (Group(("*",)),)
    for system in ("pooled", "recurrent"):
        entry = SupervisedEntry("almanac", 1, (64,), system=system, level=0)
        prepare(replace(recipe, parent=None, model=size, groups=groups, mixture=(entry,)), tmp_path / system)
    both = (recipe.mixture[0], replace(recipe.mixture[2], system="recurrent"))
    prepare(replace(recipe, parent=None, model=size, groups=groups, mixture=both), tmp_path / "both")
    assert given == [Pooled.tokens, (), Pooled.tokens]


def test_a_later_stage_keeps_what_the_folder_says_of_other_systems(recipe: Recipe, tmp_path: Path) -> None:
    train(replace(recipe, steps=1), tmp_path / "one")
    entry = SupervisedEntry("almanac", 1, (64,), system="recurrent", level=0)
    later = replace(recipe, steps=1, parent=str(tmp_path / "one"), mixture=(entry,), settings={"note": 24})
    backbone = train(later, tmp_path / "two")
    assert backbone.trained.keys() == {"pooled", "full", "recurrent"}
    assert backbone.trained["pooled"] == load_backbone(tmp_path / "one" / "model").trained["pooled"]
    assert "pooled" in backbone.heads


@pytest.mark.usefixtures("known_tokenizer")
def test_a_tiny_model_overfits_one_batch(new_backbone: Callable[..., Backbone], recipe: Recipe) -> None:
    backbone = new_backbone(seed=1)
    groups = (Group(("*proj.weight",), "muon", 0.02), Group(("*",), lr=1e-2))
    optimisers = Optimisers(backbone.parameters(), groups, (), Schedule(), 80)
    work = batch(recipe, backbone, 0, entry=recipe.mixture[0])
    losses = []
    for number in range(80):
        scores = logprobs(backbone, work.system, work.scored)
        losses.append(-scores.logprobs.mean())
        scores.backward(losses[-1])
        optimisers.step(number)
    assert float(losses[-1].detach()) < 0.2 * float(losses[0].detach())


def test_the_first_token_of_a_model_from_scratch_has_an_embedding(known_tokenizer: None) -> None:
    """It begins every sequence, so it does not begin at 0 although it is the padding token, too."""
    backbone = scratch.make_backbone(ModelSize(512, 16, 1, 2, 32, 64), 0, "cpu", ())
    rows = backbone.model.get_input_embeddings().weight.detach()
    assert backbone.model.config.pad_token_id == backbone.end_token
    assert 0.3 < float(rows[backbone.end_token].norm() / rows.norm(dim=1).mean()) < 3
