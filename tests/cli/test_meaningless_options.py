"""Options and names that have no meaning where they are given are refused, in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from command_result import Cli

from memfold.memory import open_memory
from memfold.tasks.table import TASKS, TEXTS


def test_a_memory_of_text_has_neither_slots_nor_a_ratio(
    cli: Cli, page: SimpleNamespace, model: tuple[str, str]
) -> None:
    fold = ("fold", page.path, "-o", "page.fold", "--system", "full", *model)
    no_slots = "--dtype int8 has no effect: system 'full' stores no slots; leave --dtype out"
    no_text = "--no-text is not possible: system 'full' reads the text itself; leave it out"
    assert cli(*fold, "--dtype", "int8").message == no_slots
    assert cli(*fold, "--no-text").message == no_text
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
        "skipped page.txt: page.txt has the same text",
        "skipped copy.txt: page.txt has the same text",
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
    result = cli("sample", task, "--tokens", 400, "--questions", 3, "-o", "made", "--json")
    if task in TEXTS:
        assert result.code == 0
        assert result.record["questions"] <= 3
        assert (result.err == "") == (result.record["questions"] == 3)
    else:
        assert result.code == 2
        assert f"use {', '.join(TEXTS)}" in result.message


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
