"""Prepares a run's model for shipping: 16-bit weights, the loss on familiar text, and full provenance in one folder.

    python -m memfold.training.ship runs/pooled-tiny-base runs/pooled-tiny-cpt1 ... --to src/memfold/assets/tiny

Runs are given in the order of training; the model of the last one is shipped.  With `--after FOLDER`, the stages and
curves of an earlier shipment come before those of the runs, so that only the new runs are needed.  With `--keep 0.3`,
the shipped weights are 0.3 times those of the earlier shipment plus 0.7 times those of the last run: averaging the
weights of a model before and after further training keeps what the further training would lose (Wortsman et al., 2022).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from memfold.backbone.familiarity import loss_of
from memfold.backbone.folder import SETTINGS_FILE, load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.origin import commit, hardware
from memfold.backbone.resolve import model_folder
from memfold.core.config import require
from memfold.core.outputs import check_empty
from memfold.tasks.almanac.task import almanac
from memfold.tasks.task import SPLITS, TaskOptions
from memfold.training.curves import draw, read_metrics

# A text is reported as unfamiliar above this multiple of the highest loss on almanac pages of any level and split.
MARGIN = 1.2
PAGES, PAGE_TOKENS = 48, 600


def ship(runs: Sequence[Path], target: Path, after: Path | None = None, keep: float = 0.0) -> Backbone:
    """Write the model folder with `provenance.json` and a plot of the training curves of each run.

    `after` is the folder of an earlier shipment that the first run continues from; it may be the target.  `keep` is the
    share of its weights.

    Raises:
        ConfigError: for a share that is not possible.
    """
    require(0 <= keep < 1 and (after is not None or not keep), "keep", keep, "0 to below 1, with an earlier shipment")
    _check_target(target)
    earlier = load_backbone(after).provenance["stages"] if after is not None else []
    curves = {path.name: path.read_bytes() for path in sorted(after.glob("curves-*.png"))} if after is not None else {}
    backbone = load_backbone(model_folder(str(runs[-1])))
    if after is not None and keep:
        _average(backbone, load_backbone(after), keep)
    backbone.familiar_loss = round(MARGIN * max(_familiar_losses(backbone)), 3)
    backbone.provenance = {
        "stages": [*earlier, *(stage(run) for run in runs)],
        "kept": keep,
        "hardware": hardware(backbone.device),
        "commit": commit(),
    }
    shutil.rmtree(target, ignore_errors=True)
    save_backbone(backbone, target, dtype="bfloat16")
    for name, plot in curves.items():
        (target / name).write_bytes(plot)
    for run in runs:
        shutil.copy(draw(run), target / f"curves-{run.name}.png")
    return backbone


def _check_target(target: Path) -> None:
    """Refuse to replace a folder that is not an earlier shipment.

    Raises:
        DataError: with its name.
    """
    try:
        shipped = bool(json.loads((target / SETTINGS_FILE).read_text())["provenance"])
    except (OSError, ValueError, KeyError, TypeError):
        shipped = False
    if not shipped:
        check_empty(target)


def stage(run: Path) -> dict[str, Any]:
    """Return the provenance of one run: its recipe, steps, tokens and last validation."""
    metrics = read_metrics(run)
    validated = [line["validation"] for line in metrics if "validation" in line]
    return {
        "run": run.name,
        "recipe": json.loads((run / "recipe.json").read_text()),
        "steps": metrics[-1]["step"],
        "tokens": metrics[-1]["tokens"],
        "validation": validated[-1] if validated else {},
    }


@torch.no_grad()
def _average(backbone: Backbone, earlier: Backbone, keep: float) -> None:
    """Replace the weights of a model by `keep` times those of an earlier model of the same shape plus the rest."""
    old = dict(earlier.parameters())
    for name, weight in dict(backbone.parameters()).items():
        weight.lerp_(old[name], keep)


def _familiar_losses(backbone: Backbone) -> list[float]:
    losses = []
    for seed in range(PAGES):
        options = TaskOptions(level=seed % 4, split=SPLITS[seed // 4 % 2])
        page = almanac(2**42 + seed, PAGE_TOKENS, options, backbone.encode)[0].document
        losses.append(loss_of(backbone, page.read()))
    return losses


def main() -> None:
    """Run the command of the module docstring."""
    parser = argparse.ArgumentParser(description="prepare a trained model for shipping")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--after", type=Path, help="folder of an earlier shipment that the first run continues from")
    parser.add_argument("--keep", type=float, default=0.0, help="share of the weights of the earlier shipment")
    arguments = parser.parse_args()
    backbone = ship(arguments.runs, arguments.to, arguments.after, arguments.keep)
    size = sum(path.stat().st_size for path in arguments.to.rglob("*") if path.is_file()) / 1e6
    print(f"{arguments.to}: {size:.1f} MB, familiar loss {backbone.familiar_loss}")


if __name__ == "__main__":
    main()
