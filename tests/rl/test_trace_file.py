"""Trace files: every kind of call and every failure is read back as it was."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from memfold.core.errors import CallError, CheckpointError, ConfigError, DataError, Failure
from memfold.core.trace_json import WANTS, read_trace, trace_record
from memfold.core.types import (
    Answer,
    BlockRef,
    Call,
    Citation,
    Cost,
    Generate,
    HeadScore,
    Likelihood,
    Passage,
    Reply,
    SamplingParams,
    Span,
    Step,
    Text,
    Trace,
    Usage,
    Wants,
)
from memfold.rl import trace_file
from memfold.rl.trace_file import write_groups

SAMPLING = SamplingParams(max_tokens=9, temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1, seed=3)
WRITTEN = Reply(
    text="in Velm",
    tokens=(4, 5),
    logprobs=(-0.5, -1.25),
    finish="length",
    positions=12,
    attention=(Passage(0, Span(3, 9), 0.75), Passage(1, Span(0, 2), 0.25)),
    usage=Usage(prompt=40, reply=2),
)
STEPS: dict[str, tuple[Wants, Reply]] = {
    "generate": (Generate(SAMPLING, attention=True), WRITTEN),
    "likelihood": (Likelihood((4, 5, 6)), Reply("in Velm.", (4, 5, 6), (-1.0, -2.0, -3.0), positions=12)),
    "head-score": (HeadScore("gated.gate"), Reply(score=0.125, positions=12)),
}
FAILURES = (
    Failure("policy", "CallError", "the endpoint is gone"),
    Failure("system", "KeyError", "'block'"),
    Failure("scheduler", "DataError", "the question is empty; ask something"),
    Failure("policy", "CheckpointError", "model 'm' has no head 'gated'"),
    Failure("policy", "ConfigError", "ratio = 0"),
)


def read_back(trace: Trace) -> Trace:
    return read_trace(json.loads(json.dumps(trace_record(trace))))


def step(kind: str) -> Step:
    wants, reply = STEPS[kind]
    parts = (Text("Read: "), Text(tokens=(7, 8)), BlockRef("memory", 2))
    return Step(Call("gate", parts, wants, adapter="gate", trained=False), reply)


@pytest.mark.parametrize("kind", WANTS)
def test_every_kind_of_call_is_read_back(kind: str) -> None:
    trace = Trace("Where?", "gated", {"threshold": 0.5}, (step(kind), Step(Call("answer", ()), Reply())))
    assert read_back(trace) == trace
    recorded = trace_record(trace)["steps"][0]["call"]
    assert (recorded["wants"]["kind"], recorded["adapter"], recorded["trained"]) == (kind, "gate", False)


def test_calls_of_all_kinds_stand_in_one_trace() -> None:
    steps = tuple(step(kind) for kind in STEPS)
    citation = Citation("a.txt", 3, 9, "Velm", 1.5)
    cost = Cost(calls=3, document_tokens=64, slots=4, positions=12, generated_tokens=5, seconds=0.5)
    trace = Trace("Where?", "gated", {}, steps, Answer("Velm", "in Velm", (citation,)), reward=0.5, cost=cost)
    assert read_back(trace) == trace


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_failure_is_read_back_and_raised_as_what_it_was(failure: Failure) -> None:
    trace = Trace("Where?", "gated", {}, (step("generate"),), failure=failure)
    again = read_back(trace)
    assert again == trace
    assert again.failure is not None
    assert str(again.failure) == str(failure)
    kinds = {kind.__name__: kind for kind in (ConfigError, DataError, CheckpointError)}
    assert type(again.failure.exception()) is kinds.get(failure.kind, CallError)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"wants": {"kind": "head-scores", "head": "gated"}}, "unknown kind of call 'head-scores'; nearest: 'head-sc"),
        ({"wants": {"kind": "head-score", "haed": "gated"}}, "unknown key 'wants.haed'; nearest: 'wants.head'"),
        ({"wants": {"kind": "likelihood", "tokens": "4"}}, "wants.tokens = '4' is not possible; allowed: a list"),
    ],
)
def test_calls_that_cannot_be_read_are_refused(changed: dict[str, Any], message: str) -> None:
    record = trace_record(Trace("Where?", "gated", {}, (step("head-score"),)))
    record["steps"][0]["call"] |= changed
    with pytest.raises(ConfigError) as raised:
        read_trace(record)
    assert str(raised.value).startswith(message)


def test_a_failure_that_cannot_be_read_is_refused() -> None:
    record = trace_record(Trace("Where?", "gated", failure=FAILURES[0]))
    record["failure"]["boundry"] = record["failure"].pop("boundary")
    with pytest.raises(ConfigError, match=r"unknown key 'failure\.boundry'; nearest: 'failure\.boundary'"):
        read_trace(record)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, plain = tmp_path / "traces" / "step-000001.jsonl", Path.write_text
    monkeypatch.setattr(trace_file, "group_records", lambda group: [{"case": group, "reply": "in Velm"}] * 3)

    def breaks(self: Path, text: str, *rest: Any, **options: Any) -> int:
        plain(self, text[: len(text) // 2], *rest, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", breaks)
        with pytest.raises(DataError, match=r"cannot write .*step-000001\.jsonl: No space left on device; free some"):
            write_groups(path, ["first"])  # type: ignore[list-item]
    assert list(path.parent.iterdir()) == []
    write_groups(path, ["first", "second"])  # type: ignore[list-item]
    before = path.read_text()
    assert [json.loads(line)["case"] for line in before.splitlines()] == ["first"] * 3 + ["second"] * 3
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", breaks)
        with pytest.raises(DataError):
            write_groups(path, ["third"])  # type: ignore[list-item]
    assert [file.read_text() for file in path.parent.iterdir()] == [before]
