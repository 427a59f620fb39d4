"""Adapters by role: which is active, what it changes, what training reaches, and how they are stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from gradients import gradients, weighted
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from memfold.backbone import adapters, merged_roles
from memfold.backbone.adapters import Adapter, add_role, attach, is_lora
from memfold.backbone.export import export
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.core.errors import CheckpointError, ConfigError

MakeBackbone = Callable[..., Backbone]
TARGETS = {"writer": ("k_proj", "v_proj"), "gate": ("model.layers.1.mlp.down_proj", "v_proj", "q_proj")}
RANK, ALPHA = 4, 6.0
TOKENS = torch.tensor([[7, 40, 300, 12, 9, 41]])


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    output: Tensor = model(TOKENS).logits
    return output


def add_roles(backbone: Backbone) -> Backbone:
    for seed, (role, targets) in enumerate(TARGETS.items()):
        add_role(backbone, role, RANK, ALPHA, targets, seed)
    return backbone


def train(backbone: Backbone) -> Backbone:
    """Leave marks of training in every adapter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if is_lora(name):
                weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return backbone


@pytest.fixture
def trained(new_backbone: MakeBackbone) -> Backbone:
    return train(add_roles(new_backbone()))


def by_role(backbone: Backbone) -> dict[str | None, Tensor]:
    """What the model says with each adapter, and with none."""
    said = {}
    for role in (None, *backbone.roles):
        with backbone.adapter(role):
            said[role] = logits(backbone.model)
    return said


def assert_equal(said: dict[str | None, Tensor], expected: dict[str | None, Tensor]) -> None:
    assert said.keys() == expected.keys()
    assert all(torch.equal(said[role], expected[role]) for role in expected)


def differ(left: Tensor, right: Tensor) -> bool:
    return float((left - right).abs().max()) > 0.05


# Which adapter is active.


def test_a_new_role_adds_nothing(new_backbone: MakeBackbone) -> None:
    backbone = new_backbone()
    before = logits(backbone.model)
    said = by_role(add_roles(backbone))
    assert list(said) == [None, "writer", "gate"]
    assert all(torch.equal(each, before) for each in said.values())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_role_changes_what_is_said_within_its_block(new_backbone: MakeBackbone, architecture: str) -> None:
    backbone = new_backbone(architecture)
    base = logits(backbone.model)
    said = by_role(train(add_roles(backbone)))
    assert torch.equal(said[None], base)
    assert differ(said["writer"], base)
    assert differ(said["gate"], base)
    assert differ(said["gate"], said["writer"])
    assert torch.equal(logits(backbone.model), base), "nothing is left after a block"
    assert backbone.active_role is None


def test_a_role_adds_its_product_to_its_targets_alone(new_backbone: MakeBackbone) -> None:
    """By hand: alpha / rank * B A beside each target."""
    backbone = new_backbone()
    plain = deepcopy(backbone.model)
    train(add_roles(backbone))
    matrices = dict(backbone.model.named_parameters())
    for role, targets in TARGETS.items():
        summed = deepcopy(plain)
        changed = 0
        with torch.no_grad():
            for name, module in summed.named_modules():
                if name.endswith(targets):
                    a, b = (matrices[f"{name}.lora_{letter}.{role}.weight"] for letter in "AB")
                    weight: Any = module.weight
                    weight += ALPHA / RANK * b @ a
                    changed += 1
        assert changed == {"writer": 4, "gate": 5}[role]
        with backbone.adapter(role):
            torch.testing.assert_close(logits(backbone.model), logits(summed), atol=1e-5, rtol=1e-5)


def test_blocks_may_be_nested(trained: Backbone) -> None:
    said = by_role(trained)
    with trained.adapter("writer"):
        with trained.adapter("gate"):
            assert torch.equal(logits(trained.model), said["gate"])
            with trained.adapter(None):
                assert torch.equal(logits(trained.model), said[None])
            assert torch.equal(logits(trained.model), said["gate"])
        assert torch.equal(logits(trained.model), said["writer"])
        with trained.adapter("writer"):
            assert torch.equal(logits(trained.model), said["writer"])
        assert torch.equal(logits(trained.model), said["writer"])
    assert torch.equal(logits(trained.model), said[None])


def test_no_adapter_is_left_after_an_exception(trained: Backbone) -> None:
    said = by_role(trained)
    with trained.adapter("writer"):
        with pytest.raises(RuntimeError, match="halt"), trained.adapter("gate"):
            raise RuntimeError("halt")
        assert torch.equal(logits(trained.model), said["writer"])
    with pytest.raises(RuntimeError, match="halt"), trained.adapter("writer"), trained.adapter("gate"):
        raise RuntimeError("halt")
    assert trained.active_role is None
    assert_equal(by_role(trained), said)


def test_an_unknown_role_is_refused_and_changes_nothing(trained: Backbone, backbone: Backbone) -> None:
    message = "model 'qwen3' has no adapter 'reader'; its adapters: writer, gate; train it first"
    with trained.adapter("gate"):
        with pytest.raises(CheckpointError, match=message), trained.adapter("reader"):
            pass
        assert trained.active_role == "gate"
    message = "'reader'; its adapters: none; train it first"
    with pytest.raises(CheckpointError, match=message), backbone.adapter("reader"):
        pass


def test_a_role_may_be_added_while_another_is_active(trained: Backbone) -> None:
    said = by_role(trained)
    with trained.adapter("gate"):
        add_role(trained, "reader", RANK, ALPHA, ("o_proj",))
        assert torch.equal(logits(trained.model), said["gate"])
    assert_equal(by_role(trained), said | {"reader": said[None]})


def test_adding_a_role_again_leaves_it_as_it_is(trained: Backbone) -> None:
    said, roles = by_role(trained), dict(trained.roles)
    add_role(trained, "gate", 8, 1.0, ("o_proj",), seed=7)
    assert trained.roles == roles
    assert_equal(by_role(trained), said)


def test_the_seed_alone_says_how_a_role_begins(new_backbone: MakeBackbone) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again = add_roles(new_backbone()), None
    torch.manual_seed(6)
    again = add_roles(new_backbone())
    other = new_backbone()
    torch.manual_seed(5)
    add_role(other, "writer", RANK, ALPHA, TARGETS["writer"], seed=9)
    assert torch.equal(torch.get_rng_state(), state), "no other random number changes"
    before, same = dict(first.model.named_parameters()), dict(again.model.named_parameters())
    assert all(torch.equal(before[name], same[name]) for name in before)
    name = "model.layers.0.self_attn.k_proj.lora_A.writer.weight"
    assert not torch.equal(before[name], dict(other.model.named_parameters())[name])


@pytest.mark.parametrize("role", ["default", "two words", "", "a.b"])
def test_names_that_cannot_be_roles_are_refused(new_backbone: MakeBackbone, role: str) -> None:
    with pytest.raises(ConfigError, match="adapter"):
        add_role(new_backbone(), role, RANK, ALPHA, ("q_proj",))


def test_roles_and_a_base_adapter_exclude_each_other(new_backbone: MakeBackbone, trained: Backbone) -> None:
    adapter = Adapter("base", RANK, ALPHA, ("model.layers.1.mlp.up_proj",))
    backbone = new_backbone()
    attach(backbone, adapter)
    with pytest.raises(ConfigError, match="adapter 'gate' cannot be added"):
        add_role(backbone, "gate", RANK, ALPHA, TARGETS["gate"])
    with pytest.raises(ConfigError, match=r"adapters for roles \(writer, gate\)"):
        attach(trained, adapter)
    assert trained.base_adapter is None


# What training reaches.


def trains(backbone: Backbone) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in backbone.parameters()}


@pytest.mark.parametrize("frozen", ["nothing", "the base", "a role", "some weights"])
def test_switching_changes_nothing_about_what_is_trained(trained: Backbone, frozen: str) -> None:
    for number, (name, parameter) in enumerate(trained.parameters()):
        of_base, of_role = not is_lora(name), ".writer." in name
        keep = {"nothing": True, "the base": not of_base, "a role": not of_role, "some weights": number % 3 > 0}
        parameter.requires_grad_(keep[frozen])
    before = trains(trained)
    with trained.adapter("writer"):
        assert trains(trained) == before
        with trained.adapter("gate"):
            assert trains(trained) == before
        assert trains(trained) == before
    assert trains(trained) == before


def test_a_new_role_is_trained_and_leaves_others_as_they_are(new_backbone: MakeBackbone) -> None:
    backbone = new_backbone()
    add_role(backbone, "writer", RANK, ALPHA, TARGETS["writer"])
    for number, (_, parameter) in enumerate(backbone.parameters()):
        parameter.requires_grad_(number % 3 > 0)
    before = {name.replace(".base_layer.", "."): value for name, value in trains(backbone).items()}
    add_role(backbone, "gate", RANK, ALPHA, TARGETS["gate"])
    after = {name.replace(".base_layer.", "."): value for name, value in trains(backbone).items()}
    assert {name: after[name] for name in before} == before
    assert all(after[name] for name in after.keys() - before.keys())
    assert any(not value for value in before.values())


def loss_of(backbone: Backbone, role: str | None) -> Tensor:
    with backbone.adapter(role):
        return weighted(backbone.model(TOKENS).logits.flatten())


def test_a_backward_pass_after_switching_back_reaches_all_adapters(trained: Backbone) -> None:
    roles = (None, "writer", "gate")
    apart = [gradients(trained, lambda role=role: loss_of(trained, role).backward()) for role in roles]

    def together() -> None:
        losses = [loss_of(trained, role) for role in roles]
        assert trained.active_role is None
        with trained.adapter("gate"):  # whatever is active by then
            torch.stack(losses).sum().backward()

    both = gradients(trained, together)
    adapters = {name for name, _ in trained.model.named_parameters() if is_lora(name)}
    assert len(adapters) == 2 * (4 + 5)
    for name in adapters:
        expected = [each[name] for each in apart if name in each]
        assert len(expected) == 1, "only the passes of its own role reach an adapter"
        assert float(expected[0].norm()) > 0, name
    for name, gradient in both.items():
        expected = [each[name] for each in apart if name in each]
        torch.testing.assert_close(gradient, torch.stack(expected).sum(0), atol=1e-3, rtol=1e-4)
    assert adapters <= both.keys()


# How they are stored.


@pytest.fixture
def saved(trained: Backbone, tmp_path: Path) -> Path:
    with trained.adapter("gate"):  # saving does not depend on what is active
        save_backbone(trained, tmp_path / "model")
    return tmp_path / "model"


def test_roles_are_read_back_bit_for_bit(trained: Backbone, saved: Path) -> None:
    again = load_backbone(saved)
    assert {role: (each.rank, each.alpha, set(each.targets)) for role, each in again.roles.items()} == {
        role: (RANK, ALPHA, set(targets)) for role, targets in TARGETS.items()
    }
    before, after = dict(trained.parameters()), dict(again.parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.active_role is None
    said = by_role(trained)
    assert_equal({role: by_role(again)[role] for role in said}, said)
    assert again.fingerprint() == trained.fingerprint()


def test_roles_are_not_merged_into_16_bits(saved: Path) -> None:
    model = load_backbone(saved, dtype="bfloat16", roles=False)
    with model.adapter("gate"):
        assert not model.merged_roles
        assert any(map(is_lora, dict(model.parameters())))


@pytest.mark.parametrize("small", [True, False])
def test_roles_wait_until_one_is_used(
    trained: Backbone, saved: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    """A small model merges them, without peft; the matrices of another stay beside its weights."""
    again = load_backbone(saved, roles=False)
    size = sum(4 * weight.numel() for weight in again.model.parameters())
    monkeypatch.setattr(merged_roles, "LARGEST", size if small else size - 1)
    monkeypatch.setattr(adapters, "peft_library", (lambda: pytest.fail("peft")) if small else adapters.peft_library)
    assert again.roles == {}
    assert not any(map(is_lora, dict(again.parameters())))
    stored = again.fingerprint()
    with again.adapter(None):
        assert again.roles == {}
    with pytest.raises(CheckpointError, match="has no adapter 'reader'; its adapters: gate, writer; train it first"):
        again.adapter("reader")
    with again.adapter("gate"):
        assert set(again.roles) == {"gate"}
    with again.adapter("writer"):
        assert set(again.roles) == set(TARGETS)
    assert any(map(is_lora, dict(again.parameters()))) != small
    said = by_role(again)
    torch.testing.assert_close(said, {role: by_role(trained)[role] for role in said}, atol=1e-4, rtol=1e-4)
    assert again.fingerprint() == stored == trained.fingerprint()


def test_a_merged_role_leaves_the_weights_as_they_were(saved: Path) -> None:
    """Whatever is active inside what, and if a block raises."""
    model, plain = load_backbone(saved, roles=False), load_backbone(saved, roles=False)
    alone = by_role(load_backbone(saved))
    with model.adapter("gate"):
        with model.adapter("writer"):
            with model.adapter(None):
                assert torch.equal(logits(model.model), logits(plain.model))
            torch.testing.assert_close(logits(model.model), alone["writer"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits(model.model), alone["gate"], atol=1e-4, rtol=1e-4)
    with pytest.raises(KeyError), model.adapter("gate"):
        raise KeyError
    before, after = dict(plain.model.named_parameters()), dict(model.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("change", ["missing", "unexpected", "of the wrong shape"])
def test_a_merged_adapter_matches_the_model(saved: Path, change: str) -> None:
    file = saved / "adapters" / "gate" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    if change == "unexpected":
        tensors[name.replace("layers.", "layers.7")] = tensors[name].clone()
    else:
        tensors = {key: value[:-1] if key == name else value for key, value in tensors.items()}
        if change == "missing":
            del tensors[name]
    save_file(tensors, file)
    model = load_backbone(saved, roles=False)
    for _ in range(2):  # what failed is not forgotten
        with pytest.raises(CheckpointError, match=f"do not match its configuration; {change}: "):
            model.adapter("gate")


def test_a_second_generation_is_the_same(saved: Path, tmp_path: Path) -> None:
    again = load_backbone(saved)
    save_backbone(again, tmp_path / "again")
    files = {path.relative_to(saved) for path in saved.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    for file in files:
        if file.suffix == ".safetensors":
            old, new = load_file(saved / file), load_file(tmp_path / "again" / file)
            assert old.keys() == new.keys()
            assert all(torch.equal(old[name], new[name]) for name in old)
        if file.name == "adapter_config.json":  # peft has a set of modules, whose order differs between processes
            described = json.loads((saved / file).read_text())
            assert described["target_modules"] == sorted(TARGETS[file.parent.name])
    assert load_backbone(tmp_path / "again").fingerprint() == load_backbone(saved).fingerprint()


def test_weights_that_are_given_are_saved_alike(trained: Backbone, saved: Path, tmp_path: Path) -> None:
    """As several processes save a model of which each holds a part."""
    weights = {name: value.detach().clone() for name, value in trained.model.named_parameters()}
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.zero_()
    save_backbone(trained, tmp_path / "given", weights=weights)
    for file in ("model.safetensors", "adapters/gate/adapter_model.safetensors"):
        given, expected = load_file(tmp_path / "given" / file), load_file(saved / file)
        assert given.keys() == expected.keys()
        assert all(torch.equal(given[name], expected[name]) for name in expected)


def test_the_fingerprint_is_of_the_adapters_too(new_backbone: MakeBackbone, saved: Path) -> None:
    plain = new_backbone()
    without = plain.fingerprint()
    first = add_roles(plain).fingerprint()
    other = new_backbone()
    add_role(other, "writer", RANK, ALPHA, TARGETS["writer"], seed=0)
    add_role(other, "gate", RANK, ALPHA, TARGETS["gate"], seed=2)
    assert len({without, first, other.fingerprint()}) == 3
    file = saved / "adapters" / "gate" / "adapter_model.safetensors"
    stored = load_backbone(saved).fingerprint()
    weights = load_file(file)
    weights[min(weights)][0, 0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    assert load_backbone(saved).fingerprint() != stored


def test_transformers_reads_the_weights_of_a_model_with_roles(trained: Backbone, saved: Path) -> None:
    theirs, report = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(theirs.eval()), by_role(trained)[None])
    assert not any("lora" in name or "base_layer" in name for name in load_file(saved / "model.safetensors"))


def test_peft_reads_each_role_as_its_own(trained: Backbone, saved: Path) -> None:
    said = by_role(trained)
    for role in TARGETS:
        base = AutoModelForCausalLM.from_pretrained(saved)
        theirs = peft.PeftModel.from_pretrained(base, saved / "adapters" / role).eval()
        torch.testing.assert_close(logits(theirs), said[role], atol=1e-5, rtol=1e-5)


def test_an_exported_model_keeps_its_roles(trained: Backbone, saved: Path, tmp_path: Path) -> None:
    export(str(saved), tmp_path / "exported")
    assert_equal(by_role(load_backbone(tmp_path / "exported")), by_role(load_backbone(saved)))


def test_an_encoder_keeps_its_roles(trained: Backbone, saved: Path, new_backbone: MakeBackbone, tmp_path: Path) -> None:
    decoder, encoder = new_backbone(seed=1), load_backbone(saved)
    decoder.set_encoder(encoder)
    save_backbone(decoder, tmp_path / "decoder")
    again = load_backbone(tmp_path / "decoder")
    assert again.encoder is not None
    assert again.encoder.fingerprint() == again.reads[0] == encoder.fingerprint()
    assert_equal(by_role(again.encoder), by_role(load_backbone(saved)))
    assert again.roles == {}


def test_roles_may_be_named_as_parts_of_the_model_are(new_backbone: MakeBackbone, tmp_path: Path) -> None:
    backbone = new_backbone()
    for role in ("mlp", "layers", "weight"):
        add_role(backbone, role, RANK, ALPHA, ("down_proj",))
    said = by_role(train(backbone))
    save_backbone(backbone, tmp_path)
    again = by_role(load_backbone(tmp_path))
    assert_equal({role: again[role] for role in said}, said)


LORA = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
DAMAGE: list[tuple[dict[str, Tensor | None], str]] = [
    ({LORA: None}, r"adapters/gate.*missing: model\.layers\.1\.self_attn\.v_proj\.lora_A\.gate\.weight$"),
    ({"other": torch.zeros(1)}, "adapters/gate.*unexpected: other$"),
    ({LORA: torch.zeros(4, 3)}, r"of the wrong shape: model\.layers\.1\.self_attn\.v_proj\.lora_A\.gate\.weight$"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_weights_that_do_not_belong_to_a_role_are_named(
    saved: Path, change: dict[str, Tensor | None], message: str
) -> None:
    file = saved / "adapters" / "gate" / "adapter_model.safetensors"
    weights = load_file(file) | change
    save_file({name: value for name, value in weights.items() if value is not None}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        load_backbone(saved)


@pytest.mark.parametrize("damage", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_role_is_a_checkpoint_error(saved: Path, damage: str) -> None:
    file = saved / "adapters" / "writer" / damage
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="adapters/writer") as raised:
        load_backbone(saved)
    assert "\n" not in str(raised.value)
