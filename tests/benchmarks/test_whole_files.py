"""A benchmark that cannot finish its result file leaves the old one as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ablations
import proof
import pytest
import reinforcement
import results
from file_size_limit import file_size_limit

from memfold.core.errors import DataError
from memfold.core.outputs import whole_file


def _trust(folder: Path) -> Path:
    """A page about trust, so that the real one stays as it is."""
    page = folder / "trust.md"
    page.write_text("<!-- begin: tables -->\n<!-- end -->\n")
    return page


LIMIT = 100  # bytes; every page is longer
WRITERS: dict[str, Callable[[Path], object]] = {
    "results": lambda page: results.write(page.parent / "none", page, _trust(page.parent)),
    "ablations": lambda page: ablations.write_page(page.parent / "none", page),
    "proof": lambda page: proof._write([], page.parent),
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_unfinished_file_replaces_nothing(tmp_path: Path, name: str) -> None:
    page = tmp_path / ("proof.md" if name == "proof" else "page.md")
    page.write_text("old")
    with file_size_limit(LIMIT), pytest.raises(DataError, match="File too large"):
        WRITERS[name](page)
    assert page.read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))
    WRITERS[name](page)
    assert page.read_text() != "old"


def test_an_interrupted_comparison_keeps_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr("sys.argv", ["reinforcement.py", "--results", str(tmp_path / "none"), "--page", str(page)])
    with file_size_limit(10 * LIMIT):  # the error is written too, to a file
        assert reinforcement.main() == 2
    assert page.read_text() == "old"
    assert reinforcement.main() == 0
    assert page.read_text().startswith("# What reinforcement learning changes")


def test_a_copy_that_is_interrupted_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"old")

    def copy() -> None:
        with whole_file(tmp_path / "plot.png") as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("plot.png", b"old")]
