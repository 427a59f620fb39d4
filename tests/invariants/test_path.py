"""From `memfold ask` to the model: which files a reader passes through, taken from the stack of real calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memfold.backbone.model import Backbone
from memfold.cli import ask

PACKAGE = Path(__file__).parents[2] / "src" / "memfold"
MOST_FILES, MOST_LINES = 7, 1_200


def files_below() -> Iterator[Path]:
    """Our files on the stack, innermost first."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            yield path
        frame = frame.f_back


def test_a_question_passes_few_files_from_command_to_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, stacks = Backbone.next_logits, set()

    def next_logits(self: Backbone, *arguments: Any) -> Any:
        stacks.add(frozenset(files_below()) | {PACKAGE / "backbone" / "model.py"})
        return forward(self, *arguments)

    monkeypatch.setattr(Backbone, "next_logits", next_logits)
    text = tmp_path / "text.txt"
    text.write_text("Ada was born in Velm. The mill of Tor stands by the river.", encoding="utf-8")
    ask.command(str(text), "Where was Ada born?")
    assert len(stacks) == 2, "one for prompts and one for the tokens after them"
    for files in stacks:
        assert PACKAGE / "cli" / "ask.py" in files
        names = sorted(str(file.relative_to(PACKAGE)) for file in files)
        assert len(files) <= MOST_FILES, names
        assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= MOST_LINES, names
    assert capsys.readouterr().out
