"""Reinforcement learning of trajectories of several calls: what each call learns, in numbers, and on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from memfold.backbone.adapters import is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.score import Scores, logprobs
from memfold.core.document import Document
from memfold.core.errors import ConfigError
from memfold.core.registry import AnySystem
from memfold.core.types import Call, HeadScore, Memory, Reply, Sample, Step, Trace
from memfold.rl import update
from memfold.rl.collect import Group
from memfold.rl.loop import Run, prepare, step, train
from memfold.rl.questions import Question
from memfold.rl.recipe import RlRecipe
from memfold.rl.replay import Pass, score, turns_of
from memfold.rl.rewards import Reward
from memfold.rl.rollout import RolloutSampling, roll_out
from memfold.rl.update import Sums, Trainer
from memfold.systems.kvbank.settings import HEAD
from memfold.systems.kvbank.system import Kvbank
from memfold.systems.recurrent.system import Recurrent
from memfold.training.optimisers import Optimisers
from memfold.training.processes import Processes
from memfold.training.recipe import Entry
from memfold.training.recipe import Group as Rates

TEXT = "Ada was born in Velm. The river Sanu flows through Velm and then on to Ost."
BANK = {"compressor": "trained", "gate": "open", "chunk": 32, "note": 6, "compressor_rank": 4, "reasoner_rank": 4}
BANK |= {"gate_rank": 4, "ratios": [4]}
FROZEN = ("*embed_tokens*", "*norm*", "*base_layer*", "*.lora_?.gate.*", "heads.kvbank.gate*")


# --- in numbers


def scripted(*turns: Sequence[float]) -> Trace:
    """A trace of updates and an answer whose tokens had these log-probabilities."""
    purposes = ["update"] * (len(turns) - 1) + ["answer"]
    replies = [Reply(tokens=tuple(range(len(turn))), logprobs=tuple(turn)) for turn in turns]
    return Trace("q", "recurrent", steps=tuple(map(Step, [Call(each, ()) for each in purposes], replies)))


def updated(
    recipe: RlRecipe, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, traces: Sequence[Trace], moved: Tensor
) -> tuple[Sums, Tensor]:
    """The sums of an update of traces rewarded by 1, 0, ..., and the gradient of each log-probability.

    `moved` [n] is by how much the log-probability of each token has changed since it was sampled; None: not at all.
    """
    values = torch.tensor([value for trace in traces for step in trace.steps for value in step.reply.logprobs])
    leaf = (values + moved).requires_grad_()
    empty = torch.zeros(0)
    monkeypatch.setattr(update, "score", lambda model, forward: Scores(leaf, empty, empty, (), (), (), ()))
    sample = Sample("almanac", Document("d", text=TEXT), "Who?", ("Ada",))
    memory = Memory("d", "recurrent", {}, "", ("d",), [])
    rewards = tuple(Reward(float(number == 0)) for number in range(len(traces)))
    group = Group(Question("recurrent/almanac", Recurrent(), sample, 0, 8, 0), memory, tuple(traces), rewards)
    trainer = Trainer(recipe, backbone, Optimisers([], recipe.groups, (), recipe.schedule, 3), Processes())
    sums, _, _ = trainer._update([group], 0, first=False)
    assert leaf.grad is not None
    return sums, leaf.grad


@pytest.mark.parametrize(
    ("credit", "advantages", "loss"),
    [
        # advantages 0.5 and -0.5; 5 and 10 tokens, each with weight 1/15
        ("trajectory", [0.5] * 5 + [-0.5] * 10, -(0.5 * 5 - 0.5 * 10) / 15),
        # the last conversations have 3 and 4 tokens
        ("last", [0.0] * 2 + [0.5] * 3 + [0.0] * 6 + [-0.5] * 4, -(0.5 * 3 - 0.5 * 4) / 15),
        ("divided", [0.25] * 5 + [-0.1] * 10, -(0.25 * 5 - 0.1 * 10) / 15),
    ],
)
def test_the_loss_of_two_and_five_conversations_by_hand(
    recipe: RlRecipe,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    credit: str,
    advantages: list[float],
    loss: float,
) -> None:
    """With the weights that sampled, every ratio is 1, and the gradient of a token is -A / 15."""
    options = {"kl": "none", "beta": 0.0, "credit": credit}
    traces = scripted([-1.0] * 2, [-2.0] * 3), scripted([-1.0], [-2.0] * 2, [-1.0] * 2, [-3.0], [-1.0] * 4)
    made = replace(recipe, preset="memagent", algorithm=options, tokens=100_000)
    if credit == "last":  # turns without an advantage are not run, unless a KL needs them
        made = replace(made, algorithm=options | {"entropy": 1e-12})
        monkeypatch.setattr(update, "entropies", lambda model, scores: torch.zeros(15))
    sums, gradient = updated(made, backbone, monkeypatch, traces, torch.zeros(15))
    assert sums.loss == pytest.approx(loss, abs=1e-6)
    assert gradient.tolist() == pytest.approx([-value / 15 for value in advantages], abs=1e-6)


def test_gspo_over_three_updates_by_hand(recipe: RlRecipe, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A right trajectory of three turns of 2, 1 and 3 tokens, and a wrong one of a single turn of 2.

    The advantages are 0.5 / (root of 0.5) = 0.70711 and -0.70711.  The means of the log-ratios are 0.003, 0.005, -0.002
    and -0.004, the ratios of the turns 1.0030045, 1.0050125, 0.9980020 and 0.9960080.  The ranges are 0.997 to 1.004:
    the second turn is cut at 1.004 and the wrong one at 0.997.  The loss is

        -0.70711 (2 x 1.0030045 + 1 x 1.004 + 3 x 0.9980020) / (2 x 6) + 0.70711 x 2 x 0.997 / (2 x 2) = -0.0012973
    """
    made = replace(recipe, preset="lychee", algorithm={}, tokens=100_000)
    traces = scripted([-1.0, -2.0], [-0.5], [-1.0, -1.0, -3.0]), scripted([-2.0, -2.0])
    moved = torch.tensor([0.002, 0.004, 0.005, -0.006, 0.0, 0.0, -0.001, -0.007])
    sums, gradient = updated(made, backbone, monkeypatch, traces, moved)
    assert sums.loss == pytest.approx(-0.0012973, abs=2e-6)
    assert (sums.tokens, sums.clipped) == (8, 3)
    # -A s / (2 x 6) for each token of a turn that is not cut, since the turn's ratio depends on all of its tokens alike
    first, third = -0.70711 * 1.0030045 / 12, -0.70711 * 0.9980020 / 12
    assert gradient.tolist() == pytest.approx([first] * 2 + [0.0] + [third] * 3 + [0.0] * 2, abs=1e-6)


# --- on tiny models


@pytest.fixture(scope="module")
def bank_parent(new_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model like that of a supervised run of the KV memory bank; its adapters and its gate have an effect."""
    folder = tmp_path_factory.mktemp("bank-parent") / "model"
    backbone = new_backbone()
    backbone.heads.clear()
    system = Kvbank.of(BANK)
    system.prepare(backbone)
    torch.manual_seed(1)
    for name, parameter in backbone.parameters():
        if is_lora(name) or name.startswith("heads."):
            torch.nn.init.normal_(parameter, std=0.1)
    backbone.trained["kvbank"] = system.record({})
    save_backbone(backbone, folder)
    return str(folder)


@pytest.fixture
def bank_recipe(recipe: RlRecipe, bank_parent: str) -> RlRecipe:
    return replace(
        recipe,
        parent=bank_parent,
        mixture=(Entry("almanac", 1.0, (96,), system="kvbank", level=0),),
        settings=BANK,
        memory="end-to-end",
        preset="lychee",
        algorithm={},
        freeze=FROZEN,
        groups=(Rates(("*",), lr=1e-2),),
        tokens=2000,
    )


@pytest.fixture
def note_recipe(recipe: RlRecipe) -> RlRecipe:
    return replace(
        recipe,
        mixture=(Entry("almanac", 1.0, (96,), system="recurrent", level=0),),
        settings={"chunk": 32, "note": 6},
        preset="memagent",
        algorithm={},
        groups=(Rates(("*",), lr=1e-3),),
        tokens=2000,
    )


def weights(backbone: Backbone) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in backbone.parameters()}


def changed(run: Run, before: dict[str, Tensor]) -> set[str]:
    return {name for name, weight in weights(run.backbone).items() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize("memory", ["frozen", "end-to-end"])
def test_the_compressor_learns_only_end_to_end(
    bank_recipe: RlRecipe, tmp_path: Path, memory: Literal["frozen", "end-to-end"]
) -> None:
    """The reasoner always does; the gate and the base never do."""
    frozen = (*FROZEN, "*.compressor.*", "heads.kvbank.token") if memory == "frozen" else FROZEN
    run = prepare(replace(bank_recipe, memory=memory, freeze=frozen), tmp_path)
    before = weights(run.backbone)
    lines = [step(run), step(run)]
    assert all(line["norm"] > 0 and line["figures"]["logprob_gap"] < 1e-5 for line in lines)
    assert lines[0]["figures"]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines[1]["figures"]["kl"] > 1e-6
    names = changed(run, before)
    parts = {role for role in ("compressor", "reasoner", "gate") if any(f".{role}." in name for name in names)}
    assert parts == ({"reasoner"} if memory == "frozen" else {"reasoner", "compressor"})
    assert (f"heads.{HEAD}.token" in names) == (memory == "end-to-end")
    assert not any(fnmatch(name, pattern) for name in names for pattern in FROZEN)
    assert all(len(trace.steps) > 3 for group in run.groups for trace in group.traces)
    assert (run.backbone.encoder is None) == (memory == "end-to-end")


def test_a_frozen_compressor_gets_no_gradient(bank_recipe: RlRecipe, tmp_path: Path) -> None:
    """Even where its weights could change: the memory is a constant."""
    run = prepare(replace(bank_recipe, memory="frozen"), tmp_path)
    before = weights(run.backbone)
    step(run)
    assert not any(".compressor." in name or name.endswith("token") for name in changed(run, before))


def test_the_kl_is_to_the_parents_reasoner_over_the_parents_blocks(bank_recipe: RlRecipe, tmp_path: Path) -> None:
    """The reference has a compressor of its own: where only the compressor learns, the distance grows all the same."""
    run = prepare(replace(bank_recipe, freeze=(*FROZEN, "*.reasoner.*")), tmp_path)
    before = weights(run.backbone)
    first, second = step(run)["figures"]["kl"], step(run)["figures"]["kl"]
    assert first == pytest.approx(0, abs=1e-6)
    assert second > 1e-6
    assert all(".compressor." in name or name.endswith("token") for name in changed(run, before))


def test_gate_calls_of_rollouts_cost_no_pass_and_train_nothing(
    bank_recipe: RlRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BANK | {"gate": "head", "threshold": 0.0}
    run = prepare(replace(bank_recipe, settings=settings, freeze=FROZEN[:3]), tmp_path)
    before, scored = weights(run.backbone), list[Pass]()

    def listed(model: Backbone, given: Pass) -> Scores:
        scored.append(given)
        return score(model, given)

    monkeypatch.setattr(update, "score", listed)
    assert step(run)["norm"] > 0
    made = [each for group in run.groups for trace in group.traces for each in trace.steps]
    assert sum(isinstance(each.call.wants, HeadScore) for each in made) > len(run.groups)
    assert not any(turn.wants_head for forward in scored for turn in forward.turns)
    assert not any(
        "gate" in name and ("lora" in name or "heads" in name)
        for name in changed(run, before)
        if ".gate_proj." not in name
    )
    for group in run.groups:
        turns = turns_of(group.question, group.memory, group.traces)
        assert [len(own) for own in turns] == [
            sum(not isinstance(each.call.wants, HeadScore) for each in trace.steps) for trace in group.traces
        ]


def test_the_gate_learns_from_rollouts_and_nothing_else_does(bank_recipe: RlRecipe, tmp_path: Path) -> None:
    """Objective `heads`: blocks of the evidence get higher scores, those of other blocks get lower ones."""
    settings = BANK | {"gate": "head", "threshold": 0.5, "unchanged": 4}
    made = replace(
        bank_recipe,
        objective="heads",
        memory="frozen",
        reward="exact",
        algorithm={"kl": "none", "beta": 0.0},
        settings=settings,
        freeze=FROZEN[:3],
        groups=(Rates(("*",), lr=1e-2),),
    )
    run = prepare(made, tmp_path)
    before = weights(run.backbone)
    line = step(run)
    assert line["norm"] > 0
    assert {name for name in changed(run, before) if "lora" in name or "heads" in name}
    assert all(".gate." in name or name.startswith("heads.kvbank.gate") for name in changed(run, before))
    trained = [
        each
        for group in run.groups
        for trace in group.traces
        for each in group.question.system.labelled(group.question.sample, group.memory, trace).steps
        if each.call.trained
    ]
    assert {each.reply.score for each in trained} == {0.0, 1.0}
    assert all(isinstance(each.call.wants, HeadScore) for each in trained)
    kept = {each.reply.score for group in run.groups for trace in group.traces for each in trace.steps}
    assert 1.0 not in kept, "the run keeps the scores of the gate, not the labels"
    losses = [run.trainer.step(run.groups, 0).figures["loss"] for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0], losses


def test_rewards_and_the_kl_say_nothing_to_heads(bank_recipe: RlRecipe) -> None:
    made = replace(bank_recipe, objective="heads", algorithm={"kl": "none", "beta": 0.0}, reward="exact")
    assert "heads learn from labels, reward exact is only measured" in made.plan
    for name in ("dapo", "lychee"):
        with pytest.raises(ConfigError, match="are not possible with objective = 'heads'"):
            replace(bank_recipe, objective="heads", preset=name, algorithm={})


def test_a_gate_that_opens_nothing_is_a_trajectory_without_turns(bank_recipe: RlRecipe, tmp_path: Path) -> None:
    closed = replace(bank_recipe, settings=BANK | {"gate": "head", "threshold": 0.999}, reward="exact")
    run = prepare(closed, tmp_path)
    before = weights(run.backbone)
    line = step(run)
    assert (line["figures"]["length"], line["figures"]["failed"], line["norm"]) == (0, 0, 0)
    assert not changed(run, before)


def test_word_overlap_opens_blocks_in_rollouts(bank_recipe: RlRecipe, tmp_path: Path) -> None:
    """BM25 reads the text of blocks, which rollouts of other systems of slots do without."""
    run = prepare(replace(bank_recipe, settings=BANK | {"gate": "bm25"}), tmp_path)
    step(run)
    assert any(len(trace.steps) > 1 for group in run.groups for trace in group.traces)


@pytest.mark.parametrize("name", ["recurrent", "kvbank"])
def test_a_run_is_saved_and_read_back(bank_recipe: RlRecipe, note_recipe: RlRecipe, tmp_path: Path, name: str) -> None:
    made = bank_recipe if name == "kvbank" else note_recipe
    backbone = train(replace(made, steps=1), tmp_path)
    loaded = load_backbone(tmp_path / "model")
    assert loaded.trained[name] == backbone.trained[name]
    ours, theirs = weights(backbone), weights(loaded)
    assert all(torch.equal(theirs[key], weight) for key, weight in ours.items())
    assert loaded.encoder is None  # what is read is text, or comes from the model itself
    traces = [json.loads(line)["trace"] for line in next(tmp_path.glob("traces/*.jsonl")).open()]
    assert {each["call"]["purpose"] for trace in traces for each in trace["steps"]} == {"update", "answer"}


def of_notes(backbone: Backbone, system: AnySystem, source: Document | Memory, traces: Sequence[Trace]) -> list[float]:
    """The log-probability of all notes of each trace."""
    found = []
    for trace in traces:
        notes = replace(trace, steps=tuple(each for each in trace.steps if each.call.purpose == "update"))
        with torch.no_grad():
            found.append(float(logprobs(backbone, system, [(source, [notes])]).logprobs.sum()))
    return found


@pytest.mark.parametrize("name", ["recurrent", "kvbank", "kvbank-frozen"])
def test_a_rewarded_trajectory_makes_its_notes_more_likely(
    bank_recipe: RlRecipe, note_recipe: RlRecipe, tmp_path: Path, name: str
) -> None:
    """Than those of an unrewarded one: two sampled trajectories of the same question, and one small update."""
    made: Any = bank_recipe if name.startswith("kvbank") else note_recipe
    made = replace(made, memory="frozen" if name.endswith("frozen") else "end-to-end", groups=(Rates(("*",), lr=1e-4),))
    run = prepare(made, tmp_path)
    system = Kvbank.of(BANK) if name.startswith("kvbank") else Recurrent.of({"chunk": 16, "note": 6})
    document = Document("d", text=TEXT)
    question = Question(name, system, Sample("almanac", document, "Where was Ada born?", ("Velm",)), 1, 32, 0)
    (found,) = roll_out([question], run.backbone, LocalPolicy(run.backbone), RolloutSampling(7), 2, 8)
    source = found.memory if name.endswith("frozen") else document
    before = of_notes(run.backbone, system, source, found.traces)
    run.trainer.step([Group(question, found.memory, found.traces, (Reward(1.0), Reward(0.0)))], 0)
    right, wrong = (
        new - old for new, old in zip(of_notes(run.backbone, system, source, found.traces), before, strict=True)
    )
    assert right > wrong


def test_a_trained_gate_is_used_after_a_stage_that_opens_every_block() -> None:
    opening, gated = Kvbank.of(BANK), Kvbank.of(BANK | {"gate": "head"})
    assert opening.record({})["gate"] == "open"
    assert opening.record(gated.record({})) == gated.record({})


def test_an_adapter_that_the_parent_lacks_begins_as_the_parent(
    recipe: RlRecipe, new_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    """MemAgent begins with an instruct model: the KL to it is 0 at first, and the new adapter learns."""
    save_backbone(new_backbone(), tmp_path / "model")
    made = replace(
        recipe,
        parent=str(tmp_path / "model"),
        mixture=(Entry("almanac", 1.0, (96,), system="recurrent", level=0),),
        settings={"adapters": True, "rank": 2, "chunk": 64, "note": 8},
        preset="memagent",
        algorithm={},
        freeze=FROZEN[:3],
        groups=(Rates(("*",), lr=1e-2),),
        tokens=2000,
    )
    run = prepare(made, tmp_path / "run")
    before = weights(run.backbone)
    line = step(run)
    assert line["figures"]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert {name for name in changed(run, before) if ".reader." in name}
