"""Plans: counts that are exact, by hand; estimates by their own rules; devices that are too small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memfold.backbone.shapes import SHAPES
from memfold.core.errors import ConfigError
from memfold.training.fqlora import FQLoRA
from memfold.training.hardware import Hardware
from memfold.training.loop import prepare
from memfold.training.plan import advice, check_fits, plan
from memfold.training.proof import small
from memfold.training.recipe import Group, Recipe, SupervisedEntry, read_recipe

TRAINED_STATE = "trained weights, gradients, AdamW"
RECIPES = Path(__file__).parents[2] / "recipes"
SIZED = sorted(path for stage in ("cpt1", "cpt2", "sft") for path in RECIPES.glob(f"pooled/qwen*/{stage}.toml"))
HIDDEN, KEYS, WIDE, VOCABULARY = 3584, 512, 18944, 152064
# queries and outputs, keys and values, feed-forward; biases of three; two normalisations
MATRICES = 2 * HIDDEN**2 + 2 * HIDDEN * KEYS + 3 * HIDDEN * WIDE
LAYER = MATRICES + HIDDEN + 2 * KEYS + 2 * HIDDEN
LORA = 2 * 2 * HIDDEN + 2 * (HIDDEN + KEYS) + 3 * (HIDDEN + WIDE)


def recipe(name: str) -> Recipe:
    return read_recipe(RECIPES / f"pooled/{name}.toml")


def test_every_size_has_every_stage() -> None:
    found = {path.relative_to(RECIPES).with_suffix("").as_posix() for path in SIZED}
    sizes = ("0.5b", "7b", "32b")
    assert found == {f"pooled/qwen2.5-{size}/{stage}" for size in sizes for stage in ("cpt1", "cpt2", "sft")}


def test_parameters_and_positions_of_the_7b_by_hand() -> None:
    found = plan(recipe("qwen2.5-7b/cpt1"))
    assert found.weights.full == 10 * LAYER + 2 * VOCABULARY * HIDDEN
    assert found.weights.lora == 18 * 64 * LORA
    assert found.weights.projection == HIDDEN**2
    assert found.weights.frozen == 18 * LAYER + HIDDEN
    # 110 reconstructions: 2,048 encoded, read in 3 x 128 positions, then written; 110 continuations of half of that;
    # 100 texts.  32 positions of instruction before the memory.
    sequence = (110 * (2048 + 384 + 32 + 2048) + 110 * (1024 + 192 + 32 + 1024) + 100 * 2048) / 320
    assert found.positions == pytest.approx(1250 * 256 * sequence)


def test_a_plan_counts_what_the_systems_of_a_mixture_add() -> None:
    given = recipe("qwen2.5-7b/cpt1")
    by_preset = replace(given, mixture=(), preset="paper")
    assert plan(by_preset).weights == plan(given).weights
    note = SupervisedEntry("almanac", 1, (2048,), system="recurrent", settings={"note": 64})
    alone = replace(given, mixture=(note,), settings={}, activation_checkpointing=False)
    assert plan(alone).weights == replace(plan(given).weights, projection=0)
    assert plan(replace(given, freeze=("heads.pooled.*",))).weights.projection == 0


def test_memory_by_hand() -> None:
    found = plan(recipe("qwen2.5-7b/cpt1")).memory
    four_bits = 18 * MATRICES
    weights = four_bits * (0.5 + 1 / 64 + 1 / 4096) + 2 * (18 * (LAYER - MATRICES) + HIDDEN)
    assert found["frozen weights"] == pytest.approx(weights / 1e9)
    spread, whole = 10 * LAYER + 2 * VOCABULARY * HIDDEN, 18 * 64 * LORA + HIDDEN**2
    assert found["trained weights, gradients, AdamW"] == pytest.approx((spread / 4 + whole) * 16 / 1e9)


def test_what_a_plan_counts_is_what_trains(tmp_path: Path) -> None:
    for path in SIZED[:3]:  # one size, on its small model
        made = small(read_recipe(path), tmp_path, 1)
        run = prepare(made, tmp_path / path.stem)
        counted = sum(weight.numel() for weight in run.optimisers.parameters)
        shape = SHAPES["qwen2.5-0.5b"].reduced()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SHAPES, "qwen2.5-0.5b", shape)
            assert plan(replace(made, architecture="qwen2.5-0.5b")).weights.trained == counted


def test_adapters_of_systems_are_counted_by_hand() -> None:
    """The base is frozen, whose names are those in a model with adapters; projections have biases, but not o."""
    weights = plan(read_recipe(RECIPES / "kvbank/qwen2.5-7b/cpt1.toml")).weights
    assert (weights.full, weights.lora) == (0, 28 * 64 * LORA)
    projections = 28 * (2 * HIDDEN**2 + 2 * HIDDEN * KEYS + HIDDEN + 2 * KEYS)
    assert weights.projection == projections + HIDDEN  # and the memory token


@pytest.mark.parametrize("stage", ["cpt1", "sft"])
def test_what_a_plan_counts_of_adapters_is_what_trains(stage: str, tmp_path: Path) -> None:
    made = small(read_recipe(RECIPES / f"kvbank/qwen2.5-3b/{stage}.toml"), tmp_path, 1)
    counted = sum(weight.numel() for weight in prepare(made, tmp_path / "run").optimisers.parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "qwen2.5-3b", SHAPES["qwen2.5-3b"].reduced())
        assert plan(replace(made, architecture="qwen2.5-3b")).weights.trained == counted


@pytest.mark.parametrize("size", ["3b", "7b"])
@pytest.mark.parametrize("stage", ["cpt1", "sft"])
def test_the_recipes_of_the_memory_bank_fit_the_devices_that_they_name(size: str, stage: str) -> None:
    made = read_recipe(RECIPES / f"kvbank/qwen2.5-{size}/{stage}.toml")
    check_fits(made, plan(made), made.hardware.memory)


def test_documents_that_are_folded_keep_no_activations_of_their_compression() -> None:
    made = read_recipe(RECIPES / "kvbank/qwen2.5-3b/sft.toml")
    with_gradient = replace(made, mixture=tuple(replace(entry, folded=False) for entry in made.mixture))
    assert plan(with_gradient).memory["activations"] > 3 * plan(made).memory["activations"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            r"qwen2\.5-32b with these settings needs about 61 GB on each device, which has 24 GB: lower fqlora\."
            r"full_layers \(each takes 1\.0 GB\), or use more hardware\.devices; ",
        ),
        ({"hardware": Hardware(devices=8)}, r"needs about \d+ GB on each device, .*: set hardware\.sharded = true; "),
        ({"fqlora": None, "activation_checkpointing": True}, r": train fewer parameters \(\[fqlora\]\); "),
        ({"fqlora": FQLoRA(0, embeddings=False)}, r": set fqlora\.quantisation = \"nf4\" \(saves up to 4[0-9] GB\); "),
        ({"activation_checkpointing": False}, r": set activation_checkpointing = true; "),
    ],
)
def test_a_device_that_is_too_small_is_refused_with_what_to_lower(changes: dict[str, object], message: str) -> None:
    made = replace(recipe("qwen2.5-32b/sft"), **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        check_fits(made, plan(made), 24.0)


def test_no_setting_is_advised_that_the_recipe_cannot_have() -> None:
    made = recipe("qwen2.5-32b/sft")
    muon = replace(made, groups=(Group(("*",), kind="muon"),), hardware=Hardware(devices=8))
    assert "hardware.sharded" not in advice(muon, plan(muon).weights, plan(muon).memory)[TRAINED_STATE]
    read = replace(made.mixture[0], system="retrieval", settings={})
    text = replace(made, activation_checkpointing=False, mixture=(read,), settings={})
    assert advice(text, plan(text).weights, plan(text).memory)["activations"] == "lower tokens and sizes"
    apart = replace(made, fqlora=None, encoder="runs/y", hardware=Hardware())
    assert advice(apart, plan(made).weights, plan(made).memory)[TRAINED_STATE] == "use a smaller model"


def test_more_work_takes_longer() -> None:
    first = recipe("qwen2.5-0.5b/sft")
    hours = plan(first).device_hours
    assert plan(replace(first, steps=2 * first.steps)).device_hours == pytest.approx(2 * hours)
    assert plan(replace(first, activation_checkpointing=False)).device_hours < hours
    longer = tuple(replace(entry, sizes=(2 * max(entry.sizes),)) for entry in first.mixture)
    assert plan(replace(first, mixture=longer)).device_hours > 1.9 * hours


COMMON = {"stage": "sft", "steps": 1, "parent": "runs/x"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"architecture": "qwen2.5-8b"},
            "unknown architecture 'qwen2.5-8b'; nearest: 'qwen2.5-7b'; known: qwen2.5-0.5b, ",
        ),
        (
            {"activation_checkpointing": True, "compile": True},
            "activation_checkpointing = true is not possible with compile; leave one of them out",
        ),
        (
            {"activation_checkpointing": True, "predecessor_loss": 0.1},
            "activation_checkpointing = true is not possible with predecessor_loss",
        ),
        (
            {"activation_checkpointing": True, "mixture": (SupervisedEntry("cued", 1, (64,), system="retrieval"),)},
            "activation_checkpointing = true is not supported for system 'retrieval'",
        ),
        ({"mixture": (SupervisedEntry("text", 1, (64,), files=("a",)),)}, None),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, object], message: str | None) -> None:
    made = {"mixture": (SupervisedEntry("cued", 1, (64,)),)} | COMMON | values
    if message is None:
        assert Recipe(**made)  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError) as raised:
        Recipe(**made)  # type: ignore[arg-type]
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "text"}, r"task 'text' with files = \[\] is not possible; only the tasks text, text-reconstruction"),
        ({"task": "cued", "files": ("a",)}, r"task 'cued' with files = \['a'\] is not possible"),
        (
            {"task": "questions", "files": ("a",)},
            "task 'questions' with dataset = None is not possible; only the tasks questions, long-questions take",
        ),
        ({"task": "questions", "files": ("a",), "dataset": "squid"}, "unknown dataset 'squid'; nearest: 'squad'"),
    ],
)
def test_an_entry_says_which_files_it_reads(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SupervisedEntry(**({"weight": 1.0, "sizes": (64,)} | values))  # type: ignore[arg-type]
