from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memfold.backbone.folder import load_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.policy import LocalPolicy
from memfold.backbone.score import logprobs
from memfold.core.document import Document
from memfold.core.trace_json import read_trace, trace_record
from memfold.core.types import Sample, Trace
from memfold.rl.collect import Group, collect
from memfold.rl.losses import MEANS
from memfold.rl.questions import Draws, Question, draw
from memfold.rl.recipe import RlRecipe
from memfold.rl.replay import Turn, passes, score, turns_of
from memfold.rl.rewards import Reward, Rules
from memfold.rl.rollout import Rollouts, RolloutSampling, roll_out
from memfold.rl.trace_file import write_groups
from memfold.rl.update import Sums, Trainer
from memfold.systems.recurrent.system import Recurrent
from memfold.systems.shared.folding import fold
from memfold.training.optimisers import Optimisers
from memfold.training.processes import Processes
from memfold.training.recipe import Entry

SAMPLING = RolloutSampling(reply_tokens=8)


def rolled(recipe: RlRecipe, backbone: Backbone, max_concurrency: int = 8, count: int = 3) -> list[Rollouts]:
    questions = Draws(recipe, backbone, 0).take(4)
    return roll_out(questions, backbone, LocalPolicy(backbone), SAMPLING, count, max_concurrency, 0, 0)


def replies(found: list[Rollouts]) -> list[tuple[int, ...]]:
    return [trace.steps[0].reply.tokens for one in found for trace in one.traces]


def test_a_reply_does_not_depend_on_what_else_is_sampled(recipe: RlRecipe, backbone: Backbone) -> None:
    """Padded rows of different lengths give the same replies and log-probabilities as single rows."""
    together, alone = rolled(recipe, backbone, max_concurrency=12), rolled(recipe, backbone, max_concurrency=1)
    assert replies(together) == replies(alone)
    assert len(set(replies(together))) > 6
    for one, other in zip(together, alone, strict=True):
        for left, right in zip(one.traces, other.traces, strict=True):
            assert left.steps[0].reply.logprobs == pytest.approx(right.steps[0].reply.logprobs, abs=1e-4)
            assert left.steps[0].call.sampling.temperature == 1.0


def test_questions_are_a_function_of_the_step(recipe: RlRecipe, backbone: Backbone) -> None:
    whole = Draws(recipe, backbone, 3).take(5)
    parts = Draws(recipe, backbone, 3)
    assert [q.name for q in parts.take(2) + parts.take(3)] == [q.name for q in whole]
    assert not {q.name for q in Draws(recipe, backbone, 4).take(5)} & {q.name for q in whole}
    shares = [Draws(recipe, backbone, 3, number, 2).take(3) for number in (0, 1)]
    names = [own[index].name for index in range(3) for own in shares]
    assert names[:5] == [q.name for q in whole]


def test_questions_about_one_document_share_its_memory(recipe: RlRecipe, backbone: Backbone) -> None:
    asking = replace(recipe, mixture=(Entry("almanac", 1, (96,), settings={"ratios": [8]}, level=1, samples=3),))
    found = roll_out(draw(asking, backbone, 0), backbone, LocalPolicy(backbone), SAMPLING, 2, 8)
    assert len(found) > 1
    assert len({id(one.memory) for one in found}) == 1
    assert len({one.question.name for one in found}) == len(found)
    assert all(block.slots is not None and block.text is None for block in found[0].memory.blocks)


@pytest.mark.parametrize("system", ["full", "retrieval", "recurrent", "pooled"])
def test_every_system_reads_the_documents_of_datasets(
    recipe: RlRecipe, backbone: Backbone, tmp_path: Path, system: str
) -> None:
    """The task cuts documents at token boundaries; questions are still asked about their text."""
    context = [["Velm", ["Velm is a town. ", "Ada was born in Velm. "] + ["The river is long. "] * 40]]
    row = {
        "_id": "a",
        "question": "Where was Ada born?",
        "answer": "Velm",
        "context": context,
        "supporting_facts": [["Velm", 1]],
        "type": "bridge",
        "level": "easy",
    }
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    entry = Entry("questions", 1, (48,), system=system, files=(str(tmp_path / "rows.json"),), dataset="hotpotqa")
    (question,) = draw(replace(recipe, mixture=(entry,)), backbone, 0)
    (memory,) = fold(question.system, [question.document], backbone)
    text = "".join(block.text or "" for block in memory.blocks)
    assert text == question.document.text
    assert "born in Velm" in text
    assert sum(block.token_count for block in memory.blocks) in range(40, 52)


def test_a_stored_trace_replays_to_the_sampling_log_probabilities(
    recipe: RlRecipe, backbone: Backbone, tmp_path: Path
) -> None:
    for one in rolled(recipe, backbone):
        group = Group(one.question, one.memory, one.traces, (Reward(1.0),) * len(one.traces))
        write_groups(tmp_path / "traces.jsonl", [group])
        lines = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
        stored = [read_trace(line["trace"]) for line in lines]
        assert stored == list(one.traces)
        for about in (one.memory, one.question.document):  # folded, and compressed with gradient
            scores = logprobs(backbone, one.question.system, [(about, stored)])
            sampled = torch.tensor([value for trace in stored for value in trace.steps[0].reply.logprobs])
            assert float((scores.logprobs.detach() - sampled).abs().mean()) < 1e-3


def test_tampering_with_a_reply_shows(recipe: RlRecipe, backbone: Backbone) -> None:
    one = rolled(recipe, backbone)[0]
    trace = one.traces[0]
    reply = replace(trace.steps[0].reply, tokens=tuple(reversed(trace.steps[0].reply.tokens)))
    changed = replace(trace, steps=(replace(trace.steps[0], reply=reply),))
    scores = logprobs(backbone, one.question.system, [(one.memory, [changed])])
    assert float((scores.logprobs.detach() - torch.tensor(reply.logprobs)).abs().mean()) > 1e-2


@pytest.mark.parametrize("tokens", [1, 60, 100_000])
def test_every_division_into_passes_gives_the_same(recipe: RlRecipe, backbone: Backbone, tokens: int) -> None:
    """Padded rows with shared prefixes give the same result as one row for each turn."""
    turns: list[Turn] = []
    for rollouts in rolled(recipe, backbone):
        for trajectory in turns_of(rollouts.question, rollouts.memory, rollouts.traces, len(turns)):
            turns += trajectory
    divided = list(passes(turns, tokens))
    assert sorted(turn.trajectory for forward in divided for turn in forward.turns) == list(range(12))
    assert (len(divided) == 12) == (tokens == 1)
    for forward in divided:
        values = score(backbone, forward).logprobs.detach().split([turn.size for turn in forward.turns])
        for turn, value in zip(forward.turns, values, strict=True):
            (alone,) = passes([turn], 1)
            torch.testing.assert_close(value, score(backbone, alone).logprobs.detach(), atol=1e-4, rtol=1e-4)
        assert torch.equal(
            forward.spread(lambda turn: turn.trajectory, torch.device("cpu")).long().unique(),
            torch.tensor(sorted(turn.trajectory for turn in forward.turns)),
        )


def two_turns(backbone: Backbone) -> tuple[Question, Rollouts]:
    """A question about a text that is read in two chunks."""
    document = Document("d", text="Ada was born in Velm. The river Sanu flows through Velm and then on to Ost.")
    sample = Sample("almanac", document, "Where was Ada born?", ("Velm",))
    question = Question("recurrent/almanac", Recurrent.of({"chunk": 16, "note": 5}), sample, 1, 32, 0)
    (found,) = roll_out([question], backbone, LocalPolicy(backbone), RolloutSampling(reply_tokens=7), 2, 8)
    return question, found


def test_a_trajectory_of_many_turns_has_the_weight_of_the_formula(
    recipe: RlRecipe, backbone: Backbone, new_backbone: Callable[..., Backbone]
) -> None:
    """The advantage is that of the trajectory, for every token of every turn (MemAgent, equations 4 and 5)."""
    question, found = two_turns(backbone)
    assert all(len(trace.steps) > 2 for trace in found.traces)
    assert [step.call.sampling.max_tokens for step in found.traces[0].steps][-2:] == [5, 7]
    group = Group(question, found.memory, found.traces, (Reward(1.0), Reward(0.0)))
    model = new_backbone()
    memagent = replace(recipe, preset="memagent", algorithm={"kl": "none", "beta": 0.0}, tokens=100_000)
    trainer = Trainer(
        memagent, model, Optimisers(model.parameters(), memagent.groups, (), memagent.schedule, 3), Processes()
    )
    learned = trainer.learned([group], Sums())
    assert [each.advantage for each in learned] == [0.5] * len(found.traces[0].steps) + [-0.5] * len(
        found.traces[1].steps
    )
    sizes = [each.size for each in learned]
    assert MEANS["token"](sizes, [0] * len(sizes), 1)[0] == pytest.approx(1 / sum(sizes))
    by_hand = model.model.get_input_embeddings().weight.new_zeros(())
    for trace, advantage in zip(found.traces, (0.5, -0.5), strict=True):
        for step in trace.steps:
            alone = replace(trace, steps=(step,))
            by_hand = by_hand - advantage * logprobs(model, question.system, [(found.memory, [alone])]).logprobs.sum()
    (by_hand / sum(sizes)).backward()
    expected = torch.cat([w.grad.flatten() for _, w in model.parameters() if w.grad is not None])
    model.model.zero_grad()
    updated = trainer.step([group], 0)
    assert updated.norm == pytest.approx(float(expected.norm()), rel=1e-4)
    assert updated.figures["loss"] == pytest.approx(
        0.0 - sum(each.advantage * each.size / sum(sizes) for each in learned), abs=1e-4
    )


def test_a_full_note_is_not_a_truncated_answer(recipe: RlRecipe, backbone: Backbone) -> None:
    question, found = two_turns(backbone)
    masked = replace(recipe, algorithm={**recipe.algorithm, "mask_truncated": True})
    trainer = Trainer(masked, backbone, Optimisers([], masked.groups, (), masked.schedule, 3), Processes())
    assert {step.reply.finish for trace in found.traces for step in trace.steps} == {"length"}

    def ended(trace: Trace) -> Trace:
        last = trace.steps[-1]
        return replace(trace, steps=(*trace.steps[:-1], replace(last, reply=replace(last.reply, finish="stop"))))

    traces = (ended(found.traces[0]), found.traces[1])
    learned = trainer.learned([Group(question, found.memory, traces, (Reward(1.0), Reward(0.0)))], Sums())
    assert [each.trace for each in learned] == [traces[0]] * len(
        traces[0].steps
    )  # all turns of the first, none of the second


def test_a_document_that_is_compressed_again_counts_in_its_pass(recipe: RlRecipe, backbone: Backbone) -> None:
    pooled = replace(recipe, mixture=recipe.mixture[:1])
    found = rolled(pooled, backbone)

    def fullest(end_to_end: bool) -> int:
        """The maximum number of document and reply tokens in a pass of several rows."""
        about = [one.question.document if end_to_end else one.memory for one in found]
        given = [
            each
            for one, own in zip(found, about, strict=True)
            for trajectory in turns_of(one.question, own, one.traces)
            for each in trajectory
        ]
        cut = [one for one in passes(given, 150) if len(one.rows) > 1]
        return max(
            (sum(row[0].question.size + sum(each.size for each in row) for row in one.rows) for one in cut), default=0
        )

    assert fullest(end_to_end=True) <= 150 < fullest(end_to_end=False)


def test_failed_rollouts_leave_their_group(recipe: RlRecipe, parent: str, tmp_path: Path) -> None:
    backbone = load_backbone(parent)
    seen: list[int] = []

    def sometimes(sample: Sample, trace: Trace) -> float:
        seen.append(len(seen))
        return float("nan") if len(seen) == 2 else float(len(seen) % 2)

    some = replace(recipe, failures=0.2, algorithm={"warmup": 9, "overlong_buffer": 0})
    found = collect(some, backbone, LocalPolicy(backbone), Rules(sometimes), Processes(), 0)
    assert [len(group.traces) for group in found.groups] == [3, 4, 4]
    assert found.counts.reasons == {"reward: the value nan is not finite": 1}
    assert found.counts.figures()["failed"] == pytest.approx(1 / 12, abs=1e-5)
    (failed,) = found.failed
    assert failed.question == found.groups[0].question
    write_groups(tmp_path / "traces.jsonl", found.failed)
    (line,) = map(json.loads, (tmp_path / "traces.jsonl").read_text().splitlines())
    assert (line["reward"], line["error"]) == (None, "reward: the value nan is not finite")


def test_a_trace_survives_json(recipe: RlRecipe, backbone: Backbone) -> None:
    _, found = two_turns(backbone)
    for trace in found.traces:
        assert read_trace(json.loads(json.dumps(trace_record(trace)))) == trace
