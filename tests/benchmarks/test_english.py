from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import english
import pytest

from memfold.evaluation.suite import load_suite, with_options

ROW = {"id": "1", "title": "Velm", "context": "Ada was born in Velm.", "question": "Where was Ada born?"}
ROW |= {"answers": {"text": ["Velm"], "answer_start": [16]}}


@pytest.fixture
def arguments(tmp_path: Path) -> argparse.Namespace:
    data = tmp_path / "data"
    data.mkdir()
    rows = [ROW | {"id": str(number)} for number in range(10)]
    for name in english.DATASETS.values():
        (data / f"{name}-dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "2wikimultihopqa-train.jsonl").write_text("")
    systems = ["full", "closed-book"]
    return argparse.Namespace(
        data=data, out=tmp_path / "out", questions=4, timed=2, system=systems, model="m", device="cpu", quick=False
    )


def test_questions_are_spread_over_the_file(arguments: argparse.Namespace) -> None:
    path = english._spread("2wikimultihopqa", arguments)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["0", "2", "5", "7"]
    assert english.evenly([1, 2], 5) == [1, 2]


def test_rows_without_a_text_are_left_out(arguments: argparse.Namespace) -> None:
    rows = [ROW | {"id": str(number)} for number in range(6)]
    del rows[0]["context"], rows[3]["context"]
    (arguments.data / "2wikimultihopqa-dev-dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = english._spread("2wikimultihopqa", arguments)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["1", "2", "4", "5"]


def test_a_folder_without_a_dataset_is_named(arguments: argparse.Namespace) -> None:
    (arguments.data / "musique-dev.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"has no \.jsonl file with 'musique' in its name"):
        english._spread("musique", arguments)


def test_the_evaluation_can_be_run(arguments: argparse.Namespace) -> None:
    files = {name: english._spread(name, arguments) for name in english.DATASETS}
    words = english.evaluation(files, arguments)
    given = [word for option, word in itertools.pairwise(words) if option == "--data"]
    suite = load_suite(words[1])
    suite.check(with_options(suite, suite.defaults, {"data": tuple(given)}))
    assert words[words.index("--questions") + 1] == "16"


def test_times_are_kept(arguments: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def timed(sample: Any, system: str, arguments: argparse.Namespace) -> dict[str, float]:
        asked.append((sample.question, system))
        return {"tokens": 5, "first_token": 0.5, "seconds": float(len(asked)), "cpu_seconds": 1.0, "written": 2}

    monkeypatch.setattr(english, "_timed", timed)
    files = {"squad": english._spread("squad", arguments)}
    first = list(english.measure_times(files, arguments))
    assert list(english.measure_times(files, arguments)) == first
    assert asked == [(ROW["question"], "full")], "the same question is timed once, and nothing without a text"
    table = english.costs(first, arguments.system)
    assert [row.names for row in table.rows] == [("the full text",)]
    assert [cell.value for cell in table.rows[0].cells] == [5, 0.5, 1, 1, 2]


def test_the_page_shows_right_answers_of_each_dataset(arguments: argparse.Namespace) -> None:
    def sample(system: str, dataset: str, right: bool) -> dict[str, Any]:
        return {"system": system, "case": f"out/{dataset}/0", "correct": right, "error": None}

    samples = [sample("full", "squad", True), sample("full", "musique", False), sample("closed-book", "squad", False)]
    table = english.accuracy(samples, arguments.system)
    assert [[cell.value for cell in row.cells] for row in table.rows] == [
        [0.5, 1, None, None, 0],
        [0, 0, None, None, None],
    ]
    machine = {"cpu": "Some CPU", "threads": 2, "torch": "2"}
    result = {"hardware": machine, "commit": "abc", "model": "smollm2", "questions": 4}
    lines = english.page(result, [table]).splitlines()
    assert lines[0] == "# Real English texts"
    assert any(line.startswith("| the full text | 50.0 % [") for line in lines)
