"""Trace files: samples of a training step, or answers to a user, as JSON lines; `memfold inspect` shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memfold.core.config import build
from memfold.core.errors import Failure, unknown
from memfold.core.outputs import write_text, writing
from memfold.core.types import (
    Answer,
    BlockRef,
    Call,
    Cost,
    Generate,
    HeadScore,
    Likelihood,
    Part,
    Reply,
    Step,
    TemplatePart,
    Text,
    Trace,
    Wants,
)
from memfold.rl.collect import Group
from memfold.scoring.expansion import expansions, invented_names

WANTS: dict[str, type[Wants]] = {"generate": Generate, "likelihood": Likelihood, "head-score": HeadScore}


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    """Write one line for each trajectory, in the order of groups; replaces an existing file once all are written.

    Raises:
        DataError: if the file cannot be written; an existing one is then unchanged.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) for group in groups for record in group_records(group)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def group_records(group: Group) -> list[dict[str, Any]]:
    """Return the records of a group's trajectories: the question, the reward, expansions, and the trace."""
    sample, document = group.question.sample, group.question.document.read()
    records = []
    for trace in group.traces:
        reply = trace.answer.reply if trace.answer else ""
        record = {
            "case": group.question.name,
            "system": trace.system,
            "kind": sample.kind,
            "hops": sample.hops,
            "seed": group.question.seed,
            "size": group.question.size,
            "question": sample.question,
            "accepted": list(sample.answers),
            "answer": trace.answer.text if trace.answer else "",
            "reply": reply,
            "reward": trace.reward,
            "error": None if trace.failure is None else str(trace.failure),
            "expansions": [asdict(expansion) for expansion in expansions(reply, document)],
            "invented": invented_names(reply, document, sample.question),
            "trace": trace_record(trace),
        }
        records.append(record)
    return records


def write_answers(path: Path, traces: Sequence[Trace]) -> None:
    """Write one line for each answer to a user; replaces an existing file once all are written.

    Raises:
        DataError: if the file cannot be written.
    """
    lines = [json.dumps(answer_record(number, trace), ensure_ascii=False) for number, trace in enumerate(traces, 1)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def answer_record(number: int, trace: Trace) -> dict[str, Any]:
    """Return the record of an answer to question `number` of a user, of which it is not known whether it is right."""
    return {
        "case": f"question {number}",
        "system": trace.system,
        "kind": "",
        "question": trace.question,
        "accepted": [],
        "answer": trace.answer.text if trace.answer else "",
        "reply": trace.answer.reply if trace.answer else "",
        "reward": None,
        "error": None if trace.failure is None else str(trace.failure),
        "trace": trace_record(trace),
    }


def trace_record(trace: Trace) -> dict[str, Any]:
    """Return a trace as JSON values; `read_trace` is the inverse."""
    steps = [{"call": _call(step.call), "reply": asdict(step.reply)} for step in trace.steps]
    return asdict(trace) | {"settings": dict(trace.settings), "steps": steps}


def read_trace(record: Mapping[str, Any]) -> Trace:
    """Return the trace of a record written by `trace_record`.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type.
    """
    steps = []
    for step in record["steps"]:
        steps.append(Step(_read_call(step["call"]), build(Reply, step["reply"], "reply")))
    answer = None if record["answer"] is None else build(Answer, record["answer"], "answer")
    return Trace(
        question=record["question"],
        system=record["system"],
        settings=record["settings"],
        steps=tuple(steps),
        answer=answer,
        reward=record["reward"],
        failure=None if record["failure"] is None else build(Failure, record["failure"], "failure"),
        cost=build(Cost, record["cost"], "cost"),
    )


def _call(call: Call) -> dict[str, Any]:
    kind = next(name for name, kind in WANTS.items() if isinstance(call.wants, kind))
    parts = [_part(part) for part in call.parts]
    return asdict(call) | {"parts": parts, "wants": {"kind": kind} | asdict(call.wants)}


def _read_call(record: Mapping[str, Any]) -> Call:
    values, wants = dict(record), dict(record["wants"])
    wanted = build(load_wants(wants.pop("kind")), wants, "wants")
    return Call(**values | {"parts": tuple(map(_read_part, record["parts"])), "wants": wanted})


def load_wants(kind: str) -> type[Wants]:
    """Return the class of what a call wants, by its name in a file.

    Raises:
        ConfigError: for an unknown name.
    """
    if kind not in WANTS:
        raise unknown("kind of call", kind, WANTS)
    return WANTS[kind]


def _part(part: Part) -> dict[str, Any]:
    return {key: value for key, value in asdict(part).items() if value is not None}


def _read_part(record: Mapping[str, Any]) -> Part:
    if "memory" in record:
        return BlockRef(record["memory"], record["index"])
    if "side" in record:
        return TemplatePart(record["side"])
    tokens = record.get("tokens")
    return Text(record["text"], None if tokens is None else tuple(tokens))
