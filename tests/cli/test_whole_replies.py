"""What a reply says is what a user sees: whole, without thoughts, and never cited where there is none."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from chat_server import ChatServer, says

from memfold.cli.main import execute

TEXT = "Ada was born in Velm. The mill of Tor stands by the river."
LONG = (
    "Ada was born in Velm, which is a town by the sea, as the first sentence of the text says, and she grew up there."
)


@pytest.fixture
def question(chat_server: ChatServer, tmp_path: Path) -> list[str]:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    model = f"{chat_server.url}#some-model"
    return ["ask", str(tmp_path / "text.txt"), "Where was Ada born?", "--system", "full", "--model", model]


def test_a_reply_in_sentences_is_shown_whole(
    chat_server: ChatServer, question: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chat_server.usual = says(LONG)
    assert execute(question) == 0
    assert f"answer    {LONG}\n" in capsys.readouterr().out
    assert execute([*question, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["answer"], record["reply"], record["thinking"], record["finish"]) == (LONG, LONG, "", "stop")
    assert [body["max_tokens"] for body in chat_server.asked] == [2048, 2048]
    assert all("Answer from the text above in a few words." in message for message in chat_server.messages)


def test_a_style_that_asks_for_a_box_shows_what_it_holds(
    chat_server: ChatServer, question: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chat_server.usual = says(r"Ada was born in Velm. \boxed{Velm}")
    assert execute([*question, "--style", "recall", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["answer"], record["reply"]) == ("Velm", r"Ada was born in Velm. \boxed{Velm}")


@pytest.mark.parametrize("said", ["", " \n", "<think>It says Velm.</think>", "<think>It says Velm."])
def test_an_empty_reply_is_no_answer(
    chat_server: ChatServer, question: list[str], capsys: pytest.CaptureFixture[str], said: str
) -> None:
    chat_server.usual = says(said)
    assert execute(question) == 1
    shown = capsys.readouterr().out
    assert "answer    (no reply)" in shown
    assert "the reply is empty" in shown
    assert "from" not in [line.split(" ")[0] for line in shown.splitlines()]
    assert execute([*question, "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["answer"], record["citations"], record["supported"]) == ("", [], None)
    assert record["thinking"] == ("It says Velm." if "Velm" in said else "")


def test_a_file_of_questions_fails_with_an_empty_reply(
    chat_server: ChatServer, question: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_server.usual = says(lambda message: "" if "mill" in message.partition("river.")[2] else "In Velm.")
    asked = [{"question": "Where was Ada born?"}, {"question": "Where is the mill?"}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    arguments = [*question[:2], *question[3:], "--questions", str(tmp_path / "questions.jsonl")]
    assert execute(arguments) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["answer"] for record in records] == ["In Velm.", ""]


def test_a_reply_that_is_cut_off_is_told(
    chat_server: ChatServer, question: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chat_server.usual = says("Ada was born", finish="length")
    assert execute([*question, "--max-tokens", "3"]) == 0
    shown = capsys.readouterr().out
    assert "the reply did not end within" in shown
    assert "(--max-tokens)" in shown
    assert "answer    Ada was born\n" in shown
    chat_server.usual = says("<think>Ada was", finish="length")
    assert execute([*question, "--max-tokens", "3", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["finish"], record["thinking"], record["citations"]) == ("length", "Ada was", [])
    assert "so there is no answer" in record["warning"]
    assert [body["max_tokens"] for body in chat_server.asked] == [3, 3]


def test_a_limit_below_one_token_is_refused(question: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*question, "--max-tokens", "0"]) == 2
    assert "--max-tokens = 0 is not possible; allowed: 1 token or more" in capsys.readouterr().err


def test_a_conversation_shows_a_reply_once(
    chat_server: ChatServer, question: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_server.usual = says("<think>It says Velm.</think>In Velm.")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Where was Ada born?\n")))
    assert execute([*question[:2], *question[3:]]) == 0
    shown = capsys.readouterr().out
    assert shown.count("In Velm.") == 1
    assert "It says" not in shown
