"""The reading loop, call by call: which chunk, which note, which question, and what is made of the last note."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scripted_policy import ScriptedPolicy, scripted

from memfold.backbone.adapters import is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.score import logprobs
from memfold.core.document import Document, text_chunks
from memfold.core.errors import ConfigError, DataError
from memfold.core.job import Job, reading_together
from memfold.core.prompt import ABSENT
from memfold.core.registry import make_system
from memfold.core.scheduler import Scheduler, answer
from memfold.core.types import (
    Answer,
    Block,
    BlockRef,
    Call,
    Citation,
    Generate,
    Memory,
    Part,
    Reply,
    Sample,
    SamplingParams,
    Span,
    Step,
    TemplatePart,
    Text,
    Trace,
)
from memfold.systems.recurrent.system import READER, Recurrent, RecurrentFold, RecurrentRead, RecurrentTrain
from memfold.systems.shared.notes import EMPTY
from memfold.tasks.almanac.task import almanac
from memfold.tasks.task import TaskOptions
from memfold.training import activation_checkpointing

TEXTS = ("Ada was born in Velm. ", "Lor met Ada there. ", "Velm lies by the sea. ")
QUESTION = "Where was Ada born?"
BEFORE, AFTER = TemplatePart("before"), TemplatePart("after")
NOTES = (" Ada was born in Velm.\n", "", "Ada was born in Velm. Velm lies by the sea.")
LAST = r"Ada was born in Velm. \boxed{Velm}"


def memory(texts: Sequence[str] = TEXTS, tokens: int = 6) -> Memory:
    blocks, start = [], 0
    for index, text in enumerate(texts):
        place = (tokens * index, tokens * (index + 1), start, start + len(text))
        blocks.append(Block(index, 0, *place, text=text))
        start += len(text)
    return Memory("m", "recurrent", {}, "", ("a.txt",), blocks)


def ask(*replies: str | Reply, **settings: Any) -> tuple[list[Call], Trace]:
    """The calls that get these replies one after another, and the trace."""
    policy = scripted(*replies)
    return policy.calls, answer(Job(Recurrent.of(settings), memory(), QUESTION), policy)


def texts(call: Call) -> list[str]:
    return [part.text for part in call.parts if isinstance(part, Text)]


def test_every_chunk_is_read_in_order_and_then_the_note_alone() -> None:
    calls, trace = ask(*NOTES, LAST)
    assert [call.purpose for call in calls] == ["update", "update", "update", "answer"]
    blocks = [[part for part in call.parts if isinstance(part, BlockRef)] for call in calls]
    assert blocks == [[BlockRef("m", 0)], [BlockRef("m", 1)], [BlockRef("m", 2)], []]
    assert [step.call for step in trace.steps] == calls
    assert (trace.system, trace.failure, trace.cost.calls) == ("recurrent", None, 4)


def test_a_note_is_handed_to_the_next_call_and_a_blank_one_changes_nothing() -> None:
    calls, _ = ask(*NOTES, LAST)
    notes = [texts(call)[1] for call in calls]
    assert notes == [EMPTY, "Ada was born in Velm.", "Ada was born in Velm.", NOTES[2]]


def test_the_words_around_question_note_and_chunk() -> None:
    calls, _ = ask(*NOTES, LAST, chat_template="chatml", note=40)
    opening, note, between, request = texts(calls[1])
    assert opening.endswith("Notes:\n")
    assert (note, between) == ("Ada was born in Velm.", "\n\nText, part 2 of 3:\n")
    assert request.startswith(f"\n\n{QUESTION}\nWrite down what")
    assert request.endswith("in at most 30 words.")
    assert calls[1].parts.index(BlockRef("m", 1)) == 4
    assert all(QUESTION in "".join(texts(call)) for call in calls)
    opening, note, question = texts(calls[3])
    assert note == NOTES[2]
    assert opening.endswith("Notes on a text:\n")
    assert question.startswith(f"\n{QUESTION}\nWrite out the sentences")


def test_one_reading_serves_several_questions() -> None:
    """Its notes are for all of them, and each is answered from the last note alone."""
    questions = [QUESTION, "Where does Velm lie?"]
    policy = scripted(*NOTES, LAST, r"\boxed{by the sea}")
    system, about = Recurrent.of({"questions": 2}), memory()
    traces = dict(Scheduler(policy).run(reading_together([Job(system, about, each) for each in questions])))
    assert [call.purpose for call in policy.calls] == ["update", "update", "update", "answer", "answer"]
    listed = "\n".join(f"{number}. {question}" for number, question in enumerate(questions, 1))
    assert all(texts(call)[-1] == f"\n\n{listed}\nNote:\n" for call in policy.calls[:3])
    assert [texts(call)[1] for call in policy.calls[3:]] == [NOTES[2]] * 2
    for number, question in enumerate(questions):
        assert question in texts(policy.calls[3 + number])[-1]
        assert questions[1 - number] not in texts(policy.calls[3 + number])[-1]
        assert [step.call for step in traces[number].steps] == [*policy.calls[:3], policy.calls[3 + number]]
        assert traces[number].settings["about"] == tuple(questions)
    assert [traces[number].answer.text for number in (0, 1)] == ["Velm", "by the sea"]  # type: ignore[union-attr]
    assert [traces[number].cost.calls for number in (0, 1)] == [4, 1]


def test_a_reading_for_several_questions_ends_for_each_with_its_answer() -> None:
    """With stop = "answered", the chunks that are left are read for the question that is still open."""

    def reply(call: Call) -> str:
        if call.purpose == "update":
            return NOTES[0] if call.parts[4] == BlockRef("m", 0) else NOTES[2]
        lies = "lie?" in texts(call)[-1]
        known = "sea" in texts(call)[1] if lies else True
        return rf"\boxed{{{'by the sea' if lies else 'Velm'}}}" if known else rf"\boxed{{{ABSENT}}}"

    policy = ScriptedPolicy(reply)
    system, about = Recurrent.of({"questions": 2, "stop": "answered"}), memory()
    jobs = [Job(system, about, each) for each in (QUESTION, "Where does Velm lie?")]
    traces = dict(Scheduler(policy).run(reading_together(jobs)))
    assert [traces[number].answer.text for number in (0, 1)] == ["Velm", "by the sea"]  # type: ignore[union-attr]
    updates = [call for call in policy.calls if call.purpose == "update"]
    assert len(updates) == 2, "the second chunk, for the question that the first one does not answer"


def test_chat_templates_differ_in_what_stands_around_the_words() -> None:
    flat, _ = ask(*NOTES, LAST)
    plain, _ = ask(*NOTES, LAST, chat_template="message")
    assert all((call.parts[0], call.parts[-1]) == (BEFORE, AFTER) for call in (*flat, *plain))
    assert texts(flat[0]) == ["", EMPTY, "\n", f"\n\n{QUESTION}\nNote:\n"], "cues for small models"
    assert "Write down what" in texts(plain[0])[-1]
    assert texts(flat[3])[-1] == f"\n{QUESTION}\nRecall:"
    assert texts(plain[3])[-1].endswith("give the answer in \\boxed{}.")


def test_a_note_is_limited_by_its_setting() -> None:
    calls, trace = ask(*NOTES, LAST, note=40)
    update, last = Generate(SamplingParams(max_tokens=40)), Generate(SamplingParams(max_tokens=160))
    assert [call.wants for call in calls] == [update, update, update, last]
    thinking, _ = ask(*NOTES, LAST, note=40, max_tokens=300, thinking=2000)
    assert [call.sampling.max_tokens for call in thinking] == [2040, 2040, 2040, 2300]
    more = {
        "max_tokens": 160,
        "thinking": 0,
        "overflow": "sentence",
        "repetition_penalty": 1.0,
        "passes": 1,
        "candidates": 0,
        "stop": "end",
        "parallel": False,
        "questions": 1,
        "about": (),
        "prompts": "short",
        "adapters": False,
    }
    assert trace.settings == {"style": "recall", "chunk": 5000, "note": 40, "chat_template": "flat"} | more


def test_a_note_has_no_more_tokens_than_the_text_that_was_read_for_it() -> None:
    def limits(tokens: int) -> list[int]:
        policy = scripted(*NOTES, LAST)
        answer(Job(Recurrent(), memory(tokens=tokens), QUESTION), policy)
        return [call.sampling.max_tokens for call in policy.calls]

    assert limits(500) == [500, 1000, 1024, 160]
    assert limits(6) == [64, 64, 64, 160], "a few sentences are always allowed"


@pytest.mark.parametrize(("window", "chunk", "note"), [(32768, 5000, 1024), (8192, 5000, 1024), (2048, 1024, 256)])
def test_chunk_and_note_fit_into_the_window(window: int, chunk: int, note: int) -> None:
    model: Any = SimpleNamespace(name="m", trained={}, trained_here=True, window=window, has_weights=True, answering={})
    system = make_system("recurrent", model)
    assert (system.fold, system.read.note) == (RecurrentFold(chunk), note)
    assert chunk + 2 * note <= window


FULL = "Ada was born in Velm. Lor met her. Lor met her. Velm lies by the"


@pytest.mark.parametrize(
    ("overflow", "kept", "limits"),
    [
        ("sentence", "Ada was born in Velm. Lor met her.", [40, 40, 40, 160]),
        ("keep", FULL, [40, 40, 40, 160]),
        ("shorter", "Ada was born.", [40, 20, 40, 40, 160]),
    ],
)
def test_what_becomes_of_a_note_that_is_too_long(overflow: str, kept: str, limits: list[int]) -> None:
    cut = Reply(FULL, finish="length")
    again = ["Ada was born."] if overflow == "shorter" else []
    calls, _ = ask(cut, *again, "", "", LAST, note=40, overflow=overflow)
    assert [call.sampling.max_tokens for call in calls] == limits
    assert kept in texts(calls[-1])


def test_a_note_that_is_too_long_again_is_cut() -> None:
    once, again = Reply("Ada was", finish="repetition"), Reply("Ada was born. Ada was born. Ada", finish="length")
    calls, _ = ask(once, again, "", "", LAST, note=40, overflow="shorter", chat_template="chatml")
    assert "Ada was born." in texts(calls[-1])
    assert "in at most 15 words." in texts(calls[1])[-1]


def test_published_weights_are_asked_in_the_order_of_their_prompts() -> None:
    """The problem, the memory, then the section, in tags; the last prompt asks for the answer in a box."""
    calls, trace = ask(*NOTES, LAST, prompts="tagged", chat_template="message")
    before, note, between, after = texts(calls[1])
    assert before.endswith(f"<problem>\n{QUESTION}\n</problem>\n\n<memory>\n")
    assert (note, between) == ("Ada was born in Velm.", "\n</memory>\n\n<section>\n")
    assert after == "\n</section>\n\nNew memory:\n"
    opening, note, closing = texts(calls[-1])
    assert opening.startswith("Solve the problem")
    assert f"<problem>\n{QUESTION}\n</problem>" in opening
    assert closing == "\n</memory>\n\nAnswer:\n"
    assert trace.answer is not None
    assert trace.answer.text == "Velm"


def test_the_prompts_of_a_published_model_follow_from_its_name() -> None:
    def prompts(name: str) -> str:
        model: Any = SimpleNamespace(
            name=name, trained={}, trained_here=False, window=32768, has_weights=True, answering={}
        )
        made = make_system("recurrent", model)
        assert isinstance(made, Recurrent)
        return made.read.prompts

    assert prompts("BytedTsinghua-SIA/RL-MemoryAgent-7B") == "tagged"
    assert prompts("Qwen/Qwen2.5-7B-Instruct") == "short"


def test_a_second_pass_begins_with_the_note_of_the_first() -> None:
    calls, _ = ask("first", "", "", "", "second", "", LAST, passes=2)
    assert [call.purpose for call in calls] == ["update"] * 6 + ["answer"]
    blocks = [part.index for call in calls for part in call.parts if isinstance(part, BlockRef)]
    assert blocks == [0, 1, 2, 0, 1, 2]
    assert [texts(call)[1] for call in calls] == [EMPTY, "first", "first", "first", "first", "second", "second"]


def test_a_pass_that_changes_nothing_is_the_last() -> None:
    calls, _ = ask("first", "", "", "", "", "", LAST, passes=3)
    assert len(calls) == 7


def test_a_pass_reads_the_candidates_of_question_and_note() -> None:
    """Each block is one sentence; the question names what is in one of them, and the note leads to another."""
    calls, _ = ask("It stands in Velm.", "", LAST, passes=2, candidates=1)
    blocks = [part.index for call in calls for part in call.parts if isinstance(part, BlockRef)]
    assert len(blocks) == 2
    assert [call.purpose for call in calls] == ["update"] * 2 + ["answer"]


def test_reading_ends_at_the_first_answer() -> None:
    calls, trace = ask("first", ABSENT, "", "second", "Velm", style="bare", stop="answered")
    assert [call.purpose for call in calls] == ["update", "answer", "update", "update", "answer"]
    assert isinstance(trace.answer, Answer)
    assert trace.answer.text == "Velm"
    calls, trace = ask("first", ABSENT, "", "", ABSENT, style="bare", stop="answered")
    assert [call.purpose for call in calls] == ["update", "answer", "update", "update", "answer"]
    assert isinstance(trace.answer, Answer)
    assert trace.answer.text == ABSENT


def test_the_answer_is_cited_from_the_text() -> None:
    recalling = ask(*NOTES, LAST)[1].answer
    assert isinstance(recalling, Answer)
    assert (recalling.text, recalling.reply) == ("Velm", LAST)
    first = recalling.citations[0]
    assert first == Citation("a.txt", 0, 21, "Ada was born in Velm.", first.score)
    bare = ask(*NOTES, " Velm ", style="bare")[1].answer
    assert isinstance(bare, Answer)
    assert bare.text == "Velm"


def test_questions_on_memories_of_different_lengths_share_steps_and_do_not_mix() -> None:
    """Two questions on memories of three blocks and of one, answered together."""
    policy = scripted("first of A", "first of B", "second of A", r"\boxed{B}", "third of A", r"\boxed{A}")
    jobs = [Job(Recurrent(), memory(), QUESTION), Job(Recurrent(), memory(TEXTS[:1]), QUESTION)]
    traces = dict(Scheduler(policy, max_concurrency=2).run(jobs))
    assert policy.rounds == [2, 2, 1, 1]
    assert [[step.reply.text for step in traces[number].steps] for number in (0, 1)] == [
        ["first of A", "second of A", "third of A", r"\boxed{A}"],
        ["first of B", r"\boxed{B}"],
    ]


def test_recorded_notes_are_not_asked_for_again() -> None:
    _, whole = ask(*NOTES, LAST)
    policy = scripted(NOTES[2], LAST)
    again = answer(Job(Recurrent(), memory(), QUESTION, recorded=whole.steps[:2]), policy)
    assert (again.steps, again.answer) == (whole.steps, whole.answer)
    assert len(policy.calls) == 2


def test_note_and_chunk_stand_for_the_memory(backbone: Backbone) -> None:
    system = Recurrent(RecurrentFold(chunk=8), RecurrentRead(note=16))
    blocks = list(system.compress([Document("a.txt", "".join(TEXTS))], backbone))
    about = Memory("m", "recurrent", {}, "", ("a.txt",), blocks)
    assert len(blocks) > 2
    assert "".join(block.text or "" for block in blocks) == "".join(TEXTS)
    (first,) = next(system.answer(about, QUESTION))
    rendered = system.render(about, first, backbone)
    note, chunk = len(backbone.encode(EMPTY)), len(backbone.encode(blocks[0].text or ""))
    assert rendered.memory_positions == note + chunk
    assert rendered.tokens[0] == backbone.end_token
    assert (rendered.slots, rendered.positions) == (None, list(range(len(rendered.tokens))))
    trace = answer(Job(system, about, QUESTION), LocalPolicy(backbone))
    assert trace.failure is None
    assert [len(step.reply.tokens) <= 16 for step in trace.steps[:-1]] == [True] * len(blocks)


def test_a_chunk_past_the_window_is_an_error(new_backbone: Callable[..., Backbone]) -> None:
    backbone = new_backbone(window=200)
    trace = answer(Job(Recurrent.of({"chat_template": "chatml"}), memory(), QUESTION), LocalPolicy(backbone))
    assert trace.failure is not None
    assert "DataError: the text takes" in str(trace.failure)
    assert "the reply up to 64, the model's window is 200" in str(trace.failure)


def test_a_memory_without_its_text_cannot_be_read(backbone: Backbone) -> None:
    about = memory()
    about.blocks = [replace(block, text=None) for block in about.blocks]
    (first,) = next(Recurrent().answer(about, QUESTION))
    with pytest.raises(DataError, match="holds no text"):
        Recurrent().render(about, first, backbone)


def supported() -> Sample:
    text = "".join(TEXTS)
    support = ("Ada was born in Velm.", "Velm lies by the sea.")
    spans = tuple(Span(text.index(sentence), text.index(sentence) + len(sentence)) for sentence in support)
    return Sample("almanac", Document("a.txt", text), QUESTION, ("the sea",), evidence=spans, support=support)


@pytest.mark.parametrize("tokenised", [False, True])
def test_a_script_keeps_the_sentences_read_so_far(backbone: Backbone, tokenised: bool) -> None:
    sample, system = supported(), Recurrent(RecurrentFold(chunk=6))
    tokens = tuple(backbone.encode(sample.document.read()))
    if tokenised:
        sample = replace(sample, document=replace(sample.document, tokens=tokens))
    *updates, last = system.script(sample, backbone, "bare").steps
    read = [part.tokens for step in updates for part in step.call.parts if isinstance(part, Text) and part.tokens]
    assert sum(read, ()) == tokens
    notes = [step.reply.text for step in updates]
    for number, note in enumerate(notes):
        seen = backbone.decode([token for chunk in read[: number + 1] for token in chunk or ()])
        kept = [sentence for sentence in sample.support if sentence in seen]
        assert note == (" ".join(kept) or EMPTY)
    assert {EMPTY, sample.support[0], " ".join(sample.support)} == set(notes)
    assert [texts(step.call)[1] for step in (*updates, last)] == [EMPTY, *notes]
    assert last.reply.tokens == (*backbone.encode(" the sea"), backbone.end_token)


def test_a_script_makes_the_calls_that_an_answer_makes(backbone: Backbone) -> None:
    sample, system = supported(), Recurrent(RecurrentFold(chunk=6), train=RecurrentTrain(unchanged=9))
    blocks = list(system.compress([sample.document], backbone))
    about = Memory("a.txt", "recurrent", {}, "", ("a.txt",), blocks)
    script = system.script(sample, backbone, "recall").steps
    policy = scripted(*(step.reply.text for step in script))
    made = [step.call for step in answer(Job(system, about, QUESTION), policy).steps]
    tokens = [Text(tokens=chunk.tokens) for chunk in text_chunks(sample.document, backbone.tokenize, 6)]

    def spelled(part: Part) -> Part:
        return tokens[part.index] if isinstance(part, BlockRef) else part

    assert [replace(call, parts=tuple(map(spelled, call.parts))) for call in made] == [step.call for step in script]


def test_a_policy_reads_the_adapter_of_a_model_folder_when_a_call_names_it(
    new_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    trained, system = new_backbone(), Recurrent.of({"adapters": True, "rank": 2, "note": 4, "max_tokens": 4})
    system.prepare(trained)
    save_backbone(trained, tmp_path / "model")
    loaded = load_backbone(tmp_path / "model", roles=False)
    assert loaded.roles == {}
    trace = answer(Job(system, memory(), QUESTION), LocalPolicy(loaded))
    assert trace.failure is None
    assert set(loaded.roles) == {READER}


@pytest.mark.parametrize("unchanged", [0, 1, 9])
def test_few_of_the_updates_that_repeat_a_note_are_trained(backbone: Backbone, unchanged: int) -> None:
    system = Recurrent(RecurrentFold(chunk=6), train=RecurrentTrain(unchanged=unchanged))
    updates = system.script(supported(), backbone, "recall").steps[:-1]
    notes = [EMPTY, *(step.reply.text for step in updates)]
    repeats = [step for before, step in zip(notes, updates, strict=False) if step.reply.text == before]
    assert len(repeats) > 1
    assert sum(step.call.trained for step in repeats) == min(unchanged, len(repeats))
    assert all(step.call.trained for step in updates if step not in repeats)


@pytest.mark.parametrize("change", [{"answers": ()}, {"support": ()}, {"evidence": ()}])
def test_a_script_needs_a_question_with_its_sentences(backbone: Backbone, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="task 'almanac' cannot train system 'recurrent'"):
        Recurrent().script(replace(supported(), **change), backbone, "bare")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 0}, "chunk = 0 is not possible; allowed: 1 token or more"),
        ({"note": 0}, "note = 0 is not possible; allowed: 1 token or more"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recurrent.of(settings)


def test_an_adapter_learns_to_read_and_the_rest_of_the_model_stays(new_backbone: Callable[..., Backbone]) -> None:
    """Every call has the adapter, trained or not, and no gradient reaches anything else that is not frozen."""
    plain, _ = ask(*NOTES, LAST)
    adapted, _ = ask(*NOTES, LAST, adapters=True)
    assert {call.adapter for call in plain} == {None}
    assert {call.adapter for call in adapted} == {READER}
    system = Recurrent.of({"chunk": 48, "note": 64, "adapters": True, "rank": 2})
    backbone = new_backbone()
    for _ in range(2):  # what the model has stays
        system.prepare(backbone)
    sample = almanac(3, 128, TaskOptions(level=1), backbone.encode)[0]
    trace = system.script(sample, backbone, "recall")
    assert {step.call.adapter for step in trace.steps} == {READER}
    scores = logprobs(backbone, system, [(sample.document, [trace])])
    scores.backward(-scores.logprobs.sum())
    matrices = {name: weight for name, weight in backbone.parameters() if is_lora(name)}
    second = {name for name, weight in matrices.items() if weight.grad is not None and bool(weight.grad.abs().sum())}
    assert second == {name for name in matrices if ".lora_B." in name}, "A matrices have none while B is zero"
    modules = {
        name: (module.in_features, module.out_features)
        for name, module in new_backbone().model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert system.beside(modules) == {name: weight.numel() for name, weight in matrices.items()}
    assert Recurrent().beside(modules) == {}


def test_recomputed_activations_give_the_same_gradient(new_backbone: Callable[..., Backbone]) -> None:
    system = Recurrent.of({"chunk": 48, "note": 64})
    found = []
    for active in (False, True):
        backbone = new_backbone()
        sample = almanac(3, 128, TaskOptions(level=1), backbone.encode)[0]
        trace = system.script(sample, backbone, "recall")
        with activation_checkpointing.enabled(backbone, active):
            scores = logprobs(backbone, system, [(sample.document, [trace])])
            scores.backward(-scores.logprobs.mean())
        found.append({name: weight.grad for name, weight in backbone.parameters() if weight.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-5, rtol=1e-4)


def test_long_calls_with_notes_of_their_own_are_rows_of_their_own(backbone: Backbone) -> None:
    """One row of many long calls would cost the square of its length; the scores are those of each call alone."""
    system = Recurrent.of({"chunk": 600, "note": 64})
    document = Document("d", text=" ".join(TEXTS) * 24)
    traces = []
    for number in range(4):
        call = system._update(QUESTION, f"note {number}", Text(document.text or ""), 1, 1, 64)
        traces.append(Trace(QUESTION, "recurrent", system.settings, (Step(call, Reply(tokens=(40, 41 + number))),)))
    with torch.no_grad():
        together = logprobs(backbone, system, [(document, traces)])
        alone = torch.cat([logprobs(backbone, system, [(document, [trace])]).logprobs for trace in traces])
        few = logprobs(backbone, system, [(document, traces[:2])])
    assert [len(scores.batches[0].tokens) for scores in (together, few)] == [4, 1]
    torch.testing.assert_close(together.logprobs, alone, atol=1e-4, rtol=1e-4)
