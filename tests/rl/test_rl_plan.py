"""Plans of reinforcement learning: parts by hand, what trains counted, devices that are too small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memfold.backbone.shapes import SHAPES
from memfold.core.config import build
from memfold.core.errors import ConfigError
from memfold.rl.loop import prepare
from memfold.rl.plan import plan
from memfold.rl.proof import small
from memfold.rl.recipe import RlRecipe
from memfold.training.hardware import Hardware
from memfold.training.plan import check_fits
from memfold.training.recipe_file import read_values

RECIPES = Path(__file__).parents[2] / "recipes" / "pooled"
SHAPE = SHAPES["qwen2.5-7b"]
READ = 32 + 3 * 256  # half of a question with its answer; 4,096 tokens as wrapped slots
REPLY = 600


def recipe(size: str, **changes: Any) -> RlRecipe:
    return replace(build(RlRecipe, read_values(RECIPES / f"qwen2.5-{size}" / "rl.toml")), **changes)


def test_the_memory_of_the_7b_by_hand() -> None:
    found = plan(recipe("7b"))
    full = 10 * found.weights.layer + 2 * SHAPE.vocabulary * SHAPE.hidden
    assert found.weights.full == full
    assert found.memory["unsharded layers while sampling"] == pytest.approx(4 * full / 1e9)
    assert found.memory["keys and values of replies"] == pytest.approx(
        128 * (READ + REPLY) * 2 * 28 * 4 * 128 * 4.5 / 1e9
    )
    assert found.memory["encoder"] == pytest.approx(
        found.memory["frozen weights"] + 2 * (full + found.weights.lora) / 1e9
    )
    assert found.memory["trained weights, gradients, AdamW"] == pytest.approx(
        16 * (full / 8 + found.weights.lora) / 1e9
    )
    assert "activations" not in found.memory  # sampling needs more, and the two alternate
    assert found.positions == pytest.approx(300 * 128 * (4096 + READ + 16 * REPLY))


def test_the_update_counts_where_it_needs_more() -> None:
    found = plan(recipe("7b", max_concurrency=1, activation_checkpointing=False)).memory
    assert "keys and values of replies" not in found
    kept = 28 * (40 * SHAPE.hidden + 16 * SHAPE.feedforward + 4 * SHAPE.hidden)
    targets = 4096 * REPLY / (READ / 16 + REPLY)
    assert found["activations"] == pytest.approx((4096 * kept + targets * SHAPE.vocabulary * 14) / 1e9)


def test_end_to_end_has_no_encoder_beside_it_and_compresses_with_gradient() -> None:
    whole = replace(recipe("7b", hardware=Hardware(), max_concurrency=1), memory="end-to-end")
    frozen = recipe("7b", hardware=Hardware(), max_concurrency=1)
    assert plan(whole).memory["encoder"] == 0
    assert plan(whole).memory["activations"] > plan(frozen).memory["activations"]
    assert plan(whole).device_hours > plan(frozen).device_hours


def test_a_reference_is_another_copy() -> None:
    found = plan(recipe("7b", preset="grpo")).memory
    assert found["the parent, for the KL"] == found["encoder"] > 0


def test_reading_the_weights_bounds_small_batches() -> None:
    assert plan(recipe("7b", max_concurrency=2)).device_hours > 1.5 * plan(recipe("7b")).device_hours
    assert plan(recipe("7b", steps=600)).device_hours == pytest.approx(2 * plan(recipe("7b")).device_hours)


@pytest.mark.parametrize("size", ["7b", "32b"])
def test_the_shipped_recipes_fit_the_devices_that_they_name(size: str) -> None:
    made = recipe(size)
    check_fits(made, plan(made), made.hardware.memory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            r"needs about \d+ GB on each device, which has 24 GB: lower max_concurrency; lower fqlora\.full_layers",
        ),
        ({"hardware": Hardware(devices=8), "max_concurrency": 1}, r": set hardware\.sharded = true; "),
        (
            {"max_concurrency": 1, "activation_checkpointing": False, "tokens": 65536},
            r": set activation_checkpointing = true; ",
        ),
    ],
)
def test_a_device_that_is_too_small_is_refused_with_what_to_lower(changes: dict[str, Any], message: str) -> None:
    made = recipe("7b", **changes)
    with pytest.raises(ConfigError, match=message):
        check_fits(made, plan(made), 24.0)


def test_what_a_plan_counts_is_what_trains(tmp_path: Path) -> None:
    made = small(recipe("7b"), tmp_path)
    counted = sum(weight.numel() for weight in prepare(made, tmp_path / "run").trainer.optimisers.parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "qwen2.5-7b", SHAPE.reduced())
        assert plan(replace(made, architecture="qwen2.5-7b")).weights.trained == counted


def test_what_trains_the_gate_is_counted(tmp_path: Path) -> None:
    path = RECIPES.parent / "kvbank/qwen2.5-3b/gate.toml"
    shape = SHAPES["qwen2.5-3b"].reduced()
    made = small(build(RlRecipe, read_values(path)), tmp_path)
    counted = sum(weight.numel() for weight in prepare(made, tmp_path / "run").trainer.optimisers.parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "qwen2.5-3b", shape)
        assert plan(replace(made, architecture="qwen2.5-3b")).weights.trained == counted


def test_notes_are_written_and_every_trajectory_reads_on_its_own() -> None:
    """28,000 tokens in 6 chunks of 5,000: 6 notes of 1,024 are read and written, then an answer of 1,024."""
    made = build(RlRecipe, read_values(RECIPES.parent / "recurrent/qwen2.5-7b/rl.toml"))
    found = plan(made)
    read, written = 28000 + 6 * 1024 + 32, 6 * 1024 + 1024
    assert found.positions == pytest.approx(400 * 128 * (28000 + 16 * (read + written)))
    cached = 8 * (32 + 5000 + 2 * 1024 + 1024) * 2 * 28 * 4 * 128 * 4.5 / 1e9
    assert found.memory["keys and values of replies"] == pytest.approx(cached)
    assert found.memory["encoder"] == 0
    assert found.memory["the parent, for the KL"] == pytest.approx(4 * found.weights.full / 1e9)
