"""memfold from Python: what can be folded, asked, saved and opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import memfold
from memfold.backbone import familiarity, policy
from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.resolve import model_folder, resolve_model
from memfold.core.errors import CheckpointError, ConfigError, DataError
from memfold.core.system import Rendered
from memfold.core.types import SamplingParams
from memfold.sources import documents, is_memory

TEXT = "Velm is a town by the sea. Ada Lorn was born in Velm. She wrote 20 books.\n" * 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, new_backbone) -> str:
    backbone = new_backbone()
    backbone.trained = {"pooled": {"wrapper": "span", "positions": "strided", "ratios": [4, 16]}}
    folder = tmp_path_factory.mktemp("model") / "small"
    save_backbone(backbone, folder)
    return str(folder)


@pytest.fixture(autouse=True)
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = policy.DecodingRow

    def short(rendered: Rendered, sampling: SamplingParams, *rest: Any) -> policy.DecodingRow:
        return plain(rendered, SamplingParams(max_tokens=12), *rest)

    monkeypatch.setattr(policy, "DecodingRow", short)


def test_importing_memfold_does_not_import_torch() -> None:
    code = "import sys, memfold; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'unfold'; it has FoldedMemory, Response, fold, open"):
        _ = memfold.unfold  # type: ignore[attr-defined]


def test_fold_ask_save_open(model: str, tmp_path: Path) -> None:
    memory = memfold.fold(TEXT, model=model, ratio=4)
    answer = memory.ask("Where was Ada Lorn born?")
    assert isinstance(answer, memfold.Response)
    assert answer.trace.question == "Where was Ada Lorn born?"
    assert answer.usage["memory_slots"] == memory.memory.slot_count
    assert answer.seconds["total"] >= answer.seconds["fold"] > 0
    memory.save(tmp_path / "text.fold", dtype="float32")
    opened = memfold.open(tmp_path / "text.fold", model=model)
    assert opened.memory.settings == memory.memory.settings
    blocks = zip(memory.memory.blocks, opened.memory.blocks, strict=True)
    assert all(torch.equal(before.slots, after.slots) for before, after in blocks)
    assert opened.ask("Where was Ada Lorn born?").text == answer.text


def test_many_questions_keep_their_order_and_equal_single_ones(model: str) -> None:
    memory = memfold.fold(TEXT, model=model)
    questions = ["Who?", "Where was Ada Lorn born?", " ", "What did she write, and how many of them?"]
    many = memory.ask_many(questions)
    assert [response.trace.question for response in many] == questions
    assert many[2].error == "scheduler: DataError: the question is empty; ask something"
    assert many[2].record()["error"] == many[2].error
    for question, response in zip(questions, many, strict=True):
        if response.error is None:
            assert memory.ask(question).text == response.text
    with pytest.raises(DataError, match="the question is empty"):
        memory.ask(" ")


def test_tokens_stream_in_the_order_of_the_reply(model: str) -> None:
    shown: list[str] = []
    answer = memfold.fold(TEXT, model=model).ask("Where?", shown.append)
    assert answer.trace.answer is not None
    assert answer.trace.answer.reply.startswith("".join(shown))
    assert shown


def test_styles_share_a_memory(model: str) -> None:
    memory = memfold.fold(TEXT, model=model)
    bare = memory.answering(style="bare")
    assert bare.memory is memory.memory
    assert bare.session.system.settings["style"] == "bare"
    assert memory.session.system.settings["style"] == "recall"


def test_only_how_a_question_is_answered_can_be_changed(model: str) -> None:
    memory = memfold.fold(TEXT, model=model)
    response = memory.answering(unfold=64).ask("Where was Ada Lorn born?")
    assert response.usage["calls"] == 2
    with pytest.raises(ConfigError, match="system 'pooled' has no reading setting 'ratio'; allowed: style"):
        memory.answering(ratio=4)
    with pytest.raises(ConfigError, match="system 'full' has no reading setting 'unfold'; allowed: style"):
        memfold.fold(TEXT, model=model, system="full").answering(unfold=9)


def test_unfolding_is_a_setting_of_the_answer(model: str) -> None:
    memory = memfold.fold(TEXT, model=model)
    unfolding = memory.unfolding(64)
    assert unfolding.memory is memory.memory
    question = "Where was Ada Lorn born?"
    assert unfolding.ask(question).trace.steps == memory.answering(unfold=64).ask(question).trace.steps
    with pytest.raises(ConfigError, match="system 'full' cannot unfold"):
        memfold.fold(TEXT, model=model, system="full").unfolding(64)


def test_answers_come_as_they_finish_with_their_numbers(model: str) -> None:
    memory = memfold.fold(TEXT, model=model)
    questions = ["Who?", " ", "Where was Ada Lorn born?", "What did she write?", "How many books?"]
    answers = list(memory.answers(questions, max_concurrency=2))
    assert sorted(number for number, _ in answers) == list(range(len(questions)))
    assert answers[0][0] == 1, "an empty question has failed before any other is answered"
    many = memory.ask_many(questions)
    for number, response in answers:
        assert response.trace.question == questions[number]
        assert response.error == many[number].error
        assert response.text == many[number].text


def test_the_default_ratio_is_a_trained_one(model: str) -> None:
    assert memfold.fold(TEXT, model=model).memory.settings["ratio"] == 16
    with pytest.raises(ConfigError, match="ratio 8 is not one that model 'small' was trained at; allowed: 4, 16"):
        memfold.fold(TEXT, model=model, ratio=8)


def test_blocks_are_reported_as_they_come(model: str) -> None:
    seen: list[int] = []
    memory = memfold.fold([text_file(model), text_file(model)], model=model, progress=lambda b: seen.append(b.source))
    assert seen == [0, 1]
    assert [block.index for block in memory.memory.blocks] == [0, 1]


def text_file(model: str) -> str:
    path = Path(model).parent / "text.md"
    path.write_text(TEXT)
    return str(path)


def test_what_is_text_and_what_is_a_path(tmp_path: Path) -> None:
    assert documents("one line\n")[0].text == "one line\n"
    assert documents("a few words")[0].source == "text"
    assert documents("x" * 5000)[0].text == "x" * 5000
    (tmp_path / "a b.txt").write_text("words")
    assert documents(str(tmp_path / "a b.txt"))[0].source == "a b.txt"
    assert [document.source for document in documents(tmp_path)] == ["a b.txt"]
    (tmp_path / "empty").mkdir()
    for source, message in [
        ("missing", "no document at missing"),
        ("my report.txt", "no document at my report.txt"),
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ([], "no documents"),
        (tmp_path / "empty", r"no readable file \(.txt, .md, .markdown, .text, .html, .htm, .pdf\) in the folder"),
    ]:
        with pytest.raises(DataError, match=message):
            documents(source)


def test_a_memory_file_is_known_by_name_or_content(model: str, tmp_path: Path) -> None:
    memfold.fold(TEXT, model=model).save(tmp_path / "memory")
    assert is_memory(tmp_path / "memory")
    assert is_memory(tmp_path / "missing.fold")
    (tmp_path / "text").write_text(TEXT)
    assert not is_memory(tmp_path / "text")
    assert not is_memory(tmp_path / "missing")


def test_a_model_without_projection_reads_text_only(new_backbone, tmp_path: Path) -> None:
    backbone: Backbone = new_backbone()
    del backbone.heads["pooled"]
    save_backbone(backbone, tmp_path / "plain")
    with pytest.raises(CheckpointError, match="model 'plain' has no projection for pooled memory"):
        memfold.fold(TEXT, model=str(tmp_path / "plain"))
    assert memfold.fold(TEXT, model=str(tmp_path / "plain"), system="retrieval").ask("Who?").citations


def test_warnings_need_a_threshold_and_a_strange_text(new_backbone) -> None:
    backbone: Backbone = new_backbone()
    assert familiarity.warning(backbone, TEXT) is None
    backbone.familiar_loss = 1e9
    assert familiarity.warning(backbone, TEXT) is None
    backbone.familiar_loss = 0.1
    assert "unlike the training text of qwen3" in str(familiarity.warning(backbone, TEXT))
    assert familiarity.warning(backbone, " ") is None


def test_models_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("step-000002/model", "step-000010/model"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "config.json").write_text("{}")
    assert model_folder(tmp_path / "run") == tmp_path / "run/step-000010/model"
    assert resolve_model(str(tmp_path / "run")).endswith("step-000010/model")
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    monkeypatch.setattr("memfold.backbone.resolve.resources.files", lambda package: tmp_path)
    for name, error, message in [
        ("tiny", CheckpointError, "memfold train recipes/pooled/tiny/base.toml"),
        ("tny", ConfigError, "unknown model 'tny'; nearest: 'tiny'"),
        ("http://localhost/v1", ConfigError, "weights are needed here"),
        ("./no/model", CheckpointError, "no model at './no/model'"),
        (str(tmp_path), CheckpointError, "no model in"),
    ]:
        with pytest.raises(error, match=message):
            resolve_model(name)
