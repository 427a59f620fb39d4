"""Two commands that write into one folder do not mix their files: the second one gets a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_result import Cli

from memfold.core.lock import LOCK, FolderLock

RECIPE = """
stage = "base"
steps = 2
model = { vocabulary = 300, hidden = 16, layers = 1, heads = 2, feedforward = 16, window = 512 }
mixture = [{ task = "prose", system = "full", weight = 1, sizes = [64], level = 1 }]
"""
WRITERS = {  # export is not one of them: it renames a whole folder
    "sample": ("sample", "almanac", "--tokens", 300),
    "bench": ("bench", "fold"),
    "eval": ("eval", "almanac"),
    "train": ("train", "toy.toml"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_second_writer_is_refused(cli: Cli, name: str, model: tuple[str, str], tmp_path: Path) -> None:
    Path("toy.toml").write_text(RECIPE)
    chosen = model if name in ("eval", "bench") else ()
    with FolderLock(tmp_path / "out"):
        result = cli(*WRITERS[name], *chosen, "--out", "out")
        assert (result.code, result.out) == (2, "")
        assert result.message == "another process is writing out; wait for it or choose another folder"
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


def test_a_folder_is_free_again_after_a_command(cli: Cli, tmp_path: Path) -> None:
    for seed in (1, 2):
        assert cli("sample", "almanac", "--tokens", 300, "--seed", seed, "--force", "-o", "out").code == 0
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["document.txt", "questions.jsonl"]
