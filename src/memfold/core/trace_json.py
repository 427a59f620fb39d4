"""Traces as JSON values, and back.  The files that hold them are written elsewhere (`core.trace_file`, `rl`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from memfold.core.config import build
from memfold.core.errors import Failure, unknown
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

WANTS: dict[str, type[Wants]] = {"generate": Generate, "likelihood": Likelihood, "head-score": HeadScore}


def trace_record(trace: Trace) -> dict[str, Any]:
    """Return a trace as JSON values; `read_trace` is the inverse."""
    return asdict(trace) | {"settings": dict(trace.settings), "steps": [step_record(step) for step in trace.steps]}


def step_record(step: Step) -> dict[str, Any]:
    """Return a call and its reply as JSON values; `read_step` is the inverse."""
    return {"call": _call(step.call), "reply": asdict(step.reply)}


def read_trace(record: Mapping[str, Any]) -> Trace:
    """Return the trace of a record written by `trace_record`.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type.
    """
    answer = None if record["answer"] is None else build(Answer, record["answer"], "answer")
    return Trace(
        question=record["question"],
        system=record["system"],
        settings={name: tuple(each) if isinstance(each, list) else each for name, each in record["settings"].items()},
        steps=tuple(map(read_step, record["steps"])),
        answer=answer,
        reward=record["reward"],
        failure=None if record["failure"] is None else build(Failure, record["failure"], "failure"),
        cost=build(Cost, record["cost"], "cost"),
    )


def read_step(record: Mapping[str, Any]) -> Step:
    """Return the call and the reply of a record written by `step_record`.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type.
    """
    return Step(_read_call(record["call"]), build(Reply, record["reply"], "reply"))


def load_wants(kind: str) -> type[Wants]:
    """Return the class of what a call wants, by its name in a file.

    Raises:
        ConfigError: for an unknown name.
    """
    if kind not in WANTS:
        raise unknown("kind of call", kind, WANTS)
    return WANTS[kind]


def _call(call: Call) -> dict[str, Any]:
    kind = next(name for name, kind in WANTS.items() if isinstance(call.wants, kind))
    parts = [_part(part) for part in call.parts]
    return asdict(call) | {"parts": parts, "wants": {"kind": kind} | asdict(call.wants)}


def _read_call(record: Mapping[str, Any]) -> Call:
    values, wants = dict(record), dict(record["wants"])
    wanted = build(load_wants(wants.pop("kind")), wants, "wants")
    return Call(**values | {"parts": tuple(map(_read_part, record["parts"])), "wants": wanted})


def _part(part: Part) -> dict[str, Any]:
    return {key: value for key, value in asdict(part).items() if value is not None}


def _read_part(record: Mapping[str, Any]) -> Part:
    if "memory" in record:
        return BlockRef(record["memory"], record["index"])
    if "side" in record:
        return TemplatePart(record["side"])
    tokens = record.get("tokens")
    return Text(record["text"], None if tokens is None else tuple(tokens))
