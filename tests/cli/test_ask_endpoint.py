"""Asking a model behind an address, from the command line and from Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from chat_server import ChatServer, fails, says, sends, unused_port
from command_result import Cli

import memfold
from memfold.cli.printable import printable
from memfold.core.errors import CallError, ConfigError
from memfold.endpoint.policy import Retries

KEY = "sk-very-secret"
SAID = "Velm, it is."


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retries, "pause", lambda self, attempt, asked: 0.0 if attempt < self.count else None)


@pytest.fixture
def remote(chat_server: ChatServer) -> tuple[str, str]:
    """The arguments that choose the model of an endpoint."""
    chat_server.usual = says(lambda message: "a note" if "Write down what" in message else SAID)
    return "--model", f"{chat_server.url}#some-model"


@pytest.mark.parametrize(("system", "calls"), [("full", 1), ("retrieval", 1), ("recurrent", 2)])
def test_systems_of_text_answer(
    cli: Cli, page: SimpleNamespace, remote: tuple[str, str], chat_server: ChatServer, system: str, calls: int
) -> None:
    record = cli("ask", page.path, page.question, *remote, "--system", system, "--json").record
    assert (record["answer"], record["system"], record["model"]) == (SAID, system, "some-model")
    assert (record["recalled"], record["warning"]) == ("", None)
    assert record["citations"]
    assert (record["usage"]["calls"], record["usage"]["generated_tokens"]) == (calls, 3 * calls)
    assert 0 < record["seconds"]["first_token"] <= record["seconds"]["total"]
    assert len(chat_server.asked) == calls
    assert all(page.question in message for message in chat_server.messages)


@pytest.mark.parametrize("system", ["full", "retrieval", "recurrent"])
def test_a_pdf_is_folded_and_asked_at_an_endpoint(
    cli: Cli, remote: tuple[str, str], chat_server: ChatServer, make_pdf: Callable[..., bytes], system: str
) -> None:
    Path("page.pdf").write_bytes(make_pdf("Ada Lorn was born in Velm.", "Velm is a town."))
    assert cli("fold", "page.pdf", "-o", "page.fold", *remote, "--system", system).code == 0
    assert cli("ask", "page.fold", "Where was Ada Lorn born?", *remote, "--json").record["answer"] == SAID
    assert any("Ada Lorn was born in Velm." in message for message in chat_server.messages)


def test_replies_are_streamed_in_a_conversation(
    cli: Cli, page: SimpleNamespace, remote: tuple[str, str], chat_server: ChatServer
) -> None:
    result = cli("ask", page.path, *remote, "--system", "retrieval", stdin=b"Who?\n\n")
    assert result.code == 0
    assert result.out.startswith(f"{SAID}\n")
    assert chat_server.asked[0]["stream"] is True


def test_a_memory_of_text_is_kept_and_asked_at_another_endpoint(
    cli: Cli, page: SimpleNamespace, remote: tuple[str, str], chat_server: ChatServer
) -> None:
    assert cli("fold", page.path, "-o", "page.fold", *remote, "--system", "recurrent").code == 0
    assert chat_server.asked == []
    other = ("--model", f"http://localhost:{chat_server.server_port}/v1/#other")
    assert cli("ask", "page.fold", "Who?", *other, "--json").record["answer"] == SAID
    assert {body["model"] for body in chat_server.asked} == {"other"}
    shown = cli("inspect", "page.fold").out
    assert "some-model" in shown
    assert "hidden_size" not in shown


def test_questions_that_fail_are_data(
    cli: Cli, page: SimpleNamespace, remote: tuple[str, str], chat_server: ChatServer
) -> None:
    chat_server.usual = lambda handler, body: (
        fails(400, "no") if "Bad?" in body["messages"][0]["content"] else says(SAID)
    )(handler, body)
    Path("q.jsonl").write_text("".join(json.dumps({"question": q}) + "\n" for q in ("Who?", "Bad?", "Where?")))
    result = cli("ask", page.path, "--questions", "q.jsonl", *remote, "--system", "retrieval")
    assert result.code == 1
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [record["answer"] for record in records] == [SAID, "", SAID]
    assert "400 Bad Request (no)" in records[1]["error"]


def test_what_fails_is_one_line_and_exit_code_1(
    cli: Cli, page: SimpleNamespace, remote: tuple[str, str], chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for fault, message in [
        (fails(401, f"bad key {KEY}"), "401 Unauthorized (bad key ***); set OPENAI_API_KEY"),
        (fails(429), "429 Too Many Requests (no luck), after 5 attempts"),
        (sends(b"<html></html>", "text/html"), "the response is text/html, not an event stream; check the address"),
        (sends(b'data: {"choices": []}\n\n', "text/event-stream"), "the response has no choices"),
    ]:
        chat_server.usual = fault
        result = cli("ask", page.path, "Who?", *remote, "--system", "full")
        assert result.code == 1
        assert result.message.startswith(f"policy: endpoint {chat_server.url}, model 'some-model': ")
        assert message in result.message
        assert KEY not in result.out + result.err
    nowhere = f"http://127.0.0.1:{unused_port()}/v1#m"
    result = cli("ask", page.path, "Who?", "--model", nowhere, "--system", "full")
    assert result.code == 1
    assert "the connection failed (" in result.message


def test_what_cannot_be_asked_is_exit_code_2(cli: Cli, page: SimpleNamespace, remote: tuple[str, str]) -> None:
    at = f"http://127.0.0.1:{unused_port()}/v1"
    cases = [
        ((*remote, "--system", "pooled"), "system 'pooled' is not possible with model 'some-model'"),
        ((*remote, "--system", "full", "--ratio", 4), "ratio 4 is not possible"),
        (("--model", at, "--system", "full"), f"write {at}#NAME"),
        (("--model", "http://:8000/v1#m", "--system", "full"), "not the address of an endpoint"),
    ]
    for arguments, message in cases:
        for command in (("ask", page.path, "Who?"), ("fold", page.path, "-o", "never.fold")):
            result = cli(*command, *arguments)
            assert result.code == 2
            assert message in result.message
    assert not Path("never.fold").exists()


def test_an_address_without_a_name(cli: Cli, page: SimpleNamespace, chat_server: ChatServer) -> None:
    chat_server.usual = says(SAID)
    asked = ("ask", page.path, "Who?", "--model", chat_server.url, "--system", "retrieval")
    assert cli(*asked, "--json").record["model"] == "some-model"
    assert [body["model"] for body in chat_server.asked] == ["some-model"]
    chat_server.listed = {"data": [{"id": "one"}, {"id": "two"}]}
    result = cli(*asked)
    assert result.code == 2
    assert f"which lists one, two; write {chat_server.url}#NAME" in result.message


def test_what_an_endpoint_says_cannot_control_the_terminal(
    cli: Cli, page: SimpleNamespace, remote: tuple[str, str], chat_server: ChatServer
) -> None:
    odd = "\x1b[2J\x1b]0;x\x07\u202e\x9b"
    chat_server.usual = says(f"It is{odd} so. {odd}")
    replied = cli("ask", page.path, *remote, "--system", "retrieval", stdin=b"Who?\n")
    asked = cli("ask", page.path, "Who?", *remote, "--system", "full")
    chat_server.usual = fails(400, f"no{odd}")
    refused = cli("ask", page.path, "Who?", *remote, "--system", "full")
    chat_server.listed = {"data": [{"id": f"m{odd}"}, {"id": "n"}]}
    listed = cli("ask", page.path, "Who?", "--model", chat_server.url, "--system", "full")
    for result in (replied, asked, refused, listed):
        assert printable(result.out + result.err) == result.out + result.err
        assert r"\x1b[2J\x1b]0;x\x07\u202e\x9b" in result.out + result.err


def test_from_python(chat_server: ChatServer, remote: tuple[str, str]) -> None:
    text = "Ada was born in Velm. Lor met Ada there."
    memory = memfold.fold(text, system="recurrent", model=remote[1])
    shown: list[str] = []
    answer = memory.ask("Where was Ada born?", shown.append)
    assert (answer.text, "".join(shown)) == (SAID, SAID)
    assert [step.call.purpose for step in answer.trace.steps] == ["update", "answer"]
    chat_server.usual = says(r"It is so. \boxed{Velm}")
    assert memory.answering(style="recall").ask("Where?").text == "Velm"
    chat_server.usual = says(SAID)
    assert [response.text for response in memory.ask_many(["Where?", "Who?"])] == [SAID, SAID]
    with pytest.raises(ConfigError, match="'pooled' is not possible"):
        memfold.fold(text, system="pooled", model=remote[1])
    assert memfold.fold(text, model=remote[1]).memory.system == "retrieval"
    chat_server.usual = fails(404)
    with pytest.raises(CallError, match="404 Not Found"):
        memory.ask("Where?")
