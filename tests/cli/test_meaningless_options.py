"""Options and names that have no meaning where they are given are refused, in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_result import Cli

import memfold
from memfold.backbone.folder import save_backbone
from memfold.cli.bench import BENCHES
from memfold.cli.sample import WITHOUT
from memfold.core.errors import ConfigError
from memfold.memory import open_memory
from memfold.tasks.table import TASKS, TEXTS, load_task
from memfold.tasks.task import TaskOptions


def test_a_memory_of_text_has_neither_slots_nor_a_ratio(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str]
) -> None:
    fold = ("fold", page.path, "-o", "page.fold", "--system", "full", *model)
    no_slots = "dtype 'int8' has no effect: system 'full' stores no slots; leave --dtype (dtype=) out"
    assert cli(*fold, "--dtype", "int8").message == no_slots
    assert not Path("page.fold").exists()
    assert cli(*fold).code == 0
    Path("more.txt").write_text("Velm is a town.")
    added = cli("fold", "more.txt", "-o", "page.fold", "--append", *model, "--dtype", "int8")
    assert (added.code, added.message) == (2, no_slots)
    ratio = cli("ask", "page.fold", "Who?", *model, "--ratio", 4)
    assert ratio.message.startswith("ratio 4 is not possible: this memory was made by system 'full', which keeps the ")


def test_filters_of_replies_are_refused_for_a_memory(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    assert cli("fold", page.path, "-o", "page.fold", *model).code == 0
    for options in (("--first", 10), ("--case", "in"), ("--wrong",)):
        result = cli("inspect", "page.fold", *options)
        expected = f"{options[0]} selects replies, and page.fold is a memory file; leave {options[0]} out"
        assert (result.code, result.message) == (2, expected)


def test_the_same_text_is_folded_once(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    Path("copy.txt").write_bytes(page.path.read_bytes())
    result = cli("fold", page.path, page.path, "copy.txt", "-o", "page.fold", *model)
    assert result.code == 0
    assert result.err.splitlines() == [
        "skipped: page.txt is named twice",
        "skipped: copy.txt has the same text as page.txt",
    ]
    assert open_memory("page.fold").sources == ("page.txt",)


def test_an_untrained_ratio_is_told_with_the_trained_ones(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str]
) -> None:
    for ratio in (5, 0, 9999):
        result = cli("ask", page.path, "Who?", *model, "--ratio", ratio)
        assert result.message == f"ratio {ratio} is not one that model 'first' was trained at; allowed: 4, 16"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_sampled_or_says_why_not(cli: Cli, task: str) -> None:
    count = () if "--questions" in WITHOUT.get(task, ()) else ("--questions", 3)
    result = cli("sample", task, "--tokens", 400, *count, "-o", "made", "--json")
    if task in TEXTS:
        assert result.code == 0
        assert result.record["questions"] <= 3
        assert (result.err == "") == (not count or result.record["questions"] == 3)
    else:
        assert result.code == 2
        assert f"use {', '.join(TEXTS)}" in result.message


OTHER = {"--level": ("level", 0), "--split": ("split", "out"), "--questions": ("samples", 3)}


@pytest.mark.parametrize("option", OTHER)
@pytest.mark.parametrize("task", TEXTS)
def test_options_of_a_sample_have_an_effect_or_are_refused(cli: Cli, task: str, option: str) -> None:
    def made(**changes: Any) -> set[tuple[object, ...]]:
        """What several seeds make: a single one may not show a difference."""
        options = replace(TaskOptions(samples=1), **changes)
        return {
            (sample.document.text, sample.question, sample.answers)
            for seed in range(3)
            for sample in load_task(task)(seed, 600, options, lambda text: [0] * -(-len(text) // 3))
        }

    name, value = OTHER[option]
    assert (made() == made(**{name: value})) == (option in WITHOUT.get(task, ()))
    result = cli("sample", task, "--tokens", 6000, option, value, "-o", "made")
    refused = (2, f"{option} has no effect on task '{task}'; leave it out\n")
    assert (result.code, result.err.removeprefix("memfold: ")) == refused or option not in WITHOUT.get(task, ())
    assert (result.code == 0) == (option not in WITHOUT.get(task, ()))


def test_a_device_is_refused_for_an_endpoint(cli: Cli, page: SimpleNamespace) -> None:
    remote = ("--model", "http://localhost:1/v1#m")
    for command in (
        ("ask", page.path, "Who?", "--system", "full"),
        ("fold", page.path, "-o", "m.fold", "--system", "full"),
        ("eval", "almanac", "--system", "full"),
    ):
        for device in ("cpu", "cuda"):
            result = cli(*command, *remote, "--device", device)
            said = f"--device {device} has no effect: an endpoint chooses its own device; leave --device out"
            assert (result.code, result.message) == (2, said)
    assert not Path("m.fold").exists()
    for name, value in (("device", "cuda"), ("dtype", "bfloat16")):
        with pytest.raises(ConfigError, match=f"{name} '{value}' has no effect: an endpoint chooses its own"):
            memfold.fold("A text.", system="full", model=remote[1], **{name: value})  # type: ignore[arg-type]


def test_options_without_effect_are_refused(cli: Cli, page: SimpleNamespace, model: tuple[str, str]) -> None:
    Path("toy.toml").write_text("")
    assert cli("fold", page.path, "-o", "bare.fold", *model, "--no-text").code == 0
    assert cli("fold", page.path, "-o", "text.fold", *model, "--system", "full").code == 0
    cases = {
        ("ask", page.path, "Who?", *model, "--system", "full", "--budget", 64): "--budget 64 has no effect on system "
        "'full', which reads nothing again; leave it out",
        (
            "ask",
            page.path,
            "Who?",
            *model,
            "--system",
            "retrieval",
            "--no-unfold",
        ): "--no-unfold has no effect on system 'retrieval', which reads nothing again; leave it out",
        ("ask", "text.fold", "Who?", *model, "--no-unfold"): "--no-unfold has no effect on system 'full', which reads "
        "nothing again; leave it out",
        ("ask", page.path, "Who?", *model, "--system", "kvbank", "--unfold"): "system 'kvbank' cannot unfold: it reads "
        "nothing but slots; leave unfolding out",
        ("ask", page.path, "Who?", *model, "--system", "full", "--unfold"): "system 'full' cannot unfold: it reads the "
        "text itself; leave unfolding out",
        ("ask", "bare.fold", "Who?", *model, "--budget", 64): "this memory holds no text to unfold; fold the documents "
        "without --no-text",
        ("train", "toy.toml", "--dry-run", "--resume"): "--resume has no effect with --dry-run; leave one of them out",
        ("bench", "fold", *model, "--force"): "--force has no effect without --out or --architecture; leave it out",
        ("eval", "reconstruction", "--per-document", 2): "--per-document has no effect in suite 'reconstruction' with "
        "these options; leave it out",
    }
    for arguments, message in cases.items():
        result = cli(*arguments)
        assert (result.code, result.message) == (2, message)


@pytest.mark.parametrize("what", BENCHES)
def test_an_endpoint_is_not_timed(cli: Cli, what: str) -> None:
    result = cli("bench", what, "--model", "http://localhost:1/v1#m")
    assert result.code == 2
    assert result.message == (
        "model 'http://localhost:1/v1#m' is an endpoint, and bench times weights here; give a --model with weights"
    )


def test_the_demo_is_shown_by_models_with_slots_only(cli: Cli, models: dict[str, str], new_backbone: Any) -> None:
    save_backbone(new_backbone(seed=5), Path("plain"))
    for model in ("plain", "http://localhost:1/v1#m"):
        result = cli("demo", "--model", model)
        said = f"the demo folds a text into slots, and model {model!r} reads text only; leave --model out"
        assert (result.code, result.message) == (2, said)


def test_a_sample_with_fewer_questions_says_so(cli: Cli) -> None:
    result = cli("sample", "almanac", "--tokens", 400, "--questions", 5000, "-o", "made", "--json")
    count = result.record["questions"]
    assert 0 < count < 5000
    assert result.err == f"note: {count} questions instead of 5,000; task 'almanac' has no more for 400 tokens\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("meta", "device 'meta' is not possible; allowed: cpu, cuda, cuda:N, mps"),
        ("cuda:99", "device 'cuda:99' is not available"),
        ("cuda:x", "device 'cuda:x' is not possible; allowed: cpu, cuda, cuda:N, mps"),
    ],
)
def test_a_device_that_is_not_there_is_named(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str], name: str, message: str
) -> None:
    result = cli("ask", page.path, "Who?", *model, "--device", name)
    assert result.code == 2
    assert message in result.message
