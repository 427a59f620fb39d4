"""Traces as JSON lines: everything that was sampled, so that a step can be read (`memfold inspect`) and replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memfold.core.config import build
from memfold.core.types import Answer, BlockRef, Call, Cost, Limits, Part, Reply, Step, Text, Trace
from memfold.rl.collect import Group
from memfold.scoring.expansion import expansions, invented_names


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    """One line for each trajectory, groups in their order; a file that is there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) for group in groups for record in group_records(group)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def group_records(group: Group) -> list[dict[str, Any]]:
    """What a trace file holds of each trajectory: the question, its reward, what it expanded, and its trace."""
    sample, document = group.question.sample, group.question.document.read()
    records = []
    for trace in group.traces:
        reply = trace.answer.reply if trace.answer else ""
        records.append({
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
            "error": trace.error,
            "expansions": [asdict(one) for one in expansions(reply, document)],
            "invented": invented_names(reply, document, sample.question),
            "trace": trace_record(trace),
        })  # fmt: skip
    return records


def trace_record(trace: Trace) -> dict[str, Any]:
    """A trace as JSON values; `read_trace` is its inverse."""
    steps = [
        {"call": asdict(step.call) | {"parts": [_part(part) for part in step.call.parts]}, "reply": asdict(step.reply)}
        for step in trace.steps
    ]
    return asdict(trace) | {"settings": dict(trace.settings), "steps": steps}


def read_trace(record: Mapping[str, Any]) -> Trace:
    """The trace that `trace_record` gave.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type.
    """
    steps = []
    for step in record["steps"]:
        call = dict(step["call"])
        parts, limits = tuple(map(_read_part, call.pop("parts"))), build(Limits, call.pop("limits"), "limits")
        steps.append(Step(Call(parts=parts, limits=limits, **call), build(Reply, step["reply"], "reply")))
    answer = None if record["answer"] is None else build(Answer, record["answer"], "answer")
    return Trace(record["question"], record["system"], record["settings"], tuple(steps), answer, record["reward"],
                 record["error"], build(Cost, record["cost"], "cost"))  # fmt: skip


def _part(part: Part) -> dict[str, Any]:
    return {key: value for key, value in asdict(part).items() if value is not None}


def _read_part(record: Mapping[str, Any]) -> Part:
    if "memory" in record:
        return BlockRef(record["memory"], record["index"])
    tokens = record.get("tokens")
    return Text(record["text"], None if tokens is None else tuple(tokens))
