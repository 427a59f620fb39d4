"""The page of the ablations is made of its result files: of made-up ones here, and of those in the repository."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from memfold.core.errors import DataError
from memfold.evaluation.ablations import Result, draw_curves, page, read_results, table, write_result

ROOT = Path(__file__).parents[2]
TRAINED = {"steps": 10, "tokens": 3e6, "tokens_per_second": 2500.0}
HERE = {"cpu": "a processor", "threads": 2, "torch": "2.13.0"}


def made(row: str, right: list[int], *, changed: dict[str, object] | None = None, times: float = 1.25) -> Result:
    cases = {f"in/128/{number}/0": float(value) for number, value in enumerate(right)}
    texts = {f"in/128/{number}": value / 2 for number, value in enumerate(right)}
    folding = [] if row == "baseline" else [times] * 3
    return Result(
        row=row,
        changed=changed or {},
        trained=TRAINED,
        asked={"lengths": [128], "questions": len(right)},
        one_hop=cases,
        rouge=texts,
        losses={"almanac": texts, "reconstruction": {case: 2 * value for case, value in texts.items()}},
        fold_times=folding,
        effective_ratio=10.667,
        curves={"almanac": [[10, 0.5], [20, 0.75]]},
        fingerprint="f",
        commit="c0ffee",
        hardware=HERE,
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Four questions: the baseline has one right, the row all."""
    write_result(made("window-256", [1, 1, 0, 1]), tmp_path)
    write_result(made("window-64", [1, 1, 1, 1], changed={"window": 64}, times=2.5), tmp_path)
    write_result(made("pooling-gqa", [0, 0, 0, 0], changed={"pooling": "gqa"}), tmp_path)
    write_result(made("baseline", [1, 0, 0, 0]), tmp_path)
    return tmp_path


def test_rows_stand_in_the_order_of_their_settings(results: Path) -> None:
    found = read_results(results)
    assert [result.row for result in found] == ["baseline", "window-64", "window-256", "pooling-gqa"]
    assert found[1] == made("window-64", [1, 1, 1, 1], changed={"window": 64}, times=2.5)


def test_the_cells_by_hand(results: Path) -> None:
    rows = {row.names: row.cells for row in table(read_results(results)).rows}
    changed = {"baseline": "-", "window-64": "window 64", "window-256": "-", "pooling-gqa": "pooling gqa"}
    assert list(rows) == [(row, setting, "10.67") for row, setting in changed.items()]
    values = {names[0]: [cell.value for cell in cells] for names, cells in rows.items()}
    assert values["baseline"] == [0.25, None, 0.125, None, 0.25, None, 0.125, None]
    assert values["window-64"] == [1.0, 0.75, 0.5, 0.375, 1.0, 0.75, 0.5, 2.5]
    assert values["pooling-gqa"] == [0.0, -0.25, 0.0, -0.125, 0.0, -0.25, 0.0, 1.25]
    difference = rows["window-64", "window 64", "10.67"][1]
    assert (difference.low, difference.high, difference.count) == (0.25, 1.0, 4)
    one_hop = rows["baseline", "-", "10.67"][0]
    assert one_hop.markdown() == "25.0 % [4.6, 69.9] n=4"  # Wilson


def test_the_page_says_what_the_files_say_and_changes_with_them(results: Path) -> None:
    before = page(read_results(results), "ablations.png")
    shown = (
        "10 steps a row, 3.0M tokens, 20.0 minutes",
        "lengths 128, questions 4",
        "a processor, 2 threads",
        "c0ffee",
        "| window-64 | window 64 | 10.67 | 100.0 % [51.0, 100.0] n=4 | 75.0 % [25.0, 100.0] n=4 |",
        "](ablations.png)",
    )
    for part in shown:
        assert part in before
    path = results / "window-64.json"
    stored = json.loads(path.read_text())
    stored["one_hop"]["in/128/3/0"] = 0.0
    path.write_text(json.dumps(stored))
    after = page(read_results(results), "ablations.png")
    changed = [line for line, other in zip(after.split("\n"), before.split("\n"), strict=True) if line != other]
    assert len(changed) == 1
    assert "| window-64 | window 64 | 10.67 | 75.0 %" in changed[0]


def test_verdicts_are_by_intervals_without_zero(tmp_path: Path) -> None:
    base = {f"{number}/0": 1.0 for number in range(20)}
    losses = {
        "baseline": base,
        "window-64": dict.fromkeys(base, 0.5),
        "window-256": dict.fromkeys(base, 0.25),
        "pooling-gqa": {case: 1.0 + (-1) ** number for number, case in enumerate(base)},
        "wrapper-none": dict.fromkeys(base, 1.5),
    }
    found = [
        replace(made(row, [1]), losses={"almanac": values, "reconstruction": base}) for row, values in losses.items()
    ]
    text = page(found, None)
    assert "Nats, answers: better: window-256, window-64; no difference seen: pooling-gqa; worse: wrapper-none." in text
    assert "Nats, texts: no difference seen: window-64, window-256, pooling-gqa, wrapper-none." in text
    assert "Nats, answers: no other row." in page(found[:1], None)
    assert "Nats" not in page(found[1:], None).split("| --- |")[-1].split("\n\n", 1)[-1]


def test_differences_are_of_samples_that_both_have(tmp_path: Path) -> None:
    few = replace(made("wrapper-none", [1, 0]), one_hop={"in/128/0/0": 0.0, "elsewhere": 1.0})
    (row,) = [row for row in table([made("baseline", [1, 1]), few]).rows if row.names[0] == "wrapper-none"]
    assert (row.cells[1].value, row.cells[1].count) == (-1.0, 1)
    (alone,) = table([few]).rows
    assert alone.cells[1].value is None


def test_curves_are_drawn_for_each_setting_and_task(results: Path, tmp_path: Path) -> None:
    found = read_results(results)
    path = draw_curves(found, tmp_path / "deeper" / "curves.png")
    assert path is not None
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert draw_curves([replace(result, curves={}) for result in found], tmp_path / "none.png") is None


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"row": "odd"}')
    with pytest.raises(DataError, match=r"odd\.json is not the result of an ablation: changed is missing"):
        read_results(tmp_path)


def test_the_page_in_the_repository_is_made_of_its_result_files() -> None:
    found = read_results(ROOT / "benchmarks" / "results" / "ablations")
    picture = "ablations.png" if any(result.curves for result in found) else None
    assert (ROOT / "docs" / "ablations.md").read_text() == page(found, picture)
    assert picture is None or (ROOT / "docs" / picture).exists()
