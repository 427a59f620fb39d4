"""LycheeMemory weights in their published layout give the numbers of the published program."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import CLOSE, CLOSE_LOGITS, byte_tokenizer, recorded, variants
from safetensors.torch import load_file, save_file
from torch import Tensor

from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.cli.main import execute
from memfold.core.errors import CheckpointError
from memfold.core.policy import Request
from memfold.core.registry import make_system
from memfold.core.system import Rendered
from memfold.core.types import Block, BlockRef, Call, Generate, Memory, Part, Reply, SamplingParams, Text
from memfold.memory import open_memory
from memfold.systems.kvbank.blocks import from_slots, shape_of
from memfold.systems.kvbank.compressor import compress_chunks
from memfold.systems.kvbank.lychee import PROJECTION
from memfold.systems.kvbank.rotation import rotation_of
from memfold.systems.kvbank.settings import HEAD
from memfold.systems.kvbank.system import Kvbank

PADDING = 258
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
FOLDERS = [pytest.param(path, id=path.name) for path in variants("lychee")]


def install(source: Path, folder: Path) -> Path:
    """A model folder as it is published: with a tokenizer."""
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(source / name, folder / name)
    tokenizer = byte_tokenizer(("<|im_start|>", "<|im_end|>", "<|endoftext|>"), "<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def configure(folder: Path, **options: Any) -> None:
    """Change options of memory tokens in a configuration; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | {
        f"lychee_memory_{name}": value for name, value in options.items()
    }
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )


def changed(folder: Path, **options: Any) -> Path:
    """A model folder whose configuration has other options of memory tokens."""
    configure(install(variants("lychee")[0], folder), **options)
    return folder


@pytest.fixture(scope="module", params=FOLDERS)
def original(request: pytest.FixtureRequest) -> Path:
    """The recorded cases of a variant."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def lychee(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(install(original, tmp_path_factory.mktemp("lychee") / "model"))


def kvbank(backbone: Backbone, **settings: Any) -> Kvbank:
    system = make_system("kvbank", backbone, settings)
    assert isinstance(system, Kvbank)
    return system


def compressed(backbone: Backbone, tokens: list[int], system: Kvbank) -> Tensor:
    with torch.no_grad():
        return compress_chunks(backbone, [tokens], (), system.fold, rotation_of(backbone))[0]


def rendered(backbone: Backbone, system: Kvbank, slots: Tensor | None, prompt: list[int], padding: int = 0) -> Rendered:
    """A prompt after a block; `padding` is the number of ignored tokens before it, which count as positions."""
    blocks = [] if slots is None else [Block(0, 0, 0, len(slots), 0, 1, slots=slots, text="a")]
    memory = Memory("m", "kvbank", {}, "", ("m",), blocks)
    parts: tuple[Part, ...] = (*(BlockRef("m", block.index) for block in blocks), Text(tokens=tuple(prompt)))
    call = system.render(memory, Call("answer", parts, Generate(SamplingParams(max_tokens=12))), backbone)
    return replace(call, positions=[position + padding for position in call.positions])


@torch.no_grad()
def greedy(
    backbone: Backbone, call: Rendered, end: int | None = None, most: int = 12
) -> tuple[Tensor, list[int], Tensor]:
    """The logits of a prompt, then greedy tokens and the logits they come from, one forward pass for each."""
    tokens, logits = list(call.tokens), list[Tensor]()
    prompt = torch.empty(0)
    for step in range(most):
        positions = torch.arange(call.positions[0], call.positions[0] + len(tokens))[None]
        prefixes = [call.prefix] if call.prefix is not None else []
        states = backbone.hidden(torch.tensor([tokens]), positions, None, prefixes)
        every = backbone.logits(states)[0]
        prompt = every if step == 0 else prompt
        logits.append(every[-1])
        tokens.append(int(every[-1].argmax()))
        if tokens[-1] == end:
            break
    return prompt, tokens[len(call.tokens) :], torch.stack(logits)


def test_the_record_of_the_weights(lychee: Backbone, original: Path) -> None:
    config = json.loads((original / "config.json").read_text())
    system = kvbank(lychee)
    assert (system.fold.ratio, system.fold.window, system.fold.chunk) == (4, 32, 64)
    assert (system.fold.positions, system.fold.opening, system.fold.adapters) == ("unrotated", False, False)
    assert (system.read.gate, system.read.note) == ("open", 128)  # of a window of 1,024 tokens; 1,024 of 8,192 or more
    assert list(lychee.heads[HEAD].own) == config["lychee_memory_param"]  # type: ignore[arg-type,union-attr]


def test_blocks_are_those_of_the_program(lychee: Backbone, original: Path) -> None:
    cases, tensors = recorded(original, "compress")
    for case in cases:
        name = case["name"]
        system = kvbank(lychee, ratio=case["ratio"], ratios=[case["ratio"]], window=case["window"])
        for row, length in enumerate(case["text_lengths"]):
            tokens = tensors[f"{name}.text_ids"][row, :length].tolist()
            layers = from_slots(compressed(lychee, tokens, system), shape_of(lychee))
            count = int(tensors[f"{name}.kv_mask"][row].sum())
            assert layers[0][0].shape[1] == count == -(-length // case["ratio"])
            kept = min(count, tensors[f"{name}.K"].shape[3])  # an unpadded tail is dropped by the program
            for layer, (keys, values) in enumerate(layers):
                for ours, letter in ((keys, "K"), (values, "V")):
                    theirs = tensors[f"{name}.{letter}"][layer, row, :, :kept]
                    torch.testing.assert_close(ours[:, :kept], theirs, atol=CLOSE, rtol=0)


def test_prompts_after_a_block_have_the_logits_of_the_program(lychee: Backbone, original: Path) -> None:
    cases, tensors = recorded(original, "read")
    memories = {case["name"]: case for case in recorded(original, "compress")[0]}
    texts = recorded(original, "compress")[1]
    for case in cases:
        about = memories.get(case["memory_case"])
        for row, ids in enumerate(case["prompt_ids"]):
            padding = case["prompt_mask"][row].count(0)
            slots, system = None, kvbank(lychee)
            if about is not None:
                ratio = about["ratio"]
                chunk = case["memory_slots"] * ratio
                system = kvbank(lychee, ratio=ratio, ratios=[ratio], window=about["window"], chunk=chunk)
                text = texts[f"{about['name']}.text_ids"][row, : about["text_lengths"][row]].tolist()
                slots = compressed(lychee, text, system)
            call = rendered(lychee, system, slots, ids[padding:], padding)
            assert call.positions[0] == case["memory_slots"] + padding
            logits, tokens, steps = greedy(lychee, call)
            name = case["name"]
            torch.testing.assert_close(logits, tensors[f"{name}.logits"][row, padding:], atol=CLOSE_LOGITS, rtol=0)
            torch.testing.assert_close(steps, tensors[f"{name}.step_logits"][row], atol=CLOSE_LOGITS, rtol=0)
            assert tokens == case["greedy_ids"][row]


def test_the_loop_writes_the_notes_of_the_program(lychee: Backbone, original: Path) -> None:
    """Turn by turn: the block of the chunk, the prompt of question and note, and what is written."""
    cases, tensors = recorded(original, "loop")
    for case in cases:
        notes = [list(case["memory_init_ids"]) for _ in case["text_lengths"]]
        for turn in case["turns"]:
            if turn["kind"] != "update" and case["name"] == "final_prompt_longer_than_window":
                continue  # the program loses most of such a prompt
            _check_turn(lychee, case, turn, notes, tensors)


def _check_turn(
    backbone: Backbone, case: dict[str, Any], turn: dict[str, Any], notes: list[list[int]], tensors: dict[str, Tensor]
) -> None:
    system = kvbank(backbone, chunk=case["stream_chunk_size"])
    update = turn["kind"] == "update"
    sections = case["update_template_sections" if update else "final_template_sections"]
    start = turn["turn"] * case["stream_chunk_size"]
    rows = [row for row, length in enumerate(case["text_lengths"]) if not update or start < length]
    for place, row in enumerate(rows):
        question = zip(case["question_ids"][row], case["question_mask"][row], strict=True)
        parts = {"<prompt>": [token for token, real in question if real], "<memory>": notes[row]}
        prompt = [token for part in sections for token in (parts[part] if isinstance(part, str) else part)]
        padding = len(turn["prompt_ids"][place]) - len(prompt)
        assert turn["prompt_ids"][place] == [PADDING] * padding + prompt
        text = tensors[f"{case['name']}.text_ids"][row, : case["text_lengths"][row]].tolist()
        chunk = text[start : start + case["stream_chunk_size"]]
        call = rendered(backbone, system, compressed(backbone, chunk, system) if update else None, prompt, padding)
        most = case["memory_size"] if update else case["max_new_tokens"]
        _, tokens, steps = greedy(backbone, call, case["eos_token_id"], most)
        theirs = tensors[f"{case['name']}.turn{turn['turn']}.step_logits"][place, : len(tokens)]
        torch.testing.assert_close(steps, theirs, atol=CLOSE_LOGITS, rtol=0)
        written = [token for token in tokens if token != case["eos_token_id"]]
        assert written == [token for token in turn["generated_ids_raw"][place] if token != PADDING]
        notes[row] = written if update else notes[row]


def test_the_policy_decodes_the_same_tokens(lychee: Backbone, original: Path) -> None:
    case = next(case for case in recorded(original, "read")[0] if case["name"] == "w64_p9")
    texts = recorded(original, "compress")[1]
    system = kvbank(lychee)
    slots = compressed(lychee, texts["w64.text_ids"][0].tolist(), system)
    memory = Memory("m", "kvbank", {}, "", ("m",), [Block(0, 0, 0, 64, 0, 1, slots=slots, text="a")])
    parts = (BlockRef("m", 0), Text(tokens=tuple(case["prompt_ids"][0])))
    call = Call("answer", parts, Generate(SamplingParams(max_tokens=12)))
    execution, replies = LocalPolicy(lychee).start(), list[Any]()
    execution.submit(Request(system, memory, call))
    while not replies:
        replies = execution.step()
    assert isinstance(replies[0][1], Reply)
    assert list(replies[0][1].tokens) == case["greedy_ids"][0]


def test_a_saved_model_folder_is_the_same_model(lychee: Backbone, original: Path, tmp_path: Path) -> None:
    save_backbone(lychee, tmp_path / "saved")
    again = load_backbone(tmp_path / "saved")
    tokens = recorded(original, "compress")[1]["w64.text_ids"][0].tolist()
    assert torch.equal(compressed(again, tokens, kvbank(again)), compressed(lychee, tokens, kvbank(lychee)))


def test_parts_that_a_folder_lacks_begin_as_the_models_own(tmp_path: Path) -> None:
    """The embedding of the end token, and the projections of the model where a layer has none."""
    folder = install(variants("lychee")[0], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del (
        weights["model.lychee_memory_embed_tokens.weight"],
        weights["model.layers.1.self_attn.lychee_memory_v_proj.bias"],
    )
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    head: Any = load_backbone(folder).heads[HEAD]
    assert torch.equal(head.token, weights["model.embed_tokens.weight"][257])
    assert torch.equal(head.own["v"][2].weight, weights["model.layers.2.self_attn.v_proj.weight"])
    assert torch.equal(head.own["q"][2].weight, weights["model.layers.2.self_attn.lychee_memory_q_proj.weight"])


@pytest.mark.parametrize("letters", ["", "qkv"])
def test_letters_that_weights_do_not_have_are_projected_as_text_is(tmp_path: Path, letters: str) -> None:
    """Such weights compress and read like those whose projections of these letters are copies of the model's."""
    without, copies = (changed(tmp_path / name) for name in ("without", "copies"))
    weights = load_file(without / "model.safetensors")
    lacking = {name for name in weights if (found := PROJECTION.fullmatch(name)) and found[2] not in letters}
    configure(without, param=list(letters))
    save_file({name: weight for name, weight in weights.items() if name not in lacking}, without / "model.safetensors")
    copied = {name: weights[name.replace("lychee_memory_", "")].clone() for name in lacking}
    save_file(weights | copied, copies / "model.safetensors")
    models = [load_backbone(folder) for folder in (without, copies)]
    tokens, prompt = list(range(50)), list(b"Who?")
    slots = [compressed(model, tokens, kvbank(model)) for model in models]
    torch.testing.assert_close(slots[0], slots[1], atol=1e-6, rtol=1e-5)
    (own, _, _), (copy, _, _) = (
        greedy(model, rendered(model, kvbank(model), each, prompt)) for model, each in zip(models, slots, strict=True)
    )
    torch.testing.assert_close(own, copy, atol=1e-5, rtol=1e-5)
    shipped = compressed(load_backbone(changed(tmp_path / "all")), tokens, kvbank(models[0]))
    assert not torch.allclose(slots[0], shipped, atol=1e-2)


def test_a_configuration_without_a_window_has_that_of_the_program(tmp_path: Path) -> None:
    folder = changed(tmp_path / "model", window=None, stride=None, ratio=[2, 4, 8])
    fold = kvbank(load_backbone(folder)).fold
    assert (fold.window, fold.chunk, fold.ratio) == (1024, 2048, 4)


def test_a_memory_token_can_begin_as_the_beginning_token(tmp_path: Path) -> None:
    folder = changed(tmp_path / "model", embed_init="bos")
    weights = load_file(folder / "model.safetensors")
    del weights["model.lychee_memory_embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"bos_token_id = None in its configuration, .*download all of its files"):
        load_backbone(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 256}))
    head: Any = load_backbone(folder).heads[HEAD]
    assert torch.equal(head.token, weights["model.embed_tokens.weight"][256])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("attn", "segmentation", "lychee_memory_attn = 'segmentation'; only 'full-coverage' is supported"),
        ("sink_size", 4, "lychee_memory_sink_size = 4; only 0"),
        ("stride", 16, "lychee_memory_stride = 16 and lychee_memory_window = 32; windows that overlap"),
        ("attend_prev", False, "lychee_memory_attend_prev = False; only True"),
        ("param", ["q", "k"], "weights that its configuration does not name: .*'o', 'v'"),
        ("param", "qx", "lychee_memory_param = 'qx'; only a list of q, k, v, o"),
        ("ratio", [4, 0], r"lychee_memory_ratio = \[4, 0\]; only whole numbers above 0"),
        ("window", "32", "lychee_memory_window = '32'; only whole numbers above 0"),
    ],
)
def test_options_that_are_computed_otherwise_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    folder = changed(tmp_path / "model", **{name: value})
    with pytest.raises(CheckpointError, match=message):
        load_backbone(folder)


def test_a_text_is_folded_and_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands that real weights need, on the small ones: a memory of blocks, and an answer that cites the text."""
    folder = install(variants("lychee")[0], tmp_path / "model")
    (tmp_path / "a.txt").write_text("Ada was born in Velm. The mill of Tor stands by the river. " * 2)
    model = ["--model", str(folder)]
    assert execute(["fold", str(tmp_path / "a.txt"), "-o", str(tmp_path / "a.fold"), "--system", "kvbank", *model]) == 0
    assert execute(["inspect", str(tmp_path / "a.fold")]) == 0
    assert "kvbank" in capsys.readouterr().out
    asked = ["ask", str(tmp_path / "a.fold"), "Where was Ada born?", "--json", "--max-tokens", "8", *model]
    assert execute(asked) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["answer"]
    assert answer["citations"][0]["text"] == "Ada was born in Velm."


def test_a_memory_of_other_windows_is_read_as_it_was_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The release sets window and chunk when it runs, whatever its configuration says."""
    folder = changed(tmp_path / "model")
    (tmp_path / "a.txt").write_text("Ada was born in Velm. The mill of Tor stands by the river. " * 2)
    model, memory = ["--model", str(folder)], str(tmp_path / "a.fold")
    assert (
        execute(["fold", str(tmp_path / "a.txt"), "-o", memory, "--set", "window=16", "--set", "chunk=48", *model]) == 0
    )
    assert [block.token_count for block in open_memory(memory).blocks] == [48, 48, 22]
    capsys.readouterr()
    assert execute(["ask", memory, "Where was Ada born?", "--json", "--max-tokens", "8", *model]) == 0
    assert json.loads(capsys.readouterr().out)["answer"]
    assert execute(["fold", str(tmp_path / "a.txt"), "-o", memory, "--set", "window=6", *model]) == 2
    assert (
        "window = 6 is not possible; allowed: 0 (the whole chunk) or a multiple of the ratio 4"
        in capsys.readouterr().err
    )
