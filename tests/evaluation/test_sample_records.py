import json
from dataclasses import replace
from pathlib import Path

import pytest

from memfold.core.errors import ConfigError, DataError
from memfold.core.types import Citation, Span
from memfold.evaluation.records import Record, RecordFile, Spent

ARGUMENTS = {"suite": "almanac", "lengths": (128, 256), "seed": 0}


def record(case: str, **changes: object) -> Record:
    record = Record(
        case=case,
        system="pooled",
        suite="almanac",
        seed=1 << 41,
        size=128,
        split="in",
        kind="one-hop",
        hops=1,
        question="Who?",
        accepted=("Velm", "the river Velm"),
        answer="Velm",
        reply=" So. \\boxed{Velm}\u2028\x85",
        correct=True,
        ratio=16,
        citations=(Citation("d", 0, 9, "So it was", 1.5),),
        evidence=(Span(0, 9),),
        figures={"evidence_any": 1.0},
        cost=Spent(calls=1, document_tokens=120, effective_ratio=12.0),
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "new" / "folder", ARGUMENTS)
    written = [record("a"), record("b", system="full", ratio=None, error="policy: no", correct=False)]
    for each in written:
        file.append(each)
    again = RecordFile(tmp_path / "new" / "folder", ARGUMENTS)
    assert again.records == written
    assert again.done == {("pooled", "a"), ("full", "b")}


def test_every_sample_is_one_json_line(tmp_path: Path) -> None:
    file = RecordFile(tmp_path, ARGUMENTS)
    file.append(record("a"))
    file.append(record("b"))
    lines = file.path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["case"] for line in lines[:-1]] == ["a", "b"]
    assert json.loads(lines[0])["accepted"] == ["Velm", "the river Velm"]


def test_half_a_line_left_by_a_kill_is_cut_off(tmp_path: Path) -> None:
    file = RecordFile(tmp_path, ARGUMENTS)
    file.append(record("a"))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + whole[: len(whole) // 2])
    again = RecordFile(tmp_path, ARGUMENTS)
    assert [kept.case for kept in again.records] == ["a"]
    again.append(record("b"))
    assert [kept.case for kept in RecordFile(tmp_path, ARGUMENTS).records] == ["a", "b"]


def test_a_folder_of_other_arguments_is_refused_and_left_alone(tmp_path: Path) -> None:
    RecordFile(tmp_path, ARGUMENTS).append(record("a"))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"lengths = \[128, 256\], asked for \[128\]; name another --out"):
        RecordFile(tmp_path, ARGUMENTS | {"lengths": (128,)})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_read_names_the_place(tmp_path: Path) -> None:
    file = RecordFile(tmp_path, ARGUMENTS)
    file.append(record("a"))
    file.path.write_text("{broken\n")
    with pytest.raises(DataError, match="line 1 cannot be read"):
        RecordFile(tmp_path, ARGUMENTS)
    (tmp_path / "arguments.json").write_text("{")
    with pytest.raises(DataError, match=r"arguments.json is damaged"):
        RecordFile(tmp_path, ARGUMENTS)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the folder"):
        RecordFile(tmp_path / "file", ARGUMENTS)


def test_nothing_is_made_before_the_first_sample(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    file = RecordFile(folder, ARGUMENTS)
    assert list(tmp_path.iterdir()) == []
    file.append(record("a"))
    assert sorted(path.name for path in folder.iterdir()) == ["arguments.json", "samples.jsonl"]


@pytest.mark.parametrize("begun", [None, "", '{"case": "half a li'])
def test_arguments_without_a_sample_do_not_count(tmp_path: Path, begun: str | None) -> None:
    (tmp_path / "arguments.json").write_text(json.dumps(ARGUMENTS))
    if begun is not None:
        (tmp_path / "samples.jsonl").write_text(begun)
    corrected = ARGUMENTS | {"seed": 1}
    RecordFile(tmp_path, corrected).append(record("a"))
    assert json.loads((tmp_path / "arguments.json").read_text())["seed"] == 1
    assert [kept.case for kept in RecordFile(tmp_path, corrected).records] == ["a"]


@pytest.mark.parametrize(
    "files",
    [
        {"samples.jsonl": "mine\n"},
        {"samples.jsonl": "no line"},
        {"samples.jsonl": "mine\n", "arguments.json": "[1]"},
        {"arguments.json": '{"mine": 1}'},
        {"arguments.json": "mine"},
        {"table.md": "mine"},
        {"result.json": "{}"},
        {"photo.png": "mine"},
    ],
)
def test_files_of_others_are_refused_and_left_alone(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"choose another folder|name another --out"):
        RecordFile(tmp_path, ARGUMENTS)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_results_of_a_benchmark_stand_beside_an_evaluation(tmp_path: Path) -> None:
    for name in ("fold.json", "fold.png"):
        (tmp_path / name).write_text("")
    RecordFile(tmp_path, ARGUMENTS).append(record("a"))


def test_a_full_disk_is_one_error_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RecordFile(tmp_path, ARGUMENTS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(DataError, match="No space left on device; free some space"):
            file.append(record("a"))
    RecordFile(tmp_path, ARGUMENTS | {"seed": 2}).append(record("a"))
