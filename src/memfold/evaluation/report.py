"""Writes the report of a run: `table.md`, `result.json` and plots beside the samples.

Every figure has its sample size and 95 % interval; every report has the commit, the hardware and the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from memfold.backbone.origin import commit, hardware
from memfold.core.outputs import write_text
from memfold.evaluation.comparison import comparisons
from memfold.evaluation.grouping import Group, grid
from memfold.evaluation.plots import draw
from memfold.evaluation.records import RESULT_FILE, TABLE_FILE, Record
from memfold.evaluation.runner import Evaluation
from memfold.evaluation.sampling import described
from memfold.evaluation.suite import FLAGS
from memfold.evaluation.table import Cell, Table, mean

COSTS = {
    "positions": "memory positions",
    "generated_tokens": "generated tokens",
    "fold_seconds": "fold seconds",
}


def write_report(evaluation: Evaluation, records: Sequence[Record], folder: Path, seconds: float) -> dict[str, Any]:
    """Write the report of these records into `folder`; `seconds` is the wall time of this run.  Returns result.json."""
    suite, labels = evaluation.suite, evaluation.labels
    tables = [*suite.tables(records, labels), *comparisons(records, labels), _costs(records, labels)]
    plots = [draw(figure, folder).name for figure in suite.plots(records, labels)]
    result = _result(evaluation, records, seconds) | {"tables": [asdict(table) for table in tables], "plots": plots}
    write_text(folder / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    write_text(folder / TABLE_FILE, markdown(result, tables))
    return result


def markdown(result: dict[str, Any], tables: Sequence[Table]) -> str:
    """Return the report as Markdown: what ran where, then the tables."""
    machine, arguments = result["hardware"], result["arguments"]
    identity = result["model"]["fingerprint"] if result["endpoint"] else result["model"]["fingerprint"][:12]
    head = [
        f"# {result['suite']}",
        "",
        f"Model {result['model']['name']} ({identity}, {arguments['dtype']}), "
        f"commit {result['commit'] or 'unknown'}, {machine.get('gpu', machine['cpu'])}, {machine['cores']} cores, "
        f"{machine['threads']} threads, torch {machine['torch']}, {result['samples']} samples.  "
        f"Level {arguments['level']}, seed {arguments['seed']}, {arguments['per_document']} per document; "
        f"replies {_drawn(result['sampling'])}; "
        "every cell: figure [95 % interval] sample size.",
    ]
    options = [
        f"{FLAGS.get(name, name.replace('_', ' '))} {_shown(arguments[name])}"
        for name in result["options"]
        if arguments[name]
    ]
    head += ["", f"Options of the suite: {', '.join(options)}."] if options else []
    notes = [f"- {label}: samples failed and count as wrong: {error}" for label, error in result["errors"].items()]
    notes += [f"- {label}: the model was not trained at this ratio." for label in result["untrained"]]
    if result["endpoint"]:
        notes.append("- The model is behind an address: tokens are estimated, seconds include the network.")
    if arguments["per_document"] > 1:
        notes.append("- Questions share documents, so they are not independent: the intervals are too narrow.")
    return "\n".join([*head, *(["", *notes] if notes else []), *("\n" + table.markdown() for table in tables)]) + "\n"


def _result(evaluation: Evaluation, records: Sequence[Record], seconds: float) -> dict[str, Any]:
    model = evaluation.model
    errors: dict[str, str] = {}
    for record in records:
        if record.error is not None:
            errors.setdefault(record.system, record.error)
    return {
        "suite": evaluation.suite.name,
        "model": {"name": model.name, "fingerprint": model.identity, "provenance": model.provenance},
        "arguments": evaluation.arguments(),
        "sampling": described(evaluation.options.sampling, evaluation.suite.temperature),
        "endpoint": not model.has_weights,
        "options": list(evaluation.suite.reads),
        "systems": {candidate.label: candidate.system.settings for candidate in evaluation.candidates},
        "untrained": [candidate.label for candidate in evaluation.candidates if not candidate.trained],
        "samples": len(records),
        "errors": errors,
        "seconds": round(seconds, 1),
        "commit": commit(),
        "hardware": hardware(model.weights().device if model.has_weights else torch.device("cpu")),
    }


def _drawn(sampling: dict[str, Any]) -> str:
    settings = (f"{name} {value:g}" for name, value in sampling.items() if name != "name")
    return ", ".join((sampling["name"], *settings))


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _costs(records: Sequence[Record], labels: Sequence[str]) -> Table:
    def cells(group: Group) -> list[Cell]:
        spent = [record.cost for record in group if record.error is None]
        ratios = [cost.effective_ratio or math.nan for cost in spent]  # nothing to divide by without a memory
        return [mean(ratios), *(mean([float(getattr(cost, name)) for cost in spent]) for name in COSTS)]

    note = (
        "Means.  Effective ratio: document tokens divided by the memory positions that the decoder sees, wrappers "
        "included.  Seconds are shares of a batch."
    )
    columns = ("effective ratio", *COSTS.values())
    return Table("Cost", ("tokens", "system"), columns, grid(records, labels, cells), note)
