"""Trace files of a training step as JSON lines; `memfold inspect` shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memfold.core.outputs import write_text, writing
from memfold.core.trace_json import trace_record
from memfold.rl.collect import Group
from memfold.scoring.expansion import expansions, invented_names


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
