"""Run two steps of every stage of every recipe for a published size, without its weights.

    python benchmarks/proof.py [--out benchmarks/results] [--recipes pooled/qwen2.5-7b/sft ...]

A recipe runs on a two-layer model of its architecture with random weights and synthetic data
(`memfold.training.proof`), in the recipe's bfloat16 and in float32.  It runs in one process and in two processes joined
by gloo, whose losses must be equal.  In stage rl a rule replaces the judge (`memfold.rl.proof`), and only the losses in
float32 must be equal: rounding in bfloat16 depends on the rest of the batch and may change a sampled reply.  The
results are written to proof.json and proof.md; those of recipes that are not run stay as they are there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

Steps = Callable[[Any, Path], tuple[Any, Any, dict[str, Any]]]
ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
NAMES = ("pooled", "recurrent", "kvbank")
SAMPLED = "rl"
PRECISIONS = ("bfloat16", "float32")
LARGEST_DIFFERENCE = {"bfloat16": 1e-3, "float32": 1e-4}  # nats per token, in training steps and held out
HEADS = ("recipe", "4-bit modules", "sharded", "step 2: losses, nats a token", "two processes: bfloat16", "float32")


def main() -> int:
    """Run all recipes; the exit code is 1 if one process and two differ."""
    arguments = _arguments()
    if arguments.worker is not None:
        _work(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        single, double = (_launch(count, Path(folder), arguments.recipes) for count in (1, 2))
    rows = [_row(*results) for results in zip(single, double, strict=True)]
    _write(rows, arguments.out)
    return int(not all(map(_equal, rows)))


def _launch(count: int, folder: Path, recipes: list[str]) -> list[dict[str, Any]]:
    """Run all recipes with `count` processes and return their results."""
    out = folder / f"{count}.json"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if count > 1 else []
    command = [sys.executable, *launcher, __file__, "--worker", str(folder), "--out", str(out), "--recipes", *recipes]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "BITSANDBYTES_NOWELCOME": "1"}
    subprocess.run(command, check=True, env=environment)
    results: list[dict[str, Any]] = json.loads(out.read_text())
    return results


def _work(arguments: argparse.Namespace) -> None:
    """Run all recipes in this process, which may be one of two."""
    import torch

    from memfold.training.processes import Processes

    torch.set_num_threads(1)
    processes, results = Processes(), []
    for name in arguments.recipes:
        make = _sampled if _is_sampled(name) else _supervised
        if processes.first:
            make(name, arguments.worker, processes.count)  # writes the files that all processes read
        processes.wait()
        recipe, steps = make(name, arguments.worker, processes.count)
        entry: dict[str, Any] = {"recipe": name}
        for precision in PRECISIONS:
            folder = arguments.worker / f"{processes.count}-{precision}-{name.replace('/', '-')}"
            backbone, optimisers, entry[precision] = steps(replace(recipe, precision=precision), folder)
            kinds = [type(module).__name__ for _, module in backbone.model.named_modules()]
            entry["four_bit_modules"] = sum(kind == "Linear4bit" for kind in kinds) // 2  # with its LoRA, and inside
            entry["sharded_modules"] = sum(kind.startswith("FSDP") for kind in kinds)
            entry["trained"] = sum(weight.numel() for weight in optimisers.parameters)
        results.append(entry)
    if processes.first:
        arguments.out.write_text(json.dumps(results))
    processes.close()


def _is_sampled(name: str) -> bool:
    from memfold.training.recipe_file import read_values

    return bool(read_values(ROOT / "recipes" / f"{name}.toml")["stage"] == SAMPLED)


def _supervised(name: str, folder: Path, processes: int) -> tuple[Any, Steps]:
    """A small recipe, and a function that runs its steps and returns the model, its optimisers and the losses."""
    from memfold.training.loop import prepare, step, validate
    from memfold.training.proof import small
    from memfold.training.recipe import read_recipe

    def steps(recipe: Any, run_folder: Path) -> tuple[Any, Any, dict[str, Any]]:
        run = prepare(recipe, run_folder)
        losses = [step(run)["loss"] for _ in range(recipe.steps)]
        held_out = {name: {"loss": values["loss"]} for name, values in validate(run).items()}
        return run.backbone, run.optimisers, {"losses": losses, "held out": held_out}

    return small(read_recipe(ROOT / "recipes" / f"{name}.toml"), folder, processes), steps


def _sampled(name: str, folder: Path, processes: int) -> tuple[Any, Steps]:
    """The same for reinforcement learning, where steps also have a reward and a gap between trainer and sampler."""
    from memfold.core.config import build
    from memfold.rl.collect import validate
    from memfold.rl.loop import prepare, step
    from memfold.rl.proof import small
    from memfold.rl.recipe import RlRecipe
    from memfold.training import sharding
    from memfold.training.recipe_file import read_values

    def steps(recipe: Any, run_folder: Path) -> tuple[Any, Any, dict[str, Any]]:
        run = prepare(recipe, run_folder)
        figures = [step(run)["figures"] for _ in range(recipe.steps)]
        losses = [{key: metrics[key] for key in ("reward", "loss", "logprob_gap")} for metrics in figures]
        with sharding.gathered(run.backbone):
            validated = validate(recipe, run.backbone, run.scorer, run.processes)
        held_out = {name: {"reward": values["reward"]} for name, values in validated.items()}
        return run.backbone, run.trainer.optimisers, {"losses": losses, "held out": held_out}

    return small(build(RlRecipe, read_values(ROOT / "recipes" / f"{name}.toml")), folder), steps


def _row(single: dict[str, Any], double: dict[str, Any]) -> dict[str, Any]:
    """A row of the result: what ran, and the differences between one process and two."""
    return {
        "recipe": single["recipe"],
        "losses": single["bfloat16"]["losses"],
        "held_out": single["bfloat16"]["held out"],
        "four_bit_modules": single["four_bit_modules"],
        "sharded_modules": double["sharded_modules"],
        "trained": single["trained"],
        "difference": {name: _difference(single[name], double[name]) for name in PRECISIONS},
    }


def _equal(row: dict[str, Any]) -> bool:
    """Whether the losses of one process and two are equal."""
    checked = PRECISIONS[1:] if _is_sampled(row["recipe"]) else PRECISIONS
    return all(row["difference"][name] <= LARGEST_DIFFERENCE[name] for name in checked)


def _difference(single: dict[str, Any], double: dict[str, Any]) -> float:
    """The largest difference of a loss, in training and held out."""
    pairs: list[tuple[float, float]] = []
    for first, second in zip(single["losses"], double["losses"], strict=True):
        pairs += [(first[name], second[name]) for name in first.keys() | second.keys()]
    for name, values in single["held out"].items():
        pairs += [(value, double["held out"][name][key]) for key, value in values.items()]
    return max(abs(first - second) for first, second in pairs)


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    from memfold.backbone.origin import commit
    from memfold.core.outputs import write_text

    out.mkdir(parents=True, exist_ok=True)
    file = out / "proof.json"
    before = json.loads(file.read_text()) if file.exists() else {"commit": None, "recipes": []}
    kept = {row["recipe"]: {"commit": before["commit"]} | row for row in before["recipes"]}
    kept |= {row["recipe"]: {"commit": commit()} | row for row in rows}
    rows = [kept[name] for name in _recipes() if name in kept]
    write_text(file, json.dumps({"commit": commit(), "recipes": rows}, indent=2) + "\n")
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    for row in rows:
        losses = ", ".join(f"{name} {value:.3f}" for name, value in row["losses"][-1].items())
        modules = f"{row['four_bit_modules']} | {row['sharded_modules']}"
        lines.append(f"| {row['recipe']} | {modules} | {losses} | {_rounded(row['difference'])} |")
    write_text(out / "proof.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def _rounded(difference: dict[str, float]) -> str:
    return " | ".join(f"{difference[name]:.0e}" if difference[name] else "0" for name in PRECISIONS)


def _recipes() -> list[str]:
    """The names of all recipes for published sizes, system by system."""
    paths = [path for name in NAMES for path in sorted((ROOT / "recipes").glob(f"{name}/qwen*/*.toml"))]
    return [path.relative_to(ROOT / "recipes").with_suffix("").as_posix() for path in paths]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="run two steps of the recipes for published sizes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--recipes", nargs="+", default=_recipes())
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
