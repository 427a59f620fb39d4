"""What is shown beside an answer: what is not in the text, and that a text is unlike the training text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_result import Cli

import memfold
from memfold.backbone import familiarity
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.cli.output import screen, show
from memfold.core.types import Answer, Citation, Recall, Trace
from memfold.response import Response

FOREIGN = "Nothing here. A secret stands in the second sentence. The end."
QUESTION = "Where is the secret?"
UNLIKE = "this text is unlike the training text of wary (9.0 nats per character, where up to 2.0 are familiar)"


@pytest.fixture
def wary(models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model with limits, for which exactly the texts with secrets are unfamiliar."""
    backbone = load_backbone(models["first"])
    backbone.familiar_loss, backbone.familiar_characters = 2.0, 0.5
    save_backbone(backbone, tmp_path / "wary")
    backbone.familiar_characters = 99.0
    save_backbone(backbone, tmp_path / "wary-of-slots")

    def losses(_: Backbone, texts: Sequence[str]) -> list[float]:
        return [9.0 if "secret" in text else 1.0 for text in texts]

    monkeypatch.setattr(familiarity, "losses_of", losses)
    Path(tmp_path / "odd.txt").write_text(FOREIGN)
    return str(tmp_path / "wary")


def test_a_familiar_text_is_not_warned_about(cli: Cli, page: SimpleNamespace, wary: str) -> None:
    record = cli("ask", page.path, page.question, "--model", wary, "--json").record
    assert "unlike" not in record["warning"], "the reply was cut off, and nothing else"


def test_a_foreign_text_is_warned_about_beside_the_answer(cli: Cli, wary: str) -> None:
    record = cli("ask", "odd.txt", QUESTION, "--model", wary, "--json").record
    assert UNLIKE in record["warning"]
    assert "--model" in record["warning"]
    assert record["passages"][0]["text"] == "A secret stands in the second sentence."
    shown = cli("ask", "odd.txt", QUESTION, "--model", wary).out
    assert UNLIKE in shown
    assert "not to be trusted" in shown
    assert 'passage   odd.txt, characters 14-53: "A secret stands' in shown


def test_a_foreign_text_is_warned_about_in_a_file_of_questions(cli: Cli, wary: str) -> None:
    Path("questions.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n" + json.dumps({"question": "Why?"}))
    result = cli("ask", "odd.txt", "--questions", "questions.jsonl", "--model", wary)
    records = [json.loads(line) for line in result.out.splitlines()]
    assert len(records) == 2
    assert all(UNLIKE in record["warning"] for record in records)
    assert UNLIKE in result.err


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["", "json"])
def test_a_foreign_text_is_warned_about_in_a_conversation(cli: Cli, wary: str, as_json: tuple[str, ...]) -> None:
    result = cli("ask", "odd.txt", "--model", wary, *as_json, stdin=f"{QUESTION}\nWhy?\n".encode())
    assert result.out.count(UNLIKE) == 2


def test_slots_of_a_foreign_text_are_warned_about(cli: Cli, wary: str) -> None:
    model = ("--model", f"{wary}-of-slots")
    assert cli("fold", "odd.txt", "-o", "odd.fold", *model, "--no-text").code == 0
    shown = cli("ask", "odd.fold", QUESTION, *model).out
    assert "the text of this memory is unlike the training text of wary" in shown
    assert "characters per token, where 99.0 or more are familiar" in shown
    assert "passage " not in shown
    assert "unchecked the memory holds no text to compare the answer with" in shown


def test_a_foreign_text_is_warned_about_in_python(wary: str) -> None:
    memory = memfold.fold(texts=[FOREIGN], model=wary)
    assert UNLIKE in str(memory.warning)
    assert all(UNLIKE in str(response.warning) for response in [memory.ask(QUESTION), *memory.ask_many(["Why?"])])
    memory.append(texts=["Nothing more."])
    assert UNLIKE in str(memory.ask("Why?").warning)


def test_a_document_that_is_appended_is_looked_at(page: SimpleNamespace, wary: str) -> None:
    memory = memfold.fold(texts=[page.text], model=wary)
    assert memory.warning is None
    memory.append(texts=[FOREIGN * 10])
    assert "a part of this text is unlike" in str(memory.warning)


def test_what_the_text_does_not_say_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    nearest = Citation("a.txt", 0, 21, "Ada was born in Velm.")
    recalls = (Recall("Ada was born in Tarn.", False, nearest), Recall("Lor met Ada.", True))
    trace = Trace("Where?", "pooled", answer=Answer("Tarn", r" Ada was born in Tarn. Lor met Ada. \boxed{Tarn}"))
    show(Response(trace, "m", recalls=recalls, supported=False), screen())
    shown = capsys.readouterr().out
    assert 'unknown   "Ada was born in Tarn." is not in the text; the text says: "Ada was born in Velm."' in shown
    assert shown.count("unknown") == 1
    show(Response(trace, "m", recalls=recalls[1:], supported=False), screen())
    assert 'unknown   "Tarn" is not in the text' in capsys.readouterr().out
    show(Response(trace, "m", recalls=recalls[1:], supported=True), screen())
    assert "unknown" not in capsys.readouterr().out


def test_names_that_the_text_does_not_mention_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    trace = Trace("Where was Belo Tarsk born?", "pooled", answer=Answer("Velm", r" Ada was born in Velm. \boxed{Velm}"))
    recalls = (Recall("Ada was born in Velm.", True),)
    show(Response(trace, "m", recalls=recalls, supported=True, unmentioned=("Belo", "Tarsk")), screen())
    shown = capsys.readouterr().out
    assert "answer    Velm" in shown
    assert 'unknown   the text does not mention "Belo", "Tarsk"' in shown


def test_a_withheld_answer_is_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    trace = Trace("When was Ada born?", "pooled", answer=Answer("1440", r" Ada was born in 1440. \boxed{1440}"))
    response = Response(trace, "m", recalls=(Recall("Ada was born in 1440.", False),), withheld="1440")
    for streamed in (False, True):
        show(response, screen(), streamed)
        shown = capsys.readouterr().out
        assert "answer    not in the text" in shown
        assert 'withheld  "1440", which the text does not state' in shown
        assert 'unknown   "Ada was born in 1440." is not in the text' in shown
