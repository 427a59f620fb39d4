"""Every stage of every recipe for a published size, two steps each, without its weights.

    python benchmarks/proof.py [--out benchmarks/results] [--recipes pooled/qwen2.5-7b/sft ...]

Each runs on a two-layer model of its architecture with random weights and made-up data (`memfold.training.proof`), once in
one process and once in two joined by gloo; both must have the same losses.  Writes proof.json and proof.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LARGEST_DIFFERENCE = 2e-3  # nats a token between one process and two, after an update in 16 bits


def main() -> int:
    """Prove all recipes; 1 where one process and two differ."""
    arguments = _arguments()
    if arguments.worker is not None:
        _work(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = {count: _launch(count, Path(folder), arguments.recipes) for count in (1, 2)}
    rows = [_compared(one, two) for one, two in zip(found[1], found[2], strict=True)]
    _write(rows, arguments.out)
    return int(any(row["difference"] > LARGEST_DIFFERENCE for row in rows))


def _launch(count: int, folder: Path, recipes: list[str]) -> list[dict[str, Any]]:
    """The results of a run with so many processes."""
    out = folder / f"{count}.json"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if count > 1 else []
    command = [sys.executable, *launcher, __file__, "--worker", str(folder), "--out", str(out), "--recipes", *recipes]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "BITSANDBYTES_NOWELCOME": "1"}
    subprocess.run(command, check=True, env=environment)
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


def _work(arguments: argparse.Namespace) -> None:
    """All recipes in this process, which may be one of two."""
    import torch

    from memfold.training.loop import prepare, step, validate
    from memfold.training.processes import Processes
    from memfold.training.proof import small
    from memfold.training.recipe import read_recipe

    torch.set_num_threads(1)
    processes, found = Processes(), []
    for name in arguments.recipes:
        recipe = read_recipe(ROOT / "recipes" / f"{name}.toml")
        if processes.first:
            small(recipe, arguments.worker, processes.count)  # writes what all read
        processes.wait()
        recipe = small(recipe, arguments.worker, processes.count)
        run = prepare(recipe, arguments.worker / f"{processes.count}-{name.replace('/', '-')}")
        steps = [step(run) for _ in range(recipe.steps)]
        held_out = validate(run)
        linear = [type(module).__name__ for _, module in run.backbone.model.named_modules()]
        found.append({
            "recipe": name, "losses": [line["loss"] for line in steps], "norms": [line["norm"] for line in steps],
            "validation": {entry: values["loss"] for entry, values in held_out.items()},
            "four_bit_modules": sum(kind == "Linear4bit" for kind in linear) // 2,
            "sharded_modules": sum(kind.startswith("FSDP") for kind in linear),
            "trained": sum(weight.numel() for weight in run.optimisers.parameters),
        })  # fmt: skip
    if processes.first:
        arguments.out.write_text(json.dumps(found))
    processes.part()


def _compared(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """A row of the result: what ran, and how far one process and two are apart."""
    pairs = [(first[name], second[name]) for first, second in zip(one["losses"], two["losses"], strict=True)
             for name in first.keys() | second.keys()]  # fmt: skip
    pairs += [(one["validation"][name], two["validation"][name]) for name in one["validation"]]
    return {
        "recipe": one["recipe"], "losses": one["losses"], "validation": one["validation"],
        "four_bit_modules": one["four_bit_modules"], "sharded_modules": two["sharded_modules"],
        "trained": one["trained"], "difference": max(abs(first - second) for first, second in pairs),
    }  # fmt: skip


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    from memfold.backbone.origin import commit

    out.mkdir(parents=True, exist_ok=True)
    (out / "proof.json").write_text(json.dumps({"commit": commit(), "recipes": rows}, indent=2) + "\n")
    lines = ["| recipe | 4-bit modules | sharded modules | losses of step 2, nats a token | one process against two |",
             "|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        losses = ", ".join(f"{name} {value:.3f}" for name, value in row["losses"][-1].items())
        numbers = f"{row['four_bit_modules']} | {row['sharded_modules']}"
        lines.append(f"| {row['recipe']} | {numbers} | {losses} | {row['difference']:.1e} |")
    (out / "proof.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _arguments() -> argparse.Namespace:
    recipes = [path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
               for path in sorted((ROOT / "recipes").glob("pooled/qwen*/*.toml"))]  # fmt: skip
    parser = argparse.ArgumentParser(description="prove the recipes for published sizes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--recipes", nargs="+", default=recipes)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
