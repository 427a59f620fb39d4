"""Shows the progress of a training run: a bar with losses or rewards on a terminal, occasional lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memfold.cli.output import notes

LINE_SECONDS = 30.0
Report = Callable[[dict[str, Any]], None]


@contextmanager
def training(steps: int, warning: str | None = None) -> Iterator[Report]:
    """Yield the function to which a training loop reports its metrics; the first time, it prints the warning."""
    console = notes()
    if not console.is_terminal:
        yield _warning_first(_Log(console, steps), console, warning)
        return
    columns = [TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")]
    progress = Progress(*columns, TimeRemainingColumn(), console=console)
    bar = progress.add_task("", total=steps, speed="")
    losses: dict[str, float] = {}
    with Live(progress, console=console, refresh_per_second=2) as live:

        def report(metrics: dict[str, Any]) -> None:
            title, digits = _watched(losses, metrics)
            progress.update(bar, completed=metrics["step"], speed=_speed(metrics))
            live.update(Group(progress, _table(title, {name: {"": v} for name, v in losses.items()}, digits)))
            if "validation" in metrics:
                live.console.print(_table(f"step {metrics['step']}, held out", metrics["validation"]))

        yield _warning_first(report, console, warning)


def _warning_first(report: Report, console: Console, warning: str | None) -> Report:
    """Return a function that prints a warning, if there is one, before the first report."""
    waiting = [] if warning is None else [warning]

    def reported(metrics: dict[str, Any]) -> None:
        while waiting:
            console.print(f"warning: {waiting.pop()}", style="yellow", markup=False)
        report(metrics)

    return reported


class _Log:
    """Prints a line every half minute and at each validation."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps = console, steps
        self._losses: dict[str, float] = {}
        self._begun: tuple[float, int] | None = None
        self._last = 0.0

    def __call__(self, metrics: dict[str, Any]) -> None:
        now, step = time.monotonic(), metrics["step"]
        _, digits = _watched(self._losses, metrics)
        self._begun = self._begun or (now, step)
        held_out = metrics.get("validation")
        if held_out is None and now - self._last < LINE_SECONDS and step < self._steps:
            return
        self._last = now
        self._console.print(
            ", ".join(
                [f"step {step}/{self._steps}", *filter(None, [_speed(metrics), self._left(now, step)])]
                + [f"{name} {value:.{digits}f}" for name, value in sorted(self._losses.items())]
            ),
            markup=False,
        )
        for name, values in (held_out or {}).items():
            self._console.print(f"  held out: {name} {_joined(values)}", markup=False)

    def _left(self, now: float, step: int) -> str:
        """Return the time left, which is known after the second step."""
        started, first = self._begun or (now, step)
        if step == first:
            return ""
        step_seconds = (now - started) / (step - first)
        return f"{timedelta(seconds=round(step_seconds * (self._steps - step)))} left"


def _speed(metrics: dict[str, Any]) -> str:
    """Return the speed; it is empty before the first step, when the model is only validated."""
    speed = metrics.get("tokens_per_second")
    return "" if speed is None else f"{speed:,.0f} tokens/s"


def _watched(known: dict[str, float], metrics: dict[str, Any]) -> tuple[str, int]:
    """Update `known` with the losses or figures of a step, and return the title and the number of digits to show."""
    sampled = "figures" in metrics
    known.update(metrics["figures"] if sampled else metrics["loss"])
    return ("means over a step's replies and tokens", 5) if sampled else ("loss, nats per token", 3)


def _table(title: str, rows: dict[str, dict[str, float]], digits: int = 3) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, values in sorted(rows.items()):
        table.add_row(name, _joined(values, digits))
    return table


def _joined(values: dict[str, float], digits: int = 3) -> str:
    return ", ".join(f"{name} {value:.{digits}f}".strip() for name, value in values.items())
