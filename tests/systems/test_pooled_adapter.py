"""Pooled memory through an adapter: it makes and reads slots; the weights, and what reads text, stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_policy import ScriptedPolicy
from torch import Tensor

from memfold.backbone.adapters import is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.score import logprobs
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.job import Job
from memfold.core.scheduler import answer
from memfold.core.types import Block, BlockRef, Memory
from memfold.session import open_session
from memfold.systems.pooled.settings import ADAPTER
from memfold.systems.pooled.system import Pooled
from memfold.tasks.almanac.task import almanac
from memfold.tasks.task import TaskOptions
from memfold.training import activation_checkpointing

TEXT = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger in a house on the river Tarn."
QUESTION = "Where was Ada Brisk born?"


def adapted(**settings: Any) -> Pooled:
    return Pooled.of({"adapters": True, "rank": 2, "chunk": 64, **settings})


@pytest.fixture
def trained(new_backbone: Callable[..., Backbone]) -> Backbone:
    """A model whose adapter has an effect."""
    backbone = new_backbone()
    adapted().prepare(backbone)
    torch.manual_seed(1)
    for name, parameter in backbone.model.named_parameters():
        if is_lora(name):
            torch.nn.init.normal_(parameter, std=0.3)
    return backbone


@torch.no_grad()
def slots(backbone: Backbone, system: Pooled) -> Tensor:
    (block,) = system.compress([Document("a.txt", TEXT)], backbone)
    assert block.slots is not None
    return block.slots


def test_an_adapter_makes_slots_and_leaves_those_without_it_alone(
    new_backbone: Callable[..., Backbone], trained: Backbone
) -> None:
    plain = adapted(adapters=False)
    before = slots(new_backbone(), plain)
    torch.testing.assert_close(slots(trained, plain), before)
    assert (slots(trained, adapted()) - before).abs().max() > 1e-2
    fresh = new_backbone()
    for _ in range(2):  # what the model has stays
        adapted().prepare(fresh)
    torch.testing.assert_close(slots(fresh, adapted()), before)


def test_slots_are_read_with_the_adapter_and_text_without_it() -> None:
    memory = Memory("m", "pooled", {}, "", ("a.txt",), [Block(0, 0, 0, 24, 0, len(TEXT), text=TEXT)])
    policy = ScriptedPolicy(lambda call: "She wrote the Long Ledger in a house. So: Velm")
    assert answer(Job(adapted(unfold=32), memory, QUESTION), policy).failure is None
    reads_slots = [any(isinstance(part, BlockRef) for part in call.parts) for call in policy.calls]
    assert reads_slots[0]
    assert not all(reads_slots)
    assert [call.adapter for call in policy.calls] == [ADAPTER if slots else None for slots in reads_slots]


def test_the_gradient_of_a_reply_reaches_the_adapter_where_slots_are_made_and_read(trained: Backbone) -> None:
    """Nothing else has one if it is frozen; with slots that are given, only reading has."""
    system, found = adapted(), list[dict[str, Tensor]]()
    sample = almanac(3, 128, TaskOptions(level=1), trained.encode)[0]
    trace = system.script(sample, trained, "recall")
    assert {step.call.adapter for step in trace.steps} == {ADAPTER}
    with torch.no_grad():
        blocks = list(system.compress([sample.document], trained))
    memory = Memory("m", "pooled", {}, "", (sample.document.source,), blocks)
    for name, weight in trained.parameters():
        weight.requires_grad_(is_lora(name))
    for source in (sample.document, memory):
        scores = logprobs(trained, system, [(source, [trace])])
        scores.backward(-scores.logprobs.sum())
        found.append({name: weight.grad for name, weight in trained.parameters() if weight.grad is not None})
        for _, weight in trained.parameters():
            weight.grad = None
    whole, reading = found
    matrices = {name: weight for name, weight in trained.parameters() if is_lora(name)}
    assert whole.keys() == reading.keys() == matrices.keys()
    for name in matrices:
        assert reading[name].abs().max() > 0
        assert (whole[name] - reading[name]).abs().max() > 1e-6
    modules = {
        name.removesuffix(".base_layer"): (module.in_features, module.out_features)
        for name, module in trained.model.named_modules()
        if name.endswith(".base_layer") and isinstance(module, torch.nn.Linear)
    }
    assert system.beside(modules) == {name: weight.numel() for name, weight in matrices.items()}
    assert Pooled().beside(modules) == {}


def test_recomputed_layers_have_the_adapter_of_the_first_pass(trained: Backbone) -> None:
    """The backward pass runs after the block that activates it."""
    system = adapted()
    sample = almanac(3, 64, TaskOptions(level=1), trained.encode)[0]
    found = []
    for checkpointed in (False, True):
        with activation_checkpointing.enabled(trained, checkpointed):
            scores = logprobs(trained, system, [(sample.document, [system.script(sample, trained, "bare")])])
            scores.backward(-scores.logprobs.sum())
        found.append({name: weight.grad for name, weight in trained.parameters() if weight.grad is not None})
        for _, weight in trained.parameters():
            weight.grad = None
    assert found[0].keys() == found[1].keys()
    assert any(map(is_lora, found[0]))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-4)


def test_a_model_folder_says_that_its_slots_need_the_adapter(trained: Backbone, tmp_path: Path) -> None:
    trained.trained = {"pooled": adapted().record({})}
    save_backbone(trained, tmp_path / "model")
    session = open_session(model=str(tmp_path / "model"))
    assert isinstance(session.system, Pooled)
    assert session.system.fold.adapters
    torch.testing.assert_close(slots(load_backbone(tmp_path / "model"), adapted()), slots(trained, adapted()))
    without = open_session(model=str(tmp_path / "model"), settings={"adapters": False})
    assert not without.system.fold.adapters


def test_a_missing_adapter_and_a_separate_encoder_are_named(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    with pytest.raises(CheckpointError, match="has no adapter 'pooled'; its adapters: none"):
        slots(backbone, adapted())
    backbone.set_encoder(new_backbone(seed=1))
    with pytest.raises(ConfigError, match="adapters = True is not possible; allowed: false with a separate encoder"):
        adapted().prepare(backbone)
    encoder = new_backbone(seed=1)
    adapted().prepare(encoder)
    backbone.set_encoder(encoder)  # as one that reinforcement learning has left behind
    adapted().prepare(backbone)
    torch.testing.assert_close(slots(backbone, adapted()), slots(encoder, adapted()))
