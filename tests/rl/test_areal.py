"""Trajectories of memfold's systems as AReaL asks for them: its calls, the rewards of completions, failures."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, unused_port
from stand_in_areal import Areal, Completion

from memfold.core.errors import CallError, ConfigError, DataError
from memfold.rl.areal import Agent, row_of, sample_of
from memfold.tasks.table import load_task
from memfold.tasks.task import TaskOptions

SENTENCES = ("Ada was born in Velm. ", "Lor met Ada there. ", "Velm lies by the sea. ")
ROW: dict[str, Any] = {
    "id": "r1",
    "document": "".join(sentence * 2 for sentence in SENTENCES),
    "question": "Where was Ada born?",
    "answers": ["Velm"],
}
CHUNKS = 3  # of ROW, at 12 tokens each
LONG = 60  # seconds that many trajectories may take to begin on a busy machine
HOTPOT: dict[str, Any] = {
    "_id": "h1",
    "question": "Where was the author of Sanu born?",
    "answer": "Velm",
    "type": "bridge",
    "supporting_facts": [["Ada Lorn", 1], ["Sanu", 0]],
    "context": [
        ["Sanu", ["Sanu is a book by Ada Lorn."]],
        ["Ada Lorn", ["Ada Lorn is a writer.", " She was born in Velm."]],
    ],
}


def reads(message: str) -> str:
    return "Ada: Velm." if "Write down what" in message else "Velm"


def agent(**options: Any) -> Agent:
    options = {"system": "recurrent", "settings": {"chunk": 12}, "timeout": LONG} | options
    return Agent(**options)


def episode(areal: Areal, agent: Agent, row: dict[str, Any] = ROW) -> dict[str, Completion] | None:
    return asyncio.run(areal.episode(agent, row))


def rewards(completions: dict[str, Completion] | None) -> list[float | None]:
    assert completions is not None
    return [completion.reward for completion in completions.values()]


def test_a_trajectory_has_a_call_for_each_chunk_and_one_for_the_answer(chat_server: ChatServer) -> None:
    completions = episode(Areal(chat_server, reads), agent())
    assert completions is not None
    assert len(completions) == len(chat_server.asked) == CHUNKS + 1
    *updates, last = [completion.message for completion in completions.values()]
    parts = [re.search(rf"part (\d) of 3:\n(.*)\n\n{re.escape(ROW['question'])}", message) for message in updates]
    assert [part and part[1] for part in parts] == ["1", "2", "3"]
    assert "".join(part[2] for part in parts if part) == ROW["document"]
    assert all("Ada: Velm." in message for message in (*updates[1:], last)), "the note is handed on"
    assert "Text, part" not in last
    assert ROW["question"] in last


def test_requests_have_what_areal_takes(chat_server: ChatServer) -> None:
    episode(Areal(chat_server, reads), agent(settings={"chunk": 12, "note": 70, "max_tokens": 90}))
    sent = [{name: value for name, value in body.items() if name != "messages"} for body in chat_server.asked]
    common = {"model": "default", "temperature": 1.0, "top_p": 1.0}
    assert sent == [common | {"max_tokens": limit} for limit in (64, 64, 64, 90)]
    assert len({headers["authorization"] for headers in chat_server.headers}) == 1


def test_greedy_replies_for_evaluation(chat_server: ChatServer) -> None:
    episode(Areal(chat_server, reads), agent(temperature=0))
    assert {body["temperature"] for body in chat_server.asked} == {0.0}


@pytest.mark.parametrize("turn_discount", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("credit", "shares"), [("trajectory", [1, 1, 1, 1]), ("last", [0, 0, 0, 1]), ("divided", [0.25] * 4)]
)
def test_credit_is_what_areal_exports(
    chat_server: ChatServer, credit: str, shares: list[float], turn_discount: float
) -> None:
    areal = Areal(chat_server, reads, turn_discount)
    completions = episode(areal, agent(credit=credit, turn_discount=turn_discount))
    assert rewards(completions) == shares


def test_calls_that_need_not_wait_for_each_other_are_sent_one_by_one(chat_server: ChatServer) -> None:
    """AReaL numbers completions by the arrival of their requests."""
    completions = episode(Areal(chat_server, reads), agent(settings={"chunk": 12, "parallel": True}, credit="last"))
    assert rewards(completions) == [0.0, 0.0, 0.0, 1.0]
    assert chat_server.most == 1


def test_a_wrong_answer_is_worth_nothing(chat_server: ChatServer) -> None:
    areal = Areal(chat_server, lambda message: "Kel")
    assert rewards(episode(areal, agent())) == [0.0] * (CHUNKS + 1)


@pytest.mark.parametrize(("system", "calls"), [("full", 1), ("retrieval", 1), ("recurrent", 2)])
def test_any_system_of_text_is_trained(chat_server: ChatServer, system: str, calls: int) -> None:
    completions = episode(Areal(chat_server, reads), agent(system=system, settings={}, credit="divided"))
    assert rewards(completions) == [1 / calls] * calls


def test_reading_settings_and_rewards_are_those_of_memfold(chat_server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def length(sample, trace):\n    return len(trace.steps) / 10\n")
    areal = Areal(chat_server, lambda message: r"So it is \boxed{the sea by Velm}.")
    settings = {"chunk": 12, "style": "recall", "passes": 2}
    assert rewards(episode(areal, agent(settings=settings, reward="sub-em"))) == [1.0] * 7
    assert rewards(episode(areal, agent(settings=settings))) == [0.0] * 7
    assert rewards(episode(areal, agent(settings=settings, reward=f"{path}:length"))) == [0.7] * 7


def test_trajectories_run_at_the_same_time_and_the_event_loop_goes_on(chat_server: ChatServer) -> None:
    count = min(32, (os.cpu_count() or 1) + 4) + 1  # one more than the threads of an event loop
    together, beats = threading.Barrier(count, timeout=LONG), 0

    def wait_for_all(body: dict[str, Any]) -> None:
        if "part 1 of" in body["messages"][0]["content"]:
            together.wait()

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.001)

    async def group() -> list[dict[str, Completion] | None]:
        clock = asyncio.create_task(beat())
        rows = [ROW | {"id": f"r{number}", "answers": ["Velm" if number % 2 else "Kel"]} for number in range(count)]
        shared = agent(credit="last")
        done = await asyncio.gather(*(areal.episode(shared, row) for row in rows))
        clock.cancel()
        return list(done)

    chat_server.before = wait_for_all
    areal = Areal(chat_server, reads)
    done = asyncio.run(group())
    assert [rewards(completions) for completions in done] == [[0, 0, 0, number % 2] for number in range(count)]
    assert chat_server.most >= count
    assert beats > 10


def test_a_failed_request_is_worth_nothing_and_is_said_once(
    chat_server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_at_the_second(message: str) -> str:
        if "part 2 of" in message:
            raise ValueError("the prompt exceeds max_total_tokens")
        return reads(message)

    assert rewards(episode(Areal(chat_server, fails_at_the_second), agent())) == [0.0]
    assert len(chat_server.asked) == 2, "not repeated"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"r1: reward 0 for 1 calls: policy: endpoint {chat_server.url}")
    assert "max_total_tokens" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_trajectory_without_completions_is_rejected(
    chat_server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    def never(message: str) -> str:
        raise ValueError("out of memory")

    assert episode(Areal(chat_server, never), agent()) is None
    (record,) = caplog.records
    assert record.getMessage().startswith("trajectory rejected: CallError: policy: endpoint")
    with pytest.raises(CallError, match="the connection failed"):
        asyncio.run(agent().run(ROW, base_url=f"http://127.0.0.1:{unused_port()}", api_key="k"))


def test_completions_without_ids_are_refused(chat_server: ChatServer) -> None:
    with pytest.raises(CallError, match="4 calls got 0 completions with an id"):
        asyncio.run(agent().run(ROW, base_url=chat_server.url, api_key="k"))


def test_what_cannot_be_rewarded_is_rejected(chat_server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def broken(sample, trace):\n    raise ValueError('no such answer')\n")
    assert episode(Areal(chat_server, reads), agent(reward=f"{path}:broken")) is None


def test_an_agent_in_a_process_of_its_own(chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it arrives pickled, and is told address and key by the environment."""
    areal = Areal(chat_server, reads)
    session = areal.sessions["secret"] = {}
    monkeypatch.setenv("OPENAI_BASE_URL", f"{chat_server.url}/")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    told = asyncio.run(pickle.loads(pickle.dumps(agent())).run(ROW))
    assert told == dict(zip(session, [0.0, 0.0, 0.0, 1.0], strict=True))
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(ConfigError, match="AReaL gave no address: base_url is missing"):
        asyncio.run(agent().run(ROW))


@pytest.mark.parametrize("columns", [False, True])
def test_rows_of_a_published_dataset(chat_server: ChatServer, columns: bool) -> None:
    context: Any = HOTPOT["context"]
    if columns:  # as the library `datasets` has them
        context = {"title": [title for title, _ in context], "sentences": [sentences for _, sentences in context]}
    completions = episode(Areal(chat_server, reads), agent(dataset="hotpotqa"), HOTPOT | {"context": context})
    assert rewards(completions)[-1] == 1.0


def test_samples_of_any_task_are_rows() -> None:
    (sample, *_) = load_task("almanac")(3, 400, TaskOptions(samples=4), lambda text: list(text.encode()))
    row = json.loads(json.dumps(row_of(sample)))
    again = sample_of(row, "memfold")
    assert again.document.read() == sample.document.read()
    assert (again.question, again.answers, again.kind) == (sample.question, sample.answers, sample.kind)


@pytest.mark.parametrize(
    ("dataset", "row", "said"),
    [
        ("memfold", {name: ROW[name] for name in ("id", "document", "answers")}, "'question' is missing; expected"),
        ("memfold", ROW | {"answers": []}, r"'answers' is \[\]; expected: at least one answer"),
        ("memfold", ROW | {"answers": "Velm"}, "'answers' is 'Velm'; expected: a list"),
        ("hotpotqa", {"question": "Who?"}, "'context' is missing"),
        ("musique", HOTPOT | {"answerable": False, "paragraphs": []}, "has 0 questions with an answer"),
    ],
)
def test_wrong_rows_are_not_wrong_answers(
    chat_server: ChatServer, dataset: str, row: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=f"^a row of layout '{dataset}'.*{said}"):
        asyncio.run(agent(dataset=dataset).run(row, base_url=chat_server.url, api_key="k"))
    assert chat_server.asked == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"system": "recurent"}, "unknown workflow_kwargs.system 'recurent'; nearest: 'recurrent'"),
        ({"system": "kvbank"}, "an endpoint reads text, not slots"),
        ({"settings": {"chunks": 3}}, "chunks"),
        ({"dataset": "hotpot"}, "unknown workflow_kwargs.dataset 'hotpot'; nearest: 'hotpotqa'"),
        ({"reward": "judge"}, "unknown workflow_kwargs.reward 'judge'; known: exact"),
        ({"reward": "none.py:f"}, "no file none.py"),
        ({"credit": "turn"}, "unknown workflow_kwargs.credit 'turn'"),
        ({"turn_discount": 1.5}, "turn_discount = 1.5 is not possible; allowed: 0 to 1"),
        ({"temperature": -1}, "temperature = -1.0 is not possible; allowed: 0 or more"),
        ({"timeout": 0}, "timeout = 0.0 is not possible; allowed: more than 0 seconds"),
        ({"group": 8}, "unknown key 'workflow_kwargs.group'"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        agent(**options)


def test_the_agent_imports_neither_areal_nor_torch() -> None:
    code = "import sys, memfold.rl.areal; print({'areal', 'torch', 'transformers', 'openai'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
