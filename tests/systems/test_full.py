from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.core.document import Document
from memfold.core.errors import DataError
from memfold.core.job import Job
from memfold.core.prompt import user_message
from memfold.core.scheduler import answer
from memfold.core.types import BlockRef, Call, Memory, Reply, Sample, Step, TemplatePart, Text
from memfold.systems.full.system import Full, FullFold, FullTrain

TEXT = "Ada Brisk was born in Velm. The code is KX-41. Lor is a baker. "


def fold(system: Full, backbone: Backbone, text: str) -> Memory:
    blocks = list(system.compress([Document("a.txt", text)], backbone))
    return Memory("m", "full", system.settings, "", ("a.txt",), blocks)


def test_the_decoder_sees_the_tokens_of_the_text(backbone: Backbone) -> None:
    system = Full.of({"style": "bare"})
    memory = fold(system, backbone, TEXT)
    (call,) = next(system.answer(memory, "Who?"))
    rendered = system.render(memory, call, backbone)
    question = backbone.encode("\nWho?\nAnswer:")
    assert rendered.tokens == [backbone.end_token, *backbone.encode(TEXT), *question]
    assert rendered.positions == list(range(len(rendered.tokens)))
    assert rendered.slots is None
    assert rendered.memory_positions == len(backbone.encode(TEXT)) == memory.token_count
    trace = answer(Job(system, memory, "Who?"), LocalPolicy(backbone))
    assert (trace.cost.effective_ratio, trace.cost.slots, system.effective_ratio(20)) == (1.0, 0, 1.0)


def test_blocks_hold_the_text_in_pieces(backbone: Backbone) -> None:
    memory = fold(Full(FullFold(chunk=8)), backbone, TEXT * 2)
    assert len(memory.blocks) > 3
    assert "".join(block.read() or "" for block in memory.blocks) == TEXT * 2
    assert [(TEXT * 2)[block.char_start : block.char_end] for block in memory.blocks] == [
        block.text for block in memory.blocks
    ]


def test_past_the_window_both_numbers_are_named(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone(window=200)
    system = Full.of({"style": "bare"})
    room = 200 - 160 - 1 - len(backbone.encode("\nWho?\nAnswer:"))
    tokens = backbone.encode(TEXT * 3)
    fits = backbone.decode(tokens[:room])
    assert len(backbone.encode(fits)) == room
    assert answer(Job(system, fold(system, backbone, fits), "Who?"), LocalPolicy(backbone)).failure is None
    memory = fold(system, backbone, backbone.decode(tokens[: room + 1]))
    (call,) = next(system.answer(memory, "Who?"))
    problem = "takes 41 tokens and the reply up to 160, the model's window is 200; use a --model with a larger"
    with pytest.raises(DataError, match=problem):
        system.render(memory, call, backbone)
    failure = answer(Job(system, memory, "Who?"), LocalPolicy(backbone)).failure
    assert failure is not None
    assert str(failure).startswith("policy: DataError: the text takes 41 tokens")


def test_a_memory_without_its_text_cannot_be_read(backbone: Backbone) -> None:
    memory = fold(Full(), backbone, TEXT)
    memory.blocks = [replace(block, text=None) for block in memory.blocks]
    with pytest.raises(DataError, match="this memory holds no text to read; fold the documents again"):
        Full().render(memory, Call("answer", (Text(""), BlockRef("m", 0))), backbone)


def test_an_answer_takes_what_the_window_leaves(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone(window=400)
    system = Full.of({"max_tokens": 5000})
    memory = fold(system, backbone, TEXT)
    (call,) = next(system.answer(memory, "Code?"))
    rendered = system.render(memory, call, backbone)
    assert (call.sampling.max_tokens, rendered.room) == (5000, 400 - len(rendered.tokens))
    note = replace(call, purpose="update")
    with pytest.raises(DataError, match="the reply up to 5000, the model's window is 400"):
        system.render(memory, note, backbone)


def test_a_script_reads_the_document_and_then_answers(backbone: Backbone) -> None:
    document = Document("a.txt", TEXT)
    sample = Sample("almanac", document, "Code?", ("KX-41",), support=("The code is KX-41.",))
    tokens, opening = tuple(backbone.encode(TEXT)), TemplatePart("before")
    read = Step(Call("language", (opening,)), Reply(tokens=tokens, finish="length"))
    for style, cue, text in [
        ("bare", "Answer:", " KX-41"),
        ("recall", "Recall:", r" The code is KX-41. \boxed{KX-41}"),
        ("free", "Recall?", r" The code is KX-41. \boxed{KX-41}"),
    ]:
        trace = Full().script(sample, backbone, style)  # type: ignore[arg-type]
        reply = Reply(tokens=(*backbone.encode(text), backbone.end_token))
        question = Step(Call("answer", user_message(Text(tokens=tokens), Text(f"\nCode?\n{cue}"))), reply)
        assert trace.steps == (read, question)
    unread = Full(train=FullTrain(read_loss=False)).script(sample, backbone, "bare").steps[0]
    assert unread == replace(read, call=Call("language", (opening,), trained=False))


def test_a_script_without_a_question_is_plain_reading(backbone: Backbone) -> None:
    opening = TemplatePart("before")
    targets: list[tuple[str | tuple[int, ...], tuple[int, ...]]]
    targets = [(TEXT, tuple(backbone.encode(TEXT))), ((4, 5, 6), (4, 5, 6))]
    for target, tokens in targets:
        trace = Full().script(Sample("prose", Document("a", TEXT), "", target=target), backbone, "bare")
        assert trace.steps == (Step(Call("language", (opening,)), Reply(tokens=tokens, finish="length")),)


def test_a_bridge_goes_between_the_question_and_the_target(backbone: Backbone) -> None:
    document = Document("a", tokens=(9, 10, 11))
    sample = Sample("continuation", document, "Go on.", target=(5, 6), bridge=(7, 8))
    _, step = Full().script(sample, backbone, "bare").steps
    parts = (*user_message(Text(tokens=(9, 10, 11)), Text("\nGo on.\n")), Text(tokens=(7, 8)))
    assert step == Step(Call("answer", parts), Reply(tokens=(5, 6, backbone.end_token)))
