"""Prepares a run's model for shipping: 16-bit weights, the loss on familiar text, and full provenance in one folder.

    python -m memfold.training.ship runs/pooled-tiny-base runs/pooled-tiny-cpt1 ... --to src/memfold/assets/tiny

Runs are given in the order of training; the model of the last one is shipped, with what earlier runs have trained and
it has not: adapters of two systems may be trained from one parent, beside each other.  With `--after FOLDER`, the
stages and curves of an earlier shipment come before those of the runs, so that only the new runs are needed.  With
`--keep 0.3`, the shipped weights are 0.3 times those of the earlier shipment plus 0.7 times those of the last run:
averaging the weights of a model before and after further training keeps what the further training would lose (Wortsman
et al., 2022).  An adapter that the earlier shipment lacks has 0.7 of its effect.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from memfold.backbone.adapters import add_role, is_lora, without_roles
from memfold.backbone.familiarity import characters_of, loss_of
from memfold.backbone.folder import load_backbone, save_backbone
from memfold.backbone.model import Backbone
from memfold.backbone.origin import commit, hardware
from memfold.backbone.record import SETTINGS_FILE
from memfold.backbone.resolve import model_folder
from memfold.core.config import require
from memfold.core.outputs import check_empty
from memfold.tasks.almanac.questions import evidence
from memfold.tasks.almanac.task import write
from memfold.tasks.task import SPLITS, TaskOptions
from memfold.training.curves import draw, read_metrics

# Almanac texts of every level, split and length, one sentence to a page, give the limits of what is familiar: the
# share that counts as unfamiliar is what a limit costs in false warnings.
TEXTS, LENGTHS = 960, (48, 96, 300, 600)  # tokens
FALSE_WARNINGS = 0.01  # of each limit
FIRST_SEED = 1 << 42  # no document of training or of an evaluation has such a seed


def ship(runs: Sequence[Path], target: Path, after: Path | None = None, keep: float = 0.0) -> Backbone:
    """Write the model folder with `provenance.json` and a plot of the training curves of each run.

    `after` is the folder of an earlier shipment that the first run continues from; it may be the target.  `keep` is the
    share of its weights.

    Raises:
        ConfigError: for a share that is not possible.
    """
    require(0 <= keep < 1 and (after is not None or not keep), "keep", keep, "0 to below 1, with an earlier shipment")
    _check_target(target)
    curves = {path.name: path.read_bytes() for path in sorted(after.glob("curves-*.png"))} if after is not None else {}
    backbone = load_backbone(model_folder(str(runs[-1])))
    before = load_backbone(after) if after is not None else None
    if before is not None and keep:
        _average(backbone, before, keep)
    for run in reversed(runs[:-1]):
        _adopt(backbone, load_backbone(model_folder(str(run))), before)
    if before is not None and _reads_alike(backbone, before):  # adapters alone were trained
        backbone.familiar_loss, backbone.familiar_characters = before.familiar_loss, before.familiar_characters
    else:
        backbone.familiar_loss, backbone.familiar_characters = _limits(backbone)
    stages = [stage(run) for run in runs]
    if keep:
        stages[-1]["kept"] = keep
    backbone.provenance = {
        "stages": [*(before.provenance["stages"] if before is not None else []), *stages],
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
def _adopt(backbone: Backbone, other: Backbone, before: Backbone | None) -> None:
    """Take the adapters, heads and records of systems that a model with the same base weights has trained.

    Those are what this model lacks, and what is in it as it was `before`, in the model that both started from.
    """
    if not _reads_alike(backbone, other):
        return  # adapters of other weights are of no use
    others = dict(other.model.named_parameters())
    for role in sorted(other.roles.keys() - backbone.roles.keys()):
        adapter = other.roles[role]
        add_role(backbone, role, adapter.rank, adapter.alpha, adapter.targets)
        own = dict(backbone.model.named_parameters())
        for name in (name for name in others if is_lora(name) and f".{role}." in name):
            own[name].copy_(others[name])
    own, old = dict(backbone.parameters()), dict(before.parameters()) if before is not None else {}
    for name, weight in dict(other.parameters()).items():
        if name in own and name in old and torch.equal(own[name], old[name]):
            own[name].copy_(weight)
    changed = {
        name: record
        for name, record in backbone.trained.items()
        if before is None or record != before.trained.get(name)
    }
    backbone.trained = backbone.trained | other.trained | changed


@torch.no_grad()
def _average(backbone: Backbone, earlier: Backbone, keep: float) -> None:
    """Replace the weights of a model by `keep` times those of an earlier model plus the rest.

    An adapter adds the product of two matrices to a weight.  Where the earlier model lacks it, it adds nothing, so the
    second matrix is averaged with zeros.
    """
    old = dict(earlier.parameters())
    for name, weight in dict(backbone.parameters()).items():
        if name in old:
            weight.lerp_(old[name], keep)
        elif ".lora_B." in name:
            weight.mul_(1 - keep)


def _reads_alike(backbone: Backbone, earlier: Backbone) -> bool:
    """Return whether two models have the same weights without their adapters, as far as 16 bits tell."""
    own, old = (without_roles(dict(each.model.named_parameters())) for each in (backbone, earlier))
    if own.keys() != old.keys():
        return False
    return all(torch.equal(own[name].bfloat16(), old[name].bfloat16()) for name in own)


def _limits(backbone: Backbone) -> tuple[float, float]:
    """Return the most nats per character and the fewest characters per token of familiar texts."""
    texts = _familiar_texts(backbone)
    losses = [loss_of(backbone, text) for text in texts]
    characters = [characters_of(backbone, text) for text in texts]
    return round(_quantile(losses, 1 - FALSE_WARNINGS), 3), round(_quantile(characters, FALSE_WARNINGS), 3)


def _familiar_texts(backbone: Backbone) -> list[str]:
    """Return almanac pages of every level and split, and as many single sentences of them."""
    texts = []
    for number in range(TEXTS // 2):
        options = TaskOptions(level=number % 4, split=SPLITS[number // 4 % 2])
        rng, size = Random(FIRST_SEED + number), LENGTHS[number // 8 % len(LENGTHS)]
        page = write(rng, size, options, backbone.encode)
        _, sentences = evidence([rng.choice(page.facts)])
        texts += [page.text, " ".join(sentences)]
    return texts


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    return sorted(values)[round(share * (len(values) - 1))]


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
    limits = f"{backbone.familiar_loss} nats per character, {backbone.familiar_characters} characters per token"
    print(f"{arguments.to}: {size:.1f} MB, familiar up to {limits}")


if __name__ == "__main__":
    main()
