"""memfold from Python: what can be folded, asked, saved and opened."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import memfold
from memfold import session as sessions
from memfold.backbone import policy
from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.resolve import model_folder, resolve_model
from memfold.core.errors import CallError, CheckpointError, ConfigError, DataError, MemfoldError
from memfold.core.registry import has_slots, text_systems
from memfold.core.system import Rendered
from memfold.core.types import SamplingParams
from memfold.folding import append_file, fold_file
from memfold.memory import open_stored, save_memory
from memfold.session import open_session
from memfold.sources import given_inputs, is_memory

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
    with pytest.raises(
        AttributeError,
        match=r"no attribute 'unfold'; it has CallError, .*FoldedMemory, MemfoldError, Response, fold, open",
    ):
        _ = memfold.unfold  # type: ignore[attr-defined]


def test_the_package_lists_its_names_and_errors_without_torch() -> None:
    names = ["CallError", "CheckpointError", "ConfigError", "DataError", "FoldedMemory", "MemfoldError", "Response"]
    assert sorted(dir(memfold)) == sorted([*names, "fold", "open", "__version__"])
    assert sorted(memfold.__all__) == sorted([*names, "fold", "open"])
    assert memfold.__version__ == version("memfold")
    found = (memfold.CallError, memfold.CheckpointError, memfold.ConfigError, memfold.DataError, memfold.MemfoldError)
    assert found == (CallError, CheckpointError, ConfigError, DataError, MemfoldError)
    code = (
        "import sys, memfold; memfold.DataError, memfold.__version__, dir(memfold); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memfold.fold(None), r"source must be a path, .* texts .*; give one of the two"),
        (lambda: memfold.fold(), "give one of the two"),
        (lambda: memfold.fold("a.txt", texts=["Ann"]), "give one of the two"),
        (lambda: memfold.fold(3), r"source must be a path \(str or Path\), a list of paths, or a text, not int"),
        (lambda: memfold.fold(b"text"), "source must be .*, not bytes"),
        (lambda: memfold.fold({"a": "b"}), "source must be .*, not dict"),
        (lambda: memfold.fold(["a.txt", 3]), r"source\[1\] must be a path \(str or Path\), not int"),
        (lambda: memfold.fold(texts="Ann signed."), "texts must be a list of strings, not str"),
        (lambda: memfold.fold(texts=["Ann", None]), r"texts\[1\] must be a string, not NoneType"),
        (lambda: memfold.fold(texts={1: "Ann"}), r"names of texts\[0\] must be a string, not int"),
        (lambda: memfold.fold(TEXT, model=None), "model must be a string, not NoneType"),
        (lambda: memfold.fold(TEXT, ratio="4"), "ratio must be an integer, not str"),
        (lambda: memfold.fold(TEXT, ratio=True), "ratio must be an integer, not bool"),
        (lambda: memfold.fold(TEXT, system=3), "system must be a string, not int"),
        (lambda: memfold.fold(TEXT, progress="bar"), "progress must be a function or None, not str"),
        (lambda: memfold.open(3), r"path must be a path \(str or Path\), not int"),
        (lambda: memfold.open(None), "path must be a path .*, not NoneType"),
        (lambda: memfold.open("a.fold", dtype=4), "dtype must be a string, not int"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_questions_of_the_wrong_type_are_refused(model: str) -> None:
    memory = memfold.fold(TEXT, model=model)
    for wrong in ("Hi", b"Hi", None, 3, {"Who?": 1}):
        with pytest.raises(TypeError, match=f"questions must be a list of strings, not {type(wrong).__name__}"):
            memory.ask_many(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="questions must be"):
            memory.answers(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"questions\[1\] must be a string, not int"):
        memory.ask_many(["Who?", 3])  # type: ignore[list-item]
    for wrong in (None, b"Who?", ["Who?"]):
        with pytest.raises(TypeError, match="question must be a string"):
            memory.ask(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_token must be a function or None, not str"):
        memory.ask("Who?", "print")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path must be a path"):
        memory.save(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give one of the two"):
        memory.append()
    for wrong in ("2", 1.5, None, True):
        with pytest.raises(TypeError, match="max_concurrency must be an integer"):
            memory.answers(["Who?"], max_concurrency=wrong)  # type: ignore[arg-type]
    for wrong in (0, -1):  # nothing would ever be asked
        with pytest.raises(ConfigError, match=f"max_concurrency = {wrong} is not possible; allowed: 1 or more"):
            memory.answers(["Who?"], max_concurrency=wrong)
    assert memory.ask_many(()) == []
    assert [response.trace.question for response in memory.ask_many(iter(["Who?"]))] == ["Who?"]


def test_texts_are_documents(model: str) -> None:
    listed = memfold.fold(texts=["Ann signed it.", TEXT], model=model).memory
    assert listed.sources == ("text 1", "text 2")
    assert [block.read() for block in listed.blocks] == ["Ann signed it.", TEXT]
    named = memfold.fold(texts={"letter": "Ann signed it.", "page": TEXT}, model=model).memory
    assert named.sources == ("letter", "page")
    for texts, message in (([], "no texts"), (["Ann", " "], "text 2 is empty"), ({"a": ""}, "a is empty")):
        with pytest.raises(DataError, match=message):
            memfold.fold(texts=texts, model=model)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"source\[1\] is a text, not a path; give a list of texts as texts="):
        memfold.fold([__file__, "Ann signed it.\n"], model=model)


def test_documents_are_appended_as_if_they_had_been_folded_together(model: str, tmp_path: Path) -> None:
    seen: list[int] = []
    memory = memfold.fold(texts=[TEXT], model=model)
    asked = memory.answering(style="bare")
    memory.append(texts=["Ben read it.", TEXT], progress=lambda block: seen.append(block.index))
    assert seen == [0]
    together = memfold.fold(texts=[TEXT, "Ben read it."], model=model).memory
    assert (memory.memory.name, memory.memory.sources) == (together.name, ("text 1", "text 2"))
    assert memory.memory.sha256 == together.sha256
    assert len(asked.memory.sources) == 1, "a memory that shares the blocks is as it was"
    for left, right in zip(memory.memory.blocks, together.blocks, strict=True):
        assert (left.index, left.source, left.read()) == (right.index, right.source, right.read())
        assert left.slots is not None
        assert right.slots is not None
        torch.testing.assert_close(left.slots, right.slots)
    before = memory.memory
    memory.append(texts=[TEXT])
    assert memory.memory is before
    (tmp_path / "ada.txt").write_text("Ada Lorn left.")
    memory.append(tmp_path / "ada.txt")
    assert memory.memory.sources == ("text 1", "text 2", "ada.txt")
    with pytest.raises(DataError, match="missing does not exist"):
        memory.append("missing")


def test_an_opened_memory_grows_and_is_saved_in_its_place(model: str, tmp_path: Path) -> None:
    path = tmp_path / "a.fold"
    memfold.fold(texts={"first": TEXT}, model=model).save(path)
    memory = memfold.open(path, model=model)
    memory.append(texts={"second": "Ben read it. Ben lives in Tor."})
    assert memory.ask("Who read it?").text == memory.ask_many(["Who read it?"])[0].text
    memory.save(path)
    again = memfold.open(path, model=model)
    assert again.memory.sources == ("first", "second")
    assert [block.read() for block in again.memory.blocks] == [TEXT, "Ben read it. Ben lives in Tor."]
    assert again.memory.settings == memory.memory.settings
    with pytest.raises(DataError, match="is a memory of other documents"):
        memfold.fold(texts={"second": "Ben read it."}, model=model).save(path)
    with pytest.raises(DataError, match="is a memory of other documents"):
        memfold.fold(texts={"first": TEXT}, model=model).save(path)


def test_only_the_model_that_folded_a_memory_appends_to_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, path = memfold.fold(TEXT, model=model), tmp_path / "m.fold"
    memory.save(path)
    monkeypatch.setattr(memory.session.model, "reads", ("e" * 64, memory.memory.fingerprint))
    with pytest.raises(DataError, match="model 'small' reads this memory, but another one folded it"):
        memory.append(texts=["Ben read it."])
    with pytest.raises(DataError, match="model 'small' reads this memory, but another one folded it"):
        append_file(given_inputs(None, ["Ben read it."]).documents, open_stored(path), memory.session)


def test_what_is_appended_to_a_file_is_folded_as_the_file_was(model: str, tmp_path: Path) -> None:
    path = tmp_path / "m.fold"
    memfold.fold(TEXT, model=model).save(path)
    before, added = path.read_bytes(), given_inputs(None, ["Ben read it."]).documents
    for system, ratio, said in [("pooled", 4, "has ratio = 16, not 4"), ("full", None, "system 'pooled', not 'full'")]:
        with pytest.raises(DataError, match=said):
            append_file(added, open_stored(path), open_session(system, model, ratio))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("system", text_systems())
def test_a_memory_of_text_is_never_stored_without_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    path, memory = tmp_path / "m.fold", memfold.fold(TEXT, model=model, system=system)
    said = f"a memory of system '{system}' is the text itself, so the text must be stored; leave --no-text"
    with pytest.raises(ConfigError, match=said):
        memory.save(path, keep_text=False)
    monkeypatch.setattr(type(memory.session.system), "compress", lambda *_: pytest.fail("a document was folded"))
    with pytest.raises(ConfigError, match=said):
        fold_file(given_inputs(None, [TEXT]).documents, path, memory.session, keep_text=False)
    assert list(tmp_path.iterdir()) == []


def test_how_a_memory_is_stored_is_checked_before_anything_is_written(model: str, tmp_path: Path) -> None:
    memory, path = memfold.fold(TEXT, model=model), tmp_path / "a.fold"
    wrong: dict[str, Any]
    for wrong in ({"keep_text": "no"}, {"keep_text": 1}, {"dtype": 8}, {"force": "yes"}):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be "):
            memory.save(path, **wrong)
    with pytest.raises(DataError, match="unknown memory dtype 'int16'; nearest: 'int8'"):
        memory.save(path, dtype="int16")
    for system in text_systems():
        text = memfold.fold(TEXT, model=model, system=system)
        with pytest.raises(ConfigError, match=f"dtype 'int8' has no effect: system '{system}' stores no slots"):
            text.save(path, dtype="int8")
    assert list(tmp_path.iterdir()) == []


def test_memories_and_answers_have_a_short_form(model: str) -> None:
    memory = memfold.fold(TEXT, model=model)
    tokens, slots = memory.memory.token_count, memory.memory.slot_count
    counts = f"1 document, {tokens} tokens, {slots} slots"
    assert repr(memory) == f"<FoldedMemory: {counts}, system 'pooled', model 'small'>"
    assert repr(memory.memory) == f"<Memory {memory.memory.name!r} of system 'pooled': {counts}>"
    response, failed = memory.ask_many(["Who?", " "])
    assert repr(response).startswith(f"<Response {response.text!r}, {len(response.citations)} citations")
    assert repr(failed) == f"<Response without an answer: {failed.error}>"


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("system", ["pooled", "retrieval"])
def test_memories_are_pickled_and_copied(model: str, tmp_path: Path, opened: bool, system: str) -> None:
    path = tmp_path / "a.fold"
    memory = memfold.fold(texts=[TEXT * 10, "Ben read it."], model=model, system=system)
    if opened:
        memory.save(path, dtype="float32" if has_slots(system) else None)
        memory = memfold.open(path, model=model)
    question = "Where was Ada Lorn born?"
    expected = memory.ask(question)
    data = pickle.dumps(memory)
    held = sum(block.slots.nbytes for block in memory.memory.blocks if block.slots is not None)
    assert len(data) < held + 20_000, "neither weights nor a whole file for each block"
    path.unlink(missing_ok=True)
    sessions._load.cache_clear()  # as in another process
    for other in (pickle.loads(data), copy.copy(memory), copy.deepcopy(memory)):
        assert other.ask(question).text == expected.text
        assert [block.read() for block in other.memory.blocks] == [block.read() for block in memory.memory.blocks]
    assert copy.deepcopy(memory).session.model is memory.session.model
    assert pickle.loads(pickle.dumps(expected)).text == expected.text


def test_slots_that_are_not_finite_are_refused_while_folding(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model in float16 makes them when it overflows."""
    plain = Backbone.hidden
    monkeypatch.setattr(Backbone, "hidden", lambda *arguments: plain(*arguments) * float("inf"))
    with pytest.raises(DataError, match=r"slots contain values that are not finite .*float16"):
        memfold.fold(TEXT, model=model)
    document = tmp_path / "a.txt"
    document.write_text(TEXT)
    with pytest.raises(DataError, match=r"slots contain values that are not finite .*float16"):
        fold_file(given_inputs(document, None).documents, tmp_path / "a.fold", sessions.open_session(model=model))
    assert not (tmp_path / "a.fold").exists()


def test_slots_of_another_size_are_refused(model: str, tmp_path: Path) -> None:
    memory = memfold.fold(TEXT, model=model)
    for slots, found in ((torch.zeros(memory.memory.slot_count, 16), 16), (None, 0)):
        (block,) = memory.memory.blocks
        changed = replace(memory.memory, blocks=[replace(block, slots=slots)])
        save_memory(changed, tmp_path / "a.fold")
        with pytest.raises(
            DataError, match=f"has slots of {found} values, model 'small' reads slots of 32; use the model that"
        ):
            memfold.open(tmp_path / "a.fold", model=model)


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
    assert many[2].error == "the question is empty; ask something"
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
    memory = memfold.fold(texts=[TEXT, f"{TEXT} Yes."], model=model, progress=lambda block: seen.append(block.source))
    assert seen == [0, 1]
    assert [block.index for block in memory.memory.blocks] == [0, 1]


def test_what_a_folder_holds_is_folded_or_listed(model: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name, data in (("a.txt", b"Ada left."), ("b.txt", b"Ada left."), ("c.bin", b"\0"), (".d", b"d")):
        (tmp_path / "d" / name).write_bytes(data)
    with pytest.warns(UserWarning, match=r"^not folded: c\.bin is binary.*; the attribute skipped lists all") as told:
        memory = memfold.fold(tmp_path / "d", model=model)
    assert told[0].filename == __file__
    assert memory.memory.sources == ("a.txt",)
    assert [each.source for each in memory.skipped] == [".d", "c.bin", "b.txt"]
    assert memory.skipped[2].same_as == "a.txt"
    assert memory.answering(style="bare").skipped == pickle.loads(pickle.dumps(memory)).skipped == memory.skipped
    with pytest.raises(DataError, match=r"c\.bin is binary"):
        memory.append([tmp_path / "d" / "a.txt", tmp_path / "d" / "c.bin"])
    memory.append([tmp_path / "d" / "a.txt"])
    assert str(memory.skipped[3]) == "a.txt has the same text as a.txt in the memory"


def test_a_saved_memory_is_known_by_its_content(model: str, tmp_path: Path) -> None:
    memfold.fold(TEXT, model=model).save(tmp_path / "memory")
    assert is_memory(tmp_path / "memory")


def test_a_model_without_projection_reads_text_only(new_backbone, tmp_path: Path) -> None:
    backbone: Backbone = new_backbone()
    del backbone.heads["pooled"]
    save_backbone(backbone, tmp_path / "plain")
    with pytest.raises(CheckpointError, match="model 'plain' has no projection for pooled memory"):
        memfold.fold(TEXT, model=str(tmp_path / "plain"), system="pooled")
    memory = memfold.fold(TEXT, model=str(tmp_path / "plain"))
    assert memory.memory.system == "retrieval"
    assert memory.ask("Where was Ada born?").citations


def test_models_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("step-000002/model", "step-000010/model"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "config.json").write_text("{}")
    assert model_folder(tmp_path / "run") == tmp_path / "run/step-000010/model"
    assert resolve_model(str(tmp_path / "run")).endswith("step-000010/model")
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    monkeypatch.setattr("memfold.backbone.named.tiny.resources.files", lambda package: tmp_path)
    for name, error, message in [
        ("tiny", CheckpointError, "memfold train recipes/pooled/tiny/base.toml"),
        ("tny", ConfigError, "unknown model 'tny'; nearest: 'tiny'"),
        ("http://localhost/v1", ConfigError, "weights are needed here"),
        ("./no/model", CheckpointError, "no model at './no/model'"),
        (str(tmp_path), CheckpointError, "no model in"),
    ]:
        with pytest.raises(error, match=message):
            resolve_model(name)
