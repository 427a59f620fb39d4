"""The README against what it stands on: its table, its Python example, its links, its size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "almanac-in-amd-epyc.json"
ROWS = {
    "the full text": "full",
    "retrieval: the four best passages (BM25)": "retrieval",
    "slots of a sentence each, 15 tokens on average": "pooled:16",
    "the same, as `ask` does by default": "pooled/doubt=256",
    "slots of 16 tokens each": "pooled:16/groups=fixed",
    "nothing (closed book)": "closed-book",
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_is_that_of_the_result_file() -> None:
    tables = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]["almanac-in"]["tables"]
    accuracy = next(table for table in tables if table["title"].startswith("Accuracy"))
    columns = [accuracy["columns"].index(kind) for kind in ("one-hop", "two-hop")]
    measured = {row["names"][1]: row["cells"] for row in accuracy["rows"] if row["names"][0] == "all"}
    for label, system in ROWS.items():
        cells = [measured[system][column] for column in columns]
        shown = " | ".join(f"{c['value']:.0%} [{100 * c['low']:.0f}, {100 * c['high']:.0f}]" for c in cells)
        assert f"| {label} | {shown.replace('%', ' %')} |" in README
    counts = [measured["full"][column]["count"] for column in columns]
    assert "| the model reads | one hop (n={}) | two hops (n={}) |".format(*counts) in README


def test_the_readme_fits_one_screen() -> None:
    assert len(README.splitlines()) <= 120
    assert len(re.findall(r"\d[\d,.]*", re.sub(r"\(http[^)]*\)", "", README))) <= 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_sections(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, section = target.partition("#")
        if name.startswith("http"):
            continue
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if section:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert section in anchors, target


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("report.txt").write_text("The report was signed by Ada. The mill stands by the river.", encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line) for line in example.splitlines()) == 5
    exec(compile(example, "README.md", "exec"), {})
    assert Path("report.fold").exists()
