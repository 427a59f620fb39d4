from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from memfold.backbone.model import Backbone
from memfold.core.errors import ConfigError
from memfold.training import batches
from memfold.training.batches import Batch, batch, mixture
from memfold.training.presets import paper_mixture
from memfold.training.recipe import Recipe, SupervisedEntry


def seen(found: Batch) -> tuple[object, ...]:
    return found.entry, found.system.settings, found.scored, found.tokens


def texts(found: Batch) -> set[object]:
    return {document.tokens for document, _ in found.scored}


def test_a_batch_is_a_function_of_its_number(
    recipe: Recipe, backbone: Backbone, new_backbone: Callable[..., Backbone]
) -> None:
    forward = [seen(batch(recipe, backbone, number)) for number in range(6)]
    other_weights = new_backbone(seed=5)
    backward = [seen(batch(recipe, other_weights, number)) for number in reversed(range(6))]
    assert forward == backward[::-1]
    assert all(forward[one][2] != forward[other][2] for one in range(6) for other in range(one))
    assert seen(batch(replace(recipe, seed=1), backbone, 0)) != forward[0]


def test_validation_never_sees_what_training_sees(recipe: Recipe, backbone: Backbone) -> None:
    for position, entry in enumerate(recipe.mixture):
        trained = set().union(*(texts(batch(recipe, backbone, number, entry=entry)) for number in range(8)))
        names = [f"validation-{other}" for other in (position, position + 1)]
        held, other = (
            set().union(*(texts(batch(recipe, backbone, number, name, entry)) for number in range(4))) for name in names
        )
        assert held
        assert not held & trained
        assert not held & other


@pytest.mark.parametrize("weights", [(0.4, 0.2, 0.4), (1.0,), (160, 110, 70, 60, 300), (0.03, 0.9, 0.07)])
def test_entries_occur_by_weight_within_a_hundredth(
    recipe: Recipe, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, weights: tuple[float, ...]
) -> None:
    entries = tuple(SupervisedEntry("group", weight, (8,), samples=1 + number) for number, weight in enumerate(weights))
    monkeypatch.setattr(batches, "load_task", lambda name: lambda *_: [])
    monkeypatch.setattr(batches, "MOST_DOCUMENTS", 0)
    counts = Counter(
        batch(replace(recipe, mixture=entries), backbone, number).entry.samples - 1 for number in range(1000)
    )
    for number, weight in enumerate(weights):
        assert abs(counts[number] / 1000 - weight / sum(weights)) < 0.01


def test_a_batch_is_filled_to_its_tokens(recipe: Recipe, backbone: Backbone) -> None:
    for number in range(6):
        found = batch(replace(recipe, tokens=600), backbone, number)
        sizes = [len(document.tokens or ()) for document, _ in found.scored]
        assert found.tokens >= 600
        assert len(sizes) > 1
        assert all(traces for _, traces in found.scored)
        assert max(sizes) <= max(found.entry.sizes)


def test_every_entry_draws_its_sizes_ratios_and_styles(recipe: Recipe, backbone: Backbone) -> None:
    entry = SupervisedEntry("almanac", 1, (48, 96), settings={"ratios": [4, 8]}, samples=4, level=0, recall=0.5)
    found = [batch(recipe, backbone, number, entry=entry) for number in range(24)]
    assert {work.system.settings["ratio"] for work in found} == {4, 8}
    longest = [max(len(document.tokens or ()) for document, _ in work.scored) for work in found]
    assert min(longest) <= 48 < max(longest) <= 96
    replies = [
        backbone.decode(step.reply.tokens)
        for work in found
        for _, traces in work.scored
        for trace in traces
        for step in trace.steps
    ]
    recalled = sum("boxed" in reply for reply in replies) / len(replies)
    assert 0.35 < recalled < 0.65
    for recall, boxed in [(1.0, True), (0.0, False)]:
        work = batch(recipe, backbone, 0, entry=replace(entry, recall=recall))
        steps = [step for _, traces in work.scored for trace in traces for step in trace.steps]
        assert {"boxed" in backbone.decode(step.reply.tokens) for step in steps} == {boxed}


def test_half_of_the_free_replies_recall(recipe: Recipe, backbone: Backbone) -> None:
    entry = SupervisedEntry("almanac", 1, (48, 96), samples=4, level=0, recall=0.0, free=1.0)
    steps = [
        step
        for number in range(24)
        for _, traces in batch(recipe, backbone, number, entry=entry).scored
        for trace in traces
        for step in trace.steps
    ]
    assert all(str(step.call.parts[-2]).count("Recall?") == 1 for step in steps)
    replies = [backbone.decode(step.reply.tokens) for step in steps]
    assert all("\\boxed{" in reply for reply in replies)
    assert 0.35 < sum(reply.startswith(" \\boxed{") for reply in replies) / len(replies) < 0.65


@pytest.mark.parametrize("hundredths", range(101))
def test_two_styles_may_share_all_questions(hundredths: int) -> None:
    SupervisedEntry("almanac", 1, (48,), recall=hundredths / 100, free=(100 - hundredths) / 100)


def test_styles_that_are_more_than_all_questions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"free .*0\.6"):
        SupervisedEntry("almanac", 1, (48,), recall=0.5, free=0.6)


def test_a_gap_is_drawn_for_half_of_the_batches(recipe: Recipe, backbone: Backbone) -> None:
    entry = SupervisedEntry("group", 1, (8,), level=1, settings={"max_gap": 1000})
    gaps = [
        batch(replace(recipe, tokens=1), backbone, number, entry=entry).system.settings["gap"] for number in range(200)
    ]
    assert 0.35 < gaps.count(0) / 200 < 0.65
    assert max(gaps) <= 1000
    assert sum(0 < gap < 32 for gap in gaps) > 20
    assert sum(gap > 100 for gap in gaps) > 15
    assert {
        batch(recipe, backbone, number, entry=replace(entry, settings={})).system.settings["gap"] for number in range(9)
    } == {0}


def test_random_positions_are_drawn_in_training_alone_and_change_nothing_else(
    recipe: Recipe, backbone: Backbone
) -> None:
    entry = recipe.mixture[1]
    rigged = replace(recipe, settings={"positions": "randomised"})
    drawn, same = [], []
    for number in range(6):
        plain, random = (batch(one, backbone, number, entry=entry) for one in (recipe, rigged))
        assert [document for document, _ in plain.scored] == [document for document, _ in random.scored]
        assert plain.system.settings["draw"] == 0
        drawn.append(random.system.settings["draw"])
        same.append(batch(rigged, backbone, number, entry=entry).system.settings["draw"])
        assert batch(rigged, backbone, number, "validation-1", entry).system.settings["draw"] == 0
    assert drawn == same
    assert len(set(drawn)) == 6
    assert min(drawn) > 0


@pytest.mark.parametrize("purpose", ["train", "validation-0"])
def test_every_system_reads_the_same_documents(recipe: Recipe, backbone: Backbone, purpose: str) -> None:
    entry = replace(recipe.mixture[2], sizes=(48, 64, 96))
    for number in range(4):
        found = [
            batch(recipe, backbone, number, purpose, replace(entry, system=system))
            for system in ("full", "recurrent", "pooled")
        ]
        first = [[trace.question for trace in work.scored[0][1]] for work in found]
        assert first[0] == first[1] == first[2]
        assert len({work.scored[0][0].text for work in found}) == 1


def test_documents_are_tokenised_once_for_all_their_questions(recipe: Recipe, backbone: Backbone) -> None:
    work = batch(recipe, backbone, 0, entry=recipe.mixture[1])
    for document, traces in work.scored:
        assert document.text is not None
        assert document.tokens == tuple(backbone.encode(document.text))
        assert 1 <= len(traces) <= 3
        assert len({trace.question for trace in traces}) == len(traces)


def test_plain_language_modelling_of_a_document_is_scored_once(recipe: Recipe, backbone: Backbone) -> None:
    work = batch(recipe, backbone, 0, entry=recipe.mixture[2])
    for _, traces in work.scored:
        purposes = [[step.call.purpose for step in trace.steps] for trace in traces]
        assert len(traces) > 1
        assert purposes == [["language", "answer"], *[["answer"]] * (len(traces) - 1)]


def test_the_settings_of_a_recipe_reach_the_systems_that_have_them(recipe: Recipe, backbone: Backbone) -> None:
    set_here = replace(recipe, settings={"wrapper": "none", "positions": "consecutive"}, chat_template="chatml")
    pooled = batch(set_here, backbone, 0, entry=recipe.mixture[1]).system.settings
    assert (pooled["wrapper"], pooled["positions"], pooled["chat_template"]) == ("none", "consecutive", "chatml")
    full = batch(set_here, backbone, 0, entry=recipe.mixture[2]).system.settings
    assert (full["chat_template"], "wrapper" in full, "ratio" in full) == ("chatml", False, False)


def test_a_preset_provides_its_mixture(recipe: Recipe, backbone: Backbone) -> None:
    preset = replace(recipe, mixture=(), preset="paper", stage="cpt2")
    assert mixture(preset) == paper_mixture("cpt2")
    assert batch(preset, backbone, 3).entry in paper_mixture("cpt2")
    weights = {(entry.system, entry.task): entry.weight for entry in paper_mixture("cpt2")}
    assert sum(weight for (system, _), weight in weights.items() if system == "pooled") == 400
    assert weights["full", "prose"] == 300
    assert sum(entry.weight for entry in paper_mixture("cpt1") if entry.system == "pooled") == 220
    assert {entry.bridges for entry in paper_mixture("cpt1") if entry.task == "continuation"} == {(1, 1)}
    assert {entry.bridges for entry in paper_mixture("cpt2") if entry.task == "continuation"} == {(0, 4)}
    entries = [entry for stage in ("cpt1", "cpt2", "sft") for entry in paper_mixture(stage)]
    ratios = [preset.system(entry).train.ratios for entry in entries if entry.system == "pooled"]
    assert (len(entries), ratios) == (9, [(16,)] * 7)
