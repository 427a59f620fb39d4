"""Training in bfloat16 on a processor that is slow at it is announced, once, and by nothing that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_result import Cli

RECIPE = """
stage = "base"
steps = 2
precision = "{}"
model = {{ vocabulary = 300, hidden = 16, layers = 1, heads = 2, feedforward = 16, window = 512 }}
mixture = [{{ task = "prose", system = "full", weight = 1, sizes = [64], level = 1 }}]
"""
SLOW = "this processor has no instructions for bfloat16"


@pytest.mark.parametrize(("precision", "fast"), [("bfloat16", False), ("bfloat16", True), ("float32", False)])
def test_the_warning_is_in_the_plan(cli: Cli, monkeypatch: pytest.MonkeyPatch, precision: str, fast: bool) -> None:
    monkeypatch.setattr("memfold.backbone.device.computes_bfloat16", lambda device: fast)
    Path("toy.toml").write_text(RECIPE.format(precision))
    assert (SLOW in cli("train", "toy.toml", "--dry-run").out) is (precision == "bfloat16" and not fast)


def test_the_warning_stands_before_the_first_line_of_a_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfold.backbone.device.computes_bfloat16", lambda device: False)
    Path("toy.toml").write_text(RECIPE.format("bfloat16"))
    run = cli("train", "toy.toml", "--out", "out")
    assert run.code == 0
    lines = run.err.splitlines()
    assert [SLOW in line for line in lines] == [True, *[False] * (len(lines) - 1)]
    again = cli("train", "toy.toml", "--out", "out")
    assert again.code == 2
    assert SLOW not in again.err
