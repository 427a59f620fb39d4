"""Model folders that are not complete, pickled, too large, or have a tokenizer that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from memfold.backbone import model_files
from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.model_files import check_files
from memfold.core.errors import CheckpointError, ConfigError

MakeBackbone = Callable[..., Backbone]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(new_backbone: MakeBackbone, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """An ordinary folder, as `transformers` writes it."""
    new_backbone("llama").model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def sharded(folder: Path) -> None:
    """Write the weights as two files with an index."""
    weights = load_file(folder / WEIGHTS)
    names, files = sorted(weights), ("model-1.safetensors", "model-2.safetensors")
    where = {name: files[number % 2] for number, name in enumerate(names)}
    for file in files:
        save_file({name: weights[name] for name in names if where[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / WEIGHTS).unlink()


def cut(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def lose_a_part(folder: Path) -> None:
    sharded(folder)
    (folder / "model-2.safetensors").unlink()


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def cut_index(folder: Path) -> None:
    sharded(folder)
    (folder / INDEX).write_text((folder / INDEX).read_text()[:50])


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (cut, r"model\.safetensors has [\d,]+ of [\d,]+ bytes; the download is not complete; download the model again$"),
    (lose_a_part, r"lacks 1 of 2 files with weights \(model-2\.safetensors\); the download is not complete"),
    (cut_index, r"index\.json is damaged: the download is not complete"),
    (lambda folder: (folder / WEIGHTS).rename(folder / f"{WEIGHTS}.part"), r"holds no weights \(model\.safetensors\)"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is not a safetensors file, or it is cut off"),
    (lambda folder: (folder / WEIGHTS).write_text("<html>" * 9), "is not a safetensors file, or it is cut off"),
    (
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is a pointer of Git LFS, not the weights; run git lfs pull",
    ),
    (pickle, r"holds pickled weights only \(pytorch_model\.bin\), which can run code .* convert them where you trust"),
    (without_tokenizer, r"holds no tokenizer \(tokenizer\.json\)"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_files_that_are_not_those_of_a_whole_model_are_refused_in_one_line(
    damage: Callable[[Path], object], message: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_backbone(folder)
    assert "\n" not in str(raised.value)


def test_a_model_in_several_files_is_loaded(folder: Path) -> None:
    one = load_backbone(folder).model.state_dict()
    sharded(folder)
    several = load_backbone(folder).model.state_dict()
    assert all(torch.equal(one[name], several[name]) for name in one)


def test_pickled_weights_beside_others_are_not_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    load_backbone(folder)


def test_a_model_that_is_larger_than_the_memory_is_refused_before_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = sum(weight.numel() for weight in load_file(folder / WEIGHTS).values())
    check_files([folder], "model", "cpu", torch.float32)
    monkeypatch.setattr(model_files, "GB", 1e3)
    monkeypatch.setattr(model_files, "device_bytes", lambda device: 3 * values)
    has = f"has {3 * values / 1e3:.1f} GB; use "
    with pytest.raises(ConfigError, match=rf'.model. needs {4 * values / 1e3:.1f} GB in float32, .* {has}dtype="bf'):
        load_backbone(folder)
    load_backbone(folder, dtype="bfloat16")
    monkeypatch.setattr(model_files, "device_bytes", lambda device: values)
    with pytest.raises(ConfigError, match=r"GB; use another device or a smaller model$"):
        load_backbone(folder)
    monkeypatch.setattr(model_files, "device_bytes", lambda device: None)
    load_backbone(folder)


def test_quantised_weights_take_what_they_take_in_the_file(tmp_path: Path) -> None:
    save_file({"packed": torch.zeros(10, dtype=torch.uint8), "scale": torch.zeros(3)}, tmp_path / WEIGHTS)
    assert model_files._size(tmp_path / WEIGHTS, torch.bfloat16) == 10 + 2 * 3


def test_a_tokenizer_without_an_end_token_gets_that_of_the_model(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    end = settings.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for file in (folder / "special_tokens_map.json", folder / "generation_config.json"):
        file.unlink(missing_ok=True)
    number = PreTrainedTokenizerFast.from_pretrained(str(folder)).convert_tokens_to_ids(end)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [number, 3]}))
    assert load_backbone(folder).end_token == number
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    with pytest.raises(CheckpointError, match=r"has no end token; name it as eos_token in tokenizer_config\.json"):
        load_backbone(folder)


def test_a_tokenizer_of_a_larger_model_is_refused(folder: Path) -> None:
    backbone = load_backbone(folder)
    backbone.model.resize_token_embeddings(100)
    backbone.model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="has embeddings for 100 tokens, its tokenizer has"):
        load_backbone(folder)


def test_a_tokenizer_may_have_added_tokens_that_the_model_lacks(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """As that of Gemma 3, which has one for images."""
    extended = PreTrainedTokenizerFast.from_pretrained(str(folder))
    extended.add_tokens([f"<|image {number}|>" for number in range(2000)], special_tokens=True)
    extended.save_pretrained(folder)
    load_backbone(folder)


def test_code_in_a_folder_is_never_run_nor_asked_about(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "zork", "auto_map": own}))
    (folder / "code.py").write_text("raise SystemExit")

    def asked(prompt: str = "") -> str:
        raise AssertionError(prompt)

    monkeypatch.setattr("builtins.input", asked)
    with pytest.raises(CheckpointError, match="contains custom code"):
        load_backbone(folder)
