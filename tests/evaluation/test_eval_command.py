import json
from pathlib import Path

import pytest

from memfold.backbone.folder import save_backbone
from memfold.backbone.model import Backbone
from memfold.cli.main import execute

SMALL = ["--lengths", "64", "--questions", "2", "--split", "in", "--system", "pooled"]


@pytest.fixture(scope="module")
def model(trained: Backbone, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("eval") / "model"
    save_backbone(trained, folder)
    return str(folder)


def test_a_run_prints_one_object_and_fills_its_folder(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["eval", "almanac", "--model", model, *SMALL, "--ratio", "4", "--json"]
    assert execute(command) == 0
    result = json.loads(capsys.readouterr().out)
    folder = Path(result["folder"])
    written = ["accuracy-in.png", "arguments.json", "result.json", "samples.jsonl", "table.md"]
    assert sorted(path.name for path in folder.iterdir()) == written
    assert list(result["systems"]) == ["pooled:4"]
    samples = (folder / "samples.jsonl").read_text()
    assert execute(command) == 0  # the same arguments: the same folder, nothing asked again
    assert json.loads(capsys.readouterr().out)["folder"] == str(folder)
    assert (folder / "samples.jsonl").read_text() == samples


def test_without_json_the_table_is_printed(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--lengths", "32", "--questions", "1", "--out", str(out)]
    assert execute(["eval", "reconstruction", "--model", model, *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("# reconstruction\n")
    assert "ROUGE-L" in printed.out
    assert str(out) in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["almanack"], "unknown suite 'almanack'; nearest: 'almanac'"),
        (["almanac", "--system", "ful"], "unknown system 'ful'; nearest: 'full'"),
        (["almanac", "--lengths", "128;256"], "--lengths '128;256' is not possible"),
        (["almanac", "--questions", "0"], "questions = 0 is not possible"),
        (["almanac", "--split", "middle"], "unknown split 'middle'; known: in, out"),
        (["almanac", "--system", "full", "--ratio", "4"], "--ratio 4 applies to none of the systems full"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    model: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["eval", *arguments, "--model", model]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_another_run_in_the_same_folder_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "arguments.json").write_text('{"suite": "almanac"}')
    (tmp_path / "samples.jsonl").write_text("{}\n")
    assert execute(["eval", "reconstruction", "--model", model, "--out", str(tmp_path)]) == 2
    assert "name another --out" in capsys.readouterr().err
