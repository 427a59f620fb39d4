"""Prepare a run's model for shipping: 16-bit weights, the loss on familiar text, and full provenance in one folder.

    python -m memfold.training.ship runs/pooled-tiny-base runs/pooled-tiny-cpt1 ... --to src/memfold/assets/tiny

Runs are given in the order of training; the model of the last one is shipped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memfold.backbone.familiarity import loss_of
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.origin import commit, hardware
from memfold.backbone.resolve import model_folder
from memfold.tasks.almanac.task import almanac
from memfold.tasks.task import SPLITS, TaskOptions
from memfold.training.curves import draw, read_metrics

# A text is reported as unfamiliar above this multiple of the highest loss on almanac pages of any level and split.
MARGIN = 1.2
PAGES, PAGE_TOKENS = 48, 600


def ship(runs: Sequence[Path], target: Path) -> Backbone:
    """Write the model folder with `provenance.json` and a plot of the training curves of each run."""
    backbone = load_backbone(model_folder(str(runs[-1])))
    backbone.familiar_loss = round(MARGIN * max(_familiar_losses(backbone)), 3)
    backbone.provenance = {
        "stages": [stage(run) for run in runs],
        "hardware": hardware(backbone.device),
        "commit": commit(),
    }
    shutil.rmtree(target, ignore_errors=True)
    save_backbone(backbone, target, dtype="bfloat16")
    for run in runs:
        shutil.copy(draw(run), target / f"curves-{run.name}.png")
    return backbone


def stage(run: Path) -> dict[str, Any]:
    """The provenance of one run: its recipe, steps, tokens and last validation."""
    metrics = read_metrics(run)
    validated = [line["validation"] for line in metrics if "validation" in line]
    return {
        "run": run.name,
        "recipe": json.loads((run / "recipe.json").read_text()),
        "steps": metrics[-1]["step"],
        "tokens": metrics[-1]["tokens"],
        "validation": validated[-1] if validated else {},
    }


def _familiar_losses(backbone: Backbone) -> list[float]:
    losses = []
    for seed in range(PAGES):
        options = TaskOptions(level=seed % 4, split=SPLITS[seed // 4 % 2])
        page = almanac(2**42 + seed, PAGE_TOKENS, options, backbone.encode)[0].document
        losses.append(loss_of(backbone, page.read()))
    return losses


def main() -> None:
    """The command of the module docstring."""
    parser = argparse.ArgumentParser(description="prepare a trained model for shipping")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--to", required=True, type=Path)
    arguments = parser.parse_args()
    backbone = ship(arguments.runs, arguments.to)
    size = sum(path.stat().st_size for path in arguments.to.rglob("*") if path.is_file()) / 1e6
    print(f"{arguments.to}: {size:.1f} MB, familiar loss {backbone.familiar_loss}")


if __name__ == "__main__":
    main()
