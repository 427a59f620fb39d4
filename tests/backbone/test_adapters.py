"""Adapters beside a base: what is stored, that it is read back with equal logits, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from memfold.backbone.adapters import Adapter, Quantisation, attach, is_lora
from memfold.backbone.export import export
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.tokens import add_special_tokens
from memfold.core.errors import CheckpointError, DataError, MemfoldError
from memfold.systems.pooled.learning import END, START

MakeBackbone = Callable[..., Backbone]
TARGETS = tuple(f"model.layers.1.{name}" for name in ("mlp.down_proj", "mlp.up_proj", "self_attn.q_proj"))
FULL = ("model.layers.0.mlp.up_proj.weight",)
TOKENS = torch.tensor([[7, 40, 300, 12, 9, 41]])


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    output: Tensor = model(TOKENS).logits
    return output


@pytest.fixture
def base(new_backbone: MakeBackbone, tmp_path: Path) -> Path:
    save_backbone(new_backbone("qwen2"), tmp_path / "base")
    return tmp_path / "base"


def trained(base: Path, quantisation: Quantisation = "none", full: tuple[str, ...] = ()) -> Backbone:
    """A model on which training has left its marks, in the adapter, in what is full, and in the head."""
    backbone = load_backbone(base)
    attach(backbone, Adapter(str(base), 4, 8.0, TARGETS, full, quantisation))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in backbone.parameters():
            if is_lora(name) or name in full or name.startswith("heads."):
                weight += 0.3 * torch.randn(weight.shape, generator=generator)
    backbone.trained = {"pooled": {"ratios": [4]}}
    return backbone


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
@pytest.mark.parametrize("full", [(), FULL])
def test_an_adapter_is_read_back_with_equal_logits(
    base: Path, tmp_path: Path, quantisation: Quantisation, full: tuple[str, ...]
) -> None:
    backbone = trained(base, quantisation, full)
    backbone.model.train()  # 4-bit modules compute otherwise in evaluation on a processor
    before = logits(backbone.model)
    save_backbone(backbone, tmp_path / "adapter")
    merged = load_backbone(tmp_path / "adapter")
    assert not any(is_lora(name) for name, _ in merged.parameters())
    assert all(parameter.requires_grad for _, parameter in merged.parameters())
    torch.testing.assert_close(logits(merged.model), before, atol=1e-4, rtol=1e-4)
    beside = load_backbone(tmp_path / "adapter", merged=False)
    beside.model.train()
    assert beside.base_adapter == backbone.base_adapter
    assert torch.equal(logits(beside.model), before)
    assert merged.trained == {"pooled": {"ratios": [4]}}
    for loaded in (merged, beside):
        assert torch.equal(loaded.heads["pooled"].weight, backbone.heads["pooled"].weight)


def test_without_its_adapter_a_model_says_something_else(base: Path) -> None:
    assert (logits(trained(base).model) - logits(load_backbone(base).model)).abs().max() > 0.1


def test_four_bits_are_the_same_whatever_the_model_was_loaded_in(base: Path) -> None:
    packed = []
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone(base, dtype=dtype)
        attach(backbone, Adapter(str(base), 4, 8.0, TARGETS, (), "nf4"))
        weight = backbone.model.get_submodule(TARGETS[0]).base_layer.weight
        assert weight.dtype == torch.uint8
        packed.append(weight.data)
    assert torch.equal(packed[0], packed[1])


def test_peft_reads_an_adapter_as_its_own(base: Path, tmp_path: Path) -> None:
    backbone = trained(base)
    save_backbone(backbone, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert not (tmp_path / "adapter" / "full.safetensors").exists()
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(theirs), logits(backbone.model), atol=1e-5, rtol=1e-5)


def test_what_peft_has_written_is_read(base: Path, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(logits(load_backbone(tmp_path / "theirs").model), logits(theirs), atol=1e-5, rtol=1e-5)


def change(file: Path, rename: dict[str, str | None], add: dict[str, Tensor] | None = None) -> None:
    weights = load_file(file)
    for old, new in rename.items():
        value = weights.pop(old)
        if new is not None:
            weights[new] = value
    save_file(weights | (add or {}), file, metadata={"format": "pt"})


LORA = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


ADAPTER_FILE, FULL_FILE = "adapter_model.safetensors", "full.safetensors"
DAMAGE: list[tuple[str, dict[str, str | None], dict[str, Tensor], str]] = [
    (ADAPTER_FILE, {LORA: None}, {}, r"; missing: model\.layers\.1\.mlp\.up_proj\.lora_A\.default\.we"),
    (ADAPTER_FILE, {}, {"a": torch.zeros(1), "b": torch.zeros(1)}, "; unexpected: a, b$"),
    (ADAPTER_FILE, {LORA: None}, {LORA: torch.zeros(4, 3)}, r"; of the wrong shape: model\.layers\.1\.mlp"),
    (FULL_FILE, {FULL[0]: "other"}, {}, rf"; missing: {FULL[0]}; unexpected: other$"),
]


@pytest.mark.parametrize(("file", "rename", "add", "message"), DAMAGE)
def test_weights_that_do_not_belong_to_an_adapter_are_named(
    base: Path, tmp_path: Path, file: str, rename: dict[str, str | None], add: dict[str, Tensor], message: str
) -> None:
    save_backbone(trained(base, full=FULL), tmp_path / "adapter")
    change(tmp_path / "adapter" / file, rename, add)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path / "adapter")


NORM = "model.norm.weight"
MODEL_DAMAGE: list[tuple[dict[str, str | None], dict[str, Tensor], str]] = [
    ({NORM: None}, {}, r"missing: model\.norm\.weight$"),
    ({}, {f"extra.{n}": torch.zeros(2) for n in range(5)}, "unexpected: extra.0, extra.1, extra.2 and 2 more$"),
    ({NORM: None}, {NORM: torch.zeros(3)}, r"of the wrong shape: model\.norm\.weight$"),
]


@pytest.mark.parametrize(("rename", "add", "message"), MODEL_DAMAGE)
def test_weights_that_do_not_belong_to_a_model_are_named(
    base: Path, rename: dict[str, str | None], add: dict[str, Tensor], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change(base / "model.safetensors", rename, add)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_backbone(base)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_an_adapter_without_its_base_is_refused(base: Path, tmp_path: Path) -> None:
    save_backbone(trained(base), tmp_path / "adapter")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"cannot load the base model of adapter .*adapter: no model at '{base}"):
        load_backbone(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match="is damaged or not a LoRA configuration"):
        load_backbone(tmp_path / "adapter")


def test_an_exported_model_is_an_ordinary_folder_with_equal_logits(base: Path, tmp_path: Path) -> None:
    backbone = trained(base, "nf4", FULL)
    save_backbone(backbone, tmp_path / "run")
    export(str(tmp_path / "run"), tmp_path / "whole")
    backbone.model.train()
    expected = logits(backbone.model)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    ours = load_backbone(tmp_path / "whole")
    for model in (theirs, ours.model):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.heads["pooled"].weight, backbone.heads["pooled"].weight)
    assert ours.trained == backbone.trained
    with pytest.raises(DataError, match="whole exists and is not an empty folder"):
        export(str(tmp_path / "run"), tmp_path / "whole")


def test_an_adapter_is_exported_as_one_unless_it_is_to_be_merged(base: Path, tmp_path: Path) -> None:
    backbone = trained(base)
    save_backbone(backbone, tmp_path / "run")
    export(str(tmp_path / "run"), tmp_path / "adapter")
    export(str(tmp_path / "run"), tmp_path / "merged", merge=True)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    for name in ("adapter", "merged"):
        torch.testing.assert_close(
            logits(load_backbone(tmp_path / name).model), logits(backbone.model), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("spare", [0, 8])
def test_wrapper_tokens_are_added_once_as_the_mean_of_all(
    new_backbone: MakeBackbone, spare: int, tmp_path: Path
) -> None:
    from memfold.training.proof import small_model

    backbone = load_backbone(small_model(tmp_path / "plain", "qwen2.5-0.5b"))
    assert START not in backbone.tokenizer.get_vocab()
    if not spare:
        backbone.model.resize_token_embeddings(len(backbone.tokenizer))
    known, before = len(backbone.tokenizer), backbone.model.get_input_embeddings().weight.detach().clone()
    add_special_tokens(backbone, (START, END))
    add_special_tokens(backbone, (START, END))
    after = backbone.model.get_input_embeddings().weight.detach()
    assert (backbone.token_id(START), backbone.token_id(END)) == (known, known + 1)
    assert backbone.prompts.control.encode_template(f"a{START}b{END}")[0].count(known) == 1
    assert known not in backbone.encode(f"a{START}b{END}")
    assert len(after) == max(len(before), known + 2)
    torch.testing.assert_close(after[known : known + 2], before[:known].mean(0).expand(2, -1))
    assert torch.equal(after[:known], before[:known])


MISSING_PACKAGES = [
    ("peft", "none", "low-rank adapters need peft; install memfold again"),
    ("bitsandbytes", "nf4", r"4-bit weights need bitsandbytes; pip install 'memfold\[adapters\]'"),
]


@pytest.mark.parametrize(("package", "quantisation", "message"), MISSING_PACKAGES)
def test_packages_that_are_not_there_are_named(
    base: Path, monkeypatch: pytest.MonkeyPatch, package: str, quantisation: Quantisation, message: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MemfoldError, match=message):
        attach(load_backbone(base), Adapter(str(base), 4, 8.0, TARGETS, (), quantisation))
