"""The page of the ablations: a table and a picture of curves made of result files, one for each row.

A row is a recipe that differs from the baseline in one setting.  Its result file holds what every sample was scored, so
that intervals, and differences from the baseline on the same samples, are worked out here and nothing on the page is
typed.  Left out: training and measuring (`benchmarks/ablations.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memfold.core.config import build
from memfold.core.errors import ConfigError, DataError
from memfold.evaluation.plots import DOTS_PER_INCH, load_pyplot
from memfold.evaluation.table import Cell, Row, Table, mean, proportion

BASELINE = "baseline"
# The settings in the order of the table; a row's name begins with that of its setting.
ORDER = ("window", "mask", "pooling", "projection", "wrapper", "positions", "ratios", "encoder", "bridges")
LOSSES = {"almanac": "answers", "reconstruction": "texts"}  # task -> what its nats a token are of
_NATS = tuple(name for scored in LOSSES.values() for name in (f"nats, {scored}", "difference"))
COLUMNS = ("one hop", "difference", *_NATS, "ROUGE-L", "fold time")
PANEL_INCHES = (4.4, 2.8)
NOTE = (
    "One hop: right answers to questions of one hop.  Nats: what a token of the right answer, or of a text that is to "
    "be written again from its memory, costs the model; less is better.  ROUGE-L: of texts that it wrote.  Difference: "
    "from the baseline on the same samples, interval by the paired bootstrap.  Fold time: as "
    "many times as long as the baseline took for the same document, in rounds in which both folded it."
)
CURVES_NOTE = (
    "Share of right tokens on held-out samples while training, by task (columns) and setting (rows), the baseline in "
    "black.  A row that changes the mixture (ratios, bridges) is held to its own, which may be easier or harder."
)
COMMAND = "python benchmarks/ablations.py"

Outcomes = dict[str, float]  # case -> 1 or 0, or a share
Curve = list[list[float]]  # (step, value) in their order


@dataclass(frozen=True)
class Result:
    """What one row came to.

    `one_hop` and `rouge` are scores by the key of their sample, `losses` nats a token by task and sample, the same
    samples for every row; `fold_times` how many times as long as the baseline's folding took, round by round; `curves`
    held-out token accuracy while training, by task.  `trained` is what was spent (`steps`, `tokens`,
    `tokens_per_second`), `asked` what was measured on.
    """

    row: str
    changed: dict[str, Any]
    trained: dict[str, float]
    asked: dict[str, Any]
    one_hop: Outcomes
    rouge: Outcomes
    losses: dict[str, Outcomes]
    fold_times: list[float]
    effective_ratio: float
    curves: dict[str, Curve] = field(default_factory=dict)
    fingerprint: str = ""
    commit: str | None = None
    hardware: dict[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        """Which setting the row changes."""
        return self.row.partition("-")[0]


def write_result(result: Result, folder: Path) -> Path:
    """Write `<row>.json` into a folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.row}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return partial.rename(path)


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, the baseline first, then setting by setting.

    Raises:
        DataError: for a file that is no result.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(build(Result, json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, ConfigError) as error:
            raise DataError(f"{path} is no result of an ablation: {error}; run its row again") from None
    return sorted(results, key=_place)


def page(results: Sequence[Result], picture: str | None) -> str:
    """The page as Markdown; `picture` is where the curves are, from the page."""
    lines = [
        "# Ablations",
        "",
        f"Made by `{COMMAND}` from the files in `benchmarks/results/ablations/`; nothing here is typed. What the "
        "settings mean is in [concepts.md](concepts.md), the rows are `recipes/pooled/ablations/*.toml`.",
        "",
        "Every row begins with the same trained model, which has the baseline's settings, so a row that changes them "
        "also pays for learning anew.",
    ]
    if not results:
        return "\n".join([*lines, "", f"No row has been run here yet: `{COMMAND}` runs all of them."]) + "\n"
    lines += ["", *(f"- {line}" for line in _circumstances(results)), "", table(results).markdown()]
    lines += _verdicts(results)
    if picture is not None:
        lines += ["", "## Curves", "", CURVES_NOTE, "", f"![Curves of the ablations]({picture})"]
    return "\n".join(lines) + "\n"


def table(results: Sequence[Result]) -> Table:
    """One line for each row."""
    baseline = _baseline(results)
    names = ("row", "changed", "effective ratio")
    rows = tuple(Row(_names(result), _cells(result, baseline)) for result in results)
    return Table("Rows", names, COLUMNS, rows, NOTE)


def draw_curves(results: Sequence[Result], path: Path) -> Path | None:
    """Draw a panel for each task and setting; None where no result has curves."""
    tasks = list(dict.fromkeys(task for result in results for task in result.curves))
    settings = [name for name in ORDER if any(result.setting == name for result in results)] or [BASELINE]
    if not tasks:
        return None
    pyplot = load_pyplot()
    size = (PANEL_INCHES[0] * len(tasks), PANEL_INCHES[1] * len(settings))
    figure, axes = pyplot.subplots(len(settings), len(tasks), figsize=size, squeeze=False, sharex=True)
    for row, setting in zip(axes, settings, strict=True):
        shown = [result for result in results if result.setting in (BASELINE, setting)]
        for place, task in zip(row, tasks, strict=True):
            _panel(place, setting, task, shown)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _panel(place: Any, setting: str, task: str, results: Sequence[Result]) -> None:
    for result in results:
        points = result.curves.get(task, [])
        style = {"color": "black"} if result.row == BASELINE else {}
        place.plot([x for x, _ in points], [y for _, y in points], label=result.row, linewidth=1.2, **style)
    place.set_title(f"{setting}: {task}", fontsize="medium")
    place.set_xlabel("step")
    place.grid(alpha=0.3)
    place.legend(fontsize="x-small")


def _names(result: Result) -> tuple[str, str, str]:
    changed = ", ".join(f"{name} {_shown(value)}" for name, value in result.changed.items())
    return result.row, changed or "-", f"{result.effective_ratio:.2f}"


def _cells(result: Result, baseline: Result | None) -> tuple[Cell, ...]:
    other = None if baseline is None or result.row == BASELINE else baseline
    cells = [proportion([bool(value) for value in result.one_hop.values()])]
    cells.append(_difference(result.one_hop, other.one_hop if other else {}, share=True))
    for task in LOSSES:
        cells.append(mean(list(result.losses[task].values())))
        cells.append(_difference(result.losses[task], other.losses[task] if other else {}))
    return (*cells, mean(list(result.rouge.values())), mean(result.fold_times))


def _difference(values: Outcomes, others: Outcomes, share: bool = False) -> Cell:
    """Of the means over the samples that both have."""
    return mean([value - others[case] for case, value in values.items() if case in others], share=share)


def _verdicts(results: Sequence[Result]) -> list[str]:
    """For each task the rows whose nats a token differ from the baseline's, by intervals without zero."""
    baseline = _baseline(results)
    if baseline is None:
        return []
    lines = []
    for task, scored in LOSSES.items():
        cells = {
            result.row: _difference(result.losses[task], baseline.losses[task])
            for result in results if result is not baseline
        }  # fmt: skip
        ordered = sorted(cells, key=lambda row: cells[row].value or 0.0)
        better = [row for row in ordered if (cells[row].high or 0.0) < 0]
        worse = [row for row in reversed(ordered) if (cells[row].low or 0.0) > 0]
        alike = [row for row in cells if row not in (*better, *worse)]
        said = {"better": better, "no difference seen": alike, "worse": worse}
        parts = [f"{word}: {', '.join(rows)}" for word, rows in said.items() if rows]
        lines += ["", f"Nats, {scored}: {'; '.join(parts) or 'no other row'}."]
    return lines


def _baseline(results: Sequence[Result]) -> Result | None:
    return next((result for result in results if result.row == BASELINE), None)


def _circumstances(results: Sequence[Result]) -> list[str]:
    """What all rows share; where they differ, each way it was."""
    machines = {_machine(result) for result in results}
    spent = {f"{result.trained['steps']:,.0f} steps" for result in results}
    asked = {", ".join(f"{name} {_shown(value)}" for name, value in result.asked.items()) for result in results}
    commits = {result.commit or "unknown" for result in results}
    return [
        f"Budget: {' / '.join(sorted(spent))} a row, {_range([result.trained['tokens'] / 1e6 for result in results])}M "
        f"tokens, {_range([_minutes(result) for result in results])} minutes of training.",
        f"Measured on: {' / '.join(sorted(asked))}.",
        f"Machine: {' / '.join(sorted(machines))}.",
        f"Commit: {' / '.join(sorted(commits))}.",
    ]


def _minutes(result: Result) -> float:
    return result.trained["tokens"] / result.trained["tokens_per_second"] / 60


def _range(values: Sequence[float]) -> str:
    """The least and the most.

    >>> _range([1.0, 3.25]), _range([2.0, 2.0])
    ('1.0-3.2', '2.0')
    """
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low}-{high}"


def _machine(result: Result) -> str:
    found = result.hardware
    device = found.get("gpu", found.get("cpu", "unknown"))
    return f"{device}, {found.get('threads', '?')} threads, torch {found.get('torch', '?')}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _place(result: Result) -> tuple[int, int, str]:
    """The baseline, then the settings in their order, rows of one by the numbers in their names."""
    if result.row == BASELINE:
        return -1, 0, ""
    setting = ORDER.index(result.setting) if result.setting in ORDER else len(ORDER)
    numbers = [int(part) for part in result.row.split("-") if part.isdecimal()]
    return setting, numbers[0] if numbers else 0, result.row
