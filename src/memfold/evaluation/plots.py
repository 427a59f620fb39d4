"""Draws the figures of a report as PNG files with matplotlib, which is imported on first use."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from memfold.core.errors import ConfigError
from memfold.core.outputs import whole_file
from memfold.evaluation.table import Cell, Figure, HeatMap, Plot

PANEL_INCHES = (4.5, 3.8)
CELL_INCHES = (0.8, 0.36)
DOTS_PER_INCH = 120


def draw(figure: Plot, folder: Path) -> Path:
    """Write one figure into a folder."""
    pyplot = load_pyplot()
    drawn = _heat_map(pyplot, figure) if isinstance(figure, HeatMap) else _panels(pyplot, figure)
    drawn.tight_layout()
    path = folder / f"{figure.name}.png"
    save(drawn, path)
    pyplot.close(drawn)
    return path


def save(drawn: Any, path: Path) -> None:
    """Write a figure of matplotlib to a file whose suffix says its format, such as `.png`.

    Raises:
        DataError: if it cannot be written.
    """
    with whole_file(path) as partial:
        drawn.savefig(partial, format=path.suffix[1:], dpi=DOTS_PER_INCH, metadata={"Software": None})


def load_pyplot() -> Any:
    """Return matplotlib, drawing to files only.

    Raises:
        ConfigError: when it is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("plots need matplotlib; pip install 'memfold[train]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    return pyplot


def _panels(pyplot: Any, figure: Figure) -> Any:
    """Return a line with 95 % bars for each system, the panels next to each other."""
    width, height = PANEL_INCHES
    drawn, grid = pyplot.subplots(1, len(figure.panels), figsize=(width * len(figure.panels), height), squeeze=False)
    for (title, lines), axes in zip(figure.panels, grid[0], strict=True):
        for label, points in lines.items():
            _line(axes, label, [(x, cell) for x, cell in points if cell.value is not None])
        axes.set(title=title, xlabel=figure.x_label, ylim=(-0.02, 1.02))
        axes.set_xscale("log", base=2)
        sizes = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize="small")
    return drawn


def _heat_map(pyplot: Any, figure: HeatMap) -> Any:
    """Return a coloured cell with its figure for each pair of settings; one without a figure stays white."""
    size = (1.6 + CELL_INCHES[0] * len(figure.xs), 1.4 + CELL_INCHES[1] * len(figure.ys))
    drawn, axes = pyplot.subplots(figsize=size)
    values = [[math.nan if cell.value is None else cell.value for cell in row] for row in figure.cells]
    shown = axes.imshow(values, vmin=figure.low, vmax=figure.high, cmap="RdYlGn", aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            axes.text(x, y, "" if math.isnan(value) else f"{value:.2g}", ha="center", va="center", fontsize="small")
    axes.set(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
    axes.set_xticks(range(len(figure.xs)), figure.xs)
    axes.set_yticks(range(len(figure.ys)), figure.ys)
    drawn.colorbar(shown)
    return drawn


def _line(axes: Any, label: str, points: list[tuple[float, Cell]]) -> None:
    values = [cell.value or 0.0 for _, cell in points]
    below = [max(0.0, value - (cell.low or 0.0)) for value, (_, cell) in zip(values, points, strict=True)]
    above = [max(0.0, (cell.high or 0.0) - value) for value, (_, cell) in zip(values, points, strict=True)]
    axes.errorbar([x for x, _ in points], values, [below, above], label=label, marker="o", markersize=4, capsize=2)
