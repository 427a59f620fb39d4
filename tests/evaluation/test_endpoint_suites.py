"""Suites whose model is behind an address: a real server on this machine, with faults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from chat_server import ChatServer, fails, says, unused_port

from memfold.cli.main import execute
from memfold.endpoint.policy import Retries

SMALL = ["--lengths", "256", "--split", "in"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retries, "pause", lambda self, attempt, asked: 0.0 if attempt < self.count else None)


@pytest.fixture
def model(chat_server: ChatServer) -> list[str]:
    """Finds the secret of the question in its message, where that has it."""

    def reads(message: str) -> str:
        asked = re.search(r"What is the secret (\w+) of (\S+)\?", message)
        found = asked and re.search(rf"The secret {asked[1]} of {asked[2]} is ([^.]+)\.", message)
        return f"So it is. \\boxed{{{found[1]}}}" if found else "no idea"

    chat_server.usual = says(reads)
    return ["--model", f"{chat_server.url}#some-model"]


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict, str]:  # type: ignore[type-arg]
    assert execute(["eval", *map(str, arguments), "--json"]) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


@pytest.mark.parametrize("suite", ["needle", "strings"])
def test_systems_of_text_are_asked_and_those_of_slots_left_out(
    model: list[str], suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = ["--questions", "4", *(["--depths", "2"] if suite == "needle" else [])]
    result, error = evaluated(capsys, suite, *model, *SMALL, *count, "--out", tmp_path / "out")
    assert "left out pooled" in error
    assert "pooled" not in " ".join(result["systems"])
    records = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert {record["system"] for record in records if record["correct"]} == set(result["systems"]) - {"closed-book"}
    assert not any(record["correct"] for record in records if record["system"] == "closed-book")
    assert not any(record["error"] for record in records)
    assert result["model"]["fingerprint"].endswith("/v1#some-model")
    assert "behind an address" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    "suite", [["almanac"], ["multihop", "--kind", "two-hop"], ["multihop", "--kind", "tracking"], ["qa"]]
)
def test_every_suite_of_questions_runs(
    model: list[str], suite: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if suite == ["qa"]:
        row = {"question": "Where?", "answers": {"text": ["Velm"], "answer_start": [16]}, "id": "1"}
        squad = {"data": [{"title": "T", "paragraphs": [{"context": "Ada was born in Velm.", "qas": [row]}]}]}
        row["answers"] = [{"text": "Velm", "answer_start": 16}]
        (tmp_path / "squad.json").write_text(json.dumps(squad))
        arguments = [*suite, "--data", f"squad={tmp_path / 'squad.json'}", "--questions", "1"]
    else:
        arguments = [*suite, "--lengths", "512", "--split", "in", "--questions", "1"]
    systems = ["--system", "full", "--system", "recurrent/chunk=256"]
    result, _ = evaluated(capsys, *arguments, *model, *systems, "--out", tmp_path / "out")
    assert (result["samples"], result["errors"]) == (2, {})


def test_another_model_at_the_same_address_is_another_run(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["eval", "strings", *SMALL, "--questions", "1", "--system", "full", "--out", str(tmp_path)]
    assert execute([*run, *model]) == 0
    assert execute([*run, "--model", model[1].replace("some", "other")]) == 2
    assert "holds samples with model" in capsys.readouterr().err


def test_sampling_reaches_the_endpoint_and_the_report(
    model: list[str], chat_server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ["--lengths", "512", "--split", "in", "--questions", "2", "--system", "full", "--sampling", "paper"]
    result, _ = evaluated(capsys, "multihop", "--kind", "tracking", *model, *drawn, "--out", tmp_path)
    asked = [body for body in chat_server.asked if body["max_tokens"] == 2048]
    sampling = ("temperature", "top_p", "top_k", "repetition_penalty")
    assert [[body[name] for name in sampling] for body in asked] == [[0.7, 0.8, 20, 1.05]] * 2
    assert len({body["seed"] for body in asked}) == 2
    drawn_with = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    assert result["sampling"] == {"name": "paper"} | drawn_with
    assert "replies paper, temperature 0.7, top_k 20" in (tmp_path / "table.md").read_text()


def test_what_cannot_be_asked_is_one_line(
    model: list[str], chat_server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ["--model", f"http://127.0.0.1:{unused_port()}/v1#m"]
    chat_server.plan = [fails(404)]
    cases = [
        (["almanac", "--system", "pooled", *model], 2, "system 'pooled' is not possible with model 'some-model'"),
        (["reconstruction", *model], 2, "suite 'reconstruction' compares pooled: model 'some-model' is an endpoint"),
        (["strings", *model], 1, "404 Not Found (no luck)"),
        (["strings", *nowhere], 1, "the connection failed ("),
    ]
    for arguments, code, message in cases:
        assert execute(["eval", *arguments, "--out", str(tmp_path / "never")]) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.splitlines()[-1].startswith("memfold: ")
    assert not (tmp_path / "never").exists()
    assert execute(["eval", "reconstruction", "--quick", "--system", "full", *model, "--out", str(tmp_path)]) == 2
    assert "compares tokens, and the endpoint of model 'some-model' gives none" in capsys.readouterr().err
