"""A benchmark as a picture: its ratios over document length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memfold.evaluation.plots import DOTS_PER_INCH, PANEL_INCHES, load_pyplot

Lines = dict[str, list[float]]


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture of what `memfold bench` printed."""
    pyplot = load_pyplot()
    drawn, place = pyplot.subplots(figsize=PANEL_INCHES)
    title, lines = _lines(result)
    lengths = [entry["tokens"] for entry in result["lengths"]]
    for name, values in lines.items():
        place.plot(lengths, values, label=name, marker="o", markersize=4, linestyle="--" if "counted" in name else "-")
    place.set(title=title, xlabel="document tokens", xscale="log", ylim=(0, None))
    place.set_xticks(lengths, [f"{length:,}" for length in lengths])
    place.minorticks_off()
    place.grid(alpha=0.3)
    place.legend(fontsize="small")
    drawn.tight_layout()
    drawn.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    pyplot.close(drawn)


def _lines(result: dict[str, Any]) -> tuple[str, Lines]:
    entries = result["lengths"]
    if result["bench"] == "fold":
        return "fold, share of the forward pass's speed", {"fold": [entry["share_of_forward"] for entry in entries]}
    lines: Lines = {}
    for wrapper in entries[0]["wrappers"]:
        for label, key in ((wrapper, "measured"), (f"{wrapper}, counted", "predicted")):
            lines[label] = [entry["wrappers"][wrapper][key] for entry in entries]
    lines["span, with folding"] = [entry["with_folding"]["measured"] for entry in entries]
    return "first token, times faster than the full text", lines
