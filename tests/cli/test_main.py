"""The command itself: help without torch, errors in one line, samples, demo and training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_result import Cli

from memfold.cli import main
from memfold.cli.train import default_out
from memfold.tasks.table import LOCAL

COMMANDS = [module.NAME for module in main.COMMANDS]
HEAVY = ("torch", "transformers", "numpy", "bm25s", "accelerate", "matplotlib", "peft", "bitsandbytes")

PROBE = """
import sys
from memfold.cli.main import execute
codes = [execute([*command, "--help"]) for command in {commands}]
import memfold
assert not any(codes), codes
print("heavy:", [name for name in {heavy} if name in sys.modules])
"""

RECIPE = """
stage = "base"
steps = 4
tokens = 64
micro_batches = 1
precision = "float32"
checkpoint_every = 2
validate_every = 4
validation_batches = 1

[model]
vocabulary = 300
hidden = 16
layers = 1
heads = 2
feedforward = 16
window = 512

[[mixture]]
task = "prose"
system = "full"
weight = 1
sizes = [64]
level = 1
"""


def test_help_does_not_import_torch() -> None:
    commands = [[], *([name] for name in COMMANDS)]
    code = PROBE.format(commands=commands, heavy=HEAVY)
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "heavy: []"
    assert all(f"memfold {name}" in output for name in COMMANDS)


def test_h_is_help_in_every_command(cli: Cli) -> None:
    for command in ((), *((name,) for name in COMMANDS)):
        short, long = cli(*command, "-h"), cli(*command, "--help")
        assert short.code == long.code == 0
        assert short.out == long.out
        assert "-h, --help" in short.out


def test_a_shell_completes_commands() -> None:
    """In a process of its own, and without torch."""
    asked = {"_MEMFOLD_COMPLETE": "complete_bash", "COMP_WORDS": "memfold in", "COMP_CWORD": "1"}
    code = "import sys; from memfold.cli.main import execute; execute([])"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked, check=False
    )
    assert output.stdout.split() == ["inspect"]


def test_an_interruption_while_modules_are_imported_is_one_line() -> None:
    code = """
import sys

class Interrupt:
    def find_spec(self, name, *rest):
        if name == "memfold.cli.main":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from memfold.__main__ import run
run()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "memfold: interrupted\n")


def test_usage_errors_are_one_line(cli: Cli) -> None:
    assert "No such command 'flod'" in (result := cli("flod")).message
    assert result.code == 2
    assert "DOC_OR_MEMORY" in cli("ask").message
    assert cli().code == 0
    assert cli("--version").out.startswith("memfold ")


def test_unexpected_errors_are_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("memfold.cli.sizes.describe", broken)
    result = cli("inspect", "page.fold")
    assert result.code == 1
    assert result.message == "RuntimeError: first line second line; run with MEMFOLD_DEBUG=1 for the traceback"
    monkeypatch.setenv("MEMFOLD_DEBUG", "1")
    with pytest.raises(RuntimeError, match="first line"):
        main.execute(["inspect", "page.fold"])


def test_a_sample_says_where_its_answers_stand(cli: Cli) -> None:
    arguments = ("--tokens", 1000, "--seed", 4, "--level", 1, "--questions", 5)
    result = cli("sample", "almanac", *arguments, "-o", "made", "--json")
    assert result.code == 0
    assert result.record["questions"] == 5
    text = Path("made/document.txt").read_bytes().decode()
    for line in Path("made/questions.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record.keys() == {"question", "answers", "evidence", "support", "hops", "kind", "split"}
        evidence = " ".join(text[start:end] for start, end in record["evidence"])
        assert record["answers"][0] in evidence
    first = Path("made/questions.jsonl").read_bytes()
    assert cli("sample", "almanac", *arguments, "-o", "made", "--force").code == 0
    assert Path("made/questions.jsonl").read_bytes() == first


def test_bad_samples_are_named(cli: Cli) -> None:
    cases = [
        (("almanak",), "unknown task 'almanak'; nearest: 'almanac'"),
        (("cued",), "task 'cued' makes tokens, not a text with questions; use almanac, spread, needle, summarisation"),
        *(((task,), f"task '{task}' reads local files that a recipe names; use almanac") for task in LOCAL),
        (("almanac", "--split", "up"), "unknown split 'up'; known: in, out"),
        (("almanac", "--level", 9), "--level = 9 is not possible; allowed: 0 to 3"),
        (("almanac", "--tokens", 0), "--tokens = 0 is not possible"),
    ]
    for arguments, message in cases:
        result = cli("sample", *arguments, "-o", "made")
        assert result.code == 2
        assert message in result.message
    assert not Path("made").exists()


def test_demo_asks_ten_questions(cli: Cli, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfold.cli.demo.TOKENS", 1500)
    record = cli("demo", *model, "--json").record
    assert record["asked"] == len(record["questions"]) == 10
    assert record["right"] == sum(question["right"] for question in record["questions"])
    assert record["right_unfolded"] == sum(question["unfolded"]["right"] for question in record["questions"])
    shown = cli("demo", *model, "--seed", 2)
    assert shown.code == 0
    assert "of 10 right from the slots alone" in shown.out
    assert "after reading the cited text" in shown.out
    assert "memfold sample almanac" in shown.out


def test_train_plans_runs_resumes_and_draws(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfold.training.tokenizer.PAGES", 4)
    Path("recipes/toy").mkdir(parents=True)
    Path("recipes/toy/base.toml").write_text(RECIPE)
    plan = cli("train", "toy/base", "--dry-run")
    assert plan.code == 0
    assert "4 steps of about 64 tokens, 256 in total" in plan.out
    assert "parameters trained, 0 frozen" in plan.out
    assert not Path("runs").exists()
    assert cli("train", "recipes/toy/base.toml", "--steps", 2, "--out", "other").code == 0
    run = Path("runs/toy-base")
    assert cli("train", "toy/base").code == 0
    for name in ("metrics.jsonl", "curves.png", "model/config.json", "step-000004"):
        assert (run / name).exists()
    again = cli("train", "toy/base")
    assert again.code == 2
    assert "already holds a run" in again.message


def test_interrupted_training_says_what_is_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from memfold.training import loop

    monkeypatch.setattr("memfold.training.tokenizer.PAGES", 4)
    plain, count = loop.step, iter(range(100))

    def stopped(run: loop.Run) -> object:
        if next(count) == 3:
            raise KeyboardInterrupt
        return plain(run)

    Path("toy.toml").write_text(RECIPE)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", stopped)
        result = cli("train", "toy.toml")
    assert result.code == 130
    assert result.err.splitlines()[-1] == (
        "memfold: interrupted; the run is in runs/toy: its last checkpoint is kept, add --resume to continue"
    )
    assert cli("train", "toy.toml", "--resume").code == 0
    steps = [json.loads(line)["step"] for line in Path("runs/toy/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_bad_recipes_are_named(cli: Cli) -> None:
    assert "no folder recipes/ here" in cli("train", "toy/base").message
    Path("recipes/toy").mkdir(parents=True)
    Path("recipes/toy/base.toml").write_text(RECIPE.replace("steps", "stepps"))
    for arguments, message in [
        (("toy/bass",), "unknown recipe 'toy/bass'; nearest: 'toy/base'"),
        (("toy/base",), "unknown key 'stepps'; nearest: 'steps'"),
    ]:
        result = cli("train", *arguments)
        assert result.code == 2
        assert message in result.message


def test_a_run_is_named_after_its_recipe() -> None:
    assert default_out(Path("recipes/pooled/tiny/sft.toml")) == Path("runs/pooled-tiny-sft")
    assert default_out(Path("/somewhere/recipes/toy/base.toml")) == Path("runs/toy-base")
    assert default_out(Path("mine.toml")) == Path("runs/mine")
