"""LCLM weights in their published layout give the numbers of the published program."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import CLOSE, CLOSE_LOGITS, recorded, variants
from safetensors.torch import load_file, save_file
from torch import Tensor

from memfold.backbone import model_files
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.cli.main import execute
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError
from memfold.core.job import Job
from memfold.core.policy import Request
from memfold.core.registry import make_system
from memfold.core.scheduler import answer
from memfold.core.system import Rendered
from memfold.core.types import BlockRef, Call, Generate, Memory, Part, Reply, SamplingParams, Text
from memfold.systems.pooled.encoder import encode_windows, fixed_windows
from memfold.systems.pooled.settings import HEAD
from memfold.systems.pooled.system import Pooled
from memfold.systems.shared.folding import fold

SPAN = re.compile(r"<\|memory_start\|>(.*?)<\|memory_end\|>", re.DOTALL)
STEPS = 12
PARTS = ("decoder", "encoder")
FOLDERS = [pytest.param(path, id=path.name) for path in variants("lclm")]


@pytest.fixture(scope="module", params=FOLDERS)
def original(request: pytest.FixtureRequest) -> Path:
    """The recorded cases of a variant."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def lclm(original: Path) -> Backbone:
    return load_backbone(original / "checkpoint")


def pooled(backbone: Backbone) -> Pooled:
    system = make_system("pooled", backbone)
    assert isinstance(system, Pooled)
    return system


def memories(backbone: Backbone, prompt: str) -> tuple[list[Memory], list[str]]:
    """A memory of each span of a prompt, and the texts around them."""
    pieces = SPAN.split(prompt)
    spans = [Document(str(number), text=text) for number, text in enumerate(pieces[1::2])]
    return fold(pooled(backbone), spans, backbone) if spans else [], pieces[::2]


def tokens_of(backbone: Backbone, text: str) -> Text:
    """A text whose control tokens count, as in the prompts of the program."""
    return Text(tokens=tuple(backbone.tokenizer.encode(text, add_special_tokens=False)))


def rendered(backbone: Backbone, prompt: str) -> Rendered:
    """A prompt whose spans are read from slots."""
    system, (spans, texts) = pooled(backbone), memories(backbone, prompt)
    tokens, slots = [*(tokens_of(backbone, texts[0]).tokens or ())], list[Tensor | None]()
    for memory, text in zip(spans, texts[1:], strict=True):
        blocks = (BlockRef(memory.name, block.index) for block in memory.blocks)
        part = system.render(memory, Call("answer", (*blocks, tokens_of(backbone, text))), backbone)
        tokens += part.tokens
        slots.append(part.slots)
    found = [each for each in slots if each is not None]
    return Rendered(tokens, list(range(len(tokens))), (len(tokens),), torch.cat(found) if found else None)


@torch.no_grad()
def logits_of(backbone: Backbone, call: Rendered, written: list[int]) -> Tensor:
    ids = torch.tensor([[*call.tokens, *written]])
    slots = [] if call.slots is None else [call.slots]
    return backbone.logits(backbone.hidden(backbone.inputs(ids, slots)))[0]


def test_the_record_of_the_weights(lclm: Backbone, original: Path) -> None:
    config = json.loads((original / "checkpoint" / "model_config.json").read_text())
    settings = pooled(lclm).fold
    assert (settings.ratio, settings.window) == (config["compression_ratio"], config["encoder_window_size"])
    assert (settings.mask, settings.projection, settings.wrapper) == ("causal", "norm_mlp", "span")
    assert (settings.start_token, settings.end_token) == ("<|memory_start|>", "<|memory_end|>")
    assert pooled(lclm).read.sampling(5) == SamplingParams(5, repetition_penalty=1.1, penalised="reply")
    assert (lclm.published, lclm.trained_here, pooled(lclm).read.style) == (True, False, "bare")


def test_slots_are_the_latents_of_the_program(lclm: Backbone, original: Path) -> None:
    cases, tensors = recorded(original, "cases")
    encoder, settings = lclm.compressor, pooled(lclm).fold
    for case in cases:
        spans, _ = memories(lclm, case["prompt"])
        assert [memory.token_count for memory in spans] == case["span_lengths"]
        assert [memory.slot_count for memory in spans] == case["latent_counts"]
        for number, (memory, tokens) in enumerate(zip(spans, case["memory_token_ids"], strict=True)):
            theirs = tensors[f"{case['name']}.latents.{number}"]
            slots = torch.cat([block.slots for block in memory.blocks if block.slots is not None])
            torch.testing.assert_close(slots, theirs, atol=CLOSE, rtol=0)
            windows = fixed_windows(tokens, settings.window_tokens, settings.ratio)
            with torch.no_grad():
                torch.testing.assert_close(encode_windows(encoder, windows, settings), theirs, atol=CLOSE, rtol=0)


def test_prompts_have_the_embeddings_and_logits_of_the_program(lclm: Backbone, original: Path) -> None:
    cases, tensors = recorded(original, "cases")
    for case in cases:
        name, call = case["name"], rendered(lclm, case["prompt"])
        assert len(call.tokens) == len(case["input_ids"])
        slots = [] if call.slots is None else [call.slots]
        with torch.no_grad():
            embeddings = lclm.embed_rows(torch.tensor([call.tokens]), slots)[0]
        torch.testing.assert_close(embeddings, tensors[f"{name}.inputs_embeds"], atol=CLOSE, rtol=0)
        logits = logits_of(lclm, call, [])
        torch.testing.assert_close(logits, tensors[f"{name}.logits"], atol=CLOSE_LOGITS, rtol=0)
        written: list[int] = []
        for step in range(STEPS):
            last = logits_of(lclm, call, written)[-1]
            torch.testing.assert_close(last, tensors[f"{name}.step_logits"][step], atol=CLOSE_LOGITS, rtol=0)
            written.append(int(last.argmax()))
        assert written == case["greedy_ids"]


@pytest.mark.parametrize(("penalty", "name"), [(1.0, "greedy_ids"), (1.1, "greedy_ids_repetition_penalty_1_1")])
def test_the_policy_decodes_the_same_tokens(lclm: Backbone, original: Path, penalty: float, name: str) -> None:
    """The program gives embeddings to its model, so that its penalty is for written tokens alone."""
    params = SamplingParams(max_tokens=STEPS, repetition_penalty=penalty, penalised="reply")
    for case in (case for case in recorded(original, "cases")[0] if len(case["span_lengths"]) == 1):
        (memory,), (before, after) = memories(lclm, case["prompt"])
        blocks = tuple(BlockRef(memory.name, block.index) for block in memory.blocks)
        opening: tuple[Part, ...] = (tokens_of(lclm, before),) if before else ()
        parts = (*opening, *blocks, tokens_of(lclm, after))
        execution, done, wants = LocalPolicy(lclm).start(), list[Any](), Generate(params)
        execution.submit(Request(pooled(lclm), memory, Call("answer", parts, wants)))
        while not done:
            done = execution.step()
        reply = done[0][1]
        assert isinstance(reply, Reply)
        assert list(reply.tokens) == case[name][: len(reply.tokens)]
        assert len(reply.tokens) == STEPS or reply.tokens[-1] in lclm.end_tokens


def test_a_saved_model_folder_answers_the_same(lclm: Backbone, tmp_path: Path) -> None:
    save_backbone(lclm, tmp_path / "saved")
    again = load_backbone(tmp_path / "saved")
    assert again.readable == lclm.readable
    (first,), (second,) = (fold(pooled(model), [Document("a", text="Ada of Velm.")], model) for model in (lclm, again))
    policy = LocalPolicy(lclm)
    replies = [answer(Job(pooled(lclm), memory, "Who?"), policy).steps[-1].reply.tokens for memory in (first, second)]
    assert replies[0] == replies[1]


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(variants("lclm")[0] / "checkpoint", folder / "model"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pooling", "concat", "pooling = 'concat'; only 'mean' is supported"),
        ("boundary_overlap", 8, "boundary_overlap = 8; only 0"),
        ("adapter_type", "mlp_attn", "adapter_type = 'mlp_attn'; only 'mlp'"),
        ("encoder_mask_type", "bidirectional", "encoder_mask_type = 'bidirectional'; only 'causal'"),
    ],
)
def test_options_that_are_computed_otherwise_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    folder = copied(tmp_path)
    config = json.loads((folder / "model_config.json").read_text())
    (folder / "model_config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(CheckpointError, match=message):
        load_backbone(folder)


def test_a_folder_that_is_not_complete_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(tmp_path)
    (tmp_path / "a.txt").write_text("Ada was born in Velm.")
    command = ["ask", str(tmp_path / "a.txt"), "Who?", "--model", str(folder)]
    (folder / "adapter" / "adapter.safetensors").write_bytes(b"torn")
    assert execute(command) == 2
    assert "adapter.safetensors cannot be read" in capsys.readouterr().err
    (folder / "adapter" / "adapter.safetensors").rename(folder / "adapter" / "adapter.pt")
    assert execute(command) == 2
    assert "holds pickled weights only (adapter.pt), which can run code" in capsys.readouterr().err
    (folder / "adapter" / "adapter.pt").unlink()
    assert execute(command) == 2
    assert "adapter lacks adapter.safetensors; the download is not complete" in capsys.readouterr().err
    shutil.rmtree(folder / "adapter")
    assert execute(command) == 2
    assert "has no folder 'adapter'; download all of its files" in capsys.readouterr().err
    (folder / "model_config.json").write_text('{"kind": "another"}')
    assert execute(command) == 2
    assert "holds no config.json: the download is not complete, or the folder has a layout" in capsys.readouterr().err


def test_of_several_checkpoints_the_newest_whole_one_is_read(tmp_path: Path, lclm: Backbone) -> None:
    whole = copied(tmp_path)
    run = tmp_path / "run"
    for step in (9, 100, 1000):
        shutil.copytree(whole, run / f"checkpoint_{step}")
    (run / "checkpoint_9" / "model_config.json").write_text("damaged")
    shutil.rmtree(run / "checkpoint_1000" / "encoder")  # was being written when the training ended
    assert load_backbone(run).trained == load_backbone(whole).trained
    shutil.rmtree(run / "checkpoint_100")
    with pytest.raises(CheckpointError, match=r"checkpoint_9.*model_config\.json cannot be read"):
        load_backbone(run)


def test_a_tokenizer_without_the_marks_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(settings | {"memory_end": "<|no mark|>"}))
    with pytest.raises(CheckpointError, match=re.escape("has no token <|no mark|>")):
        load_backbone(folder)


def test_a_text_is_folded_and_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands that real weights need, on the small ones."""
    folder = copied(tmp_path)
    (tmp_path / "a.txt").write_text("Ada was born in Velm. The mill of Tor stands by the river. " * 2)
    memory, model = str(tmp_path / "a.fold"), ["--model", str(folder)]
    assert execute(["fold", str(tmp_path / "a.txt"), "-o", memory, *model]) == 0
    assert execute(["inspect", memory]) == 0
    assert "pooled" in capsys.readouterr().out
    assert execute(["ask", memory, "Where was Ada born?", "--json", "--max-tokens", "8", *model]) == 0
    response = json.loads(capsys.readouterr().out)
    assert response["answer"]
    assert response["citations"][0]["text"] == "Ada was born in Velm."


def test_a_decoder_in_several_files_with_an_output_layer_of_its_own(lclm: Backbone, tmp_path: Path) -> None:
    """As larger decoders are published: without tied embeddings, with an index."""
    folder = copied(tmp_path) / "decoder"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = -weights["model.embed_tokens.weight"]
    (folder / "model.safetensors").unlink()
    names = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(names.values()):
        save_file({name: weights[name] for name in weights if names[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    untied, prompt = load_backbone(folder.parent), "<|memory_start|>Ada of Velm.<|memory_end|>Who?"
    ours, theirs = (logits_of(model, rendered(model, prompt), []) for model in (untied, lclm))
    torch.testing.assert_close(ours, -theirs, atol=CLOSE_LOGITS, rtol=0)
    (folder / file).unlink()
    with pytest.raises(
        CheckpointError, match=r"decoder lacks 1 of 2 files with weights .*the download is not complete"
    ):
        load_backbone(folder.parent)


def test_decoder_and_encoder_must_fit_into_the_memory_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tmp_path)
    parts = [4 * sum(w.numel() for w in load_file(folder / name / "model.safetensors").values()) for name in PARTS]
    monkeypatch.setattr(model_files, "GB", 1e3)
    monkeypatch.setattr(model_files, "device_bytes", lambda device: sum(parts) - 1)
    with pytest.raises(ConfigError, match=rf"model .* needs {sum(parts) / 1e3:.1f} GB in float32, device 'cpu' has"):
        load_backbone(folder)
    monkeypatch.setattr(model_files, "device_bytes", lambda device: sum(parts))
    load_backbone(folder)


def test_the_adapter_makes_the_slots(lclm: Backbone) -> None:
    """It is the head of the encoder, whose fingerprint a memory carries."""
    assert HEAD in lclm.compressor.heads
    assert HEAD not in lclm.heads
