"""A system that shared code has never heard of: folded, saved, opened, asked, trained both ways."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from throwaway import GATE, WRITER, Gated

import memfold
from memfold import folding
from memfold.backbone.adapters import is_lora
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.score import logprobs
from memfold.core import registry
from memfold.core.config import build
from memfold.core.document import Document
from memfold.core.job import Job
from memfold.core.scheduler import Scheduler
from memfold.core.types import HeadScore, Memory, Trace
from memfold.rl import loop as rl_loop
from memfold.rl.recipe import RlRecipe
from memfold.session import open_session, policy_of
from memfold.tasks.almanac.task import almanac
from memfold.tasks.task import TaskOptions
from memfold.training import loop
from memfold.training.recipe import Recipe

TEXT = "Ada was born in Velm. The mill of Tor stands by the river. " * 6
MIXTURE = [{"task": "almanac", "weight": 1.0, "sizes": [96], "system": "gated", "samples": 2, "level": 0}]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in the table."""
    monkeypatch.setitem(registry.SYSTEMS, "gated", "throwaway:Gated")
    registry.system_class.cache_clear()


@pytest.fixture
def gated(new_backbone: Callable[..., Backbone]) -> Backbone:
    """A model that has what the system needs; its adapters and head say something."""
    backbone = new_backbone()
    backbone.heads.clear()
    Gated().prepare(backbone)
    torch.manual_seed(1)
    for name, parameter in backbone.parameters():
        if is_lora(name) or name.startswith("heads."):
            torch.nn.init.normal_(parameter, std=0.2)
    backbone.trained["gated"] = Gated().record({})
    return backbone


@pytest.fixture
def folder(gated: Backbone, tmp_path: Path) -> Path:
    save_backbone(gated, tmp_path / "model")
    return tmp_path / "model"


def recipe(folder: Path, **changes: object) -> Recipe:
    values = {
        "stage": "sft",
        "parent": str(folder),
        "steps": 2,
        "tokens": 128,
        "micro_batches": 1,
        "mixture": MIXTURE,
        "precision": "float32",
        "validate_every": 2,
        "checkpoint_every": 1,
        "validation_batches": 1,
    }
    return build(Recipe, values | changes)


def test_it_is_folded_saved_opened_and_asked(folder: Path, tmp_path: Path) -> None:
    memory = memfold.fold(TEXT, system="gated", model=str(folder))
    assert memory.memory.slot_count == sum(-(-block.token_count // 4) for block in memory.memory.blocks)
    memory.save(tmp_path / "text.fold", dtype="float32")
    opened = memfold.open(tmp_path / "text.fold", model=str(folder))
    questions = ["Where was Ada born?", "What stands by the river?"]
    answers = memory.ask_many(questions)
    assert [response.error for response in answers] == [None, None]
    assert [response.text for response in opened.ask_many(questions)] == [response.text for response in answers]
    gates = [step for step in answers[0].trace.steps if isinstance(step.call.wants, HeadScore)]
    assert len(gates) == len(memory.memory.blocks)
    assert len({step.reply.score for step in gates}) == len(gates)
    assert answers[0].trace.steps[-1].reply.positions >= 8


def test_a_file_goes_on_where_a_fold_of_it_ended(folder: Path, tmp_path: Path) -> None:
    session = open_session("gated", str(folder))
    whole, resumed = tmp_path / "whole.fold", tmp_path / "resumed.fold"
    folding.fold_file([Document("t", text=TEXT)], whole, session)
    with pytest.raises(KeyboardInterrupt):
        folding.fold_file([Document("t", text=TEXT)], resumed, session, progress=_interrupt)
    folding.fold_file([Document("t", text=TEXT)], resumed, session)
    assert whole.read_bytes() == resumed.read_bytes()


def test_many_at_once_answer_as_one_alone(gated: Backbone) -> None:
    documents = [Document(f"d{number}", text=TEXT[number * 7 :]) for number in range(4)]
    system = Gated()
    with torch.no_grad():
        memories = [
            Memory(d.source, "gated", system.settings, "", (d.source,), list(system.compress([d], gated)))
            for d in documents
        ]
    policy = policy_of(gated)
    jobs = [Job(system, memory, f"Who is number {number}?") for number, memory in enumerate(memories)]
    together = dict(Scheduler(policy, 4).run(jobs))
    for number, job in enumerate(jobs):
        ((_, alone),) = Scheduler(policy, 1).run([job])
        assert alone.answer == together[number].answer
        scores = [step.reply.score for step in alone.steps]
        assert scores[:-1] == pytest.approx([step.reply.score for step in together[number].steps][:-1], abs=1e-5)


def test_gradient_reaches_both_adapters_and_the_head_and_nothing_else(gated: Backbone) -> None:
    document, traces = _scripted(gated, samples=2)
    scores = logprobs(gated, Gated(), [(document, traces)])
    assert len(scores.outputs) == sum(len(trace.steps) - 1 for trace in traces)
    loss = -scores.logprobs.mean()
    for value in Gated().losses(scores.outputs).values():
        loss = loss + value
    scores.backward(loss)
    reached = {name for name, parameter in gated.parameters() if parameter.grad is not None and parameter.grad.any()}
    lora = {name for name, _ in gated.parameters() if is_lora(name)}
    assert reached == lora | {"heads.gated.weight", "heads.gated.bias"}
    assert {role for role in (WRITER, GATE) for name in reached if f".{role}." in name} == {WRITER, GATE}


def test_it_is_trained_supervised_and_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    trained = loop.train(recipe(folder, steps=3), tmp_path / "run")
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"gated/almanac/answer", "gated/almanac/gate"} <= set(metrics[0]["loss"])
    assert any(name.endswith("/gate") for name in metrics[1]["validation"])
    opened = load_backbone(tmp_path / "run" / "model")
    assert opened.trained == {"gated": {"chunk": 32, "stride": 4}}
    assert set(opened.roles) == {WRITER, GATE}
    before = load_backbone(folder)
    for (name, value), (_, old) in zip(opened.parameters(), before.parameters(), strict=True):
        moved = is_lora(name) or name.startswith("heads.")
        assert torch.equal(value, old) != moved, name
    interrupted = recipe(folder, steps=3)
    with pytest.raises(KeyboardInterrupt):
        loop.train(interrupted, tmp_path / "again", report=_interrupt_after(2))
    loop.train(interrupted, tmp_path / "again", resume=True)
    again = load_backbone(tmp_path / "again" / "model")
    assert trained.trained == again.trained
    for (name, value), (_, other) in zip(opened.parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_the_gate_learns_which_block_to_open(gated: Backbone) -> None:
    document, traces = _scripted(gated, samples=4)
    trained = [parameter for _, parameter in gated.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=0.02)
    losses = []
    for _ in range(60):
        scores = logprobs(gated, Gated(), [(document, traces)])
        (loss,) = Gated().losses(scores.outputs).values()
        scores.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_it_is_trained_by_reinforcement(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def vowels(sample, trace):\n    reply = trace.answer.reply\n"
        "    return sum(letter in 'aeiou' for letter in reply) / max(len(reply), 1)\n"
    )
    values = {
        "stage": "rl",
        "parent": str(folder),
        "steps": 2,
        "mixture": MIXTURE,
        "memory": "end-to-end",
        "reward": f"{tmp_path / 'rewards.py'}:vowels",
        "questions": 2,
        "rollouts": 3,
        "reply_tokens": 8,
        "tokens": 256,
        "preset": "grpo",
        "validation_questions": 2,
        "validate_every": 2,
        "checkpoint_every": 2,
        "style": "bare",
    }
    rl_loop.train(build(RlRecipe, values), tmp_path / "run")
    opened, before = load_backbone(tmp_path / "run" / "model"), load_backbone(folder)
    moved = {
        name
        for (name, value), (_, old) in zip(opened.parameters(), before.parameters(), strict=True)
        if not torch.equal(value, old)
    }
    assert moved == {name for name, _ in opened.parameters() if is_lora(name) or name.startswith("heads.")}
    assert opened.trained["gated"] == {"chunk": 32, "stride": 4, "style": "bare"}


def test_shared_code_does_not_know_it() -> None:
    package = Path(memfold.__file__).parent
    assert not [path for path in package.rglob("*.py") if "gated" in path.read_text(encoding="utf-8").split('"')]
    assert "memfold.systems.gated" not in sys.modules


def test_the_page_shows_the_whole_system() -> None:
    page = (Path(__file__).parents[2] / "docs" / "add-a-system.md").read_text(encoding="utf-8")
    source = (Path(__file__).parent / "throwaway.py").read_text(encoding="utf-8")
    assert source.split("\n\n", 1)[1].strip() in page


def _scripted(backbone: Backbone, samples: int) -> tuple[Document, list[Trace]]:
    """A document with the traces of some questions about it."""
    asked = almanac(5, 96, TaskOptions(level=0, samples=samples), backbone.encode)
    document = dataclasses.replace(asked[0].document, tokens=tuple(backbone.encode(asked[0].document.read())))
    traces = [Gated().script(dataclasses.replace(sample, document=document), backbone, "bare") for sample in asked]
    return document, traces


def _interrupt(block: object) -> None:
    raise KeyboardInterrupt


def _interrupt_after(step: int) -> Callable[[dict[str, object]], None]:
    def report(metrics: dict[str, object]) -> None:
        if metrics["step"] == step:
            raise KeyboardInterrupt

    return report
