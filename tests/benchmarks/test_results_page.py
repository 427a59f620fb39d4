"""docs/results.md is generated from the files in benchmarks/results and from nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import parts
import pooled
import pytest
import results

from memfold.backbone.model import Backbone
from memfold.bench.first_token import bench_first_token
from memfold.bench.fold import bench_fold
from memfold.bench.systems import bench_systems
from memfold.cli.main import execute
from memfold.session import Session
from memfold.systems.pooled.settings import PooledFold
from memfold.systems.pooled.system import Pooled

ABOUT = {"model": "small", "hardware": {"cpu": "Some CPU"}, "commit": "abc"}
HERE = "Some CPU, small (commit abc)"
Json = dict[str, Any]


def keep(folder: Path, part: str, **by_command: Json) -> None:
    content = {"part": part, "results": {name: ABOUT | result for name, result in by_command.items()}, "plots": []}
    (folder / f"{part}-some-cpu.json").write_text(json.dumps(content))


def section(folder: Path, title: str) -> str:
    return next(part for part in results.render(folder).split("\n## ") if part.startswith(title))


def cell(value: float | None, **more: float) -> Json:
    return {"value": value, "low": None, "high": None, "count": 10, "failed": 0, "share": True} | more


def table(title: str, *rows: tuple[tuple[str, ...], list[float | None]]) -> Json:
    lines = [{"names": list(names), "cells": [cell(value) for value in values]} for names, values in rows]
    return {"tables": [{"title": f"{title}, split in", "rows": lines}]}


def test_the_page_is_that_of_the_files() -> None:
    assert results.PAGE.read_text() == results.render(results.RESULTS), "run python benchmarks/results.py"


def test_the_tables_of_the_page_about_trust_are_those_of_the_files() -> None:
    page = results.TRUST.read_text()
    assert page == results.render_trust(results.RESULTS, page), "run python benchmarks/results.py"
    assert "### Texts unlike the training text" in page


def test_without_files_every_section_says_how_to_measure_it(tmp_path: Path) -> None:
    page = results.render(tmp_path)
    assert page.count("Not measured yet.") == len(results.SECTIONS)
    for listed in results.SECTIONS:
        assert f"python benchmarks/pooled.py {listed.part}" in page
        assert listed.target in page
    assert {listed.part for listed in results.SECTIONS} == set(parts.BY_NAME), "every part is on the page"


def test_files_of_other_scripts_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"suite": "almanac"}')
    (tmp_path / "list.json").write_text("[1]")
    assert results.render(tmp_path).count("Not measured yet.") == len(results.SECTIONS)


def test_benchmarks_become_tables(tmp_path: Path, backbone: Backbone) -> None:
    session = Session(Pooled(PooledFold(ratio=16)), backbone)
    quiet = lambda line: None  # noqa: E731
    keep(tmp_path, "fold", fold=bench_fold(session, [64], 0, 2, quiet))
    keep(tmp_path, "growth", growth=bench_fold(session, [64, 128], 0, 2, quiet))
    first = bench_first_token(session, [64], 0, 2, quiet)
    keep(tmp_path, "first-token", **{"first-token": first})
    keep(tmp_path, "systems", systems=bench_systems(backbone, ["full", "pooled"], [64], 0, 2, quiet))
    share = first["lengths"][0]["wrappers"]["slot"]["share_of_predicted"]
    assert f"| {share:.2f} |" in section(tmp_path, "First token from a stored memory")
    assert "| Some CPU, small | 64 | span |" in section(tmp_path, "First token from a stored memory")
    assert "32,768 tokens are not among the lengths." in section(tmp_path, "First token with folding included")
    assert "120K tokens were not measured." in section(tmp_path, "Peak memory")
    assert re.search(r"reached on .*: the slope is -?\d+\.\d{3}\.", section(tmp_path, "Growth of folding time"))
    assert "| 8 | 64 |" in section(tmp_path, "Documents folded at once")
    assert section(tmp_path, "Systems side by side").count("| Some CPU, small |") == 2
    assert "Not measured yet." in section(tmp_path, "First token at the size of a 7B model")


@pytest.mark.parametrize(("share", "verdict"), [(0.81, "Target reached"), (0.79, "Target not reached")])
def test_a_target_is_reached_or_not(tmp_path: Path, share: float, verdict: str) -> None:
    speed = {"tokens_per_second": 9000, "share_of_forward": share, "seconds": {"fold": [1.0, 3.0, 2.0]}}
    entry = {"tokens": 8192, "peak_bytes_above_weights": None} | speed
    together = [
        {"documents": 8, "tokens_each": 16, "ratio": 1.5, "seconds": {"apart": [3.0], "together": [2.0]}},
        {"documents": 8, "tokens_each": 64, "ratio": 2.5, "seconds": {"apart": [5.0], "together": [2.0]}},
    ]
    keep(tmp_path, "fold", fold={"lengths": [entry], "together": together})
    folding = section(tmp_path, "Speed of folding")
    assert f"{verdict} on Some CPU, small (commit abc): the lowest ratio is {share}." in folding
    assert f"| Some CPU, small | 8,192 | 9,000 | {share} | 2.00 | - |" in folding
    at_once = section(tmp_path, "Documents folded at once")
    assert (
        "Target not reached on Some CPU, small (commit abc): 1.50 times as fast with about 16 tokens each, " in at_once
    )


def test_evaluations_become_tables_and_verdicts(tmp_path: Path) -> None:
    needle = table(
        "Needle",
        (("all", "pooled"), [9.5, 5.0, 0.9, 0.5]),
        (("1024", "pooled"), [10.0, 10.0, 1.0, 1.0]),
        (("1024", "retrieval"), [1.0, 1.0, 0.0, 0.0]),
        (("122880", "pooled"), [9.0, 5.0, 0.9, 0.5]),
    )
    keep(tmp_path, "needle", needle=needle)
    assert f"Target not reached on {HERE}: the mean over lengths is 9.50, the lowest cell 5.00." in section(
        tmp_path, "Needle"
    )
    fall = table(
        "From the shortest to the longest", (("pooled",), [0.5, 0.46, 0.04]), (("retrieval",), [0.9, 0.1, 0.8])
    )
    keep(tmp_path, "multihop", multihop=fall)
    assert f"Target reached on {HERE}: 4.0 points are lost." in section(tmp_path, "Multihop")
    strings = table(
        "Exact strings",
        (("all", "pooled"), [0.1, 0.9, 0.1, None, None]),
        (("all", "pooled/unfold=256"), [0.9, 0.9, 0.99, 0.8, 1.0]),
    )
    keep(tmp_path, "strings", strings=strings)
    shown = section(tmp_path, "Exact strings")
    assert f"Target reached on {HERE}: 99.0 % are exact with unfold." in shown
    assert "| Some CPU, small | all | pooled | 10.0 % n=10 | 90.0 % n=10 | 10.0 % n=10 | - | - |" in shown
    keep(
        tmp_path,
        "wrapper",
        span=table("Accuracy", (("all", "span"), [0.7])),
        slot=table("Accuracy", (("all", "slot"), [0.72])),
    )
    assert f"Target not reached on {HERE}: span is 2.0 points behind slot." in section(
        tmp_path, "Wrapper span against slot"
    )


def test_one_hop_questions_as_a_share_of_full(tmp_path: Path) -> None:
    right: Json = table("Accuracy", (("all", "full"), [0.99, 0.99]), (("128", "full"), [0.98, 0.98]))
    right["tables"] += table("Share of full", (("pooled:16",), [0.7]), (("pooled:4",), [0.9]))["tables"]
    keep(tmp_path, "facts", facts=right)
    shown = section(tmp_path, "One-hop questions")
    assert f"Target not reached on {HERE}: `full` has 99 %, 16x 70 % of that, 4x 90 %." in shown
    assert "| Some CPU, small | 128 | full | 98.0 % n=10 |" in shown


def test_kinds_citations_and_expansion_come_from_one_file(tmp_path: Path) -> None:
    result: Json = table("Accuracy", (("all", "full"), [0.9, 0.96, 0.8, None, 0.1, 0.2]), (("128", "full"), [0.5] * 6))
    result["tables"] += table("Citations", (("full",), [0.5, 0.4, 0.3]), (("pooled:16",), [0.8, 0.7, 0.6]))["tables"]
    result["tables"] += table("Expansion", (("pooled:16",), [0.9] * 7 + [0.123]))["tables"]
    keep(tmp_path, "almanac-in", kinds=result)
    kinds = section(tmp_path, "All kinds of questions\n")
    assert f"Target reached on {HERE}: `full` has 96 % of the one-hop and 80 % of the two-hop questions." in kinds
    assert "50.0 %" not in kinds, "lengths are not shown one by one"
    assert f"Target reached on {HERE}: 80 % of the right answers from slots." in section(tmp_path, "Citations")
    expansion = section(tmp_path, "Implicit expansion")
    assert f"Measured on {HERE}: 90 % of the replies from slots expand." in expansion
    assert "12.3 %" not in expansion, "it shows seven columns"


@pytest.mark.parametrize(
    ("longest", "verdict"),
    [
        (0.66, f"Target reached on {HERE}: 4 points are lost from 1,024 tokens on."),
        (0.6, f"Target not reached on {HERE}: 10 points are lost from 1,024 tokens on."),
    ],
)
def test_points_lost_on_longer_texts(tmp_path: Path, longest: float, verdict: str) -> None:
    slots = [((size, "pooled:16"), [value]) for size, value in (("all", 0.1), ("1024", 0.7), ("8192", longest))]
    keep(tmp_path, "longer", longer=table("Accuracy", *slots, (("8192", "retrieval"), [0.0])))
    assert verdict in section(tmp_path, "Longer texts")


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.97, 0.95), f"Target reached on {HERE}: 16x has 0.97 at 512 tokens, 0.95 at 2,048 tokens."),
        ((0.97, 0.94), f"Target not reached on {HERE}: 16x has 0.97 at 512 tokens, 0.94 at 2,048 tokens."),
    ],
)
def test_texts_that_are_reconstructed(tmp_path: Path, values: tuple[float, float], verdict: str) -> None:
    rows = [((str(size), "pooled:16"), [0.1, value, 0.1]) for size, value in zip((512, 2048), values, strict=True)]
    keep(tmp_path, "reconstruction", reconstruction=table("Reconstruction", *rows))
    assert verdict in section(tmp_path, "Reconstruction")


def test_measured_parts_are_skipped_and_quick_runs_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    class Finished:
        returncode = 0

    def pretend(command: list[str], **_: object) -> Finished:
        ran.append(command[3:])
        folder = Path(command[command.index("--out") + 1])
        folder.mkdir(parents=True)
        (folder / f"{command[4]}.json").write_text(json.dumps(ABOUT))
        (folder / f"{command[4]}.png").write_bytes(b"png")
        return Finished()

    monkeypatch.setattr(pooled.subprocess, "run", pretend)
    monkeypatch.setattr(pooled, "RESULTS", tmp_path / "kept")
    monkeypatch.setattr(results, "write", lambda folder: ran.append(["page", str(folder)]))
    out = ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["pooled.py", "fold", "growth", *out])
    assert pooled.main() == 0
    assert [words[1:4] for words in ran[:2]] == [["fold", "--lengths", parts.LONG], ["fold", "--runs", "3"]]
    assert ran[2] == ["page", str(tmp_path / "kept")]
    (file,) = (tmp_path / "kept").glob("fold-*.json")
    kept = json.loads(file.read_text())
    assert (kept["part"], kept["results"], kept["options"]) == ("fold", {"fold": ABOUT}, [])
    assert kept["commands"] == {"fold": f"memfold bench fold --lengths {parts.LONG} --model tiny --device cpu"}
    assert [(tmp_path / "kept" / plot).read_bytes() for plot in kept["plots"]] == [b"png"]
    assert pooled.main() == 0
    assert len(ran) == 4, "measured parts are not measured again"
    monkeypatch.setattr(sys, "argv", ["pooled.py", "fold", "--quick", *out])
    assert pooled.main() == 0
    assert ran[4][2:4] == ["--lengths", parts.QUICK_LENGTHS]
    assert len(list((tmp_path / "kept").glob("*.json"))) == 2
    assert len(list((tmp_path / "out" / "quick" / "results").glob("*.json"))) == 1
    monkeypatch.setattr(sys, "argv", ["pooled.py", "growth", "--again", *out, "--", "--runs", "5"])
    assert pooled.main() == 0
    command = (*parts.BY_NAME["growth"].commands["growth"], "--model", "tiny", "--device", "cpu", "--runs", "5")
    assert ran[5] == [*command, "--out", str(tmp_path / "out" / "growth" / "growth")]
    (file,) = (tmp_path / "kept").glob("growth-*.json")
    assert json.loads(file.read_text())["commands"]["growth"] == f"memfold {' '.join(ran[5][:-2])}"
    monkeypatch.setattr(sys, "argv", ["pooled.py", "wrapper", *out])
    assert pooled.main() == 2
    assert "it needs a second model, trained with wrapper slot: --slot-model" in capsys.readouterr().err


def test_a_section_shows_the_commands_as_they_were_run(tmp_path: Path) -> None:
    growth = table("unused") | {"lengths": [], "slope": 1.0}
    keep(tmp_path, "growth", growth=growth)
    (older,) = tmp_path.glob("growth-*.json")
    assert parts.shown(parts.BY_NAME["growth"], "growth") in section(tmp_path, "Growth of folding time")
    command = "memfold bench fold --runs 3 --model small --device cpu --runs 5"
    newer = json.loads(older.read_text()) | {"commands": {"growth": command}, "options": ["--runs", "5"]}
    (tmp_path / "growth-another-cpu.json").write_text(json.dumps(newer))
    both = section(tmp_path, "Growth of folding time")
    assert (
        f"```\npython benchmarks/pooled.py growth -- --runs 5\n{command}\npython benchmarks/pooled.py growth\n" in both
    )
    older.unlink()
    assert both.count("--lengths") == 1
    assert "--lengths" not in section(tmp_path, "Growth of folding time")


@pytest.mark.parametrize("words", [("bench", "fold"), ("eval", "needle")])
def test_of_a_repeated_option_the_last_counts(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*words, "--lengths", "64", "--lengths", "last"]) == 2
    assert "last" in capsys.readouterr().err


@pytest.mark.parametrize("part", [part for part in parts.PARTS if not part.script], ids=lambda part: part.name)
def test_the_command_line_takes_every_command(part: parts.Part, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command gets as far as a model or a device that does not exist."""
    missing = ["--device", "cuda:99"] if part.needs == "cuda" else ["--model", "./no-such-model"]
    for words in (*part.commands.values(), *part.quick.values()):
        assert execute([*words, *missing]) == 2
        error = capsys.readouterr().err
        assert "no model at './no-such-model'" in error or "device 'cuda:99'" in error
