"""Which settings the benchmark gives to which command, and what it subtracts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asking
import pytest


def test_settings_of_folding_are_given_to_fold_and_those_of_reading_to_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[tuple[str, ...]] = []

    def measured(*words: str, accepted: Sequence[int] = (0,)) -> tuple[dict[str, Any], dict[str, Any]]:
        commands.append(words)
        response = {"answer": "Velm", "usage": {"calls": 3}}
        return response, {"seconds": 1.0, "peak_bytes": 100 * len(commands)}

    monkeypatch.setattr(asking, "measured_command", measured)
    row = asking.measure("pooled/chunk=512/candidates=8", "A text.", "Where?", "tiny", tmp_path)
    assert [words[0] for words in commands] == ["fold", "ask"] * 2
    options = ("--model", "tiny", "--set", "chunk=512", "--set", "candidates=8")
    assert commands[0][-8:] == ("--system", "pooled", *options)
    assert commands[1][2:] == ("Where?", "--model", "tiny", "--set", "candidates=8")
    assert (row["weights_bytes"], row["peak_bytes"], row["above_weights_bytes"]) == (200, 400, 200)
    assert (row["system"], row["answer"], row["calls"]) == ("pooled/chunk=512/candidates=8", "Velm", 3)
