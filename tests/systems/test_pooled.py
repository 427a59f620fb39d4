from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.document import Document
from memfold.core.errors import CheckpointError, ConfigError, DataError
from memfold.core.job import Job
from memfold.core.prompt import user_message
from memfold.core.scheduler import answer
from memfold.core.system import SLOT, Rendered
from memfold.core.types import Block, BlockRef, Call, Memory, Sample, SamplingParams, Text
from memfold.memory import open_memory, save_memory
from memfold.readers.files import open_document
from memfold.session import make_system, open_session, session_for
from memfold.systems.pooled import encoder
from memfold.systems.pooled.encoder import Window, encode_windows, fixed_windows
from memfold.systems.pooled.head import HEAD, add_head
from memfold.systems.pooled.learning import END, START
from memfold.systems.pooled.settings import PAPER, PooledFold, PooledRead
from memfold.systems.pooled.system import Pooled

LONG = "Ada Brisk was born in Velm in 1893. She wrote the Long Ledger in a house on the river Tarn. " * 4
SHORT = "The code of the vault is KX-41."
MIDDLE = "Lor Tavenlor is a baker. " * 5
GROUPS: dict[str, Any] = {"window": 0, "mask": "causal"}  # each group alone, as the paper has it
ALONE = PooledFold(**GROUPS, ratio=4)
SMALL = PooledFold(**GROUPS, ratio=4, chunk=16)


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


def groups_of(backbone: Backbone, text: str, ratio: int) -> list[Window]:
    """Windows of one group each."""
    return fixed_windows(backbone.encode(text), ratio, ratio)


@torch.no_grad()
def fold(system: Pooled, backbone: Backbone, *texts: str) -> list[Block]:
    documents = [Document(f"{number}.txt", text) for number, text in enumerate(texts)]
    return list(system.compress(documents, backbone))


def slots_of(blocks: Sequence[Block], source: int = 0) -> Tensor:
    return torch.cat([block.slots for block in blocks if block.source == source and block.slots is not None])


# The encoder.


@torch.no_grad()
def test_a_slot_is_the_projected_mean_of_its_own_tokens_states(any_backbone: Backbone) -> None:
    groups = groups_of(any_backbone, LONG, 4)
    assert len(groups[-1].tokens) < 4
    slots = encode_windows(any_backbone, groups, ALONE)
    for group, slot in zip(groups, slots, strict=True):
        hidden = any_backbone.model.base_model(torch.tensor([group.tokens])).last_hidden_state[0]
        assert_close(slot, any_backbone.heads[HEAD](hidden.mean(0)))


@torch.no_grad()
def test_padding_and_the_order_of_groups_change_nothing(any_backbone: Backbone) -> None:
    groups = groups_of(any_backbone, LONG, 4)
    slots = encode_windows(any_backbone, groups, ALONE)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(1)).tolist()
    assert_close(encode_windows(any_backbone, [groups[index] for index in order], ALONE), slots[order])
    assert_close(encode_windows(any_backbone, groups, PooledFold(**GROUPS, ratio=16)), slots)
    apart = [
        encode_windows(any_backbone, [group], PooledFold(**GROUPS, ratio=size, chunk=size))
        for group in groups
        for size in group.groups
    ]
    assert_close(torch.cat(apart), slots)


@torch.no_grad()
def test_at_ratio_one_with_the_identity_a_slot_is_the_final_hidden_state(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    del backbone.heads[HEAD]
    add_head(backbone)
    tokens = backbone.encode(SHORT)
    (block,) = fold(Pooled(PooledFold(**GROUPS, ratio=1)), backbone, SHORT)
    hidden = backbone.model.base_model(torch.tensor(tokens)[:, None]).last_hidden_state[:, 0]
    assert block.slots is not None
    assert_close(block.slots, hidden)
    assert block.slot_count == len(tokens)


def test_a_head_is_added_once_and_begins_as_the_identity(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    before = backbone.heads[HEAD]
    add_head(backbone)
    assert backbone.heads[HEAD] is before
    del backbone.heads[HEAD]
    add_head(backbone)
    assert torch.equal(dict(backbone.parameters())["heads.pooled.weight"], torch.eye(32))


def test_groups_start_every_ratio_tokens() -> None:
    assert [len(group.tokens) for group in fixed_windows(range(10), 4, 4)] == [4, 4, 2]
    assert fixed_windows(range(8), 8, 4) == [Window(range(8), [4, 4])]
    assert fixed_windows([], 4, 4) == []


# Folding.


@torch.no_grad()
@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_a_batch_of_documents_equals_each_alone(
    any_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, batch_tokens: int
) -> None:
    system, texts = Pooled(SMALL), (SHORT, LONG, MIDDLE)
    alone = [fold(system, any_backbone, text) for text in texts]
    monkeypatch.setattr("memfold.systems.pooled.system.BATCH_TOKENS", batch_tokens)
    together = fold(system, any_backbone, *texts)
    assert [(block.source, block.index) for block in together] == [
        (source, block.index) for source, blocks in enumerate(alone) for block in blocks
    ]
    for block, single in zip(together, [block for blocks in alone for block in blocks], strict=True):
        assert (block.token_start, block.token_end) == (single.token_start, single.token_end)
        assert (block.char_start, block.char_end, block.text) == (single.char_start, single.char_end, single.text)
        assert block.slots is not None
        assert single.slots is not None
        assert_close(block.slots, single.slots)


def test_documents_share_forward_passes_within_the_bound(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(model: Backbone, windows: Sequence[Window], settings: PooledFold) -> Tensor:
        sizes.append(sum(len(window.tokens) for window in windows))
        return encode_windows(model, windows, settings)

    monkeypatch.setattr(encoder, "encode_windows", counted)
    monkeypatch.setattr("memfold.systems.pooled.system.BATCH_TOKENS", 64)
    fold(Pooled(SMALL), backbone, SHORT, LONG, MIDDLE)
    assert max(sizes) <= 64
    assert sum(sizes) == sum(len(backbone.encode(text)) for text in (SHORT, LONG, MIDDLE))
    assert len(sizes) <= -(-sum(sizes) // 48), "passes are filled"


def test_short_passes_without_gradient_equal_one_with(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = groups_of(backbone, LONG, 4)
    whole = encode_windows(backbone, groups, ALONE)
    sizes: list[int] = []
    hidden = backbone.hidden

    def counted(embeddings: Tensor, *others: Any) -> Tensor:
        sizes.append(len(embeddings))
        return hidden(embeddings, *others)

    monkeypatch.setattr(backbone, "hidden", counted)
    monkeypatch.setattr(encoder, "CPU_TOKENS", 12)
    with torch.no_grad():
        assert_close(encode_windows(backbone, groups, ALONE), whole)
    assert max(sizes) == 3
    assert sum(sizes) == len(groups)


@pytest.mark.parametrize("chunk", [4, 16, 64])
def test_folding_in_pieces_equals_folding_at_once(any_backbone: Backbone, chunk: int) -> None:
    (whole,) = fold(Pooled(ALONE), any_backbone, LONG)
    pieces = fold(Pooled(replace(ALONE, chunk=chunk)), any_backbone, LONG)
    assert len(pieces) == -(-whole.token_count // chunk)
    assert_close(slots_of(pieces), slots_of([whole]))
    assert [block.slot_count for block in pieces[:-1]] == [chunk // 4] * (len(pieces) - 1)
    assert sum(block.slot_count for block in pieces) == whole.slot_count == -(-whole.token_count // 4)
    assert "".join(block.text or "" for block in pieces) == LONG
    assert (pieces[0].char_start, pieces[-1].char_end, pieces[-1].token_end) == (0, len(LONG), whole.token_end)


@torch.no_grad()
def test_a_file_a_string_and_its_tokens_give_the_same_slots(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(LONG)
    system, tokens = Pooled(replace(ALONE, chunk=32)), tuple(backbone.encode(LONG))
    from_text = fold(system, backbone, LONG)
    from_file = list(system.compress([open_document(path)], backbone))
    from_tokens = list(system.compress([Document("a", tokens=tokens)], backbone))
    assert torch.equal(slots_of(from_file), slots_of(from_text))
    assert torch.equal(slots_of(from_tokens), slots_of(from_text))


def test_folding_reads_no_further_than_it_has_to(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfold.systems.pooled.system.BATCH_TOKENS", 32)
    read: list[int] = []

    class Watched(Document):
        def pieces(self) -> Any:
            for number in range(50):
                read.append(number)
                yield MIDDLE

    blocks = Pooled(SMALL).compress([Watched("a", MIDDLE)], backbone)
    next(blocks)
    assert len(read) <= 2


def test_slots_have_a_gradient_where_autograd_is_on(backbone: Backbone) -> None:
    document = Document("a", SHORT)
    (block,) = Pooled().compress([document], backbone)
    assert block.slots is not None
    assert block.slots.requires_grad
    with torch.no_grad():
        (constant,) = Pooled().compress([document], backbone)
    assert constant.slots is not None
    assert not constant.slots.requires_grad


# Positions, by hand: two blocks of 8 and 6 tokens at ratio 4, so the last slot stands for two tokens.
# The text before is the one token that begins a sequence; one token of question follows.

CONSECUTIVE, STRIDED = "consecutive", "strided"
BY_HAND = {
    (CONSECUTIVE, "none"): "e0 s1 s2 s3 s4 q5",
    (CONSECUTIVE, "span"): "e0 [1 s2 s3 s4 s5 ]6 q7",
    (CONSECUTIVE, "slot"): "e0 [1 s2 ]3 [4 s5 ]6 [7 s8 ]9 [10 s11 ]12 q13",
    (STRIDED, "none"): "e0 s1 s5 s9 s13 q15",
    (STRIDED, "span"): "e0 [1 s2 s6 s10 s14 ]16 q17",
    (STRIDED, "slot"): "e0 [1 s2 ]3 [5 s6 ]7 [9 s10 ]11 [13 s14 ]15 q16",
}


def two_blocks() -> Memory:
    slots = torch.arange(4.0)[:, None].expand(4, 32)
    blocks = [
        Block(0, 0, 0, 8, 0, 0, slots[:2], "x"),
        Block(1, 0, 8, 14, 0, 0, slots[2:], "y"),
    ]
    return Memory("m", "pooled", {}, "", ("a",), blocks)


def drawn(rendered: Rendered, backbone: Backbone) -> str:
    """A rendered call as words: e the end token, [ and ] the wrappers, s a slot, q anything else; then the position."""
    names = {backbone.end_token: "e", backbone.token_id(START): "[", backbone.token_id(END): "]", SLOT: "s"}
    pairs = zip(rendered.tokens, rendered.positions, strict=True)
    return " ".join(f"{names.get(token, 'q')}{position}" for token, position in pairs)


def call(*references: int) -> Call:
    return Call("answer", (Text(""), *(BlockRef("m", index) for index in references), Text("?")))


@pytest.mark.parametrize(("rule", "wrapper"), BY_HAND)
def test_positions_by_hand(backbone: Backbone, rule: str, wrapper: str) -> None:
    system = Pooled.of({**GROUPS, "ratio": 4, "chunk": 8, "wrapper": wrapper, "positions": rule})
    rendered = system.render(two_blocks(), call(0, 1), backbone)
    assert drawn(rendered, backbone) == BY_HAND[rule, wrapper]
    assert rendered.slots is not None
    assert rendered.slots[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert rendered.memory_positions == len(rendered.tokens) - 2
    assert sum(rendered.lengths) == len(rendered.tokens)
    assert len(rendered.lengths) == 4


def test_positions_of_a_wrapper_wider_than_its_group(backbone: Backbone) -> None:
    """At ratio 1 three positions for each token do not fit its stride: the slots move on, and nothing overlaps."""
    slots = torch.zeros(2, 32)
    memory = Memory("m", "pooled", {}, "", ("a",), [Block(0, 0, 0, 2, 0, 0, slots, "x")])
    system = Pooled(PooledFold(ratio=1, wrapper="slot", positions="strided"))
    assert drawn(system.render(memory, call(0), backbone), backbone) == "e0 [1 s2 ]3 [4 s5 ]6 q7"


def test_some_blocks_in_any_order(backbone: Backbone) -> None:
    system = Pooled(replace(ALONE, chunk=8))
    rendered = system.render(two_blocks(), call(1, 0), backbone)
    assert drawn(rendered, backbone) == "e0 [1 s2 s6 s8 s12 ]16 q17"
    assert rendered.slots is not None
    assert rendered.slots[:, 0].tolist() == [2.0, 3.0, 0.0, 1.0]
    assert drawn(system.render(two_blocks(), call(1), backbone), backbone) == "e0 [1 s2 s6 ]8 q9"
    assert drawn(system.render(two_blocks(), call(), backbone), backbone) == "e0 q1"


def test_a_gap_leaves_positions_empty_after_the_memory(backbone: Backbone) -> None:
    rendered = Pooled(replace(ALONE, chunk=8), PooledRead(gap=100)).render(two_blocks(), call(0, 1), backbone)
    assert drawn(rendered, backbone) == "e0 [1 s2 s6 s10 s14 ]16 q117"
    assert rendered.memory_positions == 6


def test_bridge_tokens_are_laid_down_as_they_are(backbone: Backbone) -> None:
    bridge = tuple(backbone.encode(" Velm"))
    with_bridge = Call("answer", (Text(""), BlockRef("m", 0), Text(tokens=bridge)))
    rendered = Pooled(replace(ALONE, chunk=8)).render(two_blocks(), with_bridge, backbone)
    assert rendered.tokens[-len(bridge) :] == list(bridge)


# Ratios.


@pytest.mark.parametrize(
    ("wrapper", "tokens", "expected"),
    [
        ("slot", 64, 64 / 12),
        ("span", 64, 64 / 6),
        ("none", 64, 16.0),
        ("slot", 65, 65 / 15),
        ("span", 65, 65 / 7),
        ("none", 65, 13.0),
    ],
)
def test_the_effective_ratio_by_hand(backbone: Backbone, wrapper: Any, tokens: int, expected: float) -> None:
    system = Pooled(PooledFold(**GROUPS, ratio=16, wrapper=wrapper, chunk=32))
    assert system.effective_ratio(tokens) == pytest.approx(expected)
    ids = tuple(backbone.encode(LONG)[:tokens])
    with torch.no_grad():
        blocks = list(system.compress([Document("a", tokens=ids)], backbone))
    memory = Memory("m", "pooled", system.settings, "", ("a",), blocks)
    trace = answer(Job(system, memory, "Who?"), LocalPolicy(backbone))
    assert trace.failure is None
    assert trace.cost.effective_ratio == pytest.approx(expected)
    assert trace.cost.positions == system.render(memory, trace.steps[0].call, backbone).memory_positions
    assert (trace.cost.document_tokens, trace.cost.slots) == (tokens, -(-tokens // 16))


def test_the_preset_of_the_paper() -> None:
    settings = (PAPER.ratio, PAPER.window, PAPER.mask, PAPER.wrapper, PAPER.positions, PAPER.chunk)
    assert settings == (16, 0, "causal", "slot", "consecutive", 4096)
    assert (PAPER.pooling, PAPER.projection) == ("mean", "linear")
    published = Pooled.published()
    assert (published.fold, published.read.gap) == (PAPER, 0)
    assert published.effective_ratio(4096) == pytest.approx(16 / 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0}, "ratio = 0 is not possible; allowed: 1 to 1024"),
        ({**GROUPS, "chunk": 40}, "chunk = 40 is not possible; allowed: a multiple of the ratio"),
        ({"chunk": 48}, "chunk = 48 is not possible; allowed: a multiple of the window"),
        ({"ratio": 24}, "window = 64 is not possible; allowed: 0 (one group) or a multiple of the ratio 24"),
        ({"wrapper": "box"}, "unknown wrapper 'box'; known: none, slot, span"),
        ({"window": 24}, "window = 24 is not possible; allowed: 0 (one group) or a multiple of the"),
        ({"window": 2048}, "window = 2048 is not possible"),
        ({"window": 48}, "chunk = 4096 is not possible; allowed: a multiple of the window"),
        ({"mask": "both"}, "unknown mask 'both'; known: bidirectional, causal"),
        ({"pooling": "max"}, "unknown pooling 'max'; known: gqa, mean"),
        ({"projection": "cubic"}, "unknown projection 'cubic'; known: linear, mlp"),
        ({"draw": -1}, "draw = -1 is not possible"),
        ({"positions": "random"}, "unknown positions 'random'; nearest: 'randomised'"),
        ({"ratoi": 4}, "unknown pooled setting 'ratoi'; nearest: 'ratio'; known: "),
        ({"ratio": [4, 8]}, "ratio = [4, 8] is not possible; allowed: an integer"),
        ({"ratios": []}, "ratios = () is not possible; allowed: one or more positive numbers"),
        ({"ratios": [4, 0]}, "ratios = (4, 0) is not possible; allowed: one or more positive numbers"),
        ({"max_gap": -1}, "max_gap = -1 is not possible"),
        ({"gap": -1}, "gap = -1 is not possible"),
        ({"unfold": -1}, "unfold = -1 is not possible; allowed: 0 (off) or more tokens"),
        ({"ratio": 4.0}, "ratio = 4.0 is not possible; allowed: an integer"),
        ({"cite": "guess"}, "unknown cite 'guess'; known: attention, recall"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Pooled.of(settings)
    assert str(raised.value).startswith(message)


def test_settings_make_the_same_system_again() -> None:
    fold = PooledFold(ratio=8, wrapper="none", positions="consecutive", chunk=64)
    system = Pooled(fold, PooledRead(chat_template="chatml", style="bare", cite="attention"))
    again = Pooled.of(system.settings)
    assert (again.fold, again.read, again.settings) == (system.fold, system.read, system.settings)


# Memories and models that do not fit.


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"slots": torch.zeros(2, 32)}, "has 2 slots for the 9 tokens of block 0, ratio 4 gives 3; fold it again"),
        ({"slots": torch.zeros(4, 32)}, "has 4 slots for the 9 tokens of block 0, ratio 4 gives 3"),
        ({"slots": None}, "has 0 slots for the 9 tokens of block 0, ratio 4 gives 3"),
        ({"token_end": 8}, "has 3 slots for the 8 tokens of block 0, ratio 4 gives 2"),
        ({"token_start": 5}, "has 3 slots for the 4 tokens of block 0, ratio 4 gives 1"),
    ],
)
def test_a_memory_with_other_slots_than_its_tokens_make_is_refused(change: dict[str, Any], problem: str) -> None:
    block = Block(0, 0, 0, 9, 0, 0, torch.zeros(3, 32))
    memory = Memory("m", "pooled", {}, "", ("a",), [block, Block(1, 0, 9, 13, 0, 0, torch.zeros(1, 32))])
    Pooled(ALONE).check_memory(memory)
    memory.blocks[0] = replace(block, **change)
    with pytest.raises(DataError, match=f"memory 'm' {problem}"):
        Pooled(ALONE).check_memory(memory)


def test_a_memory_is_checked_at_the_ratio_of_its_reader() -> None:
    memory = two_blocks()
    Pooled(ALONE).check_memory(memory)
    with pytest.raises(DataError, match="has 2 slots for the 8 tokens of block 0, ratio 8 gives 1"):
        Pooled(replace(ALONE, ratio=8)).check_memory(memory)


@torch.no_grad()
def test_an_opened_memory_is_checked_before_it_is_asked(tmp_path: Path) -> None:
    """A file holds any number of slots for each block; the session of a memory asks the system."""
    path, document = tmp_path / "a.fold", Document("a.txt", SHORT * 3)
    session = open_session()
    blocks = list(session.system.compress([document], session.model))
    memory = Memory(
        name="",
        system="pooled",
        settings=session.settings,
        fingerprint=session.model.readable[0],
        sources=("a.txt",),
        blocks=blocks,
        sha256=(document.sha256(),),
    )
    save_memory(memory, path)
    assert session_for(open_memory(path)).system.settings == session.system.settings
    (block,) = blocks
    assert block.slots is not None
    assert block.slot_tokens is not None
    memory.blocks = [replace(block, slots=block.slots[:-1], slot_tokens=block.slot_tokens[:-1])]
    save_memory(memory, path)
    with pytest.raises(DataError, match=rf"{block.slot_count - 1} slots and {block.token_count} tokens of block 0"):
        session_for(open_memory(path))
    fixed = make_system("pooled", session.model).changed(groups="fixed")
    with torch.no_grad():
        (block,) = fixed.compress([document], session.model)
    assert block.slots is not None
    memory.blocks = [replace(block, slots=block.slots[:-1])]
    memory.settings = session.settings | fixed.settings
    with pytest.raises(DataError, match=rf"has {block.slot_count - 1} slots for the {block.token_count} tokens of"):
        fixed.check_memory(memory)


def test_a_model_without_a_projection_is_refused(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone()
    del backbone.heads[HEAD]
    with pytest.raises(CheckpointError, match="model 'qwen3' has no projection for pooled memory"):
        fold(Pooled(), backbone, SHORT)


def test_a_projection_of_another_size_is_refused(new_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    backbone = new_backbone()
    backbone.heads[HEAD] = nn.Linear(16, 16, bias=False)
    save_backbone(backbone, tmp_path)
    with pytest.raises(CheckpointError, match="has a projection from size 16 to 16, but needs one from 32 to 32"):
        fold(Pooled(), load_backbone(tmp_path), SHORT)


def test_a_tokenizer_without_the_wrappers_is_refused(
    new_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = new_backbone()
    memory = Memory("m", "pooled", {}, "", ("a",), fold(Pooled(PooledFold(ratio=4)), backbone, SHORT))
    ids = backbone.tokenizer.get_vocab()
    monkeypatch.setattr(
        backbone.tokenizer, "convert_tokens_to_ids", lambda token: None if "MEM" in token else ids[token]
    )
    with pytest.raises(CheckpointError, match="model 'qwen3' has no token '<MEM_START>'"):
        Pooled(PooledFold(ratio=4)).render(memory, call(0), backbone)
    Pooled(PooledFold(ratio=4, wrapper="none")).render(memory, call(0), backbone)


# Scripts.


def test_a_script_is_the_call_of_a_question_with_its_reply(backbone: Backbone) -> None:
    system, support = Pooled(SMALL), ("The code is KX-41.",)
    sample = Sample("almanac", Document("a", SHORT), "Code?", ("KX-41", "KX 41"), support=support)
    blocks = len(fold(system, backbone, SHORT))
    assert blocks > 1
    read = [BlockRef("a", index) for index in range(blocks)]
    for style, cue, text in [
        ("bare", "\nCode?\nAnswer:", " KX-41"),
        ("recall", "\nCode?\nRecall:", r" The code is KX-41. \boxed{KX-41}"),
        ("free", "\nCode?\nRecall?", r" The code is KX-41. \boxed{KX-41}"),
    ]:
        trace = system.script(sample, backbone, style)  # type: ignore[arg-type]
        (step,) = trace.steps
        assert step.call == Call("answer", user_message(*read, Text(cue)))
        assert step.reply.tokens == (*backbone.encode(text), backbone.end_token)
        assert (trace.question, trace.system, trace.settings) == ("Code?", "pooled", system.settings)


def test_a_script_without_answers_keeps_its_tokens(backbone: Backbone) -> None:
    system, target, bridge = Pooled(PooledFold(ratio=4)), (5, 6, 7), (8, 9)
    document = Document("a", tokens=(1, 2, 3, 4))
    for task, reply in [("continuation", (*target, backbone.end_token)), ("cued", target)]:
        sample = Sample(task, document, "Go on.", target=target, bridge=bridge)
        (step,) = system.script(sample, backbone, "bare").steps
        message = user_message(BlockRef("a", 0), Text("\nGo on.\n"))
        assert step.call == Call("answer", (*message, Text(tokens=bridge)))
        assert step.reply.tokens == reply


def test_a_scripted_call_is_the_one_that_answering_makes(backbone: Backbone) -> None:
    """Training and use render the same tokens and slots at the same positions."""
    system = Pooled(SMALL)
    sample = Sample("almanac", Document("0.txt", SHORT), "Code?", ("KX-41",))
    memory = Memory("0.txt", "pooled", system.settings, "", ("0.txt",), fold(system, backbone, SHORT))
    (step,) = system.script(sample, backbone, "recall").steps
    (asking,) = next(system.answer(memory, "Code?"))
    assert asking.parts == step.call.parts
    assert asking.sampling == SamplingParams(max_tokens=160)
